package trail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"k8s.io/klog/v2"
)

// integrator is the tiled log as the sequencer sees it. The one real
// implementation is tesseraLog; tests put faults in front of it.
//
// Calls come from one goroutine, one at a time.
type integrator interface {
	// integrate adds entries to the log at index from and returns when they are
	// durable there. After an error any number of them may be: size tells.
	integrate(from uint64, entries [][]byte) error
	// size is how many entries the log's tree has.
	size() (uint64, error)
	// checkpoint signs a tree head, and has it cosigned if witnesses are configured.
	checkpoint(ctx context.Context, size uint64, root tlog.Hash) ([]byte, error)
}

// errIndex means that Tessera put an entry where it does not belong. It cannot
// be repaired: the trail stops.
var errIndex = errors.New("the log gave an entry another index than its sequence number")

// tesseraLog drives Tessera's POSIX storage (v1.0.4). What its source says, and
// what this type does about it:
//
//   - Its queue flushes on age, too. Two flushes of which the first fails and
//     the second does not would put entries under wrong indexes for good. So
//     each batch gets an appender of its own, whose batch size is exactly the
//     batch and whose age limit is never reached: one flush, all or nothing.
//     (An appender costs some 0.1 ms, a batch tens of milliseconds.)
//   - Everything is sequenced and integrated in that flush; the rename of
//     .state/treeState is the one point at which it takes effect. An entry that
//     was accepted, but whose flush did not come so far, is nowhere: it is fed
//     again, to the same index, from the journal. Bundles and tiles that such a
//     flush did write are overwritten with the same bytes.
//   - An error may come after that rename (its directory sync). So size is asked
//     anew after each error, never assumed.
//   - Futures ignore ctx, and never resolve once the appender's context ends
//     before the flush. So that context ends only after all futures resolved.
//   - Publication runs in goroutines that nobody can wait for, and is skipped
//     while the last checkpoint's mtime lies ahead of the clock. So Tessera is
//     never allowed to publish (its signer refuses); the sequencer does, in
//     order, with the signer in [tesseraLog.checkpoint].
//   - Its garbage collection runs likewise, at most 101 bundles a turn, and
//     rewrites a state file each turn. It is off; the sequencer removes
//     superseded partial tiles itself.
//
// BUG: Tessera panics, in a goroutine of its own, if it cannot open its lock
// file: on a file system remounted read-only, or when the process is out of
// file descriptors. The probe that each new appender makes in our goroutine
// turns nearly all of these into errors; one that begins within the flush ends
// the process. What was acknowledged is safe in the journal.
type tesseraLog struct {
	dir    string
	driver tessera.Driver
	signer note.Signer
}

func newTesseraLog(dir string, signer note.Signer) (*tesseraLog, error) {
	catchTesseraLogs()
	driver, err := posix.New(context.Background(), posix.Config{Path: dir})
	if err != nil {
		return nil, fmt.Errorf("tessera: %w", err)
	}
	return &tesseraLog{dir: dir, driver: driver, signer: signer}, nil
}

// silentSigner has a signer's name and signs nothing.
type silentSigner struct{ note.Signer }

func (silentSigner) Sign([]byte) ([]byte, error) {
	return nil, errors.New("only the sequencer signs checkpoints")
}

// never is longer than any log lives. (Tessera compares ages with it.)
const never = time.Duration(math.MaxInt64)

func appendOptions(signer note.Signer, batch int) *tessera.AppendOptions {
	return tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithBatching(uint(batch), never).
		WithCheckpointInterval(never).
		WithCheckpointRepublishInterval(0).
		WithGarbageCollectionInterval(0)
}

// appender makes an appender for one batch. Tessera panics where it cannot
// take its lock; here that is an error.
func (l *tesseraLog) appender(ctx context.Context, signer note.Signer, batch int) (a *tessera.Appender, r tessera.LogReader, err error) {
	defer func() {
		if p := recover(); p != nil {
			a, r, err = nil, nil, fmt.Errorf("tessera: %v", p)
		}
	}()
	a, _, r, err = tessera.NewAppender(ctx, l.driver, appendOptions(signer, batch))
	if err != nil {
		return nil, nil, fmt.Errorf("tessera: %w", err)
	}
	return a, r, nil
}

// create makes an empty log with a signed checkpoint.
func (l *tesseraLog) create() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, _, err := l.appender(ctx, l.signer, 1)
	return err
}

func (l *tesseraLog) integrate(from uint64, entries [][]byte) error {
	if len(entries) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // after the last future: nothing waits for this appender's goroutines, and none has work
	a, r, err := l.appender(ctx, silentSigner{l.signer}, len(entries))
	if err != nil {
		return err
	}
	size, err := r.IntegratedSize(ctx)
	if err != nil {
		return fmt.Errorf("tessera: %w", err)
	}
	if size != from {
		return fmt.Errorf("%w: its size is %d, the next entry is %d", errIndex, size, from)
	}
	futures := make([]tessera.IndexFuture, len(entries))
	for i, raw := range entries {
		futures[i] = a.Add(ctx, tessera.NewEntry(raw)) // the last of these starts the flush
	}
	var errs error
	for i, f := range futures {
		idx, err := f()
		if err != nil {
			errs = err // the same for all of them
			continue
		}
		if want := from + uint64(i); idx.Index != want || idx.IsDup {
			return fmt.Errorf("%w: entry %d got %d", errIndex, want, idx.Index)
		}
	}
	if errs != nil {
		return fmt.Errorf("tessera: %w", errs)
	}
	return nil
}

func (l *tesseraLog) stateFile() string { return filepath.Join(l.dir, ".state", "treeState") }

func (l *tesseraLog) size() (uint64, error) {
	// Tessera would begin a new log where this file is missing.
	if _, err := os.Stat(l.stateFile()); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, r, err := l.appender(ctx, silentSigner{l.signer}, 1)
	if err != nil {
		return 0, err
	}
	return r.IntegratedSize(ctx)
}

func (l *tesseraLog) checkpoint(ctx context.Context, size uint64, root tlog.Hash) ([]byte, error) {
	rctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, r, err := l.appender(rctx, silentSigner{l.signer}, 1)
	if err != nil {
		return nil, err
	}
	publish := appendOptions(l.signer, 1).CheckpointPublisher(r, http.DefaultClient)
	return publish(ctx, size, root[:])
}

// tesseraLogs is where Tessera's messages go now: nowhere named, to slog's default.
var tesseraLogs struct {
	once sync.Once
	to   atomic.Pointer[slog.Logger]
}

// RedirectTesseraLogs sends what Tessera says through klog, a logger for the
// whole process, to l, from now on. Without it such messages go to slog's default
// logger.
func RedirectTesseraLogs(l *slog.Logger) {
	tesseraLogs.to.Store(l)
	catchTesseraLogs()
}

// catchTesseraLogs comes before any of Tessera's goroutines. klog's own setter must
// never be called again: klog reads its logger without a lock, and goroutines of an
// appender that is done with may still be about to say something.
func catchTesseraLogs() {
	tesseraLogs.once.Do(func() { klog.SetSlogLogger(slog.New(tesseraHandler{})) })
}

// tesseraHandler hands on to whatever logger there is when something is said.
type tesseraHandler struct{}

func (tesseraHandler) now() slog.Handler {
	if l := tesseraLogs.to.Load(); l != nil {
		return l.Handler()
	}
	return slog.Default().Handler()
}

func (h tesseraHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.now().Enabled(ctx, level)
}

func (h tesseraHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.now().Handle(ctx, r)
}

func (h tesseraHandler) WithAttrs(attrs []slog.Attr) slog.Handler { return h.now().WithAttrs(attrs) }

func (h tesseraHandler) WithGroup(name string) slog.Handler { return h.now().WithGroup(name) }
