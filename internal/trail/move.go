package trail

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

const (
	// movedKeyFile is what the key is called where a log was: without log.key no trail
	// opens, so that the log goes on in one place only.
	movedKeyFile = "log.key.moved"
	movingSuffix = ".moving"
)

// Move moves a data directory, to another disk if need be: the log notes where it
// goes in e, everything is copied and synced, the copy is verified, and only then
// the key is taken away from the old place, which otherwise stays as it is. No
// gateway may be running on dir, and nothing may be at to.
//
// Killed anywhere, it leaves one place at most that opens; calling it again, with
// the same place, completes the move.
func Move(ctx context.Context, dir, to string, o Options, e *trailgate.Entry, progress func(done, total uint64)) (*Report, error) {
	r, err := move(ctx, dir, to, o, e, progress)
	if err != nil {
		return nil, fmt.Errorf("move log: %w", err)
	}
	return r, nil
}

func move(ctx context.Context, dir, to string, o Options, e *trailgate.Entry, progress func(done, total uint64)) (*Report, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	fsys, part := o.hooks.fs, to+movingSuffix
	if exists(to) {
		return nil, fmt.Errorf("%w: %s", ErrExists, to)
	}
	if !exists(filepath.Join(dir, movedKeyFile)) {
		if err := copyTrail(ctx, dir, to, o, e); err != nil {
			return nil, err
		}
	}
	lock, err := durable.Lock(filepath.Join(dir, journalDir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLocked, err)
	}
	defer lock.Close() //nolint:errcheck // released in any case
	key := pub(dir)
	was, err := os.ReadFile(filepath.Join(dir, logDir, cpFile))
	if err != nil {
		return nil, err
	}
	report, err := Verify(ctx, VerifyOptions{Dir: part, Key: key, Progress: progress})
	if err != nil {
		return nil, fmt.Errorf("the copy in %s is not the log (remove it, and begin anew): %w", part, err)
	}
	if string(report.Checkpoint) != string(was) {
		return nil, fmt.Errorf("the copy in %s is of another time (remove it, and begin anew)", part)
	}
	if exists(filepath.Join(dir, keyFile)) {
		if err := fsys.Rename(filepath.Join(dir, keyFile), filepath.Join(dir, movedKeyFile)); err != nil {
			return nil, err
		}
		if err := fsys.SyncDir(dir); err != nil {
			return nil, err
		}
	}
	// On disk now: two whole copies, of which neither opens: the old one has no key by
	// that name, the new one is not where it is to be. Move goes on here after a crash.
	if err := fsys.Rename(part, to); err != nil {
		return nil, err
	}
	return report, fsys.SyncDir(filepath.Dir(to))
}

func pub(dir string) string {
	vkey, _, err := readVerifier(filepath.Join(dir, pubFile))
	if err != nil {
		return ""
	}
	return vkey
}

// copyTrail has the log note that it moves, and copies it.
func copyTrail(ctx context.Context, dir, to string, o Options, e *trailgate.Entry) error {
	t, err := Open(ctx, dir, o)
	if err != nil {
		return err
	}
	e.Kind = trailgate.KindAdmin
	e.Event.Action, e.Event.Target = trailgate.ActionMove, to
	if e.Event.Detail == nil {
		e.Event.Detail = map[string]string{}
	}
	e.Event.Detail["from"] = dir
	if err := errors.Join(t.Append(ctx, e), t.Close(ctx)); err != nil {
		return err
	}
	// On disk now: that the log is about to move. A crash from here on leaves it where
	// it is, and a part of a copy, which the next run makes anew.
	lock, err := durable.Lock(filepath.Join(dir, journalDir, lockFile))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	defer lock.Close() //nolint:errcheck // released in any case
	part := to + movingSuffix
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	return copyTree(ctx, o.hooks.fs, dir, part)
}

// copyTree copies directories and files, and makes them durable.
func copyTree(ctx context.Context, fsys *durable.FS, from, to string) error {
	var dirs []string
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			dirs = append(dirs, target)
			return os.MkdirAll(target, info.Mode().Perm())
		case info.Mode().IsRegular() && filepath.Base(path) != lockFile:
			return copyFile(path, target, info.Mode().Perm())
		}
		return nil // a socket
	})
	for _, dir := range dirs {
		if err == nil {
			err = fsys.SyncDir(dir)
		}
	}
	if err == nil {
		err = fsys.SyncDir(filepath.Dir(to))
	}
	return err
}

func copyFile(from, to string, perm fs.FileMode) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Sync()
}
