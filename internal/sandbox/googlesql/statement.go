package googlesql

import "strings"

// Statement is one statement of a script.
type Statement struct {
	Text       string   // as written, without the semicolon
	Start, End Position // of Text in the script
	Type       string   // BigQuery's statementType, such as "SELECT"; "" where it is none that the sandbox knows
	src        string
	toks       []tok
}

// maxDepth bounds brackets within brackets; SQLite's own bound on expressions
// is 1,000.
const maxDepth = 1000

// Split cuts a script into its statements. Legacy SQL knows but one.
func Split(script string, legacy bool) ([]Statement, error) {
	src := script
	if legacy {
		src = unbracket(script)
	}
	toks, err := lex(src)
	if err != nil {
		return nil, err
	}
	var out []Statement
	depth, from := 0, 0
	cut := func(to int) {
		if to > from {
			part := toks[from:to]
			s := Statement{
				Text:  script[part[0].pos:part[len(part)-1].end],
				Start: positionOf(script, part[0].pos), End: positionOf(script, part[len(part)-1].end),
				src: src, toks: part,
			}
			s.Type = typeOf(part)
			out = append(out, s)
		}
		from = to + 1
	}
	for i, t := range toks {
		switch t.kind {
		case "(", "[", "{":
			if depth++; depth > maxDepth {
				return nil, &Error{Reason: ReasonInvalidQuery, Message: "Query is too deeply nested: " + positionOf(src, t.pos).String()}
			}
		case ")", "]", "}":
			depth--
		case ";":
			if depth <= 0 {
				cut(i)
			}
		}
	}
	cut(len(toks))
	if legacy && len(out) > 1 {
		return nil, &Error{Reason: ReasonInvalidQuery, Message: "Encountered \" \";\" \"; \"\" at line 1: legacy SQL has no scripts. Try using standard SQL (https://cloud.google.com/bigquery/docs/reference/standard-sql/enabling-standard-sql)."}
	}
	return out, nil
}

// typeOf tells the kind of statement by its first words.
func typeOf(toks []tok) string {
	c := &cursor{toks: toks}
	switch {
	case c.peek(0).isAny("SELECT", "WITH", "("):
		return "SELECT"
	case c.peek(0).isAny("INSERT", "UPDATE", "DELETE", "MERGE", "CALL", "ASSERT", "GRANT", "REVOKE", "DECLARE", "SET"):
		return strings.ToUpper(c.peek(0).raw)
	case c.take("TRUNCATE", "TABLE"):
		return "TRUNCATE_TABLE"
	case c.take("EXPORT", "DATA"):
		return "EXPORT_DATA"
	case c.take("LOAD", "DATA"):
		return "LOAD_DATA"
	case c.take("EXECUTE", "IMMEDIATE"):
		return "EXECUTE_IMMEDIATE"
	case c.take("BEGIN", "TRANSACTION"), c.take("BEGIN") && c.done():
		return "BEGIN_TRANSACTION"
	case c.take("COMMIT"):
		return "COMMIT_TRANSACTION"
	case c.take("ROLLBACK"):
		return "ROLLBACK_TRANSACTION"
	case c.take("DROP"):
		return objectType(c, "DROP_")
	case c.take("ALTER"):
		return objectType(c, "ALTER_")
	case c.take("CREATE"):
		c.take("OR", "REPLACE")
		if !c.take("TEMP") {
			c.take("TEMPORARY")
		}
		kind := objectType(c, "CREATE_")
		if kind == "CREATE_TABLE" {
			for depth := 0; !c.done(); c.i++ {
				switch t := c.peek(0); {
				case t.kind == "(":
					depth++
				case t.kind == ")":
					depth--
				case depth == 0 && t.is("AS"):
					return "CREATE_TABLE_AS_SELECT"
				}
			}
		}
		return kind
	}
	return ""
}

func objectType(c *cursor, prefix string) string {
	switch {
	case c.take("TABLE"), c.take("SNAPSHOT", "TABLE"):
		if c.peek(-2).is("SNAPSHOT") {
			return prefix + "SNAPSHOT_TABLE"
		}
		if c.peek(0).is("FUNCTION") {
			return prefix + "TABLE_FUNCTION"
		}
		return prefix + "TABLE"
	case c.take("MATERIALIZED", "VIEW"):
		return prefix + "MATERIALIZED_VIEW"
	case c.take("EXTERNAL", "TABLE"):
		return prefix + "EXTERNAL_TABLE"
	case c.take("ROW", "ACCESS"), c.take("ALL", "ROW", "ACCESS"):
		return prefix + "ROW_ACCESS_POLICY"
	case c.peek(0).isAny("VIEW", "SCHEMA", "FUNCTION", "PROCEDURE", "MODEL"):
		return prefix + strings.ToUpper(c.peek(0).raw)
	}
	return ""
}

// UsesLegacy tells the dialect of a query: a first line "#standardSQL" or
// "#legacySQL" outweighs the request's useLegacySql, as in BigQuery.
func UsesLegacy(query string, asked bool) bool {
	line, _, _ := strings.Cut(strings.TrimSpace(query), "\n")
	switch word := strings.TrimSpace(line); {
	case strings.EqualFold(word, "#standardSQL"):
		return false
	case strings.EqualFold(word, "#legacySQL"):
		return true
	}
	return asked
}
