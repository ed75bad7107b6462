package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

// What lies in a witness's directory.
const (
	keyFile     = "witness.key" // private, mode 0600
	pubFile     = "witness.pub" // the verifier key, for policies
	knownFile   = "known"       // the origins that were ever cosigned, one a line
	stateDir    = "state"       // by LogID: the checkpoint that was cosigned last
	evidenceDir = "evidence"
	lockFile    = "lock"
)

// Errors of [Init] and [Open].
var (
	// ErrExists means that there is a witness already.
	ErrExists = errors.New("there is a witness here already")
	// ErrMemory means that what the witness cosigned is not all there any more. It must
	// not go on: it could contradict itself.
	ErrMemory = errors.New("the witness's memory is not whole")
)

// Init makes a witness's directory with a new key and an empty memory, and
// returns the verifier key. Name is the key's name, as C2SP has it a URL without
// its scheme, such as "witness.example.com/w1".
func Init(dir, name string) (vkey string, err error) {
	c, err := trailgate.GenerateCosigner(name)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make a witness: %w", err)
	}
	for _, name := range []string{keyFile, pubFile, knownFile, stateDir} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%w: %s", ErrExists, filepath.Join(dir, name))
		}
	}
	fsys := &durable.FS{}
	vkey = c.Verifier().String()
	for _, step := range []func() error{
		func() error { return fsys.Mkdir(filepath.Join(dir, stateDir), 0o700) },
		func() error { return fsys.Mkdir(filepath.Join(dir, evidenceDir), 0o700) },
		func() error { return fsys.WriteFile(filepath.Join(dir, knownFile), nil, 0o600) },
		func() error { return fsys.WriteFile(filepath.Join(dir, pubFile), []byte(vkey+"\n"), 0o644) },
		// The key comes last: a directory without it is no witness, and nobody has its vkey.
		func() error { return fsys.WriteFile(filepath.Join(dir, keyFile), []byte(c.PrivateKey()+"\n"), 0o600) },
	} {
		if err := step(); err != nil {
			return "", fmt.Errorf("make a witness: %w", err)
		}
	}
	return vkey, nil
}

// Options of [Open].
type Options struct {
	Dir string
	// Logs are the keys of the logs to cosign for. Each key's name is its log's origin;
	// a log may have several.
	Logs []note.Verifier
	Log  *slog.Logger     // Optional.
	Now  func() time.Time // Optional.
	FS   *durable.FS      // Optional; for tests.
}

// Witness cosigns. It is safe for concurrent use.
type Witness struct {
	dir  string
	key  *trailgate.Cosigner
	log  *slog.Logger
	now  func() time.Time
	fs   *durable.FS
	lock io.Closer
	logs map[string]*witnessed // by origin; the map does not change

	knownMu sync.Mutex // guards the file of that name, and known
	known   []string
}

// witnessed is one log, as a witness knows it.
type witnessed struct {
	origin string
	keys   []note.Verifier

	mu   sync.Mutex            // held from the check of the old size until the new one is on disk; guards all below
	last *trailgate.Checkpoint // that was cosigned; nil: none yet
	// unsure: a write has failed, so the disk may hold last or what was to follow it.
	unsure bool
}

// Open opens a witness that [Init] made. It fails with [ErrMemory] where anything
// that it cosigned is gone.
func Open(o Options) (_ *Witness, err error) {
	w := &Witness{dir: o.Dir, log: o.Log, now: o.Now, fs: o.FS, logs: map[string]*witnessed{}}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if w.now == nil {
		w.now = time.Now
	}
	if w.fs == nil {
		w.fs = &durable.FS{}
	}
	raw, err := os.ReadFile(w.path(keyFile))
	if err != nil {
		return nil, fmt.Errorf("open witness: %w", err)
	}
	if w.key, err = trailgate.NewCosigner(string(raw)); err != nil {
		return nil, fmt.Errorf("open witness: %s: %w", w.path(keyFile), err)
	}
	if w.lock, err = durable.Lock(w.path(lockFile)); err != nil {
		return nil, fmt.Errorf("open witness: %s: %w", w.dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.lock.Close())
		}
	}()
	if err := w.load(o.Logs); err != nil {
		return nil, fmt.Errorf("open witness: %w", err)
	}
	return w, nil
}

func (w *Witness) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

// load reads the memory. Logs that were cosigned once and are not configured any
// more must be remembered, too: they may come back.
func (w *Witness) load(keys []note.Verifier) error {
	raw, err := os.ReadFile(w.path(knownFile))
	if err != nil {
		return fmt.Errorf("%w: %w (restore it from a backup that is not older than the last cosignature, or retire this key and make a new witness)", ErrMemory, err)
	}
	w.known = strings.Fields(string(raw))
	for _, k := range keys {
		l := w.logs[k.Name()]
		if l == nil {
			l = &witnessed{origin: k.Name()}
			w.logs[k.Name()] = l
		}
		if !slices.ContainsFunc(l.keys, func(o note.Verifier) bool { return o.KeyHash() == k.KeyHash() }) {
			l.keys = append(l.keys, k)
		}
	}
	for _, origin := range w.known {
		last, err := w.readState(origin)
		if err != nil {
			return fmt.Errorf("%w: log %s: %w (restore it from a backup that is not older than the last cosignature, or retire this key and make a new witness)", ErrMemory, origin, err)
		}
		if l := w.logs[origin]; l != nil {
			l.last = last
		}
	}
	return nil
}

// readState reads what was cosigned last of a log's. Its own cosignature is what
// makes a witness trust its memory.
func (w *Witness) readState(origin string) (*trailgate.Checkpoint, error) {
	path := w.path(stateDir, LogID(origin))
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	n, err := note.Open(raw, note.VerifierList(w.key.Verifier()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	cp, err := trailgate.ParseCheckpoint([]byte(n.Text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if cp.Origin != origin {
		return nil, fmt.Errorf("%s: it is of log %q", path, cp.Origin)
	}
	cp.Raw = raw
	return cp, nil
}

// Key is the witness's verifier key.
func (w *Witness) Key() string { return w.key.Verifier().String() }

// Origins are the logs that the witness cosigns for, in order.
func (w *Witness) Origins() []string {
	var origins []string
	for o := range w.logs {
		origins = append(origins, o)
	}
	slices.Sort(origins)
	return origins
}

// Close gives the directory back. Calls of Add MUST have ended.
func (w *Witness) Close() error { return w.lock.Close() }

// refusal is why a checkpoint is not cosigned, as HTTP has it.
type refusal struct {
	status int
	why    string
	// With status 409 for a wrong old size: what was cosigned last, which the answer tells.
	wrongOld bool
	size     uint64
}

func (r *refusal) Error() string { return r.why }

// add does one add-checkpoint call: it returns the line of the cosignature, or
// a *refusal, or what went wrong with the disk.
func (w *Witness) add(ctx context.Context, r *request) ([]byte, error) {
	l, cp, err := w.open(r.checkpoint)
	if err != nil {
		return nil, err
	}
	if r.old > cp.Size {
		return nil, &refusal{status: 400, why: fmt.Sprintf("the old size, %d, is larger than the checkpoint's, %d", r.old, cp.Size)}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unsure {
		if err := w.settle(l); err != nil {
			return nil, err
		}
	}
	held, root := uint64(0), emptyRoot
	if l.last != nil {
		held, root = l.last.Size, l.last.Root
	}
	if r.old != held {
		return nil, &refusal{status: 409, wrongOld: true, size: held, why: fmt.Sprintf("%d entries were cosigned last", held)}
	}
	if err := checkGrowth(r.proof, held, root, cp.Size, cp.Root); err != nil {
		status := 422
		if held == cp.Size && root != cp.Root {
			status = 409
		}
		if l.last != nil || status == 409 {
			w.evidence(ctx, l, cp, r, err.Error())
		}
		return nil, &refusal{status: status, why: err.Error()}
	}
	return w.cosign(l, cp)
}

// open finds the log that a checkpoint is of, and checks that it signed it.
func (w *Witness) open(raw []byte) (*witnessed, *trailgate.Checkpoint, error) {
	origin, _, _ := bytes.Cut(raw, []byte("\n"))
	l := w.logs[string(origin)]
	if l == nil {
		return nil, nil, &refusal{status: 404, why: fmt.Sprintf("log %.100q is not one of mine", origin)}
	}
	err := errors.New("no key")
	for _, k := range l.keys {
		var cp *trailgate.Checkpoint
		if cp, err = trailgate.OpenCheckpoint(raw, k); err == nil {
			return l, cp, nil
		}
	}
	return nil, nil, &refusal{status: 403, why: "the log did not sign the checkpoint: " + err.Error()}
}

// cosign remembers a checkpoint and cosigns it. The lock of l is held.
func (w *Witness) cosign(l *witnessed, cp *trailgate.Checkpoint) ([]byte, error) {
	// Of the lines that came with it, the log's own alone are kept. Others are under no
	// signature: anybody can add some, such as a false one in this witness's name, or as
	// many as a note may have, with which the memory could not be read any more.
	n, err := note.Open(cp.Raw, note.VerifierList(l.keys...))
	if err != nil {
		return nil, err
	}
	kept, err := note.Sign(&note.Note{Text: n.Text, Sigs: n.Sigs})
	if err != nil {
		return nil, err
	}
	remember, err := note.Sign(&note.Note{Text: n.Text, Sigs: n.Sigs}, at{w.key, w.now()})
	if err != nil {
		return nil, err
	}
	line := remember[len(kept):]
	if l.last != nil && l.last.Size == cp.Size {
		return line, nil // the same tree, which the disk has: only the time is new
	}
	if err := w.remember(l, remember); err != nil {
		l.unsure = true
		return nil, fmt.Errorf("remember the checkpoint: %w", err)
	}
	// On disk now: the new checkpoint. A crash here has it remembered and the
	// cosignature lost; the log asks again, hears the size, and gets another one. The
	// other order would let a cosignature out that a crash makes the witness forget.
	remembered := *cp
	remembered.Raw = remember
	l.last = &remembered
	return line, nil
}

// at is a cosigner with the witness's clock.
type at struct {
	*trailgate.Cosigner
	now time.Time
}

// Sign is [note.Signer]'s.
func (a at) Sign(text []byte) ([]byte, error) { return a.SignAt(text, a.now) }

func (w *Witness) remember(l *witnessed, raw []byte) error {
	// The state comes before the name in "known": a name there without a state is
	// memory lost, and stops the witness. A state that nobody names is of a first
	// checkpoint whose cosignature never left.
	if err := w.fs.WriteFile(w.path(stateDir, LogID(l.origin)), raw, 0o600); err != nil {
		return err
	}
	w.knownMu.Lock()
	defer w.knownMu.Unlock()
	if slices.Contains(w.known, l.origin) {
		return nil
	}
	known := append(slices.Clone(w.known), l.origin)
	slices.Sort(known)
	if err := w.fs.WriteFile(w.path(knownFile), []byte(strings.Join(known, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	w.known = known
	return nil
}

// settle finds out what a failed write left, and makes it durable before
// anything builds upon it. The lock of l is held.
func (w *Witness) settle(l *witnessed) error {
	last, err := w.readState(l.origin)
	switch {
	case errors.Is(err, fs.ErrNotExist) && l.last == nil:
	case err != nil:
		return fmt.Errorf("%w: %w", ErrMemory, err)
	default:
		if l.last != nil && last.Size < l.last.Size {
			return fmt.Errorf("%w: %d entries of %s were cosigned, the disk says %d", ErrMemory, l.last.Size, l.origin, last.Size)
		}
		if err := w.remember(l, last.Raw); err != nil {
			return fmt.Errorf("remember the checkpoint: %w", err)
		}
		l.last = last
	}
	l.unsure = false
	return nil
}

// Last is what was cosigned last of the log with that [LogID], signatures
// and all, nil if nothing was.
func (w *Witness) Last(id string) []byte {
	for origin, l := range w.logs {
		if LogID(origin) == id {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.last != nil {
				return l.last.Raw
			}
		}
	}
	return nil
}
