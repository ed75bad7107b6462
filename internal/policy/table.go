package policy

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of patterns and of what they are compared with.
const (
	maxGlobBytes = 1 << 10
	maxGlobStars = 8 // in one part
	maxNameBytes = 4 << 10
)

// answer is that of a comparison of names, which may be neither yes nor no: a
// name may leave open which table is meant.
type answer int

const (
	no answer = iota
	unsure
	yes
)

// Why a comparison is unsure. In a condition that is an error, which denies
// unless the rest of the condition decides without it, as CEL's && and || do.
var (
	errPart     = errors.New("the table's name does not tell a part that the pattern asks about, so it may be meant or not")
	errWildcard = errors.New("the statement reads a wildcard table, of which the pattern may fit a part")
	errCase     = errors.New("the table's name fits but for upper and lower case, which count in some datasets and not in others")
	errLongName = errors.New("the table's name is too long to be compared")
)

var errGlob = errors.New(`want a table pattern of one to three parts, such as "imports", "staging.*" or "acme.staging.t_*"`)

// glob is a pattern for tables: parts from the right, each a text with stars.
type glob struct {
	parts [3]string // the table's first; "" is left out
	n     int
}

func compileGlob(pattern string) (glob, error) {
	if pattern == "" || len(pattern) > maxGlobBytes || !utf8.ValidString(pattern) {
		return glob{}, errGlob
	}
	parts, n := tableParts(pattern)
	for i, p := range parts[:n] {
		dots := strings.Count(p, ".")
		ok := p != "" && strings.Count(p, "*") <= maxGlobStars && !strings.ContainsAny(p, "`'\"$@[] ")
		switch { // where a dot may be: INFORMATION_SCHEMA.X, and a domain-scoped project
		case i == 0:
			ok = ok && dots <= 1
		case i == 1:
			ok = ok && dots == 0
		default:
			ok = ok && (dots == 0 || strings.Contains(p, ":"))
		}
		if !ok {
			return glob{}, errGlob
		}
	}
	return glob{parts, n}, nil
}

// tableParts splits a name into table, dataset and project, as far as they are
// there. A view of INFORMATION_SCHEMA counts as a table whose name begins with the
// schema's; a project may hold dots ("example.com:project").
func tableParts(name string) (parts [3]string, n int) {
	head, table, found := cutLast(name)
	if found {
		if rest, schema, more := cutLast(head); strings.EqualFold(schema, "INFORMATION_SCHEMA") {
			table, head, found = name[len(name)-len(schema)-1-len(table):], rest, more
		}
	}
	parts[0] = table
	if !found {
		return parts, 1
	}
	project, dataset, found := cutLast(head)
	parts[1] = dataset
	if !found {
		return parts, 2
	}
	parts[2] = project
	return parts, 3
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+1:], true
}

// tableName is a table's name, taken apart.
type tableName struct {
	name  string
	parts [3]string // the table first; "" where the name does not tell
}

func splitTable(name string) tableName {
	t := tableName{name: name}
	if len(name) > maxNameBytes {
		return t
	}
	t.parts, _ = tableParts(name)
	// A partition or a moment of a table ("t$20261101", "t@-3600000") is that table's.
	if i := strings.IndexAny(t.parts[0], "$@"); i >= 0 {
		t.parts[0] = t.parts[0][:i]
	}
	return t
}

// match compares a table's name with the pattern, part by part from the right.
// Parts that the pattern leaves out may be anything. The error says why the answer
// is unsure.
func (g *glob) match(t *tableName) (answer, error) {
	if len(t.name) > maxNameBytes {
		return unsure, errLongName
	}
	out := yes
	var why error
	for i := g.n - 1; i >= 0; i-- {
		switch a, err := matchPart(g.parts[i], t.parts[i]); {
		case a == no:
			return no, nil // whatever else is open
		case a == unsure && out == yes:
			out, why = unsure, err
		}
	}
	return out, why
}

func matchPart(pattern, part string) (answer, error) {
	switch {
	case pattern == "*":
		return yes, nil
	case part == "":
		return unsure, errPart
	case strings.IndexByte(part, '*') >= 0:
		return matchWildcard(pattern, part)
	case like(pattern, part, false):
		return yes, nil
	case like(pattern, part, true):
		return unsure, errCase
	default:
		return no, nil
	}
}

// matchWildcard compares with a wildcard table, which ends in a star and stands
// for all tables that begin alike (a star elsewhere is taken to be the first end).
func matchWildcard(pattern, part string) (answer, error) {
	switch stem := part[:strings.IndexByte(part, '*')]; {
	case covers(pattern, stem):
		return yes, nil
	case begins(pattern, stem):
		return unsure, errWildcard
	default:
		return no, nil
	}
}

// covers: every text that begins with stem fits the pattern. It does where the
// pattern ends in a star and what stands before fits a beginning of the stem.
func covers(pattern, stem string) bool {
	return strings.HasSuffix(pattern, "*") && like(pattern, stem, false)
}

// begins: some text that begins with stem fits the pattern, if case is ignored.
func begins(pattern, stem string) bool {
	if like(pattern+"*", stem, true) {
		return true
	}
	// The pattern may go on beyond the stem: some beginning of it has to fit.
	for i := range pattern {
		if like(pattern[:i], stem, true) {
			return true
		}
	}
	return like(pattern, stem, true)
}

// like matches a text with a pattern in which stars stand for any characters.
func like(pattern, text string, fold bool) bool {
	p, t := 0, 0
	star, mark := -1, 0 // the last star, and where its text ends for now
	for t < len(text) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, t
			p++
			continue
		}
		if p < len(pattern) {
			if np, nt, same := sameRune(pattern, text, p, t, fold); same {
				p, t = np, nt
				continue
			}
		}
		if star < 0 {
			return false
		}
		_, size := utf8.DecodeRuneInString(text[mark:])
		mark += size
		p, t = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// sameRune compares one character of each and tells where the next ones begin.
func sameRune(pattern, text string, p, t int, fold bool) (nextP, nextT int, same bool) {
	a, b := pattern[p], text[t]
	if a < utf8.RuneSelf && b < utf8.RuneSelf {
		return p + 1, t + 1, a == b || fold && lower(a) == lower(b)
	}
	ra, na := utf8.DecodeRuneInString(pattern[p:])
	rb, nb := utf8.DecodeRuneInString(text[t:])
	return p + na, t + nb, ra == rb || fold && foldsTo(ra, rb)
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}

func foldsTo(a, b rune) bool {
	for r := unicode.SimpleFold(a); r != a; r = unicode.SimpleFold(r) {
		if r == b {
			return true
		}
	}
	return false
}
