package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/index"
)

// filterFlags are the short ways to say common filters. They and the filter
// argument are put together with AND.
type filterFlags struct {
	agents  []string
	tables  []string
	texts   []string
	classes []string
	since   string
	until   string
}

func (f *filterFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.agents, "agent", nil, "only calls of this `AGENT` (repeat for any of several)")
	flags.StringArrayVar(&f.tables, "table", nil, "only calls that touch this `TABLE`; * matches anything ('staging.*')")
	flags.StringArrayVar(&f.texts, "text", nil, "only statements with this `WORD` (repeat: with every one)")
	flags.StringArrayVar(&f.classes, "class", nil, "only this `CLASS` of call, such as read, write or export (repeat for any of several)")
	flags.StringVar(&f.since, "since", "", "from this `TIME` on: a span ago (90m, 24h, 7d) or a moment (2026-11-01, 2026-11-01T08:00:00Z)")
	flags.StringVar(&f.until, "until", "", "before this `TIME`")
}

// complete offers values where they can be known.
func (f *filterFlags) complete(cmd *cobra.Command, c *cli) {
	must(cmd.RegisterFlagCompletionFunc("agent", c.completeAgents))
	must(cmd.RegisterFlagCompletionFunc("class", cobra.FixedCompletions(fieldValues("class"), cobra.ShellCompDirectiveNoFileComp)))
	spans := []cobra.Completion{"1h", "24h", "7d", "30d"}
	must(cmd.RegisterFlagCompletionFunc("since", cobra.FixedCompletions(spans, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("until", cobra.FixedCompletions(spans, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("table", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("text", cobra.NoFileCompletions))
	cmd.ValidArgsFunction = completeFilter
}

// must is for mistakes in this program alone: a completion for a flag that does not exist.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// fieldValues are the values that a field can have, where they are few.
func fieldValues(name string) []string {
	for _, f := range index.Fields() {
		if f.Name == name {
			return f.Values
		}
	}
	return nil
}

// completeFilter completes a field name at the start of each word of a filter.
func completeFilter(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	head, last := "", typed
	if i := strings.LastIndexAny(typed, " ("); i >= 0 {
		head, last = typed[:i+1], typed[i+1:]
	}
	var out []cobra.Completion
	for _, field := range index.Fields() {
		if strings.HasPrefix(field.Name, last) {
			out = append(out, cobra.CompletionWithDesc(head+field.Name, field.Doc))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// query is a filter as it is sent, and where in it the user's own text stands.
type query struct {
	text   string
	own    string // what the user typed
	offset int    // runes before own in text
}

// query puts the flags and the words of the argument together. The user's text
// comes first, so that a column in an error still points into it.
func (f *filterFlags) query(args []string, now time.Time) (query, error) {
	own := strings.Join(args, " ")
	var terms []string
	either := func(field, operator string, values []string) {
		var alternatives []string
		for _, v := range values {
			alternatives = append(alternatives, field+operator+strconv.Quote(v))
		}
		switch len(alternatives) {
		case 0:
		case 1:
			terms = append(terms, alternatives[0])
		default:
			terms = append(terms, "("+strings.Join(alternatives, " OR ")+")")
		}
	}
	either("agent", " = ", f.agents)
	either("table", " : ", f.tables)
	for _, text := range f.texts {
		either("text", " : ", []string{text})
	}
	either("class", " = ", f.classes)
	for _, bound := range []struct{ flag, value, operator string }{{"since", f.since, ">="}, {"until", f.until, "<"}} {
		if bound.value == "" {
			continue
		}
		t, err := parseMoment(bound.value, now)
		if err != nil {
			return query{}, usagef("--%s %q: %v", bound.flag, bound.value, err)
		}
		terms = append(terms, "time "+bound.operator+" "+strconv.Quote(t.UTC().Format(time.RFC3339Nano)))
	}
	q := query{own: own, text: own}
	if strings.TrimSpace(own) == "" {
		q.text = strings.Join(terms, " AND ")
	} else if len(terms) > 0 {
		q.offset = 1
		q.text = "(" + own + ") AND " + strings.Join(terms, " AND ")
	}
	return q, nil
}

// parseMoment reads a time, or a span before now. Dates are UTC, as is all
// that the trail holds.
func parseMoment(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	d, err := parseSpan(s)
	if err != nil {
		return time.Time{}, fmt.Errorf("want a span such as 90m, 24h or 7d, or a time such as 2026-11-01 or 2026-11-01T08:00:00Z")
	}
	return now.Add(-d), nil
}

// parseSpan is time.ParseDuration with days and weeks, which count 24 h and 7 days.
func parseSpan(s string) (time.Duration, error) {
	unit := time.Duration(0)
	switch {
	case strings.HasSuffix(s, "d"):
		unit = 24 * time.Hour
	case strings.HasSuffix(s, "w"):
		unit = 7 * 24 * time.Hour
	}
	if unit > 0 {
		n, err := strconv.ParseUint(s[:len(s)-1], 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is not a span", s)
		}
		if n > uint64(1<<63-1)/uint64(unit) {
			return 0, fmt.Errorf("%q is too long", s)
		}
		return time.Duration(n) * unit, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a span", s)
	}
	return d, nil
}

// explain shows where in the user's filter the trouble is. Column counts runes
// of the whole filter from 1; 0 means that no place is known.
func (q query) explain(message string, column int) error {
	e := &exitError{code: exitUsage, err: fmt.Errorf("filter: %s", message)}
	column -= q.offset
	own := []rune(q.own)
	if column < 1 || column > len(own)+1 || len(own) == 0 {
		return e
	}
	// Runes are shown escaped, so the caret's place is that of the shown text.
	show := func(r []rune) string {
		return strings.Map(func(r rune) rune {
			if r == '\n' || r == '\t' || r == '\r' {
				return ' '
			}
			return r
		}, visibleLines(string(r)))
	}
	e.detail = "  " + show(own) + "\n  " + strings.Repeat(" ", textWidth(show(own[:column-1]))) + "^"
	return e
}
