package pages

import "strings"

// maxHighlight is how much of a statement is coloured; what is longer is shown plain.
const maxHighlight = 256 << 10

// piece is a part of a statement, with the class of style.css that it is shown in.
type piece struct{ Class, Text string }

// highlight cuts GoogleSQL into pieces. Together they are the statement, byte for byte:
// colours are a help to the eye and decide nothing.
func highlight(s string) []piece {
	if len(s) > maxHighlight {
		return []piece{{"", s}}
	}
	var out []piece
	add := func(class, text string) {
		if text == "" {
			return
		}
		if n := len(out); n > 0 && out[n-1].Class == class {
			out[n-1].Text += text
			return
		}
		out = append(out, piece{class, text})
	}
	for len(s) > 0 {
		n, class := token(s)
		add(class, s[:n])
		s = s[n:]
	}
	return out
}

// token is the length of the first token of s, at least 1, and its class.
func token(s string) (n int, class string) {
	c := s[0]
	switch {
	case strings.HasPrefix(s, "--"), c == '#':
		if i := strings.IndexByte(s, '\n'); i >= 0 {
			return i, "com"
		}
		return len(s), "com"
	case strings.HasPrefix(s, "/*"):
		if i := strings.Index(s[2:], "*/"); i >= 0 {
			return i + 4, "com"
		}
		return len(s), "com"
	case c == '\'' || c == '"':
		return quoted(s, 0), "str"
	case c == '`':
		return quoted(s, 0), ""
	case c >= '0' && c <= '9':
		n = 1
		for n < len(s) && (wordByte(s[n]) || s[n] == '.') {
			n++
		}
		return n, "num"
	case wordByte(c):
		n = 1
		for n < len(s) && wordByte(s[n]) {
			n++
		}
		word := strings.ToLower(s[:n])
		if n < len(s) && (s[n] == '\'' || s[n] == '"') {
			switch word {
			case "r", "b", "rb", "br":
				return quoted(s, n), "str"
			}
		}
		if keywords[word] {
			return n, "kw"
		}
		return n, ""
	}
	n = 1
	for n < len(s) && s[n] >= 0x80 && s[n] < 0xC0 { // the rest of a character
		n++
	}
	return n, ""
}

func wordByte(c byte) bool {
	return c == '_' || c == '@' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// quoted is where the literal ends that begins with the quote at i.
func quoted(s string, i int) int {
	q := s[i : i+1]
	if q != "`" && strings.HasPrefix(s[i:], strings.Repeat(q, 3)) {
		q = strings.Repeat(q, 3)
	}
	for j := i + len(q); j < len(s); {
		switch {
		case s[j] == '\\':
			j += 2 // in raw literals, too, a quote behind a backslash does not end them
		case strings.HasPrefix(s[j:], q):
			return j + len(q)
		default:
			j++
		}
	}
	return len(s)
}

var keywords = func() map[string]bool {
	m := map[string]bool{}
	for word := range strings.FieldsSeq(`
all alter and any array as asc assert at begin between break by call case cast collate columns commit contains continue copy create cross cube current
declare default define delete desc distinct do drop else elseif end enum escape except exception exclude execute exists export extract external false fetch
following for from full function grant group grouping groups having if ignore immediate in inner insert intersect interval into is join language lateral leave left
like limit load loop materialized matched merge model natural new no not null nulls of offset on options or order outer over overwrite partition pivot policy
preceding procedure qualify raise range recursive repeat replace respect return returns revoke right rollback rollup row rows schema select set snapshot some
struct table tablesample temp temporary then to transaction treat true truncate unbounded union unnest unpivot until update using values view when where while
window with within`) {
		m[word] = true
	}
	return m
}()
