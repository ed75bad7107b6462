package trail

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

var (
	// ErrFrozen is the [ErrUnavailable] of a log whose last entry says that none
	// comes after it. It can be read, and goes on in a successor only.
	ErrFrozen = fmt.Errorf("%w: the log is frozen", ErrUnavailable)
	// ErrInterrupted means that a change of the log's key was begun and not
	// completed; [RotateKey] completes it.
	ErrInterrupted = errors.New("a change of the log's key was interrupted")
)

// nextKeyFile is the key to which the log is about to go over. While it is there
// the trail does not open.
const nextKeyFile = "log.key.next"

// isFreeze reports whether an entry says that none comes after it.
func isFreeze(raw []byte) bool {
	if !bytes.Contains(raw, []byte(`{"action":"`+trailgate.ActionFreeze+`"`)) {
		return false // that text stands in no string, where quotes are escaped
	}
	e, err := trailgate.Decode(raw)
	return err == nil && e.Kind == trailgate.KindAdmin && e.Event.Action == trailgate.ActionFreeze
}

// Frozen reports whether the log's last entry says that none comes after it.
func (t *Trail) Frozen() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.frozen != nil
}

// Freeze makes e, an entry of [trailgate.ActionFreeze], the log's last one. Then
// close the trail, which publishes the final checkpoint.
//
// An error that is not about the wait for the disk means that nothing came of it.
func (t *Trail) Freeze(ctx context.Context, e *trailgate.Entry) error {
	e.Kind = trailgate.KindAdmin
	e.Event.Action = trailgate.ActionFreeze
	return t.append(ctx, e, func(s *staged) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		if err := t.refusalLocked(); err != nil {
			return err
		}
		// What was staged before goes before it; nothing is staged after, not even by
		// the trail itself.
		t.frozen = ErrFrozen
		s.freezes = true
		t.staged = append(t.staged, s)
		t.stagedBytes += int64(s.draft.Len())
		t.wakeCommitter()
		return nil
	})
	// On disk now, without error: the entry. A crash here leaves a log that is frozen:
	// the next Open finds the entry last, takes no more, and publishes the checkpoint
	// over it. Before, a log that goes on as if nothing had been asked.
}

// RotateKey gives the log in dir another key, and returns its verifier key. The
// old key's last act is a checkpoint over e, which names the new one; so whoever
// trusts the old key can follow. E needs an id and who did it; the rest is set
// here. No gateway may be running on dir.
//
// Killed anywhere, it leaves a trail that [Open] opens as it was, or refuses with
// [ErrInterrupted]; calling RotateKey again completes it.
func RotateKey(ctx context.Context, dir string, o Options, e *trailgate.Entry) (vkey string, err error) {
	if err := o.setDefaults(); err != nil {
		return "", err
	}
	r := &rotation{dir: dir, fs: o.hooks.fs}
	if err := r.prepare(); err != nil {
		return "", fmt.Errorf("rotate key: %w", err)
	}
	if err := r.complete(ctx, o, e); err != nil {
		return "", fmt.Errorf("rotate key: %w", err)
	}
	return r.next, nil
}

type rotation struct {
	dir, next string // next is the new verifier key
	signer    note.Signer
	fs        *durable.FS
}

func (r *rotation) path(name string) string { return filepath.Join(r.dir, name) }

// prepare makes the new key, or takes up the one that an interrupted run made.
func (r *rotation) prepare() error {
	_, key, err := readVerifier(r.path(pubFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(r.path(nextKeyFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		lock, lerr := durable.Lock(filepath.Join(r.dir, journalDir, lockFile))
		if lerr != nil {
			if errors.Is(lerr, durable.ErrLocked) {
				return fmt.Errorf("%w: %s (stop the gateway first)", ErrLocked, r.dir)
			}
			return lerr
		}
		defer lock.Close() //nolint:errcheck // released in any case
		var skey string
		if skey, _, err = note.GenerateKey(rand.Reader, key.Name()); err != nil {
			return err
		}
		raw = []byte(skey + "\n")
		if err := r.fs.WriteFile(r.path(nextKeyFile), raw, 0o600); err != nil {
			return err
		}
		// On disk now: a key that signed nothing. A crash here makes Open refuse until
		// RotateKey is run again, or the file removed.
	case err != nil:
		return err
	}
	skey := strings.TrimSpace(string(raw))
	if r.signer, err = note.NewSigner(skey); err != nil {
		return fmt.Errorf("%s: %w", r.path(nextKeyFile), err)
	}
	if r.signer.Name() != key.Name() {
		return fmt.Errorf("%w: %s is for %s", ErrForeign, r.path(nextKeyFile), r.signer.Name())
	}
	r.next, err = verifierOf(skey)
	return err
}

// complete does what is left to do.
func (r *rotation) complete(ctx context.Context, o Options, e *trailgate.Entry) error {
	vkey, _, err := readVerifier(r.path(pubFile))
	if err != nil {
		return err
	}
	if vkey == r.next {
		return r.replaceKey()
	}
	chain, err := readKeychain(r.dir, vkey)
	if err != nil {
		return err
	}
	if chain.Current() != r.next {
		if err := r.record(ctx, o, vkey, e); err != nil {
			return err
		}
	}
	lock, err := durable.Lock(filepath.Join(r.dir, journalDir, lockFile))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	defer lock.Close() //nolint:errcheck // released in any case
	if err := r.countersign(vkey); err != nil {
		return err
	}
	if err := r.fs.WriteFile(r.path(pubFile), []byte(r.next+"\n"), 0o644); err != nil {
		return err
	}
	// On disk now: the new public key beside the old secret one. Open sees log.key.next
	// and refuses; RotateKey goes on here.
	return r.replaceKey()
}

// replaceKey is the last step; the old key is gone after it.
func (r *rotation) replaceKey() error {
	if err := r.fs.Rename(r.path(nextKeyFile), r.path(keyFile)); err != nil {
		return err
	}
	return r.fs.SyncDir(r.dir)
}

// lookForRotation bounds how far from the log's end an interrupted run's entry is
// looked for: no gateway ran since.
const lookForRotation = 1024

// record has the old key sign for the entry that names the new one, and writes
// the proof of it down.
func (r *rotation) record(ctx context.Context, o Options, vkey string, e *trailgate.Entry) error {
	o.rotating = true
	t, err := Open(ctx, r.dir, o)
	if err != nil {
		return err
	}
	seq, err := r.recordIn(ctx, t, vkey, e)
	// Close publishes a checkpoint over all entries, the old key's last one.
	if err = errors.Join(err, t.Close(ctx)); err != nil {
		return err
	}
	cp, err := t.Checkpoint()
	if err != nil {
		return err
	}
	path, err := tlog.ProveRecord(int64(cp.Size), int64(seq), tlog.TileHashReader(tlog.Tree{N: int64(cp.Size), Hash: cp.Root}, t.tiles))
	if err != nil {
		return err
	}
	raw, err := t.fromBundle(seq, cp.Size)
	if err != nil {
		return err
	}
	p := trailgate.Proof{Entry: raw, Index: seq, Checkpoint: string(cp.Raw)}
	for i := range path {
		p.Hashes = append(p.Hashes, path[i][:])
	}
	line, err := json.Marshal(p)
	if err != nil {
		return err
	}
	file := filepath.Join(r.dir, logDir, rotationsFile)
	all, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all = append(append(all, line...), '\n')
	list, err := trailgate.ParseRotations(all)
	if err == nil {
		_, err = trailgate.NewKeychain(vkey, list)
	}
	if err != nil {
		return fmt.Errorf("the proof that was made does not hold: %w", err)
	}
	return r.fs.WriteFile(file, all, 0o644)
	// On disk now: who trusts the old key can find the new one. The log's checkpoint is
	// still signed by the old one alone; RotateKey goes on from here after a crash.
}

// recordIn appends the entry, unless an interrupted run has.
func (r *rotation) recordIn(ctx context.Context, t *Trail, vkey string, e *trailgate.Entry) (seq uint64, err error) {
	size := t.Size()
	err = t.Scan(ctx, size-min(size, lookForRotation), func(at uint64, raw []byte) error {
		if !bytes.Contains(raw, []byte(`{"action":"`+trailgate.ActionRotateKey+`"`)) {
			return nil
		}
		found, err := trailgate.Decode(raw)
		if err == nil && found.Kind == trailgate.KindAdmin && found.Event.Target == r.next {
			seq, e = at, nil
		}
		return err
	})
	if err != nil || e == nil {
		return seq, err
	}
	e.Kind = trailgate.KindAdmin
	e.Event.Action, e.Event.Target = trailgate.ActionRotateKey, r.next
	if e.Event.Detail == nil {
		e.Event.Detail = map[string]string{}
	}
	e.Event.Detail["previous"] = vkey
	err = t.Append(ctx, e)
	// On disk now: the entry. A crash here is found by the next run, which takes this
	// entry and goes on.
	return e.Seq, err
}

// countersign adds the new key's signature to the log's checkpoint: now who
// trusts either key takes it.
func (r *rotation) countersign(vkey string) error {
	old, err := note.NewVerifier(vkey)
	if err != nil {
		return err
	}
	path := filepath.Join(r.dir, logDir, cpFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	n, err := note.Open(raw, note.VerifierList(old))
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrForeign, path, err)
	}
	if raw, err = note.Sign(n, r.signer); err != nil {
		return err
	}
	if err := r.fs.WriteFile(path, raw, 0o644); err != nil {
		return err
	}
	return r.fs.WriteFile(filepath.Join(r.dir, headDir, cpFile), raw, 0o600)
	// On disk now: both checkpoints, signed by both keys. A crash between or after: the
	// old key still is the one in log.pub, and both fit it.
}

// verifierOf is the verifier key of a signer key (https://c2sp.org/signed-note):
// "PRIVATE+KEY+<name>+<hash>+<base64 of the algorithm and the seed>".
func verifierOf(skey string) (string, error) {
	signer, err := note.NewSigner(skey)
	if err != nil {
		return "", err
	}
	parts := strings.SplitN(skey, "+", 5) // the base64 may hold a plus, the name none
	seed, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return "", errors.New("not an Ed25519 key")
	}
	public, ok := ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return "", errors.New("not an Ed25519 key")
	}
	return note.NewEd25519VerifierKey(signer.Name(), public)
}
