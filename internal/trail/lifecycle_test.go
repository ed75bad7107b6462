package trail_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

// event is an entry of an administrator about the log itself.
func event(id string) *trailgate.Entry {
	return &trailgate.Entry{
		ID: id, Kind: trailgate.KindAdmin, Gateway: trailgate.Gateway{ID: "gw1", Version: "test"},
		Event: &trailgate.Event{Actor: "ada", Via: "cli", Detail: map[string]string{"reason": "planned"}},
	}
}

func pub(t testing.TB, dir string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "log.pub"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

func rotate(t testing.TB, dir, id string, o trail.Options) (string, error) {
	t.Helper()
	o.SegmentBytes, o.CheckpointInterval = 256<<10, 100*time.Millisecond
	return trail.RotateKey(t.Context(), dir, o, event(id))
}

func mustRotate(t testing.TB, dir, id string) string {
	t.Helper()
	vkey, err := rotate(t, dir, id, trail.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return vkey
}

// TestRotateKey: whoever trusts any of the keys, of then or of now, can verify the log.
func TestRotateKey(t *testing.T) {
	dir := create(t)
	keys := []string{pub(t, dir)}
	fill(t, dir, 300, trail.Options{})
	early := keep(t, verify(t, dir))
	for i := range 3 {
		keys = append(keys, mustRotate(t, dir, fmt.Sprint("rotation-", i)))
		fill(t, dir, 100, trail.Options{})
	}
	if pub(t, dir) != keys[3] {
		t.Error("log.pub is another key")
	}
	for i, key := range keys {
		r, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir, Key: key, Head: early})
		if err != nil {
			t.Fatalf("with key %d: %v", i, err)
		}
		if r.Size != 603 || r.Key != keys[3] || r.Rotating {
			t.Errorf("with key %d: %+v", i, r)
		}
		if _, err := trail.Verify(t.Context(), trail.VerifyOptions{LogDir: filepath.Join(dir, "log"), Key: key, Since: early}); err != nil {
			t.Errorf("with key %d, from an early checkpoint: %v", i, err)
		}
	}
	tr := open(t, dir, trail.Options{})
	p, err := tr.Prove(t.Context(), 3)
	if err != nil || !strings.Contains(p.Checkpoint, "603\n") {
		t.Errorf("%v %+v", err, p)
	}
}

// TestRotationTampering: the proof of a rotation can neither be left out nor made up.
func TestRotationTampering(t *testing.T) {
	base := create(t)
	first := pub(t, base)
	fill(t, base, 20, trail.Options{})
	oldKey := read(t, filepath.Join(base, "log.key"))
	mustRotate(t, base, "rotation")
	fill(t, base, 20, trail.Options{})
	other := create(t)
	fill(t, other, 20, trail.Options{})
	mustRotate(t, other, "theirs")

	rotations := func(dir string) string { return filepath.Join(dir, "log", "rotations") }
	for _, tt := range []struct {
		name, want string
		change     func(dir string)
	}{
		{"the proof is gone", "the proof of it is missing", func(dir string) { remove(t, rotations(dir)) }},
		{"another log's proof", "none of them is about the key at hand", func(dir string) { write(t, rotations(dir), read(t, rotations(other))) }},
		{"a byte of it", "rotation", func(dir string) { flipByte(t, rotations(dir), 200) }},
		{"no JSON", "rotations:", func(dir string) { write(t, rotations(dir), []byte("{")) }},
		{"twice", "than the one before it named", func(dir string) {
			raw := read(t, rotations(dir))
			write(t, rotations(dir), append(raw, raw...))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := copyDir(t, base)
			tt.change(dir)
			_, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir})
			if tamper, ok := errors.AsType[*trail.TamperError](err); !ok || !strings.Contains(tamper.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if tr, err := trail.Open(t.Context(), dir, trail.Options{}); err == nil {
				closeTrail(t, tr)
				t.Error("it opens")
			}
		})
	}
	t.Run("the old key goes on signing", func(t *testing.T) {
		dir := copyDir(t, base)
		write(t, filepath.Join(dir, "log.key"), oldKey)
		write(t, filepath.Join(dir, "log.pub"), []byte(first+"\n"))
		if _, err := trail.Open(t.Context(), dir, trail.Options{}); !errors.Is(err, trail.ErrForeign) {
			t.Errorf("open: %v", err)
		}
		// Where the proof that it was given up is taken away too, the log's own checkpoint is
		// not the old key's.
		remove(t, rotations(dir))
		if tr, err := trail.Open(t.Context(), dir, trail.Options{}); err == nil {
			closeTrail(t, tr)
			t.Error("it opens")
		}
	})
}

// TestRotationCrash stops a rotation at each of its file operations, in each way,
// and runs it again. Between, the trail opens as it was or says what to do.
func TestRotationCrash(t *testing.T) {
	var mu sync.Mutex
	about := func(op durable.Op) bool {
		for _, name := range []string{"log.key", "log.pub", "rotations", "checkpoint"} {
			if strings.Contains(filepath.Base(op.Path)+filepath.Base(op.To), name) {
				return true
			}
		}
		return op.Kind == durable.OpSyncDir
	}
	boom := errors.New("the disk is gone")
	base := create(t)
	first := pub(t, base)
	fill(t, base, 10, trail.Options{})
	for n, done := 0, false; !done; n++ {
		for _, apply := range []bool{false, true} {
			if testing.Short() && apply != (n%2 == 0) {
				continue
			}
			dir := copyDir(t, base)
			seen, dead := 0, false
			ctx, cancel := context.WithCancel(t.Context())
			o := trail.Options{}
			o.SetFS(&durable.FS{Hook: func(op durable.Op) durable.Fault {
				mu.Lock()
				defer mu.Unlock()
				if dead {
					return durable.Fault{Err: boom} // the process has ended
				}
				if !about(op) {
					return durable.Fault{}
				}
				if seen++; seen > n {
					dead = true
					cancel() // nobody waits for this disk
					return durable.Fault{Err: boom, Apply: apply}
				}
				return durable.Fault{}
			}})
			o.SegmentBytes, o.CheckpointInterval = 256<<10, 50*time.Millisecond
			_, err := trail.RotateKey(ctx, dir, o, event("rotation"))
			cancel()
			mu.Lock()
			done = !dead
			mu.Unlock()
			if done != (err == nil) {
				t.Fatalf("operation %d, applied %t: %v", n, apply, err)
			}
			if done {
				t.Log(n, "operations")
				break
			}
			// A gateway does not go on with half of it.
			if tr, oerr := trail.Open(t.Context(), dir, trail.Options{SegmentBytes: 256 << 10}); oerr == nil {
				if _, serr := os.Stat(filepath.Join(dir, "log.key.next")); serr == nil {
					t.Fatalf("operation %d, applied %t: it opens", n, apply)
				}
				closeTrail(t, tr)
			} else if !errors.Is(oerr, trail.ErrInterrupted) {
				t.Fatalf("operation %d, applied %t: open: %v", n, apply, oerr)
			}
			if _, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir, Key: first}); err != nil {
				t.Fatalf("operation %d, applied %t: verify between: %v", n, apply, err)
			}
			if _, err := rotate(t, dir, "again", trail.Options{}); err != nil {
				t.Fatalf("operation %d, applied %t: again: %v", n, apply, err)
			}
			fill(t, dir, 5, trail.Options{})
			for _, key := range []string{first, pub(t, dir)} {
				r, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir, Key: key})
				if err != nil || r.Key == first {
					t.Fatalf("operation %d, applied %t: %v %+v", n, apply, err, r)
				}
			}
		}
	}
}

// TestFreeze: what is frozen takes nothing more, and says so.
func TestFreeze(t *testing.T) {
	dir := create(t)
	fill(t, dir, 20, trail.Options{})
	tr := open(t, dir, trail.Options{})
	done := make(chan struct{})
	go func() { // entries that race with the freezing
		defer close(done)
		for i := 0; ; i++ {
			if err := tr.Append(t.Context(), entry(fmt.Sprint("late-", i))); err != nil {
				if !errors.Is(err, trail.ErrFrozen) || !errors.Is(err, trail.ErrUnavailable) {
					t.Errorf("refused as %v", err)
				}
				return
			}
		}
	}()
	e := event("the-end")
	if err := tr.Freeze(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	<-done
	if err := tr.Freeze(t.Context(), event("twice")); !errors.Is(err, trail.ErrFrozen) {
		t.Errorf("twice: %v", err)
	}
	closeTrail(t, tr)
	r := verify(t, dir)
	if !r.Frozen || r.Size != e.Seq+1 || r.JournalSize != r.Size {
		t.Errorf("%+v", r)
	}
	// The clock is set, and the gateway started: not even the trail itself adds anything.
	tr = open(t, dir, trail.Options{Now: func() time.Time { return time.Now().Add(time.Hour) }})
	if !tr.Frozen() || tr.Ready() == nil {
		t.Error("it is not frozen any more")
	}
	if err := tr.Append(t.Context(), entry("late")); !errors.Is(err, trail.ErrFrozen) {
		t.Error(err)
	}
	if raw, err := tr.Get(t.Context(), 3); err != nil || len(raw) == 0 {
		t.Error("it cannot be read:", err)
	}
	closeTrail(t, tr)
	if again := verify(t, dir); again.Size != r.Size || again.Root != r.Root {
		t.Errorf("it went on: %+v", again)
	}
	if _, err := rotate(t, dir, "rotation", trail.Options{}); !errors.Is(err, trail.ErrFrozen) {
		t.Errorf("a key for a frozen log: %v", err)
	}
}

// TestFreezeFails: where the entry could not be written the log goes on.
func TestFreezeFails(t *testing.T) {
	dir := create(t)
	var mu sync.Mutex
	fail := false
	o := trail.Options{}
	o.SetFS(&durable.FS{Hook: func(op durable.Op) durable.Fault {
		mu.Lock()
		defer mu.Unlock()
		if fail && op.Kind == durable.OpWrite {
			fail = false
			return durable.Fault{Err: errors.New("EIO")}
		}
		return durable.Fault{}
	}})
	tr := open(t, dir, o)
	mu.Lock()
	fail = true
	mu.Unlock()
	if err := tr.Freeze(t.Context(), event("the-end")); !errors.Is(err, trail.ErrUnavailable) || errors.Is(err, trail.ErrFrozen) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for tr.Append(ctx, entry("goes-on")) != nil {
		if ctx.Err() != nil {
			t.Fatal("it does not go on")
		}
		time.Sleep(time.Millisecond)
	}
	closeTrail(t, tr)
	if r := verify(t, dir); r.Frozen {
		t.Errorf("%+v", r)
	}
}

// succeed makes a log that goes on from the one that r is of.
func succeed(t testing.TB, r *trail.Report) string {
	t.Helper()
	dir := create(t)
	p := trailgate.Predecessor{Origin: r.Origin, Key: r.Key, Checkpoint: r.Checkpoint, Size: r.Size, Root: r.Root, Frozen: r.Frozen}
	if r.JournalSize > r.Size {
		p.TailSize, p.TailRoot = r.JournalSize, r.JournalRoot
	}
	e := event("begin")
	e.Event.Action, e.Event.Target, e.Event.Detail = trailgate.ActionSucceed, p.Origin, p.Detail()
	tr := open(t, dir, trail.Options{})
	if err := tr.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	appendN(t, tr, 20)
	closeTrail(t, tr)
	return dir
}

// TestSuccessor: a log that goes on from another one holds it to where it ended.
func TestSuccessor(t *testing.T) {
	old := create(t)
	fill(t, old, 30, trail.Options{})
	grown := copyDir(t, old)
	tr := open(t, old, trail.Options{})
	if err := tr.Freeze(t.Context(), event("the-end")); err != nil {
		t.Fatal(err)
	}
	closeTrail(t, tr)
	fill(t, grown, 30, trail.Options{}) // another history of the same key
	dir := succeed(t, verify(t, old))
	r := verify(t, dir)
	if p := r.Predecessor; p == nil || p.Size != 31 || !p.Frozen || r.PredecessorGood {
		t.Fatalf("%+v", r)
	}
	check := func(o trail.VerifyOptions) error {
		r, err := trail.Verify(context.Background(), trail.VerifyOptions{Dir: dir, Predecessor: &o})
		if err == nil && !r.PredecessorGood {
			t.Error("not said to be good")
		}
		return err
	}
	for _, o := range []trail.VerifyOptions{{Dir: old}, {LogDir: filepath.Join(old, "log")}} {
		if err := check(o); err != nil {
			t.Error(err)
		}
	}
	changed := copyDir(t, old)
	flipByte(t, glob(t, filepath.Join(changed, "log/tile/entries/000.p/31"))[0], 700)
	for name, o := range map[string]trail.VerifyOptions{
		"another history": {Dir: grown}, "another log": {Dir: create(t)}, "changed": {Dir: changed},
	} {
		if _, ok := errors.AsType[*trail.TamperError](check(o)); !ok {
			t.Errorf("%s: not found", name)
		}
	}
	_, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: old, Predecessor: &trail.VerifyOptions{Dir: grown}})
	if tamper, ok := errors.AsType[*trail.TamperError](err); !ok || !strings.Contains(tamper.Reason, "does not say that it goes on") {
		t.Errorf("a log that succeeds none: %v", err)
	}
}

// TestSuccessorOfTail: the key is lost, so the newest entries are under no
// checkpoint; the successor vouches for them.
func TestSuccessorOfTail(t *testing.T) {
	old := create(t)
	fill(t, old, 30, trail.Options{})
	tr, err := trail.Open(t.Context(), old, trail.Options{CheckpointInterval: time.Hour, SegmentBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	appendN(t, tr, 20)
	tr.Kill()
	r := verify(t, old)
	if r.Size != 30 || r.JournalSize != 50 {
		t.Fatalf("%+v", r)
	}
	remove(t, filepath.Join(old, "log.key"))
	dir := succeed(t, r)
	if _, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir, Predecessor: &trail.VerifyOptions{Dir: old}}); err != nil {
		t.Error(err)
	}
	// Those entries cannot be cut off any more.
	for _, seg := range glob(t, filepath.Join(old, "journal", "*.seg")) {
		raw := read(t, seg)
		if i := strings.Index(string(raw), "SELECT"); i > 0 {
			clear(raw[len(raw)/100:])
			write(t, seg, raw)
		}
	}
	_, err = trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir, Predecessor: &trail.VerifyOptions{Dir: old}})
	if _, ok := errors.AsType[*trail.TamperError](err); !ok {
		t.Errorf("a tail that was cut: %v", err)
	}
}

// TestLifeEntries: what a log says of itself must be in its place.
func TestLifeEntries(t *testing.T) {
	r := verify(t, create(t))
	for name, change := range map[string]func(*trailgate.Entry){
		"a successor's beginning in the middle": func(e *trailgate.Entry) { e.Event.Action = trailgate.ActionSucceed },
		"an end in the middle":                  func(e *trailgate.Entry) { e.Event.Action = trailgate.ActionFreeze },
		"a key that nothing proves": func(e *trailgate.Entry) {
			e.Event.Action, e.Event.Target = trailgate.ActionRotateKey, r.Key
			e.Event.Target = strings.Replace(r.Key, "+", "+0", 1)
		},
	} {
		dir := create(t)
		tr := open(t, dir, trail.Options{})
		appendN(t, tr, 3)
		e := event("odd")
		change(e)
		if err := tr.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		appendN(t, tr, 3)
		closeTrail(t, tr)
		_, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir})
		if tamper, ok := errors.AsType[*trail.TamperError](err); !ok || tamper.Seq < 3 || tamper.Seq > 4 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func move(t testing.TB, dir, to string, o trail.Options) (*trail.Report, error) {
	t.Helper()
	o.SegmentBytes, o.CheckpointInterval = 256<<10, 50*time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return trail.Move(ctx, dir, to, o, event("move"), nil)
}

// TestMove: the log goes on in one place, which has all of it.
func TestMove(t *testing.T) {
	dir := create(t)
	fill(t, dir, 300, trail.Options{})
	before := keep(t, verify(t, dir))
	to := filepath.Join(t.TempDir(), "new")
	r, err := move(t, dir, to, trail.Options{})
	if err != nil || r.Size != 301 {
		t.Fatalf("%v %+v", err, r)
	}
	if _, err := trail.Open(t.Context(), dir, trail.Options{}); !errors.Is(err, trail.ErrMissing) || !strings.Contains(err.Error(), "was moved") {
		t.Errorf("the old place: %v", err)
	}
	fill(t, to, 10, trail.Options{})
	if _, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: to, Head: before}); err != nil {
		t.Error(err)
	}
	if _, err := move(t, dir, to, trail.Options{}); !errors.Is(err, trail.ErrExists) {
		t.Errorf("twice: %v", err)
	}
	if _, err := move(t, dir, to+"-2", trail.Options{}); err == nil {
		t.Error("from a place that it has left")
	}
}

// TestMoveCrash stops a move at each of its own steps, and runs it again: there is
// never more than one place that opens, and in the end there is one.
func TestMoveCrash(t *testing.T) {
	base := create(t)
	fill(t, base, 10, trail.Options{})
	boom := errors.New("the disk is gone")
	for n, done := 0, false; !done; n++ {
		for _, apply := range []bool{false, true} {
			dir, to := copyDir(t, base), filepath.Join(t.TempDir(), "new")
			var mu sync.Mutex
			seen, dead := 0, false
			o := trail.Options{}
			o.SetFS(&durable.FS{Hook: func(op durable.Op) durable.Fault {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case dead:
					return durable.Fault{Err: boom}
				case !strings.HasPrefix(op.Path, to) && !strings.HasSuffix(op.Path, "log.key") && op.Path != dir && op.Path != filepath.Dir(to):
					return durable.Fault{}
				}
				if seen++; seen > n {
					dead = true
					return durable.Fault{Err: boom, Apply: apply}
				}
				return durable.Fault{}
			}})
			_, err := move(t, dir, to, o)
			mu.Lock()
			done = !dead
			mu.Unlock()
			if done != (err == nil) {
				t.Fatalf("operation %d, applied %t: %v", n, apply, err)
			}
			if done {
				t.Log(n, "operations")
				break
			}
			if n%5 != 0 && testing.Short() {
				continue
			}
			places := 0
			for _, place := range []string{dir, to} {
				if tr, err := trail.Open(t.Context(), place, trail.Options{SegmentBytes: 256 << 10}); err == nil {
					places++
					closeTrail(t, tr)
				}
			}
			if places > 1 {
				t.Fatalf("operation %d, applied %t: it opens in both places", n, apply)
			}
			if _, err := move(t, dir, to, trail.Options{}); err != nil && !errors.Is(err, trail.ErrExists) {
				t.Fatalf("operation %d, applied %t: again: %v", n, apply, err)
			}
			fill(t, to, 3, trail.Options{})
			verify(t, to)
		}
	}
}
