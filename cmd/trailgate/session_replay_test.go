package main

import (
	"bufio"
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin/client"
)

// threeCalls are an hour and a second apart.
func threeCalls() []client.Row {
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	var rows []client.Row
	for i, gap := range []time.Duration{0, time.Hour, time.Second} {
		at = at.Add(gap)
		rows = append(rows, client.Row{Entry: trailgate.Entry{ID: strings.Repeat(string(rune('a'+i)), 26), Time: at, Method: "bigquery.jobs.query"}, State: "done"})
	}
	return rows
}

// TestStep: Enter goes on, q ends, and so does the end of the keys.
func TestStep(t *testing.T) {
	for keys, want := range map[string]int{"\n\n": 3, "\nq\n": 2, "q\n": 1, "": 1, "\n": 2} {
		var out, errs bytes.Buffer
		p := &player{out: &out, err: &errs, keys: bufio.NewReader(strings.NewReader(keys))}
		if err := p.play(t.Context(), nil, threeCalls()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(out.String(), "jobs.query"); got != want {
			t.Errorf("%q shows %d calls, want %d", keys, got, want)
		}
	}
}

// TestSpeed: the gaps are the session's, shortened, and none is endless.
func TestSpeed(t *testing.T) {
	for speed, want := range map[float64][]time.Duration{1: {longestGap, time.Second}, 10: {longestGap, 100 * time.Millisecond}, 7200: {500 * time.Millisecond, time.Second / 7200}, 0: nil} {
		var waited []time.Duration
		var out bytes.Buffer
		p := &player{out: &out, err: &out, speed: speed, wait: func(_ context.Context, d time.Duration) error {
			waited = append(waited, d)
			return nil
		}}
		if err := p.play(t.Context(), nil, threeCalls()); err != nil {
			t.Fatal(err)
		}
		if len(waited) != len(want) {
			t.Fatalf("at %g waits %v", speed, waited)
		}
		for i := range want {
			if waited[i] != want[i] {
				t.Errorf("at %g waits %v, want %v", speed, waited, want)
			}
		}
	}
}
