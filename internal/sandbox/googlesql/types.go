package googlesql

import (
	"strings"

	"github.com/cloudspannerecosystem/memefish/token"
)

// Column is a column of a table or result, in the words of BigQuery's
// TableFieldSchema.
type Column struct {
	Name        string   `json:"name"`
	Type        string   `json:"type"`           // as REST has it: INTEGER, FLOAT, BOOLEAN, RECORD, …
	Mode        string   `json:"mode,omitempty"` // NULLABLE, REQUIRED, REPEATED
	Description string   `json:"description,omitempty"`
	Fields      []Column `json:"fields,omitempty"` // of a RECORD
}

// restTypes maps every spelling of a type to the one that REST answers with.
var restTypes = map[string]string{
	"INT64": "INTEGER", "INTEGER": "INTEGER", "INT": "INTEGER", "SMALLINT": "INTEGER", "BIGINT": "INTEGER", "TINYINT": "INTEGER", "BYTEINT": "INTEGER",
	"FLOAT64": "FLOAT", "FLOAT": "FLOAT",
	"BOOL": "BOOLEAN", "BOOLEAN": "BOOLEAN",
	"STRING": "STRING", "BYTES": "BYTES", "TIMESTAMP": "TIMESTAMP", "DATE": "DATE", "TIME": "TIME", "DATETIME": "DATETIME",
	"NUMERIC": "NUMERIC", "DECIMAL": "NUMERIC", "BIGNUMERIC": "BIGNUMERIC", "BIGDECIMAL": "BIGNUMERIC",
	"JSON": "JSON", "GEOGRAPHY": "GEOGRAPHY", "STRUCT": "RECORD", "RECORD": "RECORD",
}

// RESTType gives the name that BigQuery's REST API has for a type, as in
// "INTEGER" for "INT64"; "" for a type that the sandbox does not know.
func RESTType(name string) string { return restTypes[strings.ToUpper(name)] }

// parseType reads a column's type: "INT64", "NUMERIC(10, 2)", "ARRAY<STRING>",
// "STRUCT<a INT64, b STRING>".
func (c *cursor) parseType() (Column, error) {
	t := c.peek(0)
	switch {
	case t.is("ARRAY"):
		c.i++
		if err := c.expect("<"); err != nil {
			return Column{}, err
		}
		inner, err := c.parseType()
		if err != nil {
			return Column{}, err
		}
		if inner.Mode == "REPEATED" {
			return Column{}, &Error{Reason: ReasonInvalidQuery, Message: "Cannot have arrays of arrays"}
		}
		inner.Mode = "REPEATED"
		return inner, c.closeAngle()
	case t.is("STRUCT"):
		c.i++
		if err := c.expect("<"); err != nil {
			return Column{}, err
		}
		col := Column{Type: "RECORD"}
		for {
			name := c.peek(0)
			if !name.ident() {
				return Column{}, c.unexpected("")
			}
			c.i++
			f, err := c.parseType()
			if err != nil {
				return Column{}, err
			}
			f.Name = name.text
			col.Fields = append(col.Fields, f)
			if !c.take(",") {
				return col, c.closeAngle()
			}
		}
	case t.ident() && !t.quoted && RESTType(t.text) != "":
		c.i++
		if c.peek(0).kind == "(" {
			end := closing(c.toks, c.i)
			if end < 0 {
				return Column{}, c.unexpected("")
			}
			for _, p := range c.toks[c.i+1 : end] {
				if p.kind != token.TokenInt && p.kind != "," {
					return Column{}, syntaxError(c.src, p.pos, "Unexpected %q", p.raw)
				}
			}
			c.i = end + 1
		}
		return Column{Type: RESTType(t.text)}, nil
	case t.ident():
		return Column{}, &Error{Reason: ReasonInvalidQuery, Message: "Type not found: " + t.text + " at " + positionOf(c.src, t.pos).String()}
	}
	return Column{}, c.unexpected("")
}

// closeAngle takes one ">", also half of a ">>".
func (c *cursor) closeAngle() error {
	if c.peek(0).kind == ">>" {
		c.toks = append([]tok(nil), c.toks...) // the statement's own tokens stay whole
		c.toks[c.i].kind, c.toks[c.i].raw = ">", ">"
		return nil
	}
	return c.expect(">")
}
