package bigquery

import (
	"slices"
	"strings"
)

// readLegacy reads legacy SQL, which can only select: tables stand in square
// brackets or bare behind FROM, JOIN and a comma (a union, there), or in table
// functions such as TABLE_DATE_RANGE
// (https://cloud.google.com/bigquery/docs/reference/legacy-sql).
func readLegacy(sql string, sc scope) reading {
	toks, ok := legacyTokens(sql)
	if !ok {
		return unread("statement_unparsed")
	}
	i := 0
	for i < len(toks) && toks[i] == "(" {
		i++
	}
	if i >= len(toks) {
		return unread("statement_unparsed")
	}
	switch word := strings.ToUpper(toks[i]); word {
	case "SELECT", "WITH":
	default:
		// What legacy SQL cannot do, BigQuery refuses; what we cannot tell is unknown.
		return unread("not_legacy_sql")
	}
	out := reading{kind: "SELECT", classes: does(classRead)}
	if end := slices.Index(toks, ";"); end >= 0 && end != len(toks)-1 {
		return unread("not_legacy_sql") // one query, or none that legacy SQL has
	}
	from, source := []bool{false}, false
	for ; i < len(toks); i++ {
		t := toks[i]
		d := len(from) - 1
		upper := strings.ToUpper(t)
		switch {
		case t == "(":
			// Of a function's arguments the first is a table.
			call := i > 0 && wordByte(toks[i-1][0]) && !slices.Contains([]string{"FROM", "JOIN", "EACH", "AS"}, strings.ToUpper(toks[i-1]))
			from = append(from, source && !call)
			source = source && i+1 < len(toks) && !strings.EqualFold(toks[i+1], "SELECT")
		case t == ")":
			if d > 0 {
				from = from[:d]
			}
			source = false
		case t == ",":
			source = from[d]
		case upper == "FROM" || upper == "JOIN":
			from[d], source = true, true
		case upper == "WHERE" || upper == "GROUP" || upper == "ORDER" || upper == "LIMIT" || upper == "HAVING" || upper == "SELECT":
			from[d], source = false, false
		case upper == "ON":
			source = false // another table may follow behind a comma
		case source && strings.HasPrefix(upper, "TABLE_") && i+1 < len(toks) && toks[i+1] == "(":
			out.flag("table_function")
			source = false
		case source && upper != "FLATTEN" && upper != "EACH" && i+1 < len(toks) && toks[i+1] == "(":
			out.flag("table_function") // of JavaScript: js([s.t], …)
		case source && (upper == "FLATTEN" || upper == "EACH" || upper == "AS"):
		case source:
			out.reads(legacyName(t, sc))
			source = false
		}
	}
	return out
}

// legacyName turns "[project:dataset.table]" into "project.dataset.table".
func legacyName(t string, sc scope) string {
	t = strings.TrimSuffix(strings.TrimPrefix(t, "["), "]")
	project, rest := sc.project, t
	if at := strings.LastIndexByte(t, ':'); at >= 0 {
		project, rest = t[:at], t[at+1:]
	} else if strings.Count(t, ".") > 1 {
		return t
	}
	if !strings.Contains(rest, ".") {
		return tableName(sc.datasetProject, sc.dataset, rest)
	}
	return tableName(project, rest)
}

// legacyTokens cuts legacy SQL into words, punctuation and bracketed names;
// strings and comments are passed over.
func legacyTokens(sql string) (out []string, ok bool) {
	for i := 0; i < len(sql); {
		ch := sql[i]
		switch {
		case ch == ' ' || ch == '\t' || ch == '\n' || ch == '\r':
			i++
		case ch == '#' || strings.HasPrefix(sql[i:], "--") || strings.HasPrefix(sql[i:], "//"):
			end := strings.IndexByte(sql[i:], '\n')
			if end < 0 {
				end = len(sql) - i
			}
			if hidesLine(sql[i : i+end]) {
				return nil, false
			}
			i += end
		case strings.HasPrefix(sql[i:], "/*"):
			end := strings.Index(sql[i+2:], "*/")
			if end < 0 {
				return nil, false
			}
			i += end + 4
		case ch == '\'' || ch == '"':
			j := i + 1
			for j < len(sql) && sql[j] != ch {
				if sql[j] == '\\' {
					j++
				}
				j++
			}
			if j >= len(sql) {
				return nil, false
			}
			out = append(out, "''")
			i = j + 1
		case ch == '[':
			end := strings.IndexByte(sql[i:], ']')
			if end < 0 {
				return nil, false
			}
			out = append(out, sql[i:i+end+1])
			i += end + 1
		case wordByte(ch):
			j := i
			for j < len(sql) && (wordByte(sql[j]) || sql[j] == '.' || sql[j] == ':' || sql[j] == '$' || sql[j] == '@' || sql[j] == '-') {
				if sql[j] == '-' && (j+1 >= len(sql) || !wordByte(sql[j+1])) {
					break
				}
				j++
			}
			out = append(out, sql[i:j])
			i = j
		default:
			out = append(out, string(ch))
			i++
		}
		if len(out) > maxTokens {
			return nil, false
		}
	}
	return out, true
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c >= 0x80
}
