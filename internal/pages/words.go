package pages

import (
	"fmt"
	"html/template"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/trailgate/trailgate"
)

// functions are what templates may call.
func (p *Pages) functions() template.FuncMap {
	return template.FuncMap{
		"asset":    func(name string) (string, error) { return p.assets.path(name) },
		"sections": sections,
		"visible":  visible,
		"bytes":    bytesText,
		"count":    countText,
		"when":     when,
		"stamp":    stamp,
		"ago":      func(t time.Time) string { return ago(p.o.Now(), t) },
		"span":     spanText,
		"percent":  percentText,
		"nanos":    func(n int64) string { return spanText(time.Duration(n)) },
		"clip":     clipText,
		"trail":    trailLink,
		"quote":    quoteTerm,
		"sql":      highlight,
		"what":     what,
		"short":    shortTable,
		"blank":    blankOut,
		"list":     func(items ...any) []any { return items },
		"join":     strings.Join,
		"has":      func(list []string, s string) bool { return slices.Contains(list, s) },
		"add":      func(a, b int) int { return a + b },
	}
}

// visible shows characters that would steer the reader's eye, or stand for nothing that
// is seen, as marks: a control or format character becomes ‹U+202E›. Newlines and tabs
// stay.
func visible(s string) string {
	odd := func(r rune) bool {
		switch r {
		case '\n', '\t':
			return false
		case '\u00a0', '\u2028', '\u2029', '\u3164', '\u115f', '\u1160', '\uffa0', unicode.ReplacementChar:
			return true
		}
		return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Co, r)
	}
	if !strings.ContainsFunc(s, odd) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if odd(r) {
			fmt.Fprintf(&b, "‹U+%04X›", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// clipText shortens to n characters and shows that it did.
func clipText(n int, s string) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:n-1]) + "…"
}

// bytesText is a size as people read it, in powers of 1,000 as BigQuery bills.
func bytesText(n int64) string {
	if n < 1000 && n > -1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB", "PB"} {
		f /= 1000
		if f < 1000 && f > -1000 {
			return strconv.FormatFloat(f, 'f', decimals(f), 64) + " " + unit
		}
	}
	return strconv.FormatFloat(f/1000, 'f', 1, 64) + " EB"
}

func decimals(f float64) int {
	if f < 10 && f > -10 {
		return 2
	}
	return 1
}

// countText groups digits: 1,234,567.
func countText(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// when is a moment to the second, in UTC.
func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// stamp is a moment for machines.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// ago is how long a moment lies back.
func ago(now, t time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return "never"
	case d < 0:
		return "in " + spanText(-d)
	case d < 5*time.Second:
		return "just now"
	}
	return spanText(d) + " ago"
}

// spanText is a duration in its largest unit that matters.
func spanText(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return strconv.FormatFloat(float64(d)/1e6, 'f', 2, 64) + " ms"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + " s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + " h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + " days"
}

// quoteTerm writes a value as a filter has it (docs/spec/filter.md).
func quoteTerm(s string) string { return strconv.Quote(s) }

// what is a call in a few words: its statement, or what it does to what.
func what(e *trailgate.Entry) string {
	for _, s := range e.Statements {
		if s.Text != "" {
			return strings.Join(strings.Fields(s.Text), " ")
		}
	}
	if e.Event != nil {
		return strings.TrimSpace(e.Event.Action + " " + e.Event.Target)
	}
	on := ""
	if t := e.Tables; t != nil {
		on = strings.Join(append(slices.Clone(t.Written), t.Read...), ", ")
	}
	if on == "" && e.Job != nil {
		on = e.Job.ID
	}
	return strings.TrimSpace(strings.TrimPrefix(e.Method, "bigquery.") + " " + on)
}

// shortTable is a table's name without its project.
func shortTable(s string) string {
	if parts := strings.Split(s, "."); len(parts) > 2 {
		return strings.Join(parts[len(parts)-2:], ".")
	}
	return s
}

// blankOut is as many spaces as s has characters.
func blankOut(s string) string { return strings.Repeat(" ", len([]rune(s))) }

// trailLink is the trail page with a filter of "field = value" pairs.
func trailLink(pairs ...string) string {
	var terms []string
	for i := 0; i+1 < len(pairs); i += 2 {
		terms = append(terms, pairs[i]+" = "+quoteTerm(pairs[i+1]))
	}
	return "/trail?filter=" + url.QueryEscape(strings.Join(terms, " AND "))
}
