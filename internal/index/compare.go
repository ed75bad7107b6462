package index

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	expr "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
)

// pattern is a text to compare with, where '*' stands for any characters.
type pattern struct {
	text   string
	glob   bool // text has a '*'
	fold   bool // case does not count
	within bool // a part of the text is enough
}

func newPattern(f *Field, cmp, text string) pattern {
	p := pattern{text: text, glob: strings.Contains(text, "*"), fold: cmp == ":", within: cmp == ":" && f.within}
	if f.letter == termType || f.letter == termLocation {
		p.fold = true
	}
	if p.within && !p.glob {
		p.text, p.glob = "*"+text+"*", true
	}
	if p.fold {
		p.text = strings.ToLower(p.text)
	}
	if !p.glob {
		p.text = clip(p.text)
	}
	return p
}

// exact reports whether the pattern is a text and nothing else.
func (p pattern) exact() bool { return !p.glob && !p.fold }

// prefix is what a matching text begins with, case included.
func (p pattern) prefix() string {
	if p.fold {
		return ""
	}
	head, _, _ := strings.Cut(p.text, "*")
	return head
}

func (p pattern) match(s string) bool {
	if p.fold {
		s = strings.ToLower(s)
	}
	if !p.glob {
		return s == p.text
	}
	return glob(p.text, s)
}

// glob reports whether p, where '*' stands for any characters, matches s.
func glob(p, s string) bool {
	parts := strings.Split(p, "*")
	if len(parts) == 1 {
		return s == p
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, last)
}

// test makes one comparison of a field with a text.
func (p *filterParser) test(f *Field, cmp, text string, at *expr.Expr) (*node, error) {
	if p.tests++; p.tests > maxFilterTests {
		return nil, p.errorf(at, "a filter may have %d comparisons", maxFilterTests)
	}
	t := &test{field: f, column: p.columnOf(at)}
	var err error
	switch f.kind {
	case kindNumber, kindStatus, kindSeq, kindTime:
		err = p.interval(t, cmp, text, at)
	default:
		if cmp != "=" && cmp != ":" {
			return nil, p.errorf(at, "%s can be compared by =, != and :, not by %s", f.Name, cmp)
		}
		err = p.textTest(t, cmp, text, at)
	}
	if err != nil {
		return nil, err
	}
	return &node{test: t}, nil
}

func (p *filterParser) textTest(t *test, cmp, text string, at *expr.Expr) error {
	f := t.field
	if text == "" {
		return p.errorf(at, "%s is compared with nothing; to find where it is absent, write NOT %s:*", f.Name, f.Name)
	}
	if strings.Count(text, "*") > 16 {
		return p.errorf(at, "a pattern may have 16 *")
	}
	switch f.kind {
	case kindWords:
		return p.wordTest(t, text, at)
	case kindWord, kindClass, kindState:
		pat := newPattern(f, ":", text)
		for _, v := range f.Values {
			if pat.match(v) {
				t.values = append(t.values, v)
			}
		}
		if len(t.values) == 0 {
			return p.errorf(at, "there is no %s %s; %s values are %s", f.Name, show(text), didYouMean(text, f.Values), strings.Join(f.Values, ", "))
		}
	case kindID:
		head, _, _ := strings.Cut(text, "*")
		if len(head) < minIDPrefix {
			return p.errorf(at, "at least %d characters of an id are needed", minIDPrefix)
		}
		if strings.Contains(strings.TrimSuffix(text, "*"), "*") {
			return p.errorf(at, "in an id, * may stand at the end only")
		}
		t.pat = pattern{text: strings.ToLower(head), glob: head != text || cmp == ":"}
	case kindTable:
		t.pat = newPattern(f, "=", text)
	default:
		t.pat = newPattern(f, cmp, text)
	}
	return nil
}

func (p *filterParser) wordTest(t *test, text string, at *expr.Expr) error {
	// A '*' counts where it ends a word; split at white space to see that.
	for _, piece := range strings.Fields(text) {
		body := strings.TrimRight(piece, "*")
		if strings.Contains(body, "*") {
			return p.errorf(at, "in words, * may stand at the end only")
		}
		var words []string
		eachWord(body, func(w string) bool { words = append(words, w); return len(words) < 100 })
		if body != piece && len(words) > 0 && !isNotWordRune(lastRune(body)) {
			words[len(words)-1] += "*"
		}
		t.words = append(t.words, words...)
	}
	slices.Sort(t.words)
	t.words = slices.Compact(t.words)
	switch {
	case len(t.words) == 0:
		return p.errorf(at, "%s has no word to look for (letters, digits and _ make words)", show(text))
	case len(t.words) > 100:
		return p.errorf(at, "at most 100 words can be looked for at once")
	}
	for _, w := range t.words {
		if len(w) < 3 && strings.HasSuffix(w, "*") {
			return p.errorf(at, "at least 2 characters are needed before *")
		}
	}
	return nil
}

func lastRune(s string) rune {
	r := rune(0)
	for _, c := range s {
		r = c
	}
	return r
}

// interval sets lo and hi from a comparison with a point, or with a value that
// is itself an interval: a date is a day, a whole number of milliseconds is
// that millisecond where it is asked for by "=".
func (p *filterParser) interval(t *test, cmp, text string, at *expr.Expr) error {
	var lo, hi int64
	var err error
	switch t.field.kind {
	case kindTime:
		lo, hi, err = p.parseTime(t, cmp, text, at)
	case kindStatus, kindSeq:
		lo, err = strconv.ParseInt(text, 10, 64)
		hi = lo
		if err != nil || lo < 0 {
			err = p.errorf(at, "%s is a whole number, not %s", t.field.Name, show(text))
		}
	default:
		lo, hi, err = p.parseFigure(t.field, text, at)
	}
	if err != nil {
		return err
	}
	t.lo, t.hi = math.MinInt64, math.MaxInt64
	switch cmp {
	case "=", ":":
		t.lo, t.hi = lo, hi
	case "<":
		t.hi = lo - 1
	case "<=":
		t.hi = hi
	case ">":
		if hi == math.MaxInt64 {
			t.lo, t.hi = 1, 0
			return nil
		}
		t.lo = hi + 1
	case ">=":
		t.lo = lo
	}
	return nil
}

var units = []struct {
	suffix string
	factor float64
	unit   unit
}{
	{"kib", 1 << 10, unitBytes},
	{"mib", 1 << 20, unitBytes},
	{"gib", 1 << 30, unitBytes},
	{"tib", 1 << 40, unitBytes},
	{"pib", 1 << 50, unitBytes},
	{"kb", 1e3, unitBytes},
	{"mb", 1e6, unitBytes},
	{"gb", 1e9, unitBytes},
	{"tb", 1e12, unitBytes},
	{"pb", 1e15, unitBytes},
	{"ms", 1, unitMillis},
	{"b", 1, unitBytes},
	{"s", 1e3, unitMillis},
	{"m", 60e3, unitMillis},
	{"h", 3600e3, unitMillis},
}

// parseFigure reads a number and its unit; milliseconds become nanoseconds.
func (p *filterParser) parseFigure(f *Field, text string, at *expr.Expr) (lo, hi int64, err error) {
	digits, factor := strings.ToLower(strings.TrimSpace(text)), 1.0
	bare := true
	for _, u := range units {
		if head, ok := strings.CutSuffix(digits, u.suffix); ok && u.unit == f.unit {
			digits, factor, bare = strings.TrimSpace(head), u.factor, false
			break
		}
	}
	scale := 1.0
	if f.unit == unitMillis {
		scale = 1e6
	}
	if n, err := strconv.ParseInt(digits, 10, 64); err == nil && n >= 0 && factor*scale == 1 {
		return n, n, nil // exactly, where a float would round
	}
	n, ferr := strconv.ParseFloat(digits, 64)
	if ferr != nil || n < 0 || math.IsNaN(n) || n*factor*scale >= math.MaxInt64 || strings.ContainsAny(digits, "xp_in") {
		switch f.unit {
		case unitBytes:
			return 0, 0, p.errorf(at, "%s is a number of bytes such as 1000000, 10MB or 1GiB, not %s", f.Name, show(text))
		case unitMillis:
			return 0, 0, p.errorf(at, "%s is a number of milliseconds such as 1500, or 1.5s, 2m, 1h, not %s", f.Name, show(text))
		default:
			return 0, 0, p.errorf(at, "%s is a number, not %s", f.Name, show(text))
		}
	}
	lo = int64(math.Round(n * factor * scale))
	hi = lo
	if f.unit == unitMillis && bare && n == math.Trunc(n) {
		hi = lo + 1e6 - 1
	}
	return lo, hi, nil
}

// parseTime reads a moment, or a day.
func (p *filterParser) parseTime(t *test, cmp, text string, at *expr.Expr) (lo, hi int64, err error) {
	text = strings.TrimSpace(text)
	if day, err := time.Parse(time.DateOnly, text); err == nil && sane(day) {
		return day.UnixNano(), day.AddDate(0, 0, 1).UnixNano() - 1, nil
	}
	if when, err := time.Parse(time.RFC3339Nano, strings.ToUpper(text)); err == nil && sane(when) {
		return when.UnixNano(), when.UnixNano(), nil
	}
	if span, ok := strings.CutPrefix(text, "-"); ok {
		if d, ok := parseSpan(span); ok && sane(p.now.Add(-d)) {
			if cmp == "=" || cmp == ":" {
				return 0, 0, p.errorf(at, "compare %s by <, <=, > or >=", t.field.Name)
			}
			n := p.now.Add(-d).UnixNano()
			return n, n, nil
		}
	}
	if strings.EqualFold(text, "now") {
		return p.now.UnixNano(), p.now.UnixNano(), nil
	}
	return 0, 0, p.errorf(at, `%s is a time such as "2026-11-23T14:30:00Z", a date such as "2026-11-23" (UTC), or a span before now such as "-24h" or "-7d", not %s`,
		t.field.Name, show(text))
}

// sane reports whether a time fits nanoseconds in 64 bits, with room to spare.
func sane(t time.Time) bool { return t.Year() >= 1700 && t.Year() < 2250 }

// parseSpan reads Go's durations, and days and weeks.
func parseSpan(s string) (time.Duration, bool) {
	for suffix, day := range map[string]float64{"d": 1, "w": 7} {
		if head, ok := strings.CutSuffix(s, suffix); ok {
			n, err := strconv.ParseFloat(head, 64)
			if err != nil || n < 0 || n > 100_000 {
				return 0, false
			}
			return time.Duration(n * day * 24 * float64(time.Hour)), n*day <= 100_000
		}
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d >= 0
}
