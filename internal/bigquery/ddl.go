package bigquery

import (
	"slices"
	"strings"

	"github.com/cloudspannerecosystem/memefish/token"

	"github.com/trailgate/trailgate"
)

// objects are what CREATE, ALTER and DROP are followed by, longest first.
var objects = func() (out [][]string) {
	for _, words := range []string{
		"ALL ROW ACCESS POLICIES", "ROW ACCESS POLICY", "MATERIALIZED VIEW", "SNAPSHOT TABLE", "EXTERNAL TABLE", "EXTERNAL SCHEMA", "AGGREGATE FUNCTION",
		"TABLE FUNCTION", "PROPERTY GRAPH", "SEARCH INDEX", "VECTOR INDEX", "BI_CAPACITY", "CAPACITY", "RESERVATION", "ASSIGNMENT", "ORGANIZATION", "PROJECT",
		"CONNECTION", "DATA_POLICY", "TABLE", "VIEW", "FUNCTION", "PROCEDURE", "SCHEMA", "MODEL",
	} {
		out = append(out, strings.Fields(words))
	}
	return out
}()

// object reads what kind of thing follows, and where its name begins.
func (p *parser) object(i int) (name string, next int) {
	for _, words := range objects {
		j := i
		for j-i < len(words) && p.at(j).is(words[j-i]) {
			j++
		}
		if j-i < len(words) {
			continue
		}
		for p.at(j).is("IF", "NOT", "EXISTS") {
			j++
		}
		switch name = strings.Join(words, "_"); name {
		case "ALL_ROW_ACCESS_POLICIES":
			name = "ROW_ACCESS_POLICY"
		case "AGGREGATE_FUNCTION":
			name = "FUNCTION"
		}
		return name, j
	}
	return "", i
}

// isTable reports whether such a thing is named like a table and read like one.
func isTable(what string) bool {
	return slices.Contains([]string{"TABLE", "VIEW", "MATERIALIZED_VIEW", "SNAPSHOT_TABLE", "EXTERNAL_TABLE", "MODEL", "PROPERTY_GRAPH"}, what)
}

func (p *parser) create(i int) {
	replace := false
	for p.at(i).is("OR", "REPLACE", "TEMP", "TEMPORARY", "RECURSIVE") {
		p.temporary = p.temporary || p.at(i).is("TEMP", "TEMPORARY")
		replace = replace || p.at(i).is("REPLACE")
		i++
	}
	what, j := p.object(i)
	if what == "" {
		p.is(kindUnknown, trailgate.ClassUnknown)
		return
	}
	p.is("CREATE_"+what, classMetaChange)
	switch what {
	case "ROW_ACCESS_POLICY":
		p.policy(j)
		return
	case "FUNCTION", "PROCEDURE", "TABLE_FUNCTION":
		if p.temporary {
			p.out.classes = does(classMeta) // for this request alone: nothing changes
		}
		p.routine(j)
		return
	case "EXTERNAL_TABLE", "EXTERNAL_SCHEMA":
		p.out.class(classExport)
		p.out.flag("external_tables")
	case "CONNECTION":
		p.out.class(classExport)
	case "DATA_POLICY":
		p.out.class(classAccess)
	case "ASSIGNMENT", "CAPACITY", "RESERVATION", "SCHEMA":
		return
	}
	name, end := p.name(j)
	head := p.head(end)
	p.uris(end, head)
	if p.connects(end, head) {
		p.out.class(classExport)
		if what == "MODEL" {
			p.out.flag("remote_model")
		} else {
			p.out.flag("external_tables")
		}
	}
	switch what {
	case "MATERIALIZED_VIEW":
		if p.at(head).is("REPLICA") && p.at(head+1).is("OF") {
			p.source(head + 2)
		}
	case "TABLE":
		p.createTable(end, replace)
	case "SNAPSHOT_TABLE":
		if at := p.find(end, "CLONE"); at > 0 {
			p.source(at + 1)
		}
	case "SEARCH_INDEX", "VECTOR_INDEX":
		p.on(end)
	case "PROPERTY_GRAPH":
		p.out.class(trailgate.ClassUnknown) // names its tables where nothing else does
	case "MODEL":
		if head < len(p.toks) {
			p.out.class(classRead)
		}
	}
	if head < len(p.toks) {
		p.tables(head)
	}
	// Last: CREATE TEMP TABLE t AS SELECT … FROM t reads the t that was there.
	switch {
	case name == "" && isTable(what):
		p.out.unknown("target_unread")
	case p.temporary && what == "TABLE" && p.temp != nil && ofSession(name):
		p.temp[tempName(name)] = true
	case isTable(what):
		p.write(name)
	}
}

// createTable reads what follows a new table's name at i.
func (p *parser) createTable(i int, replace bool) {
	if replace {
		p.out.class(classWrite) // what was there is gone
	}
	if p.head(i) < len(p.toks) {
		p.out.kind = "CREATE_TABLE_AS_SELECT"
		p.out.class(classRead, classWrite)
	}
	switch t := p.at(i); t.word {
	case "LIKE":
		p.source(i + 1)
	case "COPY", "CLONE":
		p.is(kindUnknown, classRead, classWrite) // BigQuery documents no type for these
		p.source(i + 1)
	}
}

// connects reports CONNECTION or REMOTE between two tokens: the object's data or
// code is elsewhere.
func (p *parser) connects(i, end int) bool {
	return slices.ContainsFunc(p.toks[min(i, end):end], func(t tok) bool { return t.is("CONNECTION", "REMOTE") })
}

// source reads a table's name at i.
func (p *parser) source(i int) {
	if name, _ := p.name(i); name != "" {
		p.readFrom(name)
	}
}

// on reads the table behind ON, which the statement changes.
func (p *parser) on(i int) {
	if on := p.find(i, "ON"); on > 0 {
		if name, _ := p.name(on + 1); name != "" {
			p.write(name)
			return
		}
	}
	p.out.unknown("target_unread")
}

// find is the index of the first such word outside of parentheses, 0 if there is
// none.
func (p *parser) find(i int, word string) int {
	depth := 0
	for ; i < len(p.toks); i++ {
		switch p.toks[i].kind {
		case "(", "[":
			depth++
		case ")", "]":
			depth--
		}
		if depth == 0 && p.toks[i].is(word) && !afterDot(p.toks, i) {
			return i
		}
	}
	return 0
}

// head is the index behind the AS that ends the statement's own part, the end of
// the statement where it has none.
func (p *parser) head(i int) int {
	if at := p.find(i, "AS"); at > 0 {
		return at + 1
	}
	return len(p.toks)
}

// routine notes where a function's code comes from or goes to. Its body runs
// when it is called, but that which moves data out is said now.
func (p *parser) routine(i int) {
	name, end := p.name(i)
	if name == "" {
		p.out.unknown("target_unread")
	}
	if p.find(end, "REMOTE") > 0 || p.find(end, "CONNECTION") > 0 {
		p.out.class(classExport)
		if p.out.kind == "CREATE_PROCEDURE" {
			p.out.flag("spark") // no other procedure has a connection
		} else {
			p.out.flag("remote_function")
		}
	}
	p.uris(end, len(p.toks))
	if p.out.kind == "CREATE_PROCEDURE" {
		if begin := p.find(end, "BEGIN"); begin > 0 {
			if p.level >= maxLevel {
				p.out.unknown("statement_too_complex")
				return
			}
			parts, _ := split(p.toks[begin+1:])
			p.stored(readParts(parts, p.sc, p.level+1))
			return
		}
	}
	body := &parser{toks: p.toks[end:], sc: p.sc}
	body.tables(0)
	p.stored(body.out)
}

// stored takes over of a stored body what matters already: what it names, and
// that it changes access, moves data out, or cannot be told.
func (p *parser) stored(s reading) {
	p.out.reads(s.read...)
	p.out.reads(s.written...)
	p.out.goes(s.destinations...)
	for _, f := range s.flags {
		p.out.flag(f)
	}
	for _, k := range s.classes {
		if outlives(k) {
			p.out.class(k)
		}
	}
}

// outlives reports whether what a stored text does counts for the call that
// stores it.
func outlives(c trailgate.Class) bool {
	return c == classAccess || c == classExport || c == trailgate.ClassUnknown
}

func (p *parser) policy(i int) {
	p.out.class(classAccess)
	p.on(i)
	p.grantees(i)
	p.tables(i)
}

// grantees notes whom a statement names.
func (p *parser) grantees(i int) {
	for ; i < len(p.toks); i++ {
		if t := p.toks[i]; t.kind == token.TokenString && grantee(t.text) {
			p.out.goes(t.text)
		}
	}
}

// grantee reports whether the text has the form of an IAM member.
func grantee(s string) bool {
	kind, name, ok := strings.Cut(s, ":")
	return s == "allUsers" || s == "allAuthenticatedUsers" || s == "specialGroup:allAuthenticatedUsers" ||
		ok && kind != "" && name != "" && !strings.ContainsAny(s, " \t\n")
}

func (p *parser) alterOrDrop(i int) {
	verb := p.at(i).word
	what, j := p.object(i + 1)
	if what == "" {
		p.is(kindUnknown, trailgate.ClassUnknown)
		return
	}
	p.is(verb+"_"+what, classMetaChange)
	name, end := p.name(j)
	switch what {
	case "ROW_ACCESS_POLICY":
		p.policy(j)
		return
	case "SEARCH_INDEX", "VECTOR_INDEX":
		p.on(j)
	case "DATA_POLICY", "ORGANIZATION", "PROJECT":
		p.out.class(classAccess)
	case "CONNECTION", "EXTERNAL_SCHEMA":
		p.out.class(classExport)
	}
	switch {
	case !isTable(what):
	case name == "":
		p.out.unknown("target_unread")
	default:
		p.write(name)
	}
	switch verb {
	case "ALTER":
		p.uris(end, len(p.toks))
		for k := end; k < len(p.toks); k++ {
			switch {
			case p.toks[k].is("DROP") && p.at(k+1).is("COLUMN"):
				p.out.class(classWrite) // takes its data along
			case p.toks[k].is("EXPIRATION_TIMESTAMP", "PARTITION_EXPIRATION_DAYS"):
				p.out.class(classWrite) // deletes, at once if the time is past
			case p.toks[k].is("POLICY_TAGS", "DATA_POLICY") || p.toks[k].is("DATA") && p.at(k+1).is("POLICY", "POLICIES"):
				p.out.class(classAccess)
			}
		}
	case "DROP":
		if slices.Contains([]string{"TABLE", "SCHEMA", "SNAPSHOT_TABLE", "MATERIALIZED_VIEW"}, what) {
			p.out.class(classWrite)
		}
		delete(p.temp, tempName(name))
	case "UNDROP":
		p.out.class(classWrite)
	}
	if what == "SCHEMA" && verb != "ALTER" && name != "" {
		p.out.writes(p.whole(name))
	}
}

// whole is all of a dataset, as tables.written has it.
func (p *parser) whole(dataset string) string {
	if strings.Contains(dataset, ".") || p.sc.project == "" {
		return dataset + ".*"
	}
	return p.sc.project + "." + dataset + ".*"
}

func (p *parser) grant(i int) {
	verb := p.at(i).word
	p.is(kindUnknown, classAccess)
	on := p.find(i, "ON")
	if on == 0 {
		p.out.unknown("target_unread")
		return
	}
	what, j := p.at(on+1), on+1
	for p.at(j).is("TABLE", "VIEW", "SCHEMA", "PROJECT", "EXTERNAL", "MATERIALIZED", "FUNCTION", "PROCEDURE", "ROUTINE", "MODEL") {
		j++
	}
	switch {
	case what.is("TABLE"), what.is("EXTERNAL") && p.at(on+2).is("TABLE"):
		p.out.kind = verb + "_ON_TABLE"
	case what.is("VIEW", "SCHEMA", "PROJECT"):
		p.out.kind = verb + "_ON_" + what.word
	}
	if name, _ := p.name(j); name != "" && what.is("TABLE", "VIEW", "EXTERNAL", "MATERIALIZED", "MODEL") {
		p.write(name)
	} else if name != "" && what.is("SCHEMA") {
		p.out.writes(p.whole(name))
	}
	for ; j < len(p.toks); j++ {
		if p.toks[j].kind == token.TokenString {
			p.out.goes(p.toks[j].text)
		}
	}
}
