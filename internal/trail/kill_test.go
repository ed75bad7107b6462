package trail_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/trail"
)

const (
	childEnv = "TRAILGATE_TRAIL_CHILD" // a data directory: append to it until killed
	killsEnv = "TRAILGATE_TRAIL_KILLS" // how many times TestSIGKILL kills; default 20
)

func TestMain(m *testing.M) {
	trail.RedirectTesseraLogs(slog.New(slog.DiscardHandler))
	if dir := os.Getenv(childEnv); dir != "" {
		fmt.Fprintln(os.Stderr, appendUntilKilled(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// appendUntilKilled appends from many goroutines, and prints each entry's
// number and id once it is acknowledged.
func appendUntilKilled(dir string) error {
	tr, err := trail.Open(context.Background(), dir, trail.Options{
		CheckpointInterval: 50 * time.Millisecond, SegmentBytes: 256 << 10, BatchMaxSize: 512,
	})
	if err != nil {
		return err
	}
	errs := make(chan error)
	for w := range 16 {
		go func() {
			for i := 0; ; i++ {
				e := entry(fmt.Sprintf("p%d-w%d-%d", os.Getpid(), w, i))
				if err := tr.Append(context.Background(), e); err != nil {
					errs <- err
					return
				}
				// One write, so that a kill leaves whole lines.
				if _, err := fmt.Printf("%d %s\n", e.Seq, e.ID); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

// TestSIGKILL kills a process that appends, at random moments, and checks each
// time that every acknowledged entry is there, in its place, and that the log
// verifies, before the next process goes on.
func TestSIGKILL(t *testing.T) {
	kills := 20
	if testing.Short() {
		kills = 3
	}
	if s := os.Getenv(killsEnv); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	dir := create(t)
	var l ledger
	l.acked = map[uint64]string{}
	for kill := range kills {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var once sync.Once
		lines := bufio.NewScanner(out)
		before := len(l.acked)
		for lines.Scan() {
			once.Do(func() { // the clock starts when it works
				time.AfterFunc(time.Duration(rand.IntN(150))*time.Millisecond, func() { _ = cmd.Process.Kill() })
			})
			var seq uint64
			var id string
			if _, err := fmt.Sscanf(lines.Text(), "%d %s", &seq, &id); err != nil {
				t.Fatalf("%q: %v", lines.Text(), err)
			}
			if other, ok := l.acked[seq]; ok {
				t.Fatalf("kill %d: %s and %s share number %d", kill, other, id, seq)
			}
			l.acked[seq] = id
		}
		_ = cmd.Wait() // killed
		if len(l.acked) == before {
			t.Fatalf("kill %d: the process did not work", kill)
		}
		r, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir})
		if err != nil {
			t.Fatalf("kill %d: %v", kill, err)
		}
		if r.JournalSize < uint64(len(l.acked)) {
			t.Fatalf("kill %d: %d entries, %d acknowledged", kill, r.JournalSize, len(l.acked))
		}
	}
	tr := open(t, dir, trail.Options{})
	l.check(t, tr)
	closeTrail(t, tr)
	r := verify(t, dir)
	t.Logf("%d kills, %d entries acknowledged, %d found", kills, len(l.acked), r.Size)
}
