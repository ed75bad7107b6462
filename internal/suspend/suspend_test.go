package suspend_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/suspend"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

func recorded(suspend.Suspension) error { return nil }

func open(t *testing.T, path string) *suspend.Store {
	t.Helper()
	s, err := suspend.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSuspend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "suspended.json")
	s := open(t, path)
	if _, is := s.Check("etl-bot", "lake"); is {
		t.Fatal("suspended from the start")
	}
	var told []string
	tell := func(x suspend.Suspension) error {
		if _, is := s.Check("etl-bot", ""); is && x.Name == "etl-bot" && len(told) == 0 {
			t.Error("in force before it is on record")
		}
		told = append(told, x.What())
		return nil
	}
	if _, err := s.Add(suspend.Suspension{Scope: suspend.Agent, Name: "etl-bot", Reason: "runs wild", By: "ada"}, tell); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(suspend.Suspension{Scope: suspend.Connection, Name: "lake", By: "ada"}, tell); err != nil {
		t.Fatal(err)
	}
	s = open(t, path) // a restart lets nobody back in
	for _, tc := range []struct {
		agent, connection string
		want              string
	}{
		{"etl-bot", "other", "agent etl-bot"},
		{"etl-bot", "lake", "agent etl-bot"},
		{"analyst", "lake", "connection lake"},
		{"analyst", "other", ""},
		{"analyst", "", ""},
		{"lake", "etl-bot", ""},
	} {
		x, is := s.Check(tc.agent, tc.connection)
		if is != (tc.want != "") || is && x.What() != tc.want {
			t.Errorf("%s over %s: %v, %v; want %q", tc.agent, tc.connection, x, is, tc.want)
		}
	}
	if _, err := s.Add(suspend.Suspension{Scope: suspend.Agent, Name: "etl-bot"}, tell); !errors.Is(err, suspend.ErrSuspended) {
		t.Errorf("twice: %v", err)
	}
	if _, err := s.Add(suspend.Suspension{Scope: suspend.All}, tell); err != nil {
		t.Fatal(err)
	}
	if x, is := s.Check("analyst", ""); !is || x.What() != "all agents" {
		t.Errorf("all: %v, %v", x, is)
	}
	for _, x := range s.List() {
		if _, err := s.Remove(x.Scope, x.Name, tell); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Remove(suspend.Agent, "etl-bot", tell); !errors.Is(err, suspend.ErrNot) {
		t.Errorf("resumed twice: %v", err)
	}
	if _, is := open(t, path).Check("etl-bot", "lake"); is {
		t.Error("resumed, and suspended again after a restart")
	}
	want := []string{"agent etl-bot", "connection lake", "all agents", "agent etl-bot", "connection lake", "all agents"}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
}

// TestNotRecorded: what is not on record does not happen.
func TestNotRecorded(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "s.json"))
	errTrail := errors.New("the trail is full")
	refuse := func(suspend.Suspension) error { return errTrail }
	if _, err := s.Add(suspend.Suspension{Scope: suspend.All}, refuse); !errors.Is(err, errTrail) {
		t.Errorf("%v", err)
	}
	if _, is := s.Check("a", ""); is {
		t.Error("suspended without an entry")
	}
	if _, err := s.Add(suspend.Suspension{Scope: suspend.All}, recorded); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(suspend.All, "", refuse); !errors.Is(err, errTrail) {
		t.Errorf("%v", err)
	}
	if _, is := s.Check("a", ""); !is {
		t.Error("resumed without an entry")
	}
}

// TestDisk: a change that could not be written is not in force, here or after a
// restart.
func TestDisk(t *testing.T) {
	for _, kind := range []durable.Kind{durable.OpCreate, durable.OpWrite, durable.OpSync, durable.OpRename} {
		path := filepath.Join(t.TempDir(), "s.json")
		s := open(t, path)
		if _, err := s.Add(suspend.Suspension{Scope: suspend.Agent, Name: "a"}, recorded); err != nil {
			t.Fatal(err)
		}
		hit := false
		s.Fault(func(op durable.Op) durable.Fault {
			if op.Kind != kind {
				return durable.Fault{}
			}
			hit = true
			return durable.Fault{Err: errors.New("no space left on device")}
		})
		_, err := s.Add(suspend.Suspension{Scope: suspend.Agent, Name: "b"}, recorded)
		if !hit {
			continue // this way of writing has no such step
		}
		if err == nil {
			t.Errorf("%s fails and nobody is told", kind)
		}
		for _, x := range []*suspend.Store{s, open(t, path)} {
			if _, is := x.Check("b", ""); is {
				t.Errorf("%s: in force all the same", kind)
			}
			if _, is := x.Check("a", ""); !is {
				t.Errorf("%s: the other one is lost", kind)
			}
		}
	}
}

func TestInvalid(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "s.json"))
	for _, x := range []suspend.Suspension{
		{},
		{Scope: "planet", Name: "a"},
		{Scope: suspend.Agent},
		{Scope: suspend.Agent, Name: "Not A Name"},
		{Scope: suspend.All, Name: "a"},
		{Scope: suspend.All, Reason: strings.Repeat("x", 2000)},
		{Scope: suspend.All, Reason: "two\nlines"},
		{Scope: suspend.All, Reason: "\xff"},
	} {
		if _, err := s.Add(x, recorded); !errors.Is(err, suspend.ErrInvalid) {
			t.Errorf("%+v: %v", x, err)
		}
	}
}

// FuzzOpen: no file is read in two ways, and none is passed over.
func FuzzOpen(f *testing.F) {
	for _, s := range []string{
		`{"version":1,"suspensions":[{"scope":"agent","name":"a","by":"x","since":"2026-01-01T00:00:00Z"}]}`,
		`{"version":1}`, `{"version":2}`, ``, `null`, `{"version":1,"suspensions":[{"scope":"all"},{"scope":"all"}]}`, `{"version":1,"version":1}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "s.json")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := suspend.Open(path)
		if err != nil {
			if !strings.Contains(err.Error(), "damaged") {
				t.Errorf("%v", err)
			}
			return
		}
		for _, x := range s.List() {
			if got, is := s.Check(x.Name, x.Name); !is && x.Scope != suspend.All {
				t.Errorf("%+v is read and does not hold: %+v", x, got)
			}
		}
	})
}

func TestConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.json")
	s := open(t, path)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			name := fmt.Sprintf("agent-%d", i)
			if _, err := s.Add(suspend.Suspension{Scope: suspend.Agent, Name: name}, recorded); err != nil {
				t.Error(err)
			}
			if _, is := s.Check(name, ""); !is {
				t.Errorf("%s is not suspended", name)
			}
		})
	}
	wg.Wait()
	if n := len(open(t, path).List()); n != 16 {
		t.Errorf("%d of 16 were kept", n)
	}
}
