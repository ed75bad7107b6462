package googlesql

import (
	"strings"

	"github.com/cloudspannerecosystem/memefish/token"
)

// keyword handles a reserved word.
func (t *translator) keyword() error {
	tk, f := t.peek(0), t.top()
	word := string(tk.kind)
	if t.peek(1).kind == "(" {
		switch word {
		case "IF", "LEFT", "RIGHT", "CAST", "EXTRACT":
			return t.call(word)
		case "ARRAY", "STRUCT", "GROUPING", "ROLLUP", "CUBE":
			return notImplemented("%s(…) (at %s)", word, positionOf(t.src, tk.pos))
		case "UNNEST":
			// IN UNNEST(array)
			t.i += 2
			t.emit("(SELECT value FROM json_each(")
			t.frames = append(t.frames, frame{kind: frameGroup, tail: ")", open: t.i - 1})
			return nil
		}
	}
	switch word {
	case "SELECT":
		f.clause = clauseSelect
		if t.peek(1).is("AS") && t.peek(2).isAny("STRUCT", "VALUE") {
			return notImplemented("SELECT AS %s", strings.ToUpper(t.peek(2).raw))
		}
	case "FROM":
		if !t.peek(-1).is("DISTINCT") { // IS DISTINCT FROM
			f.clause, f.want = clauseFrom, true
		}
	case "JOIN":
		f.want = true
	case "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "WINDOW":
		f.clause = clauseOther
	case "SET":
		f.clause = clauseSet
	case "UNION", "INTERSECT", "EXCEPT":
		if t.peek(-1).kind == "*" && word == "EXCEPT" {
			return notImplemented("SELECT * EXCEPT")
		}
		f.clause = clauseOther
		t.i++
		switch {
		case t.take("DISTINCT"):
			t.emit(word)
		case word == "UNION" && t.take("ALL"):
			t.emit("UNION ALL")
		case t.peek(0).is("ALL"):
			return notImplemented("%s ALL", word)
		default:
			return t.unexpected("Expected keyword ALL or keyword DISTINCT but got ")
		}
		return nil
	case "AS":
		if f.kind == frameCall && (f.fn == "CAST" || f.fn == "SAFE_CAST") {
			return t.castType()
		}
	case "INTERVAL":
		return t.interval()
	case "TABLESAMPLE", "FOR", "LATERAL", "GRAPH_TABLE", "STRUCT", "ARRAY", "NEW", "PROTO", "ENUM", "DEFINE", "FETCH", "COLLATE", "DEFAULT", "IGNORE", "RESPECT", "WITHIN", "CONTAINS", "ROLLUP", "CUBE":
		return notImplemented("%s (at %s)", word, positionOf(t.src, tk.pos))
	case "TRUE", "FALSE":
		t.i++
		t.emit(map[string]string{"TRUE": "1", "FALSE": "0"}[word])
		return nil
	}
	t.i++
	t.emit(word)
	return nil
}

// identifier handles a name: of a column, a function, a variable, or a word
// that GoogleSQL doesn't reserve.
func (t *translator) identifier() error {
	tk, f := t.peek(0), t.top()
	upper := strings.ToUpper(tk.text)
	if tk.field {
		return t.fieldName()
	}
	if what, ok := unsupportedWords[upper]; ok && !tk.quoted && f.kind == frameQuery && t.peek(-1).kind != "," {
		return notImplemented("%s (at %s)", what, positionOf(t.src, tk.pos))
	}
	switch next := t.peek(1); {
	case next.kind == "(" && upper != "VALUES" && !t.listHead():
		return t.call(upper)
	case next.kind == token.TokenString && !tk.quoted && (upper == "TIMESTAMP" || upper == "DATE" || upper == "DATETIME" || upper == "TIME" || upper == "NUMERIC" || upper == "BIGNUMERIC" || upper == "JSON"):
		t.i += 2
		t.emit("bq_cast(" + quoteString(next.text) + ", '" + upper + "')")
		return nil
	case next.kind == "." && t.peek(2).ident() && t.peek(3).kind == "(":
		return notImplemented("the function %s.%s (at %s)", tk.text, t.peek(2).text, positionOf(t.src, tk.pos))
	case next.kind == "." && f.clause == clauseSet && f.kind == frameQuery && t.peek(3).kind == "=" && (t.peek(-1).is("SET") || t.peek(-1).kind == ","):
		t.i += 2 // SET alias.column = …: SQLite takes the column alone
		return nil
	}
	t.i++
	switch {
	case tk.quoted:
		t.emit(quoteName(tk.text))
	case upper == "REPLACE" && t.peek(-2).kind == "*":
		return notImplemented("SELECT * REPLACE")
	case t.variable(tk):
		t.emit(t.bind(Arg{Name: strings.ToLower(tk.text), Index: -1, Variable: true}))
	case t.unnest[upper] != "" && t.peek(0).kind != ".":
		t.emit(t.unnest[upper])
	case upper == "CURRENT_TIMESTAMP" || upper == "CURRENT_DATE" || upper == "CURRENT_DATETIME" || upper == "CURRENT_TIME":
		t.emit(t.clock(upper))
	case sqliteWords[upper]:
		t.emit(quoteName(tk.text))
	default:
		t.emit(tk.raw)
	}
	return nil
}

func (t *translator) variable(tk tok) bool {
	if t.scope.Variable == nil || t.peek(0).kind == "." || t.peek(-2).is("AS") {
		return false
	}
	return t.scope.Variable(tk.text)
}

// fieldName handles what stands after a dot.
func (t *translator) fieldName() error {
	tk := t.peek(0)
	t.i++
	if strings.HasSuffix(t.out.String(), ".") {
		t.out.WriteString(quoteName(tk.text))
	} else {
		t.emit(quoteName(tk.text))
	}
	return nil
}

// listHead reports whether the name at the cursor has a list in brackets after
// it and is no call: WITH name (columns) AS, table AS alias (columns).
func (t *translator) listHead() bool {
	if t.ctes[strings.ToUpper(t.peek(0).text)] && t.peek(-1).isAny("WITH", "RECURSIVE") {
		return true
	}
	return t.peek(0).quoted || t.peek(-1).is("AS")
}

// clock writes the statement's time as a literal.
func (t *translator) clock(name string) string {
	t.query.Volatile = true
	now := t.scope.Now.UTC()
	switch name {
	case "CURRENT_DATE":
		return quoteString(now.Format(DateLayout))
	case "CURRENT_DATETIME":
		return quoteString(now.Format(DatetimeLayout))
	case "CURRENT_TIME":
		return quoteString(now.Format(TimeLayout))
	}
	return quoteString(now.Format(TimestampLayout))
}

// How times are kept as text: of fixed width, so that they sort by their bytes.
const (
	TimestampLayout = "2006-01-02 15:04:05.000000+00"
	DatetimeLayout  = "2006-01-02T15:04:05.000000"
	DateLayout      = "2006-01-02"
	TimeLayout      = "15:04:05.000000"
)

// call handles a function's name and opening bracket.
func (t *translator) call(name string) error {
	tk := t.peek(0)
	if legacy, ok := legacyFunctions[name]; ok && t.scope.Legacy {
		t.i += 2
		t.emit("bq_cast(")
		t.frames = append(t.frames, frame{kind: frameCall, fn: name, open: t.i - 1})
		end := closing(t.toks, t.i-1)
		if end < 0 {
			return t.unexpected(`Expected ")" but got `)
		}
		for t.i < end {
			if err := t.step(); err != nil {
				return err
			}
		}
		t.emit(", " + quoteString(legacy))
		return nil
	}
	if name == "APPROX_COUNT_DISTINCT" {
		t.i += 2
		t.emit("COUNT(DISTINCT")
		t.frames = append(t.frames, frame{kind: frameCall, fn: name, open: t.i - 1})
		return nil
	}
	fn, ok := functions[name]
	if !ok {
		return &Error{Reason: ReasonInvalidQuery, Message: "Function not found: " + tk.raw + " at " + positionOf(t.src, tk.pos).String()}
	}
	t.query.Volatile = t.query.Volatile || fn.volatile
	if fn.sqlite == "" {
		end := closing(t.toks, t.i+1)
		if end != t.i+2 {
			return notImplemented("arguments of %s (at %s)", name, positionOf(t.src, tk.pos))
		}
		t.i = end + 1
		if name == "SESSION_USER" {
			t.emit(quoteString(t.scope.User))
		} else {
			t.emit(t.clock(name))
		}
		return nil
	}
	t.i += 2
	t.emit(fn.sqlite + "(")
	f := frame{kind: frameCall, fn: name, open: t.i - 1}
	switch {
	case name == "EXTRACT":
		part := strings.ToUpper(t.peek(0).raw)
		if !dateParts[part] || !t.peek(1).is("FROM") {
			return t.unexpected("")
		}
		t.i += 2
		t.emit(quoteString(part) + ",")
	case fn.part:
		// The last argument may be a bare part: DATE_TRUNC(d, MONTH).
		end := closing(t.toks, f.open)
		if end < 0 {
			return t.unexpected(`Expected ")" but got `)
		}
		if p := t.toks[end-1]; p.ident() && dateParts[strings.ToUpper(p.text)] && t.toks[end-2].kind == "," {
			t.frames = append(t.frames, f)
			for t.i < end-1 {
				if err := t.step(); err != nil {
					return err
				}
			}
			t.i = end
			t.emit(quoteString(strings.ToUpper(p.text)))
			return nil
		}
	}
	t.frames = append(t.frames, f)
	return nil
}

// interval handles INTERVAL n PART, which only the functions that add and
// subtract take: it becomes two arguments.
func (t *translator) interval() error {
	tk, f := t.peek(0), t.top()
	if f.kind != frameCall || !functions[f.fn].part {
		return notImplemented("INTERVAL outside of the date functions (at %s)", positionOf(t.src, tk.pos))
	}
	end := closing(t.toks, f.open)
	if end < 0 {
		return t.unexpected("")
	}
	part := strings.ToUpper(t.toks[end-1].raw)
	if !dateParts[part] {
		return notImplemented("this form of INTERVAL (at %s)", positionOf(t.src, tk.pos))
	}
	t.i++
	for t.i < end-1 {
		if err := t.step(); err != nil {
			return err
		}
	}
	t.i = end
	t.emit(", " + quoteString(part))
	return nil
}

// castType handles AS TYPE, inside CAST.
func (t *translator) castType() error {
	value := expressionType(t.toks[t.top().open+1:t.i], t)
	t.i++
	col, err := t.parseType()
	if err != nil {
		return err
	}
	if t.peek(0).kind != ")" {
		return notImplemented("CAST with FORMAT (at %s)", positionOf(t.src, t.peek(0).pos))
	}
	if col.Mode == "REPEATED" || col.Type == "RECORD" {
		return notImplemented("CAST to ARRAY or STRUCT")
	}
	t.emit(", " + quoteString(col.Type))
	if value.Type == "BOOLEAN" { // SQLite has none, and CAST(TRUE AS STRING) is 'true'
		t.emit(", " + quoteString(value.Type))
	}
	return nil
}
