package main

import (
	"strings"
	"testing"
	"time"
)

func TestFilterQuery(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		flags filterFlags
		args  []string
		want  string
	}{
		{want: ""},
		{args: []string{`agent = "a"`}, want: `agent = "a"`},
		{args: []string{"agent", "=", "a"}, want: "agent = a"},
		{flags: filterFlags{agents: []string{"a"}}, want: `agent = "a"`},
		{flags: filterFlags{agents: []string{"a", "b"}, classes: []string{"write"}}, want: `(agent = "a" OR agent = "b") AND class = "write"`},
		{flags: filterFlags{tables: []string{`s"t.*`}}, want: `table : "s\"t.*"`},
		{flags: filterFlags{texts: []string{"batch_id", "imports"}}, want: `text : "batch_id" AND text : "imports"`},
		{
			flags: filterFlags{since: "24h", until: "2026-11-23"}, args: []string{"a OR b"},
			want: `(a OR b) AND time >= "2026-11-22T12:00:00Z" AND time < "2026-11-23T00:00:00Z"`,
		},
		{flags: filterFlags{since: "7d"}, want: `time >= "2026-11-16T12:00:00Z"`},
		{flags: filterFlags{since: "2026-11-01T08:00:00+01:00"}, want: `time >= "2026-11-01T07:00:00Z"`},
		{flags: filterFlags{since: "2026-11-01 08:30"}, want: `time >= "2026-11-01T08:30:00Z"`},
	}
	for _, tt := range tests {
		q, err := tt.flags.query(tt.args, now)
		if err != nil {
			t.Errorf("%+v: %v", tt.flags, err)
			continue
		}
		if q.text != tt.want {
			t.Errorf("%+v %q:\n got %s\nwant %s", tt.flags, tt.args, q.text, tt.want)
		}
	}
	for _, bad := range []string{"soon", "-1h", "7x", "99999999999d", "d", "1.5d"} {
		f := filterFlags{since: bad}
		if _, err := f.query(nil, now); exitCode(err) != exitUsage || !strings.Contains(err.Error(), "--since") {
			t.Errorf("--since %s: %v", bad, err)
		}
	}
}

func TestExplain(t *testing.T) {
	f := filterFlags{agents: []string{"a"}}
	q, err := f.query([]string{"東 = \x1b ANDD x"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	// In the whole filter ANDD stands at rune 8 from 1: one parenthesis, "東 = ", ESC, space.
	err = q.explain("unexpected ANDD", 8)
	var b strings.Builder
	report(&b, err)
	want := "trailgate: filter: unexpected ANDD\n" +
		"  東 = \\x1b ANDD x\n" +
		"            ^\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	for _, column := range []int{-1, 0, 1, 99} {
		b.Reset()
		report(&b, q.explain("m", column))
		if b.String() != "trailgate: filter: m\n" {
			t.Errorf("column %d: %q", column, b.String())
		}
	}
}
