package main

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/policy"
	"github.com/trailgate/trailgate/internal/recording"
	"github.com/trailgate/trailgate/internal/trail"
)

// TestWeek: whenever the demo starts, its week is over, in order, and ends with what
// still waits.
func TestWeek(t *testing.T) {
	for hour := range 24 * 7 {
		now := time.Date(2026, 11, 23, 0, 20, 0, 0, time.UTC).Add(time.Duration(hour) * time.Hour)
		scenes := week(now)
		if len(scenes) < 60 {
			t.Fatalf("%s: %d scenes", now, len(scenes))
		}
		for i, sc := range scenes {
			if i > 0 && sc.at.Before(scenes[i-1].at) || sc.at.Before(now.Add(-8*24*time.Hour)) || sc.at.After(now.Add(-20*time.Minute)) {
				t.Fatalf("%s: scene %d at %s", now, i, sc.at)
			}
		}
		if last := scenes[len(scenes)-1].at; now.Sub(last) != 26*time.Minute {
			t.Fatalf("%s: the last scene is at %s", now, last)
		}
	}
}

// TestHistory: the made-up week is a trail like any other. It verifies, says first that
// it is made up, lies in the past, and has something for every page to show.
func TestHistory(t *testing.T) { testHistory(t, time.Now()) }

// TestHistoryAnyDay: on a Monday in the night, when two days of the week were a weekend's
// and nothing of today has happened, and across the end of a month and a year.
func TestHistoryAnyDay(t *testing.T) {
	if testing.Short() {
		t.Skip("tells the week again, twice")
	}
	for _, end := range []time.Time{
		time.Date(2026, 11, 23, 0, 10, 0, 0, time.UTC), time.Date(2027, 1, 3, 13, 40, 0, 0, time.UTC),
	} {
		t.Run(end.Format("2006-01-02T15"), func(t *testing.T) { testHistory(t, end) })
	}
}

func testHistory(t *testing.T, end time.Time) {
	dir := t.TempDir()
	d := &demo{cli: &cli{out: io.Discard, err: io.Discard}, dir: filepath.Join(dir, "demo"), listen: "127.0.0.1:0", adminListen: "off"}
	path := filepath.Join(d.dir, config.DefaultName)
	text := d.config(&runningSandbox{url: "http://127.0.0.1:1"})
	trail.RedirectTesseraLogs(slog.New(slog.DiscardHandler))
	if _, err := initialise(t.Context(), d.dir, text, "demo", nil, nil); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{demoPolicyName: demoPolicy, starterPolicyName: string(policy.Starter())} {
		if err := replaceFile(filepath.Join(d.dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.history(t.Context(), path, end); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	report, err := trail.Verify(t.Context(), trail.VerifyOptions{
		Dir:       cfg.DataDir.String(),
		Recording: recording.Existing(recording.Options{Dir: filepath.Join(cfg.DataDir.String(), recordingsName), KeyDir: cfg.Recording.KeyDir.String()}).Check,
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := openParts(t.Context(), cfg, slog.New(slog.DiscardHandler), func() time.Time { return end.Add(time.Minute) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	var last time.Time
	err = p.trail.Scan(t.Context(), 0, func(seq uint64, raw []byte) error {
		e, err := trailgate.Decode(raw)
		if err != nil {
			return err
		}
		if e.Time.Before(last) || e.Time.After(end.Add(time.Minute)) || e.Time.Before(end.AddDate(0, 0, -8)) {
			t.Errorf("entry %d is of %s", seq, e.Time)
		}
		if seq == 1 && (e.Event == nil || e.Event.Action != actionHistory || e.Event.Detail["note"] == "") {
			t.Errorf("entry 1 does not say that all is made up: %+v", e.Event)
		}
		last = e.Time
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.index.CatchUp(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for filter, least := range map[string]int{
		`kind = "intent"`: 300, `kind = "intent" AND state = "open"`: -1, `kind = "intent" AND state = "indeterminate"`: -1,
		`kind = "denied" AND agent = "scratch-bot"`: 3, `kind = "held"`: 6, `kind = "approved"`: 4, `kind = "expired"`: 1, `state = "failed"`: 3,
		`class = "write" AND agent = "etl-bot"`: 15, `action = "suspend.add"`: 1, `human = "jonas.weber@example.com"`: 20, `action = "recording.read"`: 1,
	} {
		rows, _, err := p.index.Search(t.Context(), index.Query{Filter: filter, PageSize: 1000})
		if err != nil {
			t.Fatalf("%s: %v", filter, err)
		}
		if len(rows) < least || least < 0 && len(rows) > 0 {
			t.Errorf("%s: %d", filter, len(rows))
		}
	}
	if report.Recordings < 50 {
		t.Errorf("%d recordings", report.Recordings)
	}
}
