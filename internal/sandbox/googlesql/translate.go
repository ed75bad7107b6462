package googlesql

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/cloudspannerecosystem/memefish/token"
)

// Name is a table or view, wholly qualified. Dataset is empty where a name has
// one part and the query no default dataset.
type Name struct{ Project, Dataset, Table string }

func (n Name) String() string {
	if n.Dataset == "" {
		return n.Table
	}
	return n.Project + "." + n.Dataset + "." + n.Table
}

// Scope is what a statement may refer to.
type Scope struct {
	Project        string // where names without a project are
	DefaultProject string // of the default dataset; Project where empty
	DefaultDataset string // Optional
	Legacy         bool
	User           string    // SESSION_USER()
	Now            time.Time // CURRENT_TIMESTAMP()

	// Resolve gives the SQLite text that stands for a table in a FROM clause:
	// its quoted storage name, or a bracketed query.
	Resolve func(Name) (string, error)
	// Store gives the quoted storage name of a table that is written.
	Store func(Name) (string, error)
	// Variable reports whether the script declared a variable. Optional.
	Variable func(name string) bool
}

// Arg is what is to be bound to one parameter of a Query.
type Arg struct {
	Index    int    // of a positional parameter, from zero
	Name     string // of a named one, or of a variable
	Variable bool
}

// Query is a statement in SQLite's SQL. Its parameters are ?1 to ?len(Args).
type Query struct {
	SQL      string
	Args     []Arg
	Columns  []Output // of the outermost select list; nil where there is none
	Volatile bool     // its result may differ though no table does
}

// Output is one item of a select list.
type Output struct {
	Name   string // "" for a star
	Star   bool   // stands for any number of columns
	Type   string // REST type where it shows; "" else
	Array  bool   // it is an array of Type
	Column string // the column whose type it has, where that is how it shows
	Arg    *Arg   // the parameter whose type it has
}

// kinds of bracket, for frame.
const (
	frameQuery  = iota // the statement itself, or a subquery
	frameCall          // a function's arguments
	frameGroup         // grouping in an expression, a list
	frameJoin          // a bracketed join in FROM
	frameUnnest        // an array in FROM
	frameArray         // an array literal
)

// clauses of a query, for frame.
const (
	clauseOther = iota
	clauseSelect
	clauseFrom
	clauseSet
)

// frame is an open bracket, or the statement itself.
type frame struct {
	kind   int
	fn     string // of a call, upper case
	clause int
	want   bool   // a table is expected next
	tail   string // written after the closing bracket
	open   int    // the token that opened it
}

// translator turns one query or DML statement into SQLite's SQL.
type translator struct {
	cursor
	scope  *Scope
	out    strings.Builder
	frames []frame
	ctes   map[string]bool
	unnest map[string]string // alias of an UNNEST, or its offset → expression
	args   []Arg
	argNo  map[Arg]int
	// positional numbers the "?" by where they stand.
	positional map[int]int
	depth      int // of expressionType
	query      Query
}

func (t *translator) top() *frame { return &t.frames[len(t.frames)-1] }

func (t *translator) emit(s string) {
	if n := t.out.Len(); n > 0 && s != "," && s != ")" && s != "." && s != "(" {
		t.out.WriteByte(' ')
	}
	t.out.WriteString(s)
}

// translate rewrites the tokens from the cursor on.
func translate(c cursor, scope *Scope) (*Query, error) {
	t := &translator{cursor: c, scope: scope, ctes: map[string]bool{}, unnest: map[string]string{}, argNo: map[Arg]int{}, positional: map[int]int{}}
	t.frames = []frame{{kind: frameQuery, open: -1}}
	t.findNames()
	outputs := t.cursor // the select list is read from the same tokens
	for !t.done() {
		if err := t.step(); err != nil {
			return nil, err
		}
	}
	if len(t.frames) > 1 {
		return nil, t.unexpected(`Expected ")" but got `)
	}
	if t.top().want {
		return nil, t.unexpected("")
	}
	t.query.SQL, t.query.Args = t.out.String(), t.args
	t.query.Columns = selectList(outputs.toks[outputs.i:], t)
	return &t.query, nil
}

// findNames collects what must be known before it is met: the names of WITH
// queries, and what UNNEST is called.
func (t *translator) findNames() {
	toks := t.toks[t.i:]
	for i, tk := range toks {
		next := func(n int) tok {
			if i+n < len(toks) {
				return toks[i+n]
			}
			return eof
		}
		switch {
		case tk.ident() && next(1).is("AS") && next(2).kind == "(" && next(3).isAny("SELECT", "WITH", "("):
			if i > 0 && (toks[i-1].isAny("WITH", "RECURSIVE") || toks[i-1].kind == ",") {
				t.ctes[strings.ToUpper(tk.text)] = true
			}
		case tk.is("UNNEST") && next(1).kind == "(" && (i == 0 || !toks[i-1].is("IN")):
			alias, offset, _ := unnestAlias(toks, i+1)
			if alias != "" {
				t.unnest[strings.ToUpper(alias)] = quoteName(alias) + ".value"
				if offset != "" {
					t.unnest[strings.ToUpper(offset)] = quoteName(alias) + ".key"
				}
			}
		}
	}
}

// unnestAlias reads what follows the bracket that opens at: "AS x WITH OFFSET
// AS y". next is the token after it all.
func unnestAlias(toks []tok, open int) (alias, offset string, next int) {
	end := closing(toks, open)
	if end < 0 {
		return "", "", len(toks)
	}
	c := &cursor{toks: toks, i: end + 1}
	if c.take("AS"); c.peek(0).ident() {
		alias = c.peek(0).text
		c.i++
	}
	if c.take("WITH", "OFFSET") {
		offset = "offset"
		if c.take("AS"); c.peek(0).ident() {
			offset = c.peek(0).text
			c.i++
		}
	}
	return alias, offset, c.i
}

// step handles the token at the cursor, and what belongs to it.
func (t *translator) step() error {
	tk := t.peek(0)
	f := t.top()
	if f.want && tk.kind != "(" {
		return t.table()
	}
	switch tk.kind {
	case token.TokenString:
		if t.peek(-1).kind == token.TokenString { // SQLite would take it for an alias
			return t.unexpected("")
		}
		t.i++
		t.emit(quoteString(tk.text))
	case token.TokenBytes:
		t.i++
		t.emit("x'" + hex.EncodeToString([]byte(tk.text)) + "'")
	case token.TokenInt, token.TokenFloat:
		t.i++
		t.emit(tk.raw)
	case token.TokenParam:
		t.i++
		t.emit(t.bind(Arg{Name: strings.ToLower(tk.text), Index: -1}))
	case "?":
		t.i++
		n := len(t.positional)
		t.positional[tk.pos] = n
		t.emit(t.bind(Arg{Index: n}))
	case "(":
		return t.open()
	case ")":
		return t.close()
	case "[":
		if p := t.peek(-1); p.ident() || p.kind == ")" || p.kind == "]" {
			return notImplemented("array subscripts (at %s)", positionOf(t.src, tk.pos))
		}
		t.i++
		t.frames = append(t.frames, frame{kind: frameArray, open: t.i - 1})
		t.emit("json_array(")
	case "]":
		if f.kind != frameArray {
			return t.unexpected("")
		}
		t.i++
		t.frames = t.frames[:len(t.frames)-1]
		t.emit(")")
	case ",":
		t.i++
		t.emit(",")
		if f.clause == clauseFrom && (f.kind == frameQuery || f.kind == frameJoin) {
			if t.scope.Legacy {
				return notImplemented("the comma in a legacy FROM clause, which means UNION ALL there")
			}
			f.want = true
		}
	case "/":
		// Division is of floats in GoogleSQL, of integers in SQLite.
		t.i++
		t.emit("* 1.0 /")
	case "!=":
		t.i++
		t.emit("<>")
	case "|>", "=>", "->", "@@", "@", "{", "}", "$", ":", "\\", "+=", "-=", "^":
		if tk.kind == "@@" || tk.kind == "|>" || tk.kind == "=>" || tk.kind == "^" {
			return notImplemented("%q (at %s)", tk.raw, positionOf(t.src, tk.pos))
		}
		return t.unexpected("")
	case token.TokenIdent:
		return t.identifier()
	default:
		if tk.kind[0] >= 'A' && tk.kind[0] <= 'Z' {
			return t.keyword()
		}
		t.i++
		t.emit(tk.raw)
	}
	return nil
}

// bind gives the SQLite parameter for a, the same one each time.
func (t *translator) bind(a Arg) string {
	if n, ok := t.argNo[a]; ok {
		return fmt.Sprintf("?%d", n)
	}
	t.args = append(t.args, a)
	t.argNo[a] = len(t.args)
	return fmt.Sprintf("?%d", len(t.args))
}

// open handles a bracket that is no call's.
func (t *translator) open() error {
	f := t.top()
	next := frame{kind: frameGroup, open: t.i}
	switch {
	case t.peek(1).isAny("SELECT", "WITH"):
		next.kind = frameQuery
		if f.want {
			f.want = false
		}
	case f.want:
		f.want = false
		next.kind, next.clause, next.want = frameJoin, clauseFrom, true
	}
	t.i++
	t.emit(" (")
	t.frames = append(t.frames, next)
	return nil
}

func (t *translator) close() error {
	f := *t.top()
	if len(t.frames) == 1 || f.kind == frameArray {
		return t.unexpected("")
	}
	t.i++
	t.frames = t.frames[:len(t.frames)-1]
	t.emit(")")
	if f.tail != "" {
		t.out.WriteString(f.tail)
	}
	if f.kind == frameUnnest {
		_, _, next := unnestAlias(t.toks, f.open)
		t.i = next
	}
	return nil
}
