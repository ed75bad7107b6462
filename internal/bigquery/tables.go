package bigquery

import (
	"slices"
	"strings"

	"github.com/cloudspannerecosystem/memefish/token"

	"github.com/trailgate/trailgate"
)

// clauses end a FROM clause at their own depth.
var clauses = []string{"WHERE", "GROUP", "ORDER", "HAVING", "QUALIFY", "LIMIT", "UNION", "INTERSECT", "EXCEPT", "WINDOW", "SELECT", "SET", "WHEN", "VALUES", "RETURNING"}

// notAlias are words that may follow a table and are no alias of it.
var notAlias = append([]string{
	"ON", "USING", "JOIN", "INNER", "LEFT", "RIGHT", "FULL", "CROSS", "OUTER", "NATURAL", "FOR", "TABLESAMPLE", "PIVOT", "UNPIVOT", "WITH", "AS",
	"THEN", "DO", "AND", "OR", "MATCH_RECOGNIZE",
}, clauses...)

// tables finds the names that stand where tables are read, from token i on.
func (p *parser) tables(i int) {
	if p.ctes == nil {
		p.ctes, p.aliases = map[string]bool{}, map[string]bool{}
	}
	p.withNames()
	from := []bool{false} // by depth: in a FROM clause, where a comma brings another table
	source := false       // a table's name comes next
	for ; i < len(p.toks); i++ {
		t := p.toks[i]
		d := len(from) - 1
		switch {
		case t.kind == "(" || t.kind == "[":
			// Behind FROM or a comma, a parenthesis opens a subquery or a join.
			from = append(from, source && t.kind == "(")
			if source && t.kind == "(" && !p.at(i+1).is("SELECT", "WITH", "FROM", "VALUES") {
				continue // FROM (a JOIN b …)
			}
			source = false
			continue
		case t.kind == ")" || t.kind == "]":
			if d > 0 {
				from = from[:d]
			}
			source = false
			continue
		case p.skip[i]:
			continue
		case source:
			source = false
			i = p.source(i) - 1
			continue
		case t.kind == ",":
			source = from[d]
			continue
		case t.kind == "|>":
			from[d] = false
			continue
		case t.word == "" || afterDot(p.toks, i):
			continue
		}
		switch {
		case t.is("FROM") && p.fromClause(i):
			from[d], source = true, true
		case t.is("JOIN"):
			source = true
		case t.is("USING") && p.out.kind == "MERGE" && p.at(i+1).kind != "(":
			source = true
		case t.is("USING") && p.out.kind == "MERGE" && p.at(i+1).kind == "(" && p.at(i+2).is("SELECT", "WITH", "FROM"):
			// a subquery; its own FROM is met
		case t.is(clauses...):
			from[d] = false
		case p.at(i+1).kind == "(":
			p.function(t, i)
		}
	}
}

// fromClause tells FROM as a clause from FROM inside EXTRACT(… FROM …) and IS
// DISTINCT FROM.
func (p *parser) fromClause(i int) bool {
	if p.at(i-1).is("DISTINCT") && p.at(i-2).is("IS", "NOT") {
		return false
	}
	depth := 0
	for j := i - 1; j >= 0; j-- {
		switch p.toks[j].kind {
		case ")", "]":
			depth++
		case "(", "[":
			if depth == 0 {
				return !p.at(j - 1).is("EXTRACT")
			}
			depth--
		}
		if depth == 0 && p.toks[j].is("SELECT") {
			return true
		}
	}
	return true
}

// function notes calls that reach out of BigQuery.
func (p *parser) function(t tok, i int) {
	switch t.word {
	case "EXTERNAL_QUERY":
		p.out.class(classExport)
		p.out.flag("external_query")
		if s := p.at(i + 2); s.kind == token.TokenString {
			p.out.destinations = union(p.out.destinations, []string{s.text})
		}
	case "GENERATE_TEXT", "GENERATE_EMBEDDING", "TRANSLATE", "ANNOTATE_IMAGE", "UNDERSTAND_TEXT", "TRANSCRIBE", "PROCESS_DOCUMENT":
		if p.at(i-1).kind == "." && p.at(i-2).is("ML", "AI") {
			p.out.class(classExport)
			p.out.flag("remote_model")
		}
	}
}

// source reads one thing behind FROM, JOIN or a comma and returns the index
// behind it.
func (p *parser) source(i int) int {
	t := p.toks[i]
	if t.is("UNNEST", "LATERAL") || t.kind == token.TokenParam || t.kind == "@@" {
		return i + 1
	}
	if t.is("TABLE") { // an argument of a table function
		i++
	}
	name, end := p.name(i)
	if name == "" {
		return i + 1
	}
	if p.at(end).kind == "(" { // a table function
		p.function(p.at(end-1), end-1)
		if !strings.EqualFold(name, "EXTERNAL_QUERY") {
			p.out.flag("table_function")
			p.out.destinations = union(p.out.destinations, []string{"function:" + p.qualify(name)})
		}
		return end
	}
	first, _, dotted := strings.Cut(name, ".")
	if !dotted && p.ctes[strings.ToLower(name)] || dotted && p.aliases[strings.ToLower(first)] {
		p.alias(name, end)
		return end // a subquery's name, or an array of a table that is already in the list
	}
	p.alias(name, end)
	p.readFrom(name)
	return end
}

// alias remembers what a table is called from here on: "alias.column" in a FROM
// clause is an array, not a table.
func (p *parser) alias(name string, end int) {
	if p.at(end).is("AS") {
		end++
	} else if p.at(end).is(notAlias...) {
		end = -1
	}
	if a := p.at(end); end >= 0 && a.kind == token.TokenIdent {
		p.aliases[strings.ToLower(a.text)] = true
		return
	}
	p.aliases[strings.ToLower(name[strings.LastIndexByte(name, '.')+1:])] = true
}

// maxSteps bounds the walks behind nested WITHs, which are quadratic in their
// number at worst.
const maxSteps = 4_000_000

// maxParts bounds the parts of a name; BigQuery's have four.
const maxParts = 16

// withNames collects the names that WITH gives to subqueries.
func (p *parser) withNames() {
	budget := maxSteps
	for i, t := range p.toks {
		if !t.is("WITH") || afterDot(p.toks, i) {
			continue
		}
		if budget < 0 {
			p.out.class(trailgate.ClassUnknown)
			p.out.flag("statement_too_complex")
			return
		}
		j := i + 1
		if p.at(j).is("RECURSIVE") {
			j++
		}
		for p.at(j).text != "" && p.at(j+1).is("AS") && p.at(j+2).kind == "(" {
			p.ctes[strings.ToLower(p.at(j).text)] = true
			depth := 0
			for j += 2; j < len(p.toks); j++ {
				budget--
				if p.toks[j].kind == "(" {
					depth++
				}
				if p.toks[j].kind == ")" {
					if depth--; depth == 0 {
						break
					}
				}
			}
			if p.at(j+1).kind != "," {
				break
			}
			j += 2
		}
	}
}

// name reads a table path at i: quoted or not, with dashes in an unquoted
// project, as "a.b.c". end is the index behind it; "" where no name stands.
func (p *parser) name(i int) (name string, end int) {
	t := p.at(i)
	if t.kind != token.TokenIdent && t.word == "" {
		return "", i
	}
	if t.is("SELECT", "WITH", "VALUES", "WHERE", "ON", "SET") {
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
			p.out.class(trailgate.ClassUnknown)
			p.out.flag("name_unread")
			return b.String(), j
		case n.kind == "." && p.at(j+1).text != "" && (p.at(j+1).kind == token.TokenIdent || p.at(j+1).word != ""):
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
	if len(p.out.read) >= maxTables {
		p.out.flag("tables_omitted")
		return
	}
	if p.temp != nil && p.temp[strings.ToLower(name)] {
		return
	}
	p.out.read = union(p.out.read, []string{p.qualify(name)})
}

func (p *parser) write(name string) {
	if p.temp != nil && p.temp[strings.ToLower(name)] {
		return
	}
	p.out.written = union(p.out.written, []string{p.qualify(name)})
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
	case schema == 0:
		parts = append([]string{p.sc.project}, parts...)
	case schema == 1:
		parts = append([]string{p.sc.project}, parts...)
	case schema > 1:
	case len(parts) == 1 && p.sc.dataset != "":
		parts = []string{p.sc.project, p.sc.dataset, parts[0]}
	case len(parts) == 2:
		parts = append([]string{p.sc.project}, parts...)
	}
	return strings.TrimPrefix(strings.Join(parts, "."), ".")
}
