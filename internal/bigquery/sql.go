package bigquery

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cloudspannerecosystem/memefish"
	"github.com/cloudspannerecosystem/memefish/token"

	"github.com/trailgate/trailgate"
)

// Kinds of statement that are ours to name; the others are BigQuery's own
// (https://cloud.google.com/bigquery/docs/reference/rest/v2/Job#JobStatistics2).
const (
	kindUnknown = "UNKNOWN"
	kindScript  = "SCRIPT"
)

// Bounds of what is read. A statement beyond them is recorded whole all the
// same, and classed unknown.
const (
	maxTokens = 500_000
	maxTables = 2_000
)

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

func unread(flag string) reading {
	return reading{kind: kindUnknown, classes: does(trailgate.ClassUnknown), flags: []string{flag}}
}

// tok is one token. word is its upper-case spelling where it may be a keyword:
// an unquoted word.
type tok struct {
	kind  token.TokenKind
	word  string
	text  string // an identifier's or string's value
	raw   string
	glued bool // nothing stands between it and the token before
}

func (t tok) is(words ...string) bool { return t.word != "" && slices.Contains(words, t.word) }

// tokens reads all of them; ok is false where the text is not GoogleSQL.
func tokens(sql string) (out []tok, ok bool) {
	if out, ok = lexed(sql); ok {
		return out, true
	}
	// An unquoted project may end in a dash and digits, which the lexer takes
	// for a malformed number: my-project-12.staging.t.
	if fixed := dashedDigits.ReplaceAllString(sql, "$1 $2"); fixed != sql {
		return lexed(fixed)
	}
	return nil, false
}

var dashedDigits = regexp.MustCompile(`([A-Za-z0-9_]-[0-9]+)(\.[A-Za-z_` + "`" + `])`)

func lexed(sql string) (out []tok, ok bool) {
	lex := &memefish.Lexer{File: &token.File{Buffer: unescape(sql)}}
	for {
		if !nextToken(lex) {
			return nil, false
		}
		t := lex.Token
		switch {
		case t.Kind == token.TokenEOF:
			return out, true
		case t.Kind == token.TokenBad || len(out) >= maxTokens:
			return nil, false
		}
		next := tok{kind: t.Kind, text: t.AsString, raw: t.Raw, glued: t.Space == "" && len(t.Comments) == 0}
		if len(t.Raw) > 0 && (t.Raw[0] >= 'a' && t.Raw[0] <= 'z' || t.Raw[0] >= 'A' && t.Raw[0] <= 'Z' || t.Raw[0] == '_') &&
			t.Kind != token.TokenString && t.Kind != token.TokenBytes {
			next.word = strings.ToUpper(t.Raw)
			next.text = t.Raw
		}
		out = append(out, next)
	}
}

// nextToken reads one token. memefish v0.8.1 runs past the end of a literal that
// stops inside an escape ("\0, b'\x) and panics with the index; an agent's text
// must not end the call that records it.
func nextToken(lex *memefish.Lexer) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return lex.NextToken() == nil
}

// unescape decodes the \u and \U escapes of string literals and quoted names
// before the lexer meets them: memefish v0.8.1 takes a megabyte of memory for
// each (a buffer of utf8.MaxRune bytes), so that a statement made of escapes
// would stop the gateway. What an escape stands for cannot end its literal: a
// quote, backslash or line break becomes a blank, which changes no name that a
// table can have. In raw strings, where these are no escapes, only the value is
// off, and values are looked at for addresses alone.
func unescape(sql string) string {
	if !strings.Contains(sql, `\u`) && !strings.Contains(sql, `\U`) {
		return sql
	}
	out := make([]byte, 0, len(sql))
	for i := 0; i < len(sql); i++ {
		if sql[i] != '\\' || i+1 >= len(sql) {
			out = append(out, sql[i])
			continue
		}
		digits := 0
		switch sql[i+1] {
		case 'u':
			digits = 4
		case 'U':
			digits = 8
		}
		end := i + 2 + digits
		if digits == 0 || end > len(sql) {
			out = append(out, sql[i], sql[i+1])
			i++
			continue
		}
		n, err := strconv.ParseUint(sql[i+2:end], 16, 32)
		if err != nil || n > utf8.MaxRune || !utf8.ValidRune(rune(n)) {
			// Not an escape; the lexer says so without taking the memory.
			out = append(out, sql[i], sql[i+1])
			i++
			continue
		}
		if strings.ContainsRune("\"'`\\\n\r", rune(n)) {
			n = ' '
		}
		out = utf8.AppendRune(out, rune(n))
		i = end - 1
	}
	return string(out)
}

// readSQL reads GoogleSQL: one statement or a script.
func readSQL(sql string, sc scope) reading {
	toks, ok := tokens(sql)
	if !ok {
		return unread("statement_unparsed")
	}
	parts := split(toks)
	if len(parts) == 0 {
		return unread("statement_unparsed")
	}
	if len(parts) == 1 {
		p := &parser{toks: parts[0], sc: sc}
		p.statement()
		return p.finish()
	}
	script := reading{kind: kindScript}
	temp := map[string]bool{}
	for _, part := range parts {
		p := &parser{toks: part, sc: sc, temp: temp}
		p.statement()
		s := p.finish()
		script.class(s.classes...)
		script.read, script.written = union(script.read, s.read), union(script.written, s.written)
		script.destinations = union(script.destinations, s.destinations)
		for _, f := range s.flags {
			script.flag(f)
		}
		if len(script.read)+len(script.written) > maxTables {
			script.flag("tables_omitted")
			break
		}
	}
	return script
}

// readExpression reads an expression: a row filter, a function's body.
func readExpression(sql string, sc scope) reading {
	toks, ok := tokens(sql)
	if !ok {
		return unread("statement_unparsed")
	}
	p := &parser{toks: toks, sc: sc}
	p.tables(0)
	return p.finish()
}

// blocks are words after which another statement begins, in scripts.
var blocks = []string{"BEGIN", "THEN", "ELSE", "DO", "LOOP", "REPEAT"}

// split cuts a script at its semicolons, and behind the words that open a
// block, so that each part begins like a statement. Parts that only open or
// close a block are dropped, but their conditions are kept to be read.
func split(toks []tok) [][]tok {
	var parts [][]tok
	var cur []tok
	depth, cases, body := 0, 0, 0
	flush := func() {
		if len(cur) > 0 {
			parts = append(parts, cur)
		}
		cur = nil
	}
	for i, t := range toks {
		switch t.kind {
		case "(":
			depth++
		case ")":
			depth--
		}
		if body = inBody(toks, i, cur, body); body > 0 {
			cur = append(cur, t)
			continue
		}
		if t.kind == ";" {
			depth, cases = 0, 0
			flush()
			continue
		}
		if depth == 0 && t.word != "" && !afterDot(toks, i) {
			switch {
			case t.word == "CASE":
				cases++
			case t.word == "END" && cases > 0:
				cases--
			case t.word == "END" && len(cur) == 0:
				// END, END IF, END WHILE, …: skip to the semicolon
			case cases == 0 && slices.Contains(blocks, t.word) && opensBlock(toks, i, cur):
				cur = append(cur, t)
				flush()
				continue
			}
		}
		cur = append(cur, t)
	}
	flush()
	return parts
}

// inBody follows the body of CREATE PROCEDURE, which stays one statement with
// its head: how many of its BEGINs and CASEs are open behind token i.
func inBody(toks []tok, i int, cur []tok, open int) int {
	t, next := toks[i], tok{}
	if i+1 < len(toks) {
		next = toks[i+1]
	}
	switch {
	case t.word == "" || afterDot(toks, i):
	case open == 0 && !(t.is("BEGIN") && len(cur) > 1 && cur[0].is("CREATE") && slices.ContainsFunc(cur[:min(4, len(cur))], func(t tok) bool { return t.is("PROCEDURE") })):
	case t.is("BEGIN") && !next.is("TRANSACTION"), open > 0 && t.is("CASE") && !toks[i-1].is("END"):
		return open + 1
	case t.is("END") && !next.is("IF", "WHILE", "LOOP", "FOR", "REPEAT"):
		return open - 1
	}
	return open
}

func afterDot(toks []tok, i int) bool { return i > 0 && toks[i-1].kind == "." }

// opensBlock tells block words from the same words in statements.
func opensBlock(toks []tok, i int, cur []tok) bool {
	next := tok{}
	if i+1 < len(toks) {
		next = toks[i+1]
	}
	switch toks[i].word {
	case "BEGIN":
		// CREATE PROCEDURE … BEGIN stays whole: its body runs when it is called.
		return !next.is("TRANSACTION") && next.kind != ";" && next.kind != "" && (len(cur) == 0 || !cur[0].is("CREATE")) || len(cur) > 0 && cur[0].is("EXCEPTION")
	case "THEN":
		return len(cur) > 0 && (cur[0].is("IF", "ELSEIF", "WHEN", "CASE") || cur[0].is("EXCEPTION"))
	case "ELSE":
		return len(cur) == 0
	case "DO":
		return len(cur) > 0 && cur[0].is("WHILE", "FOR")
	case "LOOP", "REPEAT":
		return len(cur) == 0
	}
	return false
}

// parser reads one statement.
type parser struct {
	toks []tok
	sc   scope
	out  reading
	ctes map[string]bool // names that stand for subqueries
	// temp are tables that the script itself made; they are the session's.
	temp    map[string]bool
	aliases map[string]bool
	skip    map[int]bool // tokens that name a target, not a source
}

func (p *parser) at(i int) tok {
	if i < 0 || i >= len(p.toks) {
		return tok{}
	}
	return p.toks[i]
}

func (p *parser) finish() reading {
	if p.out.kind == "" {
		p.out.kind = kindUnknown
	}
	if len(p.out.classes) == 0 {
		p.out.class(trailgate.ClassUnknown)
	}
	return p.out
}

// statement dispatches on how the statement begins.
func (p *parser) statement() {
	p.ctes, p.aliases, p.skip = map[string]bool{}, map[string]bool{}, map[int]bool{}
	i := 0
	// A label: "name: BEGIN"; an opening parenthesis: "(SELECT 1)".
	if p.at(1).kind == ":" {
		i = 2
	}
	for p.at(i).kind == "(" {
		i++
	}
	t := p.at(i)
	set := func(kind string, classes ...trailgate.Class) {
		p.out.kind = kind
		p.out.class(classes...)
	}
	switch t.word {
	case "SELECT", "WITH", "FROM", "VALUES":
		set("SELECT", classRead)
		p.tables(i)
	case "INSERT":
		set("INSERT", classWrite)
		p.target(i+1, "INTO")
		p.tables(i)
	case "UPDATE":
		set("UPDATE", classWrite)
		p.target(i + 1)
		p.tables(i)
	case "DELETE":
		set("DELETE", classWrite)
		p.target(i+1, "FROM")
		p.tables(i)
	case "MERGE":
		set("MERGE", classWrite)
		p.target(i+1, "INTO")
		p.tables(i)
	case "TRUNCATE":
		set("TRUNCATE_TABLE", classWrite)
		p.target(i+1, "TABLE")
	case "CREATE":
		p.create(i + 1)
	case "ALTER", "DROP", "UNDROP":
		p.alterOrDrop(i)
	case "GRANT", "REVOKE":
		set(t.word, classAccess)
		p.grant(i)
	case "EXPORT":
		if p.at(i + 1).is("MODEL") {
			set("EXPORT_MODEL", classRead, classExport)
		} else {
			set("EXPORT_DATA", classRead, classExport)
		}
		p.uris(i)
		p.tables(i)
	case "LOAD":
		set("LOAD_DATA", classWrite)
		j := i + 1
		for p.at(j).is("DATA", "INTO", "OVERWRITE", "TEMP", "TEMPORARY", "TABLE") {
			j++
		}
		p.target(j)
		p.uris(i)
	case "CALL":
		set("CALL", trailgate.ClassUnknown)
		p.out.flag("calls_procedure")
	case "EXECUTE":
		set("EXECUTE_IMMEDIATE", trailgate.ClassUnknown)
		p.out.flag("dynamic_sql")
	case "ASSERT":
		set("ASSERT", classRead)
		p.tables(i)
	case "DECLARE", "SET", "IF", "ELSEIF", "WHILE", "FOR", "UNTIL", "RETURN", "CASE", "WHEN", "RAISE":
		set(kindScript, classRead)
		if t.is("SET") && p.at(i+1).kind == "@@" {
			p.out.flag("sets_system_variable")
		}
		p.tables(i)
	case "BEGIN", "END", "ELSE", "THEN", "DO", "LOOP", "REPEAT", "EXCEPTION", "COMMIT", "ROLLBACK", "START", "BREAK", "CONTINUE", "LEAVE", "ITERATE":
		set(kindScript, trailgate.ClassMetadataRead)
	default:
		p.out.kind = kindUnknown
		p.out.class(trailgate.ClassUnknown)
		p.tables(0)
	}
}

// objects are what CREATE, ALTER and DROP are followed by, longest first.
var objects = []struct{ words, name string }{
	{"ROW ACCESS POLICY", "ROW_ACCESS_POLICY"},
	{"ALL ROW ACCESS POLICIES", "ROW_ACCESS_POLICY"},
	{"MATERIALIZED VIEW", "MATERIALIZED_VIEW"},
	{"SNAPSHOT TABLE", "SNAPSHOT_TABLE"},
	{"EXTERNAL TABLE", "EXTERNAL_TABLE"},
	{"EXTERNAL SCHEMA", "EXTERNAL_SCHEMA"},
	{"AGGREGATE FUNCTION", "FUNCTION"},
	{"TABLE FUNCTION", "TABLE_FUNCTION"},
	{"SEARCH INDEX", "SEARCH_INDEX"},
	{"VECTOR INDEX", "VECTOR_INDEX"},
	{"BI_CAPACITY", "BI_CAPACITY"},
	{"CAPACITY", "CAPACITY"},
	{"RESERVATION", "RESERVATION"},
	{"ASSIGNMENT", "ASSIGNMENT"},
	{"ORGANIZATION", "ORGANIZATION"},
	{"PROJECT", "PROJECT"},
	{"CONNECTION", "CONNECTION"},
	{"DATA_POLICY", "DATA_POLICY"},
	{"TABLE", "TABLE"},
	{"VIEW", "VIEW"},
	{"FUNCTION", "FUNCTION"},
	{"PROCEDURE", "PROCEDURE"},
	{"SCHEMA", "SCHEMA"},
	{"MODEL", "MODEL"},
	{"INDEX", "INDEX"},
}

// object reads what kind of thing follows, and where its name begins.
func (p *parser) object(i int) (name string, next int) {
	for _, o := range objects {
		j, ok := i, true
		for w := range strings.SplitSeq(o.words, " ") {
			if ok = p.at(j).is(w); !ok {
				break
			}
			j++
		}
		if ok {
			for p.at(j).is("IF", "NOT", "EXISTS") {
				j++
			}
			return o.name, j
		}
	}
	return "", i
}

func (p *parser) create(i int) {
	temporary := false
	for p.at(i).is("OR", "REPLACE", "TEMP", "TEMPORARY", "RECURSIVE") {
		temporary = temporary || p.at(i).is("TEMP", "TEMPORARY")
		i++
	}
	what, j := p.object(i)
	if what == "" {
		p.out.kind = kindUnknown
		p.out.class(trailgate.ClassUnknown)
		return
	}
	p.out.kind = "CREATE_" + what
	p.out.class(trailgate.ClassMetadataChange)
	switch what {
	case "ROW_ACCESS_POLICY":
		p.out.class(classAccess)
		p.policy(j)
		return
	case "FUNCTION", "PROCEDURE", "TABLE_FUNCTION":
		p.routine(j)
		return
	case "EXTERNAL_TABLE", "EXTERNAL_SCHEMA", "CONNECTION":
		p.out.class(classExport)
		p.uris(j)
	}
	name, end := p.name(j)
	if temporary && p.temp != nil {
		p.temp[strings.ToLower(name)] = true
	} else if name != "" && isTable(what) {
		p.write(name)
	}
	body := p.find(end, "AS")
	switch what {
	case "TABLE":
		if p.at(end).is("LIKE", "COPY", "CLONE") {
			if p.at(end).is("COPY") {
				p.out.kind = "CREATE_TABLE_COPY"
			}
			if p.at(end).is("CLONE") {
				p.out.kind = "CREATE_TABLE_CLONE"
			}
			if !p.at(end).is("LIKE") {
				p.out.class(classRead, classWrite)
			}
			if src, _ := p.name(end + 1); src != "" {
				p.readFrom(src)
			}
			return
		}
		if body > 0 {
			p.out.kind = "CREATE_TABLE_AS_SELECT"
			p.out.class(classRead, classWrite)
			p.tables(body)
		}
	case "SNAPSHOT_TABLE":
		if at := p.find(end, "CLONE"); at > 0 {
			if src, _ := p.name(at + 1); src != "" {
				p.readFrom(src)
			}
		}
	case "VIEW", "MATERIALIZED_VIEW", "MODEL":
		if body > 0 {
			p.tables(body)
		}
		if what == "MODEL" && body > 0 {
			p.out.class(classRead)
		}
		if what == "MODEL" && p.find(end, "REMOTE") > 0 {
			p.out.class(classExport)
			p.uris(end)
		}
	}
}

func isTable(what string) bool {
	switch what {
	case "TABLE", "VIEW", "MATERIALIZED_VIEW", "SNAPSHOT_TABLE", "EXTERNAL_TABLE", "MODEL":
		return true
	}
	return false
}

// find is the index behind the first such word outside of parentheses, 0 if
// there is none.
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
			if word == "AS" || word == "REMOTE" {
				return i + 1
			}
			return i
		}
	}
	return 0
}

// routine notes where a function's code comes from or goes to. Its body runs
// when it is called, but that which moves data out is said now.
func (p *parser) routine(i int) {
	if p.find(i, "REMOTE") > 0 || p.find(i, "LANGUAGE") > 0 && p.has("CONNECTION") {
		p.out.class(classExport)
		p.out.flag("remote_function")
	}
	p.uris(i)
	body := &parser{toks: p.toks[min(i, len(p.toks)):], sc: p.sc}
	if p.out.kind == "CREATE_PROCEDURE" {
		for at, t := range body.toks {
			if t.is("BEGIN") {
				inner := split(body.toks[at+1:])
				for _, part := range inner {
					s := &parser{toks: part, sc: p.sc, temp: map[string]bool{}}
					s.statement()
					p.stored(s.finish())
				}
				return
			}
		}
	}
	body.tables(0)
	p.stored(body.finish())
}

// stored takes over of a stored body what matters already: what it names, and
// that it changes access, moves data out, or cannot be told.
func (p *parser) stored(s reading) {
	p.out.read = union(p.out.read, s.read)
	p.out.read = union(p.out.read, s.written)
	p.out.destinations = union(p.out.destinations, s.destinations)
	for _, f := range s.flags {
		p.out.flag(f)
	}
	for _, k := range s.classes {
		if k == classAccess || k == classExport || k == trailgate.ClassUnknown && s.kind != kindUnknown {
			p.out.class(k)
		}
	}
}

func (p *parser) has(word string) bool {
	return slices.ContainsFunc(p.toks, func(t tok) bool { return t.is(word) })
}

func (p *parser) policy(i int) {
	if on := p.find(i, "ON"); on > 0 {
		if name, _ := p.name(on + 1); name != "" {
			p.write(name)
		}
	}
	p.tables(i)
}

func (p *parser) alterOrDrop(i int) {
	verb := p.at(i).word
	what, j := p.object(i + 1)
	if what == "" {
		p.out.kind = kindUnknown
		p.out.class(trailgate.ClassUnknown)
		return
	}
	p.out.kind = verb + "_" + what
	p.out.class(trailgate.ClassMetadataChange)
	if what == "ROW_ACCESS_POLICY" {
		p.out.class(classAccess)
		p.policy(j)
		return
	}
	if verb == "DROP" && (what == "TABLE" || what == "SCHEMA" || what == "SNAPSHOT_TABLE" || what == "MATERIALIZED_VIEW") {
		p.out.class(classWrite)
	}
	if name, _ := p.name(j); name != "" && isTable(what) {
		p.write(name)
	}
	switch what {
	case "SEARCH_INDEX", "VECTOR_INDEX", "INDEX":
		if on := p.find(j, "ON"); on > 0 {
			if name, _ := p.name(on + 1); name != "" {
				p.write(name)
			}
		}
	case "DATA_POLICY", "ORGANIZATION", "PROJECT":
		p.out.class(classAccess)
	}
}

func (p *parser) grant(i int) {
	on := p.find(i, "ON")
	if on == 0 {
		return
	}
	j := on + 1
	what := p.at(j).word
	for p.at(j).is("TABLE", "VIEW", "SCHEMA", "EXTERNAL", "MATERIALIZED", "FUNCTION", "PROCEDURE") {
		j++
	}
	if name, _ := p.name(j); name != "" && what != "SCHEMA" {
		p.write(name)
	}
	for ; j < len(p.toks); j++ {
		if p.toks[j].kind == token.TokenString {
			p.out.destinations = union(p.out.destinations, []string{p.toks[j].text})
		}
	}
}

// uris notes string literals that are addresses.
func (p *parser) uris(i int) {
	for ; i < len(p.toks); i++ {
		if t := p.toks[i]; t.kind == token.TokenString && strings.Contains(t.text, "://") {
			p.out.destinations = union(p.out.destinations, []string{t.text})
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
		p.out.flag("target_unread")
		return
	}
	for j := i; j < end; j++ {
		p.skip[j] = true
	}
	p.alias(name, end)
	p.write(name)
}
