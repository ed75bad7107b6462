package bigquery_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
)

// segment is a part of a statement as GoogleSQL's lexical rules cut it
// (https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical): space, a
// comment, something in quotes, a word, or one other character. This is a second
// reading of the rules, apart from the classifier's.
type segment struct {
	kind rune // ' ', '#', '\'', 'w', or the character
	text string
}

// segments cuts a text; ok is false where a quote or comment has no end.
func segments(sql string) (out []segment, ok bool) {
	word := func(c byte) bool {
		return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
	}
	for len(sql) > 0 {
		kind, n := rune(sql[0]), 1
		switch c := sql[0]; {
		case strings.IndexByte(" \t\r\n", c) >= 0:
			kind = ' '
			for n < len(sql) && strings.IndexByte(" \t\r\n", sql[n]) >= 0 {
				n++
			}
		case c == '#' || strings.HasPrefix(sql, "--"):
			kind = '#'
			if n = strings.IndexAny(sql, "\r\n"); n < 0 {
				n = len(sql)
			}
		case strings.HasPrefix(sql, "/*"):
			kind = '#'
			end := strings.Index(sql[2:], "*/")
			if end < 0 {
				return nil, false
			}
			n = end + 4
		case c == '\'' || c == '"' || c == '`':
			kind = '\''
			quote := sql[:1]
			if c != '`' && strings.HasPrefix(sql, strings.Repeat(quote, 3)) {
				quote = strings.Repeat(quote, 3)
			}
			for n = len(quote); ; n++ {
				if n >= len(sql) {
					return nil, false
				}
				if sql[n] == '\\' {
					n++
				} else if strings.HasPrefix(sql[n:], quote) {
					n += len(quote)
					break
				}
			}
		case word(c):
			kind = 'w'
			for n < len(sql) && word(sql[n]) {
				n++
			}
		}
		out = append(out, segment{kind, sql[:n]})
		sql = sql[n:]
	}
	return out, true
}

// changesRows reports a statement that begins, behind the text's beginning or a
// semicolon, with a word that changes rows; ok is false where the text cannot be
// told.
func changesRows(sql string) (changes, ok bool) {
	all, ok := segments(sql)
	if !ok {
		return false, false
	}
	begins := true
	for _, s := range all {
		switch {
		case s.kind == ' ' || s.kind == '#':
		case s.kind == ';':
			begins = true
		case begins && s.kind == 'w' && slices.Contains([]string{"INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE"}, strings.ToUpper(s.text)):
			return true, true
		default:
			begins = false
		}
		if s.kind == 'w' && strings.EqualFold(s.text, "PROCEDURE") {
			return false, true // a body's statements run when it is called
		}
	}
	return false, true
}

func grave(c trailgate.Class) bool { return c.Gravity() >= trailgate.ClassWrite.Gravity() }

// directs reports a text whose first line says its dialect.
func directs(sql string) bool {
	first, _, _ := strings.Cut(strings.ToLower(sql), "\n")
	return strings.HasPrefix(first, "#standardsql") || strings.HasPrefix(first, "#legacysql")
}

// TestStatementsVariants: how a statement is written does not change what it is.
func TestStatementsVariants(t *testing.T) {
	set := riskSet(t)
	respaced := func(by string) func([]segment) string {
		return func(all []segment) string {
			var b strings.Builder
			for _, s := range all {
				if s.kind == ' ' {
					s.text = by
				}
				b.WriteString(s.text)
			}
			return b.String()
		}
	}
	cased := func(change func(string) string) func([]segment) string {
		return func(all []segment) string {
			var b strings.Builder
			for _, s := range all {
				if s.kind == 'w' {
					s.text = change(s.text)
				}
				b.WriteString(s.text)
			}
			return b.String()
		}
	}
	join := func(all []segment) string {
		var b strings.Builder
		for _, s := range all {
			b.WriteString(s.text)
		}
		return b.String()
	}
	variants := []struct {
		name    string
		renames bool // names change, too
		orMore  bool // may be unknown instead
		change  func([]segment) string
	}{
		{name: "comments", change: respaced("\n/* ; DELETE FROM x.y ' */ -- ; DROP TABLE x.y \"\n# ` ;\n")},
		{name: "lines", change: respaced("\n")},
		{name: "tabs and lines", change: respaced("\r\n\t \t\n")},
		{name: "capitals", renames: true, change: cased(strings.ToUpper)},
		{name: "small letters", renames: true, change: cased(strings.ToLower)},
		{name: "a comment in front", change: func(all []segment) string { return "/* DELETE FROM x.y; */\n-- DROP TABLE x.y;\n" + join(all) }},
		{name: "a byte order mark", orMore: true, change: func(all []segment) string { return "\ufeff" + join(all) }},
		{name: "a semicolon behind", change: func(all []segment) string {
			if text := join(all); !strings.HasSuffix(text, ";") {
				return text + "\n;"
			}
			return join(all)
		}},
		{name: "a comment behind", change: func(all []segment) string { return join(all) + "\n-- ; DELETE FROM x.y" }},
	}
	tried := 0
	for _, r := range table(t) {
		all, ok := segments(r.text())
		if r.long() || !ok || strings.Contains(strings.ReplaceAll(r.SQL, "\r\n", ""), "\r") {
			continue // what cannot be told as it is cannot be written otherwise
		}
		tried++
		for _, v := range variants {
			sql := v.change(all)
			if directs(r.SQL) && v.name != "capitals" && v.name != "small letters" && v.name != "a semicolon behind" {
				continue // the first line is no comment there
			}
			if directs(sql) && !directs(r.SQL) {
				t.Fatalf("%s, %s: %q", r.path(), v.name, sql)
			}
			got := judged(t, set, judge(t, sql, r.Legacy))
			if v.orMore && got.Class == "unknown" {
				continue
			}
			want := r.Want
			if v.renames {
				want.Read, want.Written, want.Destinations = nil, nil, nil
				got.Read, got.Written, got.Destinations = nil, nil, nil
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s, %s: %q (-want +got):\n%s", r.path(), v.name, sql, d)
			}
		}
	}
	if tried < 220 {
		t.Errorf("%d statements were tried", tried)
	}
}

// appended is a change that is put behind a text.
const appended = "\n; DELETE FROM a.b WHERE true"

// atLeast checks what must hold of any text, and returns why it does not, or "".
func atLeast(t testing.TB, sql string, legacy bool) string {
	t.Helper()
	start := time.Now()
	c, again := judge(t, sql, legacy), judge(t, sql, legacy)
	if took := time.Since(start); unbounded(t, took) {
		return "took " + took.String()
	}
	switch {
	case c.Class == "" || c.StatementType == "" || len(c.Classes) == 0:
		return "has no class or type"
	case c.Class != c.Classes[0] || slices.ContainsFunc(c.Classes, func(k trailgate.Class) bool { return k.Gravity() > c.Class.Gravity() }):
		return "is not classed by the gravest of what it does"
	case !slices.Equal(c.Classes, again.Classes) || c.StatementType != again.StatementType || !slices.Equal(c.Read, again.Read) ||
		!slices.Equal(c.Written, again.Written) || !slices.Equal(c.Flags, again.Flags) || !slices.Equal(c.Destinations, again.Destinations):
		return "is read in two ways"
	case slices.Contains(c.Classes, trailgate.ClassUnknown) != (c.Class == trailgate.ClassUnknown):
		return "is unknown and is not"
	}
	if legacy || directs(sql) {
		return ""
	}
	if changes, ok := changesRows(sql); ok && changes && !grave(c.Class) {
		return "changes rows and is of class " + string(c.Class)
	}
	// What reads as complete stays a part of what it stands in.
	if c.Class == trailgate.ClassUnknown {
		return ""
	}
	after := judge(t, sql+appended, false)
	switch {
	case !grave(after.Class) || after.Class.Gravity() < c.Class.Gravity():
		return "with a change behind it is of class " + string(after.Class)
	case after.Class != trailgate.ClassUnknown && !slices.ContainsFunc(after.Written, func(s string) bool { return strings.HasSuffix(s, "a.b") }):
		return "hides the table that a change behind it writes"
	}
	if before := judge(t, "DELETE FROM a.b WHERE true;\n"+sql, false); !grave(before.Class) {
		return "with a change before it is of class " + string(before.Class)
	}
	return ""
}

// TestStatementsAppended: a change behind, or before, any statement of the table is seen.
func TestStatementsAppended(t *testing.T) {
	for _, r := range table(t) {
		if len(r.text()) > 4<<20 {
			continue
		}
		if why := atLeast(t, r.text(), r.Legacy); why != "" {
			t.Errorf("%s: %.200q %s", r.path(), r.text(), why)
		}
	}
}

// FuzzStatement: whatever the text, it is read in bounded time, always in the same way,
// and a change is never taken for less.
func FuzzStatement(f *testing.F) {
	for _, r := range table(f) {
		if !r.long() {
			f.Add(r.SQL, r.Legacy)
		}
	}
	f.Fuzz(func(t *testing.T, sql string, legacy bool) {
		if len(sql) > 1<<16 {
			return
		}
		sql = strings.ToValidUTF8(sql, "?")
		if why := atLeast(t, sql, legacy); why != "" {
			t.Errorf("%q %s", sql, why)
		}
	})
}
