package bigquery

import (
	"cmp"
	"slices"
	"strings"

	"github.com/cloudspannerecosystem/memefish/token"
)

const (
	// maxParts bounds the parts of a name; BigQuery's have four.
	maxParts = 16
	// maxHops bounds how far out an array's table is looked for.
	maxHops = 64
)

// clauses end a FROM clause at their own depth. All are reserved words, so that
// no alias can look like one.
var clauses = []string{"WHERE", "GROUP", "ORDER", "HAVING", "QUALIFY", "LIMIT", "UNION", "INTERSECT", "EXCEPT", "WINDOW", "SELECT", "SET", "WHEN"}

// notAlias are words that may follow a table and are no alias of it, though they
// are not reserved, or not in Spanner, whose words the lexer knows.
var notAlias = []string{"PIVOT", "UNPIVOT", "DO", "MATCH_RECOGNIZE", "QUALIFY"}

// pipes are the operators that may follow |> and only read.
var pipes = []string{
	"SELECT", "EXTEND", "SET", "DROP", "RENAME", "AS", "WHERE", "LIMIT", "AGGREGATE", "DISTINCT", "ORDER", "UNION", "INTERSECT", "EXCEPT", "JOIN", "INNER",
	"LEFT", "RIGHT", "FULL", "CROSS", "CALL", "WINDOW", "TABLESAMPLE", "PIVOT", "UNPIVOT", "WITH", "MATCH_RECOGNIZE", "ASSERT",
}

// nest is what is known inside one pair of parentheses.
type nest struct {
	from    bool // in a FROM clause, where a comma brings another table
	sub     bool // a subquery that stands for a table, and sees no names beside it
	join    bool // FROM (a JOIN b): shares its names with the frame around it
	extract bool // EXTRACT(part FROM value): the first FROM is not a clause
	relates bool // a table function's arguments, where TABLE and MODEL bring names
	with    bool // in a WITH clause's list
	// recursive: that WITH is RECURSIVE, whose subqueries see their own names.
	recursive bool
	cte       string   // the name that WITH gives to this subquery, once it ends
	ctes      []string // names that WITH gave to subqueries here
	// aliases are what tables are called from here on: in a FROM clause,
	// "alias.column" is an array and no table.
	aliases map[string]bool
	// inner are dotted names of subqueries in expressions, which may be arrays of
	// the tables here; outer are those which may be of tables further out only.
	inner, outer []dotted
}

// dotted is a name that is a table's, or an array's of a table that is met later.
type dotted struct {
	place int
	name  string
	hops  int
}

// scan is the search of one statement for tables.
type scan struct {
	p      *parser
	frames []nest
	ctes   map[string]int // how many visible subqueries have that name
	found  []dotted
	source bool // a table's name comes next
	call   int  // where a table function's arguments begin
}

// tables finds the names that stand where tables are read, from token i on.
func (p *parser) tables(i int) {
	s := &scan{p: p, frames: []nest{{}}, ctes: map[string]int{}, call: -1}
	using := false
	for ; i < len(p.toks); i++ {
		t := p.toks[i]
		f := &s.frames[len(s.frames)-1]
		switch {
		case t.kind == "(" || t.kind == "[":
			s.open(i)
			continue
		case t.kind == ")" || t.kind == "]":
			s.close(i)
			continue
		case p.skip[i]:
			continue
		case s.source && t.kind == "@" && p.at(i+1).kind == "{": // JOIN @{a = 1} s.t
			for i++; i < len(p.toks) && p.toks[i].kind != "}"; i++ {
			}
			continue
		case s.source && t.is("LATERAL"):
			continue
		case s.source:
			s.source = false
			i = s.read(i) - 1
			continue
		case t.kind == ",":
			s.source = f.from
			continue
		case t.kind == "|>":
			f.from = false
			if !p.at(i + 1).is(pipes...) {
				p.out.unknown("statement_unparsed")
			}
			if p.at(i + 1).is("CALL") { // a table function
				i, s.source = i+1, true
			}
			continue
		}
		if p.at(i+1).kind == "(" && t.named() {
			p.function(i)
		}
		if t.word == "" || afterDot(p.toks, i) {
			continue
		}
		switch {
		case t.is("FROM") && f.extract:
			f.extract = false
		case t.is("FROM") && !(p.at(i-1).is("DISTINCT") && p.at(i-2).is("IS", "NOT")):
			f.from, s.source = true, true
		case t.is("JOIN"):
			f.from, s.source = true, true
		case t.is("USING") && p.out.kind == "MERGE" && len(s.frames) == 1 && !using:
			using, s.source = true, true
		case f.relates && t.is("TABLE", "MODEL") && (p.at(i-1).kind == "(" || p.at(i-1).kind == "," || p.at(i-1).kind == "=>"):
			i = s.read(i+1) - 1
		case t.is("WITH") && s.beginsWith(i):
			f.with, f.recursive = true, p.at(i+1).is("RECURSIVE")
		case t.is("SELECT"):
			if f.join { // FROM ((SELECT 1) UNION ALL SELECT …): a subquery after all
				f.join, f.sub, f.aliases = false, true, nil
			}
			s.settle(f) // another arm of a UNION knows no names of the one before
			f.from = false
		case t.is(clauses...):
			f.from = false
		}
	}
	if s.source {
		p.out.unknown("name_unread") // nothing came
	}
	for len(s.frames) > 0 {
		if len(s.frames) == 1 {
			// Expressions see what the statement changes, what stands in its own FROM
			// or USING does not: UPDATE s.hr … FROM hr.pay reads a table of dataset hr.
			for a := range p.aliases {
				s.alias(a)
			}
		}
		s.pop()
	}
	slices.SortStableFunc(s.found, func(a, b dotted) int { return cmp.Compare(a.place, b.place) })
	for _, d := range s.found {
		p.readFrom(d.name)
	}
}

func (s *scan) open(i int) {
	p, bracket := s.p, s.p.at(i).kind == "["
	parent := &s.frames[len(s.frames)-1]
	if next := p.at(i + 1); next.is("INSERT", "MERGE") && p.at(i+2).is("INTO") || next.is("DELETE") && p.at(i+2).is("FROM") && p.at(i-1).kind != "" && i > 0 {
		p.out.unknown("statement_unparsed") // a change in an expression is none that is documented
	}
	f := nest{extract: p.at(i-1).is("EXTRACT") && !afterDot(p.toks, i-1), relates: i == s.call}
	switch {
	case bracket:
		if s.source { // [project:dataset.table], which legacy SQL would read
			p.out.unknown("name_unread")
		}
		s.source = false
	case s.source && !p.at(i+1).is("SELECT", "WITH", "FROM"):
		f.from, f.join, f.aliases = true, true, parent.names()
	case s.source:
		f.sub, s.source = true, false
	default:
		if name := s.definition(i); name != "" {
			f.cte, f.sub = name, true
			if parent.recursive {
				s.define(parent, name) // it may read itself
				f.cte = ""
			}
		}
	}
	s.frames = append(s.frames, f)
}

// beginsWith reports whether WITH begins a list of subqueries.
func (s *scan) beginsWith(i int) bool {
	j := i + 1
	if s.p.at(j).is("RECURSIVE") && !s.p.at(j+1).is("AS") {
		j++
	}
	return s.p.at(j).named() && s.p.at(j+1).is("AS") && s.p.at(j+2).kind == "("
}

// definition is the name that WITH gives to the subquery which opens at i, ""
// where none does.
func (s *scan) definition(i int) string {
	if !s.frames[len(s.frames)-1].with || !s.p.at(i-1).is("AS") || !s.p.at(i-2).named() {
		return ""
	}
	before := s.p.at(i - 3)
	if before.kind != "," && !before.is("WITH", "RECURSIVE") {
		return ""
	}
	return strings.ToLower(s.p.at(i - 2).text)
}

func (s *scan) define(f *nest, name string) {
	f.ctes = append(f.ctes, name)
	s.ctes[name]++
}

func (s *scan) close(i int) {
	s.source = false
	if len(s.frames) == 1 {
		return
	}
	cte := s.frames[len(s.frames)-1].cte
	s.pop()
	f := &s.frames[len(s.frames)-1]
	if cte != "" {
		s.define(f, cte)
	}
	if f.with && s.p.at(i+1).kind != "," {
		f.with = false
	}
}

// pop ends the innermost frame.
func (s *scan) pop() {
	n := len(s.frames) - 1
	f := &s.frames[n]
	if f.join {
		parent := &s.frames[n-1]
		parent.inner, parent.outer = append(parent.inner, f.inner...), append(parent.outer, f.outer...)
	} else {
		s.settle(f)
	}
	for _, name := range f.ctes {
		s.ctes[name]--
	}
	s.frames = s.frames[:n]
}

// settle decides about the names that waited for the tables of frame f, the
// innermost: arrays of these are no tables; the others wait for what is further
// out.
func (s *scan) settle(f *nest) {
	rest := f.outer
	for _, d := range f.inner {
		if first, _, _ := strings.Cut(d.name, "."); !f.aliases[strings.ToLower(first)] {
			rest = append(rest, d)
		}
	}
	f.inner, f.outer = nil, nil
	f.aliases = nil
	for _, d := range rest {
		d.hops++
		switch n := len(s.frames) - 1; {
		case n == 0 || d.hops > maxHops:
			s.found = append(s.found, d)
		case f.sub:
			s.frames[n-1].outer = append(s.frames[n-1].outer, d)
		default:
			s.frames[n-1].inner = append(s.frames[n-1].inner, d)
		}
	}
}

// names is the frame's map of aliases.
func (f *nest) names() map[string]bool {
	if f.aliases == nil {
		f.aliases = map[string]bool{}
	}
	return f.aliases
}

func (s *scan) alias(name string) {
	s.frames[len(s.frames)-1].names()[strings.ToLower(name)] = true
}

// read reads one thing behind FROM, JOIN or a comma and returns the index behind
// it and its alias.
func (s *scan) read(i int) int {
	p, t := s.p, s.p.at(i)
	if t.is("UNNEST") && p.at(i+1).kind == "(" {
		return i + 1
	}
	if t.is("TABLE") && p.at(i+1).named() { // the argument of a table function
		i++
	}
	name, end := p.name(i)
	if name == "" {
		p.out.unknown("name_unread")
		return i + 1
	}
	if p.at(end).kind == "(" {
		s.call = end
		p.tableFunction(name, end-1)
		return end
	}
	first, _, isDotted := strings.Cut(name, ".")
	alias, next := p.alias(name, end)
	if !p.at(next).followsTable() {
		p.out.unknown("name_unread")
	}
	f := &s.frames[len(s.frames)-1]
	switch {
	case !isDotted && s.ctes[strings.ToLower(name)] > 0:
	case !isDotted || len(p.toks[i].text) == len(name): // `a.b` quoted whole is a table's name
		s.found = append(s.found, dotted{place: i, name: name})
	case f.aliases[strings.ToLower(first)]: // an array of a table that is in the list
	default:
		f.outer = append(f.outer, dotted{place: i, name: name})
	}
	s.alias(alias)
	return next
}

// followsTable reports whether the token may stand behind a table and its alias.
// Anything else would be part of a name that is not written as names are known to
// be.
func (t tok) followsTable() bool {
	return t.word != "" || slices.Contains([]token.TokenKind{"", ",", ")", "]", "@", "=>", "|>"}, t.kind)
}

// alias reads what a table is called from here on, and returns the index behind.
func (p *parser) alias(name string, end int) (alias string, next int) {
	switch a := p.at(end); {
	case a.is("AS") && p.at(end+1).named():
		return p.at(end + 1).text, end + 2
	case a.kind == token.TokenIdent && !a.is(notAlias...):
		return a.text, end + 1
	default:
		return name[strings.LastIndexByte(name, '.')+1:], end
	}
}

// name reads a table path at i: quoted or not, with dashes in an unquoted
// project, as "a.b.c". end is the index behind it; "" where no name stands.
func (p *parser) name(i int) (name string, end int) {
	t := p.at(i)
	if !t.named() || t.is("SELECT", "WITH", "WHERE", "ON", "SET", "FROM") {
		return "", i
	}
	var b strings.Builder
	b.WriteString(t.text)
	quoted := t.word == ""
	parts := 0
	for j := i + 1; ; j++ {
		n := p.at(j)
		parts++
		switch {
		case parts > maxParts:
			p.out.unknown("name_unread")
			return b.String(), j
		case n.kind == "." && p.at(j+1).named():
			b.WriteString("." + p.at(j+1).text)
			quoted = quoted || p.at(j+1).word == ""
			j++
		case n.kind == "-" && n.glued && p.at(j+1).glued && !strings.Contains(b.String(), ".") && !quoted && dashed(p.at(j+1)):
			// my-project, and my-project-1 whose "1." the lexer takes for a number
			next := p.at(j + 1)
			b.WriteString("-" + next.raw)
			j++
			if strings.HasSuffix(next.raw, ".") && p.at(j+1).glued && p.at(j+1).text != "" {
				b.WriteString(p.at(j + 1).text)
				j++
			}
		case n.kind == "*" && n.glued && strings.HasSuffix(b.String(), "_"): // unquoted wildcards are an error of BigQuery's
			return b.String() + "*", j + 1
		default:
			return b.String(), j
		}
	}
}

func dashed(t tok) bool {
	return t.word != "" || t.kind == token.TokenInt || t.kind == token.TokenFloat || t.kind == token.TokenIdent
}

func (p *parser) readFrom(name string) {
	if !p.temp[tempName(name)] {
		p.out.reads(p.qualify(name))
	}
}

// tempName is a temporary table's name as p.temp has it: the session's dataset may
// stand before it or not.
func tempName(name string) string { return strings.TrimPrefix(strings.ToLower(name), "_session.") }

// ofSession reports a name that a temporary table can have. What has another
// dataset is no temporary table, whatever the statement calls it.
func ofSession(name string) bool { return name != "" && !strings.Contains(tempName(name), ".") }

func (p *parser) write(name string) {
	if !p.temp[tempName(name)] {
		p.out.writes(p.qualify(name))
	}
}

// qualify completes a name with what the call says of project and dataset.
func (p *parser) qualify(name string) string {
	parts := strings.Split(name, ".")
	// "domain.com:project" has a dot of its own.
	for i := 1; i < len(parts); i++ {
		if strings.Contains(parts[i], ":") {
			parts = append([]string{strings.Join(parts[:i+1], ".")}, parts[i+1:]...)
			break
		}
	}
	schema := slices.IndexFunc(parts, func(s string) bool { return strings.EqualFold(s, "INFORMATION_SCHEMA") })
	switch {
	case schema == 0 || schema == 1:
		parts = append([]string{p.sc.project}, parts...)
	case schema > 1:
	case len(parts) == 1 && p.sc.dataset != "":
		parts = []string{p.sc.datasetProject, p.sc.dataset, parts[0]}
	case len(parts) == 2:
		parts = append([]string{p.sc.project}, parts...)
	}
	return strings.TrimPrefix(strings.Join(parts, "."), ".")
}
