package googlesql

import (
	"strings"
)

// Plan is a statement, understood.
type Plan struct {
	Type string // BigQuery's statementType

	// Query is what SQLite is to run: a SELECT, a DML statement, the query of
	// CREATE TABLE AS, of a view or of EXPORT DATA, or the expression of DECLARE,
	// SET and EXECUTE IMMEDIATE (as a SELECT of one value). Nil where there is none.
	Query *Query
	// QueryText is the text of a view's query, as written.
	QueryText string

	Target      Name // the table, view or (Table empty) dataset that is changed
	OrReplace   bool
	IfNotExists bool
	IfExists    bool
	Temporary   bool
	Cascade     bool
	Columns     []Column       // of CREATE TABLE with a list
	Partition   string         // column of PARTITION BY; "" for none
	Granularity string         // of PARTITION BY: HOUR, DAY, MONTH, YEAR
	Cluster     []string       // columns of CLUSTER BY
	Options     map[string]any // string, float64, bool or []any

	RenameTo   string   // ALTER TABLE … RENAME TO
	AddColumns []Column // ALTER TABLE … ADD COLUMN
	DropColumn string   // ALTER TABLE … DROP COLUMN

	Roles, Grantees []string // of GRANT and REVOKE
	ResourceType    string   // of GRANT and REVOKE: TABLE, VIEW, SCHEMA

	Variables []Column // of DECLARE (Type empty where it is the default's), of SET (Type empty)
}

// Parse understands a statement. Of a script's statements, those before it
// must have run, since it may use what they make.
func Parse(s Statement, scope *Scope) (*Plan, error) {
	c := cursor{src: s.src, toks: s.toks}
	p := &Plan{Type: s.Type}
	if scope.Legacy && s.Type != "SELECT" {
		t := c.peek(0)
		return nil, &Error{Reason: ReasonInvalidQuery, Message: "Encountered \" \"" + t.raw + "\" \"" + t.raw + " \"\" at line " + positionOf(s.src, t.pos).lineColumn() +
			". Was expecting: \"SELECT\". Legacy SQL knows no other statement; use standard SQL (useLegacySql: false)."}
	}
	var err error
	switch s.Type {
	case "SELECT":
		p.Query, err = translate(c, scope)
	case "INSERT", "UPDATE", "DELETE":
		err = p.dml(&c, scope)
	case "TRUNCATE_TABLE":
		c.i = 2
		err = p.target(&c, scope)
	case "CREATE_TABLE", "CREATE_TABLE_AS_SELECT", "CREATE_VIEW":
		err = p.create(&c, scope)
	case "CREATE_SCHEMA", "DROP_SCHEMA":
		err = p.schema(&c, scope)
	case "DROP_TABLE", "DROP_VIEW":
		c.i = 2
		p.IfExists = c.take("IF", "EXISTS")
		err = p.target(&c, scope)
	case "ALTER_TABLE":
		err = p.alter(&c, scope)
	case "GRANT", "REVOKE":
		err = p.dcl(&c, scope)
	case "EXPORT_DATA":
		err = p.export(&c, scope)
	case "DECLARE", "SET":
		err = p.assign(&c, scope)
	case "EXECUTE_IMMEDIATE":
		err = p.immediate(&c, scope)
	case "BEGIN_TRANSACTION", "COMMIT_TRANSACTION", "ROLLBACK_TRANSACTION":
	case "":
		if c.peek(0).isAny("IF", "LOOP", "WHILE", "REPEAT", "FOR", "BEGIN", "CASE", "RETURN", "RAISE", "BREAK", "LEAVE", "CONTINUE", "CREATE", "DROP", "ALTER", "EXPLAIN", "DEFINE", "UNDROP", "EXPORT", "FROM") {
			return nil, notImplemented("the statement that begins with %s", strings.ToUpper(c.peek(0).raw))
		}
		return nil, c.unexpected("")
	default:
		return nil, notImplemented("%s", s.Type)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (p Position) lineColumn() string {
	return strings.Replace(strings.Trim(p.String(), "[]"), ":", ", column ", 1)
}

// target reads a table's name, and nothing after it.
func (p *Plan) target(c *cursor, scope *Scope) error {
	if err := p.name(c, scope); err != nil {
		return err
	}
	return c.end()
}

func (p *Plan) name(c *cursor, scope *Scope) error {
	parts, err := c.path()
	if err != nil {
		return err
	}
	p.Target, err = scope.tableName(parts)
	return err
}

func (c *cursor) end() error {
	if c.done() {
		return nil
	}
	return c.unexpected("Expected end of input but got ")
}

// dml rewrites the head of INSERT, UPDATE and DELETE; the rest is translated
// like a query.
func (p *Plan) dml(c *cursor, scope *Scope) error {
	verb := p.Type
	start := c.peek(0).pos
	c.i++
	switch verb {
	case "INSERT":
		c.take("INTO")
	case "DELETE":
		c.take("FROM")
	}
	parts, err := c.path()
	if err != nil {
		return err
	}
	if p.Target, err = scope.tableName(parts); err != nil {
		return err
	}
	storage, err := scope.Store(p.Target)
	if err != nil {
		return err
	}
	alias := parts[len(parts)-1]
	if verb != "INSERT" {
		c.take("AS")
		if tk := c.peek(0); tk.ident() {
			alias = tk.text
			c.i++
		}
		if !hasWhere(c.toks[c.i:]) {
			return &Error{Reason: ReasonInvalidQuery, Message: verb + " must have a WHERE clause at " + positionOf(c.src, start).String()}
		}
	}
	q, err := translate(*c, scope)
	if err != nil {
		return err
	}
	head := map[string]string{"INSERT": "INSERT INTO ", "UPDATE": "UPDATE ", "DELETE": "DELETE FROM "}[verb]
	q.SQL = head + storage + " AS " + quoteName(alias) + " " + q.SQL
	q.Columns = nil
	p.Query = q
	return nil
}

func hasWhere(toks []tok) bool {
	depth := 0
	for _, tk := range toks {
		switch tk.kind {
		case "(", "[":
			depth++
		case ")", "]":
			depth--
		case "WHERE":
			if depth == 0 {
				return true
			}
		}
	}
	return false
}

// assign reads DECLARE a, b TYPE DEFAULT e, and SET a = e.
func (p *Plan) assign(c *cursor, scope *Scope) error {
	c.i++
	for {
		tk := c.peek(0)
		if !tk.ident() || tk.quoted {
			if tk.kind == "(" || tk.kind == "@@" {
				return notImplemented("SET of system variables or of several at once")
			}
			return c.unexpected("")
		}
		p.Variables = append(p.Variables, Column{Name: strings.ToLower(tk.text)})
		c.i++
		if !c.take(",") {
			break
		}
	}
	if p.Type == "DECLARE" {
		if !c.peek(0).is("DEFAULT") {
			col, err := c.parseType()
			if err != nil {
				return err
			}
			for i := range p.Variables {
				p.Variables[i].Type, p.Variables[i].Mode = col.Type, col.Mode
			}
		}
		if c.done() {
			return nil
		}
		if err := c.expect("DEFAULT"); err != nil {
			return err
		}
	} else if err := c.expect("="); err != nil {
		return err
	}
	return p.expression(c, scope)
}

// expression translates the rest as one value.
func (p *Plan) expression(c *cursor, scope *Scope) error {
	if c.done() {
		return c.unexpected("")
	}
	q, err := translate(cursor{src: c.src, toks: append([]tok{{kind: "SELECT", raw: "SELECT", pos: c.peek(0).pos, end: c.peek(0).pos}}, c.toks[c.i:]...)}, scope)
	p.Query = q
	return err
}

// immediate reads EXECUTE IMMEDIATE expression.
func (p *Plan) immediate(c *cursor, scope *Scope) error {
	c.i = 2
	for _, tk := range c.toks[c.i:] {
		if tk.isAny("USING", "INTO") {
			return notImplemented("EXECUTE IMMEDIATE with %s", strings.ToUpper(tk.raw))
		}
	}
	return p.expression(c, scope)
}
