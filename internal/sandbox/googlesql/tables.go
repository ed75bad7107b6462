package googlesql

import (
	"strings"

	"github.com/cloudspannerecosystem/memefish/token"
)

// path reads a table's name at the cursor: parts in or out of backticks, with
// dashes in the first as BigQuery allows. It returns the parts.
func (c *cursor) path() ([]string, error) {
	first := c.peek(0)
	if !first.ident() {
		return nil, c.unexpected("")
	}
	c.i++
	name := first.text
	if !first.quoted {
		for c.peek(0).kind == "-" && c.peek(0).pos == c.peek(-1).end && c.peek(1).pos == c.peek(0).end &&
			(c.peek(1).ident() || c.peek(1).kind == token.TokenInt || c.peek(1).kind[0] >= 'A' && c.peek(1).kind[0] <= 'Z') {
			name += "-" + c.peek(1).raw
			c.i += 2
		}
	}
	for c.peek(0).kind == "." && (c.peek(1).ident() || c.peek(1).kind == token.TokenInt) {
		part := c.peek(1).text
		if !c.peek(1).ident() {
			part = c.peek(1).raw
		}
		name += "." + part
		c.i += 2
	}
	if c.peek(0).kind == "." {
		c.i++
		return nil, c.unexpected("")
	}
	return splitName(name), nil
}

// splitName cuts "domain.com:project.dataset.table" and the like at the dots
// that separate parts.
func splitName(name string) []string {
	domain, rest, ok := strings.Cut(name, ":")
	if !ok {
		return strings.Split(name, ".")
	}
	parts := strings.Split(rest, ".")
	parts[0] = domain + ":" + parts[0]
	return parts
}

// tableName qualifies the parts of a table's name.
func (s *Scope) tableName(parts []string) (Name, error) {
	for i, p := range parts {
		if strings.EqualFold(p, "INFORMATION_SCHEMA") && i == len(parts)-2 {
			view := "INFORMATION_SCHEMA." + strings.ToUpper(parts[i+1])
			n, err := s.tableName(append(append([]string(nil), parts[:i]...), view))
			if i == 0 {
				n.Project, n.Dataset = s.Project, ""
				err = nil
			}
			return n, err
		}
	}
	switch len(parts) {
	case 1:
		if s.DefaultDataset == "" {
			return Name{Table: parts[0]}, nil
		}
		project := s.DefaultProject
		if project == "" {
			project = s.Project
		}
		return Name{project, s.DefaultDataset, parts[0]}, nil
	case 2:
		return Name{s.Project, parts[0], parts[1]}, nil
	case 3:
		return Name{parts[0], parts[1], parts[2]}, nil
	}
	return Name{}, &Error{Reason: ReasonInvalidQuery, Message: "Invalid table name: " + strings.Join(parts, ".")}
}

// datasetName qualifies the parts of a dataset's name; Table stays empty.
func (s *Scope) datasetName(parts []string) (Name, error) {
	switch len(parts) {
	case 1:
		return Name{Project: s.Project, Dataset: parts[0]}, nil
	case 2:
		return Name{Project: parts[0], Dataset: parts[1]}, nil
	}
	return Name{}, &Error{Reason: ReasonInvalidQuery, Message: "Invalid dataset name: " + strings.Join(parts, ".")}
}

// table handles what stands where FROM or JOIN wants a table.
func (t *translator) table() error {
	f := t.top()
	f.want = false
	tk := t.peek(0)
	if tk.is("UNNEST") && t.peek(1).kind == "(" {
		return t.unnestTable()
	}
	if tk.is("LATERAL") || tk.is("GRAPH_TABLE") {
		return notImplemented("%s (at %s)", string(tk.kind), positionOf(t.src, tk.pos))
	}
	start := tk.pos
	parts, err := t.path()
	if err != nil {
		return err
	}
	if t.peek(0).kind == "(" {
		return notImplemented("the table function %s (at %s)", strings.Join(parts, "."), positionOf(t.src, start))
	}
	if len(parts) == 1 && t.ctes[strings.ToUpper(parts[0])] {
		t.emit(quoteName(parts[0]))
		return t.alias("")
	}
	name, err := t.scope.tableName(parts)
	if err != nil {
		return err
	}
	if strings.HasSuffix(name.Table, "*") {
		return notImplemented("wildcard tables, such as %s", name)
	}
	if strings.Contains(name.Table, "$") {
		return notImplemented("partition decorators, such as %s", name)
	}
	text, err := t.scope.Resolve(name)
	if err != nil {
		return err
	}
	t.emit(text)
	last := parts[len(parts)-1]
	return t.alias(last)
}

// alias handles a table's alias; where there is none, the last part of its
// name serves, as in GoogleSQL.
func (t *translator) alias(implicit string) error {
	switch tk := t.peek(0); {
	case tk.is("AS") && t.peek(1).ident():
		t.emit("AS " + quoteName(t.peek(1).text))
		t.i += 2
		return nil
	case tk.ident() && unsupportedWords[strings.ToUpper(tk.text)] == "":
		t.emit("AS " + quoteName(tk.text))
		t.i++
		return nil
	}
	if implicit != "" {
		t.emit("AS " + quoteName(implicit))
	}
	return nil
}

// unnestTable turns UNNEST(array) AS x into SQLite's json_each(array) AS x; x
// alone then means x.value.
func (t *translator) unnestTable() error {
	open := t.i + 1
	alias, _, _ := unnestAlias(t.toks, open)
	t.i += 2
	t.emit("json_each(")
	f := frame{kind: frameUnnest, open: open}
	if alias != "" {
		f.tail = " AS " + quoteName(alias)
	}
	t.frames = append(t.frames, f)
	return nil
}
