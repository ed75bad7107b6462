package witness_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail/durable"
	"github.com/trailgate/trailgate/internal/witness"
)

// TestAddCheckpoint walks through the answers of C2SP tlog-witness.
func TestAddCheckpoint(t *testing.T) {
	l, stranger := newLog(t, "trail.example"), newLog(t, "stranger.example")
	impostor := newLog(t, "trail.example") // the same origin, another key
	s := start(t, "witness.example/w", l)
	good, fork := l.tree(t, 40, 40, ""), l.tree(t, 40, 5, "the other")
	tooMany := strings.Repeat("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", 64)
	cp := func(n int) string { return string(good.checkpoint(t, n).Raw) }
	for _, step := range []struct {
		name, body string
		status     int
		answer     string // where it is a size
	}{
		{"no body", "", 400, ""},
		{"no checkpoint", "old 0\n", 400, ""},
		{"a size that is none", "old 00\n\n" + cp(1), 400, ""},
		{"a negative size", "old -1\n\n" + cp(1), 400, ""},
		{"no word old", "0\n\n" + cp(1), 400, ""},
		{"a proof that is none", "old 0\nAAAA\n\n" + cp(1), 400, ""},
		{"64 lines of proof", "old 1\n" + tooMany + "\n" + cp(2), 400, ""},
		{"larger than anything", "old 0\n\n" + cp(1) + strings.Repeat("— x AAAA\n", 10_000), 413, ""},
		{"a log that is not known", stranger.tree(t, 1, 1, "").body(t, 0, 1), 404, ""},
		{"an impostor of a log", impostor.tree(t, 1, 1, "").body(t, 0, 1), 403, ""},
		{"not signed", "old 0\n\ntrail.example\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", 403, ""},
		{"back in time", "old 5\n\n" + cp(3), 400, ""},
		{"a proof from nothing", rawBody(0, good.prove(t, 3, 10), good.checkpoint(t, 10).Raw), 422, ""},
		{"the first", good.body(t, 0, 10), 200, ""},
		{"again, as if it were the first", good.body(t, 0, 10), 409, "10\n"},
		{"the same size", good.body(t, 10, 10), 200, ""},
		{"the same size with a proof", rawBody(10, good.prove(t, 3, 10), good.checkpoint(t, 10).Raw), 422, ""},
		{"from another size", good.body(t, 7, 20), 409, "10\n"},
		{"a fork of the same size", fork.body(t, 10, 10), 409, ""},
		{"a fork that grew", fork.body(t, 10, 20), 422, ""},
		{"a bad proof", rawBody(10, good.prove(t, 11, 20), good.checkpoint(t, 20).Raw), 422, ""},
		{"no proof", rawBody(10, nil, good.checkpoint(t, 20).Raw), 422, ""},
		{"growth", good.body(t, 10, 20), 200, ""},
		{"a shorter fork", fork.body(t, 0, 12), 409, "20\n"},
		{"more growth", good.body(t, 20, 40), 200, ""},
	} {
		status, kind, answer := s.add(t, step.body)
		if status != step.status {
			t.Errorf("%s: %d %s, want %d", step.name, status, answer, step.status)
		}
		if sized := kind == "text/x.tlog.size"; sized != (step.answer != "") || sized && answer != step.answer {
			t.Errorf("%s: %s %q, want the size %q", step.name, kind, answer, step.answer)
		}
		if status == 200 {
			_, rest, _ := strings.Cut(step.body, "\n\n")
			cp, err := trailgate.OpenCheckpoint([]byte(rest), l.verifier)
			if err != nil || !s.cosigned(t, cp, answer) || strings.Count(answer, "\n") != 1 {
				t.Errorf("%s: %q is not a cosignature (%v)", step.name, answer, err)
			}
		}
	}
	resp, err := http.Get(s.http.URL + "/add-checkpoint")
	if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %v, %v", resp, err)
	}
	resp.Body.Close()
	if last := s.Last(witness.LogID("trail.example")); !strings.HasPrefix(string(last), "trail.example\n40\n") {
		t.Errorf("the last checkpoint is %q", last)
	}
}

// TestEvidence: who shows two trees is refused, and convicted by their own signatures.
func TestEvidence(t *testing.T) {
	l := newLog(t, "trail.example")
	s := start(t, "witness.example/w", l)
	good, fork := l.tree(t, 40, 40, ""), l.tree(t, 40, 5, "the other")
	s.add(t, good.body(t, 0, 10))
	for range 3 { // however often it is tried
		s.add(t, fork.body(t, 10, 20))
	}
	s.add(t, fork.body(t, 10, 10))
	files, err := filepath.Glob(filepath.Join(s.dir, "evidence", "*.json"))
	if err != nil || len(files) != 2 {
		t.Fatalf("evidence: %v %v, want two files", files, err)
	}
	sizes := map[uint64]bool{}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var e witness.Evidence
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		held, err := trailgate.OpenCheckpoint([]byte(e.Cosigned), l.verifier)
		if err != nil {
			t.Fatal(err)
		}
		offered, err := trailgate.OpenCheckpoint([]byte(e.Offered), l.verifier)
		if err != nil {
			t.Fatal(err)
		}
		if held.Size != 10 || !s.cosigned(t, good.checkpoint(t, 10), string(held.Raw[strings.Index(e.Cosigned, "— witness"):])) {
			t.Errorf("%s: what was cosigned is %q", name, e.Cosigned)
		}
		if offered.Size == 20 && len(e.Proof) != len(fork.prove(t, 10, 20)) {
			t.Errorf("%s: the proof has %d lines", name, len(e.Proof))
		}
		sizes[offered.Size] = true
	}
	if !sizes[10] || !sizes[20] {
		t.Errorf("offered were %v", sizes)
	}
}

// TestOneAtATime: of two histories that are offered at the same moment, one is
// cosigned and never the other.
func TestOneAtATime(t *testing.T) {
	l := newLog(t, "trail.example")
	for range 20 {
		s := start(t, "witness.example/w", l)
		trees := []*tree{l.tree(t, 30, 5, "a"), l.tree(t, 30, 5, "b"), l.tree(t, 30, 5, "c")}
		s.add(t, trees[0].body(t, 0, 5))
		var cosigned atomic.Int32
		var wg sync.WaitGroup
		for i, tr := range trees {
			body := tr.body(t, 5, 20+i)
			wg.Go(func() {
				if status, _, _ := s.add(t, body); status == 200 {
					cosigned.Add(1)
				}
			})
		}
		wg.Wait()
		if cosigned.Load() != 1 {
			t.Fatalf("%d histories were cosigned", cosigned.Load())
		}
		s.stop()
	}
}

// TestDiskFaults: whatever write fails, in whatever way, no cosignature is out
// that a restart forgets, and the witness goes on when the disk does.
func TestDiskFaults(t *testing.T) {
	boom := errors.New("boom")
	for _, fault := range []durable.Fault{{Err: boom}, {Err: boom, Apply: true}, {Err: boom, Bytes: 20}} {
		for at := 1; ; at++ {
			l := newLog(t, "trail.example")
			good, fork := l.tree(t, 40, 40, ""), l.tree(t, 40, 0, "the other")
			dir := t.TempDir()
			vkey, err := witness.Init(dir, "w")
			if err != nil {
				t.Fatal(err)
			}
			n, armed := 0, true
			s := open(t, dir, vkey, witness.Options{FS: &durable.FS{Hook: func(durable.Op) durable.Fault {
				if n++; armed && n == at {
					return fault
				}
				return durable.Fault{}
			}}}, l)
			highest := 0
			for _, step := range [][2]int{{0, 10}, {10, 20}} {
				if status, _, answer := s.add(t, good.body(t, step[0], step[1])); status == 200 {
					highest = step[1]
				} else if status != 503 && status != 409 {
					t.Fatalf("fault %d %+v: %d %s", at, fault, status, answer)
				}
			}
			done := n < at
			armed = false
			// It goes on, from wherever it is, and takes no other history than the first.
			check := func(s *server) {
				t.Helper()
				old := highest
				for range 2 {
					status, kind, answer := s.add(t, good.body(t, old, 20))
					if status == 200 {
						break
					}
					if kind != "text/x.tlog.size" {
						t.Fatalf("fault %d %+v: %d %s", at, fault, status, answer)
					}
					was := old
					if _, err := fmt.Sscan(answer, &old); err != nil || old < highest || old == was {
						t.Fatalf("fault %d %+v: it cosigned %d and remembers %q", at, fault, highest, answer)
					}
				}
				if status, _, _ := s.add(t, fork.body(t, 20, 30)); status != 422 {
					t.Fatalf("fault %d %+v: another history: %d", at, fault, status)
				}
			}
			if at%2 == 0 {
				check(s)
				highest = 20
			}
			s.stop()
			check(open(t, dir, vkey, witness.Options{}, l))
			if done {
				break
			}
		}
	}
}

// TestMemory: a witness that does not know any more what it cosigned does not start.
func TestMemory(t *testing.T) {
	l, other := newLog(t, "trail.example"), newLog(t, "other.example")
	good := l.tree(t, 40, 40, "")
	id := witness.LogID("trail.example")
	for name, harm := range map[string]func(t *testing.T, dir string) error{
		"its state is gone":  func(_ *testing.T, dir string) error { return os.Remove(filepath.Join(dir, "state", id)) },
		"its list is gone":   func(_ *testing.T, dir string) error { return os.Remove(filepath.Join(dir, "known")) },
		"its state is empty": func(_ *testing.T, dir string) error { return os.Truncate(filepath.Join(dir, "state", id), 0) },
		"its key is gone":    func(_ *testing.T, dir string) error { return os.Remove(filepath.Join(dir, "witness.key")) },
		"a state of its own": func(t *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, "state", id), good.checkpoint(t, 5).Raw, 0o600)
		},
		"the state of another": func(t *testing.T, dir string) error { return forge(t, dir, id, good) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "w", l)
			s.add(t, good.body(t, 0, 10))
			s.stop()
			if err := harm(t, s.dir); err != nil {
				t.Fatal(err)
			}
			// It matters not whether the log is still configured: it may come back.
			for _, logs := range [][]note.Verifier{{l.verifier}, {other.verifier}} {
				w, err := witness.Open(witness.Options{Dir: s.dir, Logs: logs})
				if err == nil {
					_ = w.Close()
					t.Fatal("it starts")
				}
				if name != "its key is gone" && !errors.Is(err, witness.ErrMemory) {
					t.Errorf("it says %v", err)
				}
			}
		})
	}
}

// forge has another witness cosign an older checkpoint, and puts that in place.
func forge(t *testing.T, dir, id string, tr *tree) error {
	other := start(t, "w", tr.log)
	other.add(t, tr.body(t, 0, 5))
	raw, err := os.ReadFile(filepath.Join(other.dir, "state", id))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "state", id), raw, 0o600)
}

// TestInit: a witness is made once, and only one process runs it.
func TestInit(t *testing.T) {
	l := newLog(t, "trail.example")
	s := start(t, "w", l)
	if _, err := witness.Init(s.dir, "w2"); !errors.Is(err, witness.ErrExists) {
		t.Errorf("a second one: %v", err)
	}
	if _, err := witness.Open(witness.Options{Dir: s.dir}); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("a second process: %v", err)
	}
	if st, err := os.Stat(filepath.Join(s.dir, "witness.key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v %v", st.Mode(), err)
	}
	if _, err := witness.Init(t.TempDir(), "two words"); err == nil {
		t.Error("a name with a space is taken")
	}
}

// TestKeys: a log that changes its key keeps its history, under either.
func TestKeys(t *testing.T) {
	l, next := newLog(t, "trail.example"), newLog(t, "trail.example")
	s := start(t, "w", l, next)
	good := l.tree(t, 40, 40, "")
	s.add(t, good.body(t, 0, 10))
	good.log = next
	if status, _, answer := s.add(t, good.body(t, 10, 20)); status != 200 {
		t.Fatalf("under the next key: %d %s", status, answer)
	}
	s.stop()
	s = open(t, s.dir, s.vkey, witness.Options{}, next) // the old key is gone from the configuration
	if status, _, answer := s.add(t, good.body(t, 20, 30)); status != 200 {
		t.Errorf("without the old key: %d %s", status, answer)
	}
	if status, _, _ := s.add(t, l.tree(t, 40, 5, "the other").body(t, 30, 35)); status != 403 {
		t.Errorf("the old key: %d", status)
	}
}

// TestLimits: one address can ask so often, and so many are worked on at once.
func TestLimits(t *testing.T) {
	l := newLog(t, "trail.example")
	s := start(t, "w", l)
	h := s.Handler("/w1/", witness.Limits{PerSecond: 0.001, Burst: 3})
	codes := map[int]int{}
	for range 5 {
		rec := recorder(h, "/w1/healthz", "203.0.113.9:1")
		codes[rec]++
	}
	if codes[200] != 3 || codes[429] != 2 {
		t.Errorf("of five requests: %v", codes)
	}
	if code := recorder(h, "/w1/healthz", "203.0.113.10:1"); code != 200 {
		t.Errorf("another address: %d", code)
	}
	if code := recorder(h, "/healthz", "203.0.113.11:1"); code != 404 {
		t.Errorf("outside the prefix: %d", code)
	}
}
