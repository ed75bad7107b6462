package googlesql

import (
	"strconv"
	"strings"

	"github.com/cloudspannerecosystem/memefish/token"
)

// create reads CREATE TABLE and CREATE VIEW.
func (p *Plan) create(c *cursor, scope *Scope) error {
	c.i = 1
	p.OrReplace = c.take("OR", "REPLACE")
	p.Temporary = c.take("TEMP") || c.take("TEMPORARY")
	view := c.take("VIEW")
	if !view && !c.take("TABLE") {
		return c.unexpected("")
	}
	p.IfNotExists = c.take("IF", "NOT", "EXISTS")
	if err := p.name(c, scope); err != nil {
		return err
	}
	if c.peek(0).kind == "(" {
		if view {
			return notImplemented("column lists of views")
		}
		if err := p.columns(c); err != nil {
			return err
		}
	}
	for {
		switch {
		case c.take("PARTITION", "BY"):
			if err := p.partition(c); err != nil {
				return err
			}
		case c.take("CLUSTER", "BY"):
			for {
				tk := c.peek(0)
				if !tk.ident() {
					return c.unexpected("")
				}
				p.Cluster = append(p.Cluster, tk.text)
				c.i++
				if !c.take(",") {
					break
				}
			}
		case c.take("OPTIONS"):
			if err := p.options(c); err != nil {
				return err
			}
		case c.take("AS"):
			return p.as(c, scope, view)
		case c.done():
			if view {
				return c.unexpected("Expected keyword AS but got ")
			}
			return nil
		case c.peek(0).isAny("LIKE", "COPY", "CLONE", "DEFAULT", "WITH"):
			return notImplemented("CREATE TABLE … %s", strings.ToUpper(c.peek(0).raw))
		default:
			return c.unexpected("")
		}
	}
}

// as reads the query that a table or view is made of.
func (p *Plan) as(c *cursor, scope *Scope, view bool) error {
	if c.done() {
		return c.unexpected("")
	}
	if view {
		p.QueryText = c.src[c.peek(0).pos:c.toks[len(c.toks)-1].end]
	}
	q, err := translate(*c, scope)
	p.Query = q
	return err
}

func (p *Plan) columns(c *cursor) error {
	c.i++
	for !c.take(")") {
		tk := c.peek(0)
		if tk.isAny("PRIMARY", "FOREIGN", "CONSTRAINT") {
			return notImplemented("table constraints")
		}
		if !tk.ident() {
			return c.unexpected("")
		}
		c.i++
		col, err := c.parseType()
		if err != nil {
			return err
		}
		col.Name = tk.text
		if c.take("NOT", "NULL") {
			col.Mode = "REQUIRED"
		}
		if c.peek(0).isAny("DEFAULT", "PRIMARY", "REFERENCES", "COLLATE") {
			return notImplemented("%s of a column", strings.ToUpper(c.peek(0).raw))
		}
		if c.take("OPTIONS") {
			own := &Plan{}
			if err := own.options(c); err != nil {
				return err
			}
			col.Description, _ = own.Options["description"].(string)
		}
		p.Columns = append(p.Columns, col)
		if !c.take(",") && c.peek(0).kind != ")" {
			return c.unexpected(`Expected ")" or "," but got `)
		}
	}
	if len(p.Columns) == 0 {
		return c.unexpected("")
	}
	return nil
}

// partition reads PARTITION BY column, DATE(column) and
// {DATE,TIMESTAMP,DATETIME}_TRUNC(column, PART).
func (p *Plan) partition(c *cursor) error {
	tk := c.peek(0)
	if !tk.ident() {
		return c.unexpected("")
	}
	c.i++
	p.Partition, p.Granularity = tk.text, "DAY"
	if c.peek(0).kind != "(" {
		return nil
	}
	fn := strings.ToUpper(tk.text)
	if fn != "DATE" && !strings.HasSuffix(fn, "_TRUNC") {
		return notImplemented("PARTITION BY %s(…)", fn)
	}
	p.Partition = c.peek(1).text
	c.i += 2
	if c.take(",") {
		p.Granularity = strings.ToUpper(c.peek(0).raw)
		c.i++
	}
	return c.expect(")")
}

// options reads OPTIONS(name = value, …).
func (p *Plan) options(c *cursor) error {
	if err := c.expect("("); err != nil {
		return err
	}
	p.Options = map[string]any{}
	for !c.take(")") {
		tk := c.peek(0)
		if !tk.ident() {
			return c.unexpected("")
		}
		c.i++
		if err := c.expect("="); err != nil {
			return err
		}
		v, err := c.optionValue()
		if err != nil {
			return err
		}
		p.Options[strings.ToLower(tk.text)] = v
		if !c.take(",") && c.peek(0).kind != ")" {
			return c.unexpected(`Expected ")" or "," but got `)
		}
	}
	return nil
}

func (c *cursor) optionValue() (any, error) {
	tk := c.peek(0)
	c.i++
	switch tk.kind {
	case token.TokenString:
		return tk.text, nil
	case token.TokenInt, token.TokenFloat:
		f, err := strconv.ParseFloat(tk.raw, 64)
		if err != nil {
			return nil, syntaxError(c.src, tk.pos, "Invalid number %q", tk.raw)
		}
		return f, nil
	case "TRUE":
		return true, nil
	case "FALSE":
		return false, nil
	case "NULL":
		return nil, nil
	case "[", "(":
		end := "]"
		if tk.kind == "(" {
			end = ")"
		}
		list := []any{}
		for !c.take(end) {
			v, err := c.optionValue()
			if err != nil {
				return nil, err
			}
			list = append(list, v)
			if !c.take(",") && string(c.peek(0).kind) != end {
				return nil, c.unexpected("")
			}
		}
		return list, nil
	}
	c.i--
	return nil, c.unexpected("")
}

// schema reads CREATE SCHEMA and DROP SCHEMA.
func (p *Plan) schema(c *cursor, scope *Scope) error {
	c.i = 1
	if c.take("OR", "REPLACE") {
		return notImplemented("CREATE OR REPLACE SCHEMA")
	}
	if err := c.expect("SCHEMA"); err != nil {
		return err
	}
	p.IfNotExists, p.IfExists = c.take("IF", "NOT", "EXISTS"), c.take("IF", "EXISTS")
	parts, err := c.path()
	if err != nil {
		return err
	}
	if p.Target, err = scope.datasetName(parts); err != nil {
		return err
	}
	if p.Type == "DROP_SCHEMA" {
		if p.Cascade = c.take("CASCADE"); !p.Cascade {
			c.take("RESTRICT")
		}
		return c.end()
	}
	if c.take("OPTIONS") {
		if err := p.options(c); err != nil {
			return err
		}
	}
	return c.end()
}

// alter reads ALTER TABLE with one kind of action.
func (p *Plan) alter(c *cursor, scope *Scope) error {
	c.i = 2
	p.IfExists = c.take("IF", "EXISTS")
	if err := p.name(c, scope); err != nil {
		return err
	}
	switch {
	case c.take("RENAME", "TO"):
		p.RenameTo = c.peek(0).text
		if !c.peek(0).ident() {
			return c.unexpected("")
		}
		c.i++
	case c.take("SET", "OPTIONS"):
		if err := p.options(c); err != nil {
			return err
		}
	case c.take("DROP", "COLUMN"):
		p.DropColumn = c.peek(0).text
		if !c.peek(0).ident() || c.peek(0).is("IF") {
			return c.unexpected("")
		}
		c.i++
	case c.peek(0).is("ADD"):
		for c.take("ADD", "COLUMN") {
			if c.take("IF", "NOT", "EXISTS") {
				p.IfNotExists = true
			}
			tk := c.peek(0)
			if !tk.ident() {
				return c.unexpected("")
			}
			c.i++
			col, err := c.parseType()
			if err != nil {
				return err
			}
			col.Name = tk.text
			p.AddColumns = append(p.AddColumns, col)
			if !c.take(",") {
				break
			}
		}
	}
	if p.RenameTo == "" && p.Options == nil && p.DropColumn == "" && p.AddColumns == nil {
		return notImplemented("this form of ALTER TABLE")
	}
	return c.end()
}

// StatementType is what BigQuery calls the statement in a job's statistics:
// that of GRANT and REVOKE names what they are on
// (https://cloud.google.com/bigquery/docs/reference/rest/v2/Job#jobstatistics2).
func (p *Plan) StatementType() string {
	if p.ResourceType == "" {
		return p.Type
	}
	return p.Type + "_ON_" + p.ResourceType
}

// dcl reads GRANT roles ON TYPE name TO grantees, and REVOKE … FROM.
func (p *Plan) dcl(c *cursor, scope *Scope) error {
	c.i = 1
	for {
		tk := c.peek(0)
		if !tk.ident() && tk.kind != token.TokenString {
			return c.unexpected("")
		}
		p.Roles = append(p.Roles, tk.text)
		c.i++
		if !c.take(",") {
			break
		}
	}
	if err := c.expect("ON"); err != nil {
		return err
	}
	if !c.peek(0).isAny("TABLE", "VIEW", "SCHEMA") {
		return c.unexpected("")
	}
	p.ResourceType = strings.ToUpper(c.peek(0).raw)
	c.i++
	parts, err := c.path()
	if err != nil {
		return err
	}
	if p.ResourceType == "SCHEMA" {
		p.Target, err = scope.datasetName(parts)
	} else {
		p.Target, err = scope.tableName(parts)
	}
	if err != nil {
		return err
	}
	word := "TO"
	if p.Type == "REVOKE" {
		word = "FROM"
	}
	if err := c.expect(word); err != nil {
		return err
	}
	for {
		tk := c.peek(0)
		if tk.kind != token.TokenString {
			return c.unexpected("")
		}
		p.Grantees = append(p.Grantees, tk.text)
		c.i++
		if !c.take(",") {
			return c.end()
		}
	}
}

// export reads EXPORT DATA OPTIONS(…) AS query.
func (p *Plan) export(c *cursor, scope *Scope) error {
	c.i = 2
	if c.peek(0).is("WITH") {
		return notImplemented("EXPORT DATA WITH CONNECTION")
	}
	if err := c.expect("OPTIONS"); err != nil {
		return err
	}
	if err := p.options(c); err != nil {
		return err
	}
	if err := c.expect("AS"); err != nil {
		return err
	}
	return p.as(c, scope, false)
}
