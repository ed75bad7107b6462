package bigquery

import (
	"slices"
	"strings"

	"github.com/cloudspannerecosystem/memefish/token"

	"github.com/trailgate/trailgate"
)

// Kinds of statement beside BigQuery's own, and the one for several
// (https://cloud.google.com/bigquery/docs/reference/rest/v2/Job#JobStatistics2).
const (
	kindUnknown = "UNKNOWN"
	kindScript  = "SCRIPT"
)

// kinds are BigQuery's statement types, of one statement. What is none of them
// is UNKNOWN by type, whatever else is known of it. A test holds the list to the
// discovery document.
var kinds = strings.Fields(`SELECT ASSERT INSERT UPDATE DELETE MERGE TRUNCATE_TABLE
	CREATE_TABLE CREATE_TABLE_AS_SELECT CREATE_VIEW CREATE_MODEL CREATE_MATERIALIZED_VIEW CREATE_FUNCTION CREATE_TABLE_FUNCTION CREATE_PROCEDURE
	CREATE_ROW_ACCESS_POLICY CREATE_SCHEMA CREATE_EXTERNAL_SCHEMA CREATE_EXTERNAL_TABLE CREATE_SNAPSHOT_TABLE CREATE_SEARCH_INDEX CREATE_VECTOR_INDEX
	CREATE_CONNECTION CREATE_DATA_POLICY CREATE_PROPERTY_GRAPH CREATE_CAPACITY CREATE_RESERVATION CREATE_ASSIGNMENT
	DROP_TABLE DROP_EXTERNAL_TABLE DROP_VIEW DROP_MODEL DROP_MATERIALIZED_VIEW DROP_FUNCTION DROP_TABLE_FUNCTION DROP_PROCEDURE DROP_SEARCH_INDEX
	DROP_VECTOR_INDEX DROP_SCHEMA UNDROP_SCHEMA DROP_SNAPSHOT_TABLE DROP_ROW_ACCESS_POLICY DROP_CONNECTION DROP_DATA_POLICY DROP_PROPERTY_GRAPH
	DROP_CAPACITY DROP_RESERVATION DROP_ASSIGNMENT
	ALTER_TABLE ALTER_VIEW ALTER_MATERIALIZED_VIEW ALTER_SCHEMA ALTER_MODEL ALTER_SEARCH_INDEX ALTER_VECTOR_INDEX ALTER_CONNECTION ALTER_DATA_POLICY
	ALTER_PROJECT ALTER_ORGANIZATION ALTER_BI_CAPACITY ALTER_CAPACITY ALTER_RESERVATION
	SCRIPT CALL BEGIN_TRANSACTION COMMIT_TRANSACTION ROLLBACK_TRANSACTION EXPORT_DATA EXPORT_MODEL EXPORT_METADATA LOAD_DATA
	GRANT_ON_SCHEMA GRANT_ON_TABLE GRANT_ON_VIEW GRANT_ON_PROJECT REVOKE_ON_SCHEMA REVOKE_ON_TABLE REVOKE_ON_VIEW REVOKE_ON_PROJECT`)

// maxTables bounds the tables of one text. A statement with more is recorded
// whole all the same, and classed unknown.
const maxTables = 2_000

// scope is what names in a statement are completed with.
type scope struct {
	project string // for "dataset.table"
	// datasetProject and dataset are for "table" alone: the default dataset, which
	// does not alter the meaning of "dataset.table".
	datasetProject, dataset string
}

// reading is what a local look at SQL tells. It goes by tokens, not by a
// grammar: enough to see what a statement is and which names stand where tables
// stand, and to say so where it does not.
type reading struct {
	kind          string
	classes       []trailgate.Class
	read, written []string
	destinations  []string
	flags         []string
}

func (s *reading) class(classes ...trailgate.Class) {
	for _, k := range classes {
		if !slices.Contains(s.classes, k) {
			s.classes = append(s.classes, k)
		}
	}
}

func (s *reading) flag(f string) {
	if !slices.Contains(s.flags, f) {
		s.flags = append(s.flags, f)
	}
}

// unknown says that the text may do what was not seen.
func (s *reading) unknown(flag string) {
	s.class(trailgate.ClassUnknown)
	s.flag(flag)
}

func (s *reading) reads(tables ...string)  { s.add(&s.read, tables) }
func (s *reading) writes(tables ...string) { s.add(&s.written, tables) }
func (s *reading) goes(places ...string)   { s.add(&s.destinations, places) }

func (s *reading) add(to *[]string, names []string) {
	for _, n := range names {
		switch {
		case slices.Contains(*to, n):
		case len(*to) >= maxTables:
			s.unknown("tables_omitted")
			return
		default:
			*to = append(*to, n)
		}
	}
}

func unread(flag string) reading {
	return reading{kind: kindUnknown, classes: does(trailgate.ClassUnknown), flags: []string{flag}}
}

// parser reads one statement.
type parser struct {
	toks []tok
	sc   scope
	out  reading
	// temp are tables that the script itself made; they are the session's. nil
	// where that cannot be told.
	temp      map[string]bool
	level     int             // how many procedures are around it
	temporary bool            // the statement makes something temporary
	aliases   map[string]bool // of the table that the statement changes
	skip      map[int]bool    // tokens that name a target, not a source
}

func (p *parser) at(i int) tok {
	if i < 0 || i >= len(p.toks) {
		return tok{}
	}
	return p.toks[i]
}

func (p *parser) finish() reading {
	if !slices.Contains(kinds, p.out.kind) {
		p.out.kind = kindUnknown
	}
	if len(p.out.classes) == 0 {
		p.out.class(trailgate.ClassUnknown)
	}
	return p.out
}

// is sets what the statement is and does.
func (p *parser) is(kind string, classes ...trailgate.Class) {
	p.out.kind = kind
	p.out.class(classes...)
}

// statement dispatches on how the statement begins.
func (p *parser) statement() {
	p.skip = map[int]bool{}
	if rest := unlabelled(p.toks); len(rest) < len(p.toks) {
		p.toks = rest
		if !p.at(0).is("BEGIN", "LOOP", "WHILE", "REPEAT", "FOR") { // nothing else has a label
			p.out.unknown("statement_unparsed")
		}
	}
	i := 0
	for p.at(i).kind == "(" {
		i++
	}
	switch t := p.at(i); t.word {
	case "SELECT", "WITH", "FROM":
		p.is("SELECT", classRead)
		p.tables(0)
	case "GRAPH":
		p.graph(i)
	case "INSERT", "UPDATE", "DELETE", "MERGE":
		p.is(t.word, classWrite)
		switch t.word {
		case "INSERT", "MERGE":
			p.target(i+1, "INTO")
		case "DELETE":
			p.target(i+1, "FROM")
		default:
			p.target(i + 1)
		}
		p.tables(i)
	case "TRUNCATE":
		p.is("TRUNCATE_TABLE", classWrite)
		p.target(i+1, "TABLE")
	case "CREATE":
		p.create(i + 1)
	case "ALTER", "DROP", "UNDROP":
		p.alterOrDrop(i)
	case "GRANT", "REVOKE":
		p.grant(i)
	case "EXPORT":
		p.export(i)
	case "LOAD":
		p.is("LOAD_DATA", classWrite)
		p.load(i)
	case "CALL":
		p.is("CALL")
		p.out.unknown("calls_procedure")
		p.tables(i)
	case "EXECUTE":
		p.is(kindScript)
		p.out.unknown("dynamic_sql")
		p.tables(i)
	case "ASSERT":
		p.is("ASSERT", classRead)
		p.tables(i)
	default:
		p.control(i)
	}
}

// graph reads a query of a property graph, which only reads: GRAPH name MATCH …
// RETURN (https://cloud.google.com/bigquery/docs/reference/standard-sql/graph-query-statements).
func (p *parser) graph(i int) {
	p.is("SELECT", classRead)
	name, end := p.name(i + 1)
	if name == "" {
		p.out.unknown("target_unread")
		return
	}
	p.readFrom(name)
	for j := end; j < len(p.toks); j++ {
		if p.toks[j].is(changes...) && !afterDot(p.toks, j) && p.at(j-1).kind != ":" {
			p.out.unknown("statement_unparsed")
		}
	}
	p.tables(end)
}

// changes are words that begin a statement which does more than to read.
var changes = []string{
	"INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "CREATE", "ALTER", "DROP", "UNDROP", "GRANT", "REVOKE", "EXPORT", "LOAD", "CALL", "EXECUTE",
}

// control reads what only steers a script: conditions and the ends of blocks.
func (p *parser) control(i int) {
	switch t := p.at(i); t.word {
	case "DECLARE", "SET", "IF", "ELSEIF", "WHILE", "FOR", "UNTIL", "RETURN", "CASE", "WHEN", "RAISE", "EXCEPTION":
		p.is(kindScript, classRead)
		if t.is("SET") && slices.ContainsFunc(p.toks, func(t tok) bool { return t.kind == "@@" }) {
			p.out.flag("sets_system_variable")
		}
		p.tables(i)
	case "BEGIN", "START":
		p.is("BEGIN_TRANSACTION", classMeta)
		if last := p.at(len(p.toks) - 1); last.is("BEGIN") && len(p.toks) == 1 || !p.at(i+1).is("TRANSACTION") {
			p.out.kind = kindScript // a block
		}
	case "COMMIT", "ROLLBACK":
		p.is(t.word+"_TRANSACTION", classMeta)
		if t.is("ROLLBACK") {
			clear(p.temp) // temporary tables that the transaction made are gone
		}
	case "END":
		p.is(kindScript, classMeta)
		if p.at(i + 1).is("UNTIL") {
			p.tables(i)
		}
	case "ELSE", "LOOP", "REPEAT", "BREAK", "CONTINUE", "LEAVE", "ITERATE":
		p.is(kindScript, classMeta)
	default:
		p.is(kindUnknown, trailgate.ClassUnknown)
		p.tables(i)
		return
	}
	// Conditions hold no statements. Where one seems to be, the script was not cut
	// where BigQuery cuts it.
	for j := i + 1; j < len(p.toks); j++ {
		if !p.toks[j].is(changes...) || afterDot(p.toks, j) || !p.at(j+1).named() {
			continue
		}
		if next := p.at(j + 1); !next.is("AND", "OR", "IS", "IN", "AS", "FROM", "THEN", "DO", "DEFAULT") || p.toks[j].is("DELETE") && next.is("FROM") {
			p.out.unknown("statement_unparsed")
		}
	}
}

// target reads the table that a statement changes.
func (p *parser) target(i int, optional ...string) {
	for p.at(i).is(optional...) {
		p.skip[i] = true
		i++
	}
	name, end := p.name(i)
	if name == "" {
		p.out.unknown("target_unread")
		return
	}
	alias, end := p.alias(name, end)
	for j := i; j < end; j++ {
		p.skip[j] = true
	}
	if p.out.kind != "INSERT" { // what is inserted does not see where it goes
		p.aliases = map[string]bool{strings.ToLower(alias): true}
	}
	p.write(name)
}

func (p *parser) export(i int) {
	p.out.class(classRead, classExport)
	switch {
	case p.at(i + 1).is("MODEL"):
		p.out.kind = "EXPORT_MODEL"
		if name, _ := p.name(i + 2); name != "" {
			p.readFrom(name)
		}
	case p.at(i+1).is("TABLE") && p.at(i+2).is("METADATA"):
		p.out.kind = "EXPORT_METADATA"
	case p.at(i + 1).is("DATA"):
		p.out.kind = "EXPORT_DATA"
	}
	p.uris(i, p.head(i))
	p.tables(i)
}

func (p *parser) load(i int) {
	for i++; p.at(i).is("DATA", "INTO", "OVERWRITE", "TEMP", "TEMPORARY", "TABLE"); i++ {
		p.temporary = p.temporary || p.at(i).is("TEMP", "TEMPORARY")
	}
	if name, _ := p.name(i); p.temporary && p.temp != nil && ofSession(name) {
		p.temp[tempName(name)] = true
	} else {
		p.target(i)
	}
	p.uris(i, len(p.toks))
}

// namespaces are those of BigQuery's own functions.
var namespaces = []string{"SAFE", "ML", "AI", "NET", "KEYS", "AEAD", "HLL_COUNT", "KLL_QUANTILES", "D3A_COUNT", "OBJ", "BQ", "DLP_COUNT"}

// ownTableFunctions are BigQuery's table functions that have no namespace.
var ownTableFunctions = []string{"EXTERNAL_QUERY", "VECTOR_SEARCH", "APPENDS", "CHANGES", "GAP_FILL", "RANGE_SESSIONIZE", "GRAPH_TABLE", "EXTERNAL_OBJECT_TRANSFORM"}

// localModels are the functions of AI that no model outside of BigQuery answers.
var localModels = []string{"FORECAST", "EVALUATE", "DETECT_ANOMALIES", "KEY_DRIVERS"}

// function notes the call at i where it reaches out of BigQuery, or runs a
// routine whose code is elsewhere.
func (p *parser) function(i int) {
	name, space := strings.ToUpper(p.at(i).text), ""
	if first, rest, two := strings.Cut(name, "."); two && p.at(i).word == "" && slices.Contains(namespaces, first) && !strings.Contains(rest, ".") {
		space, name = first, rest // `AI.GENERATE`(x)
	} else if afterDot(p.toks, i) {
		space = strings.ToUpper(p.at(i - 2).text)
	}
	remote := func(flag string) {
		p.out.class(classExport)
		p.out.flag(flag)
	}
	switch {
	case name == "EXTERNAL_QUERY" && (space == "" || space == "SAFE"):
		remote("external_query")
		if s := p.at(i + 2); s.kind == token.TokenString {
			p.out.goes(s.text)
		}
	case name == "EXTERNAL_OBJECT_TRANSFORM" && space == "":
		remote("external_tables") // signed addresses, good for whoever has them
	case space == "AI" && !slices.Contains(localModels, name),
		space == "ML" && (strings.HasPrefix(name, "GENERATE_") || slices.Contains([]string{"TRANSLATE", "ANNOTATE_IMAGE", "UNDERSTAND_TEXT", "TRANSCRIBE", "PROCESS_DOCUMENT"}, name)):
		remote("remote_model")
	case space == "ML" && slices.Contains([]string{"PREDICT", "EVALUATE"}, name):
		p.out.flag("calls_model") // which may be remote: the statement does not tell
	case space == "" && p.at(i).word == "" && strings.Contains(name, "."):
		p.persisted(p.at(i).text) // `p.d.f`(x)
	case space != "" && !slices.Contains(namespaces, space):
		if start, end := p.path(i); end > start {
			if full, to := p.name(start); to == i+1 {
				p.persisted(full)
			}
		}
	}
}

// persisted notes a call of a function that is stored in a dataset. It may be a
// remote one, which sends rows elsewhere; the statement does not tell.
func (p *parser) persisted(name string) {
	p.out.goes("function:" + p.qualify(name))
	p.out.flag("calls_function")
}

// path is where the dotted name that ends at i begins.
func (p *parser) path(i int) (start, end int) {
	start = i
	for steps := 0; steps < maxParts && afterDot(p.toks, start) && p.at(start-2).named(); steps++ {
		start -= 2
	}
	for start >= 2 && p.toks[start-1].kind == "-" && p.toks[start-1].glued && p.toks[start].glued && p.toks[start-2].named() && i-start < 2*maxParts {
		start -= 2 // an unquoted project with dashes
	}
	return start, i
}

// tableFunction notes a table function behind FROM, whose name ends at i.
func (p *parser) tableFunction(name string, i int) {
	p.function(i)
	parts := strings.Split(strings.ToUpper(name), ".")
	if len(parts) == 1 && parts[0] == "GRAPH_TABLE" {
		if graph, _ := p.name(i + 2); graph != "" {
			p.readFrom(graph)
		}
	}
	own := len(parts) == 1 && slices.Contains(ownTableFunctions, parts[0]) || len(parts) == 2 && slices.Contains(namespaces, parts[0])
	if !own {
		p.out.flag("table_function")
		p.out.goes("function:" + p.qualify(name))
	}
}

// uris notes string literals that are addresses.
func (p *parser) uris(i, end int) {
	for ; i < end && i < len(p.toks); i++ {
		if t := p.toks[i]; t.kind == token.TokenString && strings.Contains(t.text, "://") {
			p.out.goes(t.text)
		}
	}
}
