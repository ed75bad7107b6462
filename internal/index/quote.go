package index

import (
	"strings"
	"unicode/utf8"
)

// quoteBare puts values and words that the grammar of AIP-160 would take
// apart, such as -24h, etl-bot, 10.0.0.7:80 or 1GiB, into double quotes, so
// that people need not. What the grammar reads as one token is left alone.
//
// shifts are the byte offsets in the result where a byte was added.
func quoteBare(filter string) (quoted string, shifts []int) {
	var b strings.Builder
	value := false // the next run is what a field is compared with
	for i := 0; i < len(filter); {
		c := filter[i]
		switch {
		case isSpace(c):
			b.WriteByte(c)
			i++
		case c == '"' || c == '\'':
			n := stringEnd(filter[i:])
			b.WriteString(filter[i : i+n])
			i, value = i+n, false
		case isComparator(c):
			b.WriteByte(c)
			i, value = i+1, true
		case c == '(' || c == ')' || c == ',':
			// A list keeps its field: agent = (a-1 OR b-2).
			b.WriteByte(c)
			i, value = i+1, false
		default:
			if c == '-' && !value { // a negation
				b.WriteByte(c)
				i++
			}
			n := runEnd(filter[i:], value)
			run := filter[i : i+n]
			field := !value && isComparator(firstByte(strings.TrimLeft(filter[i+n:], " \t\r\n")))
			if n > 0 && !field && !isPlain(run) && firstByte(filter[i+n:]) != '(' {
				shifts = append(shifts, b.Len())
				b.WriteByte('"')
				for _, part := range strings.SplitAfter(run, `\`) {
					b.WriteString(part)
					if strings.HasSuffix(part, `\`) {
						shifts = append(shifts, b.Len())
						b.WriteByte('\\')
					}
				}
				shifts = append(shifts, b.Len())
				b.WriteByte('"')
			} else {
				b.WriteString(run)
				if isKeyword(run) && firstByte(filter[i+n:]) == '(' { // else it is a function's name
					shifts = append(shifts, b.Len())
					b.WriteByte(' ')
				}
			}
			i, value = i+n, false
		}
	}
	return b.String(), shifts
}

func isKeyword(s string) bool { return s == "AND" || s == "OR" || s == "NOT" }

// column is the place, in characters from 1, of a byte of the quoted filter in
// the filter as it was written.
func column(quoted string, shifts []int, offset int) int {
	offset = min(max(offset, 0), len(quoted))
	n := utf8.RuneCountInString(quoted[:offset])
	for _, s := range shifts {
		if s < offset {
			n--
		}
	}
	return n + 1
}

// runEnd is the length of the run of characters that s begins with.
func runEnd(s string, value bool) int {
	for i := range len(s) {
		c := s[i]
		if isSpace(c) || strings.IndexByte(`()",'`, c) >= 0 || !value && isComparator(c) {
			return i
		}
	}
	return len(s)
}

// stringEnd is the length of the string literal that s begins with.
func stringEnd(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case s[0]:
			return i + 1
		}
	}
	return len(s)
}

// isPlain reports whether the grammar reads s as one token: a name or a whole
// number.
func isPlain(s string) bool {
	digits := strings.TrimLeft(strings.TrimPrefix(s, "-"), "0123456789") == "" && s != "-"
	if digits {
		return len(s) < 18
	}
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || !isWordRune(rune(c)) {
			return false
		}
	}
	return s[0] < '0' || s[0] > '9'
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func isComparator(c byte) bool { return c == '=' || c == ':' || c == '<' || c == '>' || c == '!' }

func firstByte(s string) byte {
	if s == "" {
		return 0
	}
	return s[0]
}
