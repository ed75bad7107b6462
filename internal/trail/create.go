package trail

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate/internal/trail/durable"
	"github.com/trailgate/trailgate/internal/trail/journal"
)

// The parts of a data directory that make up a trail.
const (
	keyFile    = "log.key" // note signer key, secret
	pubFile    = "log.pub" // note verifier key, "vkey"
	logDir     = "log"     // the tiled log, public
	journalDir = "journal"
	blobDir    = "blobs"
	headDir    = "head" // what the log last said of itself, apart from the log
	cpFile     = "checkpoint"
	lockFile   = "lock" // in journalDir
)

// logID names a log in its journal's segments: the hash of its verifier key.
func logID(vkey string) tlog.Hash { return sha256.Sum256([]byte(vkey)) }

// Create makes a new, empty trail in dir, with a new key, and returns the
// verifier key that an auditor needs. Origin names the log in its checkpoints;
// it should be unique in the world, such as "example.com/trailgate/prod".
//
// It fails with [ErrExists], and changes nothing, where any part of a trail is
// there already. An error later on removes what was made.
func Create(ctx context.Context, dir, origin string) (vkey string, err error) {
	return create(ctx, dir, origin, defaultSegmentBytes)
}

func create(ctx context.Context, dir, origin string, segmentBytes int64) (vkey string, err error) {
	if err := checkOrigin(origin); err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("create trail: %w", err)
	}
	fsys := &durable.FS{}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("create trail: %w", err)
	}
	for _, name := range []string{keyFile, pubFile, logDir, journalDir, headDir} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%w: %s is there (open it, choose another directory, or, if an init was interrupted and nothing was ever recorded here, remove it)",
				ErrExists, filepath.Join(dir, name))
		}
	}
	defer func() {
		if err != nil {
			for _, name := range []string{keyFile, pubFile, logDir, journalDir, headDir} {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
			}
		}
	}()
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return "", fmt.Errorf("create trail: make a key: %w", err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return "", fmt.Errorf("create trail: %w", err)
	}
	if err := createParts(fsys, dir, vkey, signer, segmentBytes); err != nil {
		return "", fmt.Errorf("create trail: %w", err)
	}
	// The keys come last: a directory without them is not a trail, however much
	// of one a crash before this point has left.
	if err := fsys.WriteFile(filepath.Join(dir, pubFile), []byte(vkey+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("create trail: %w", err)
	}
	if err := fsys.WriteFile(filepath.Join(dir, keyFile), []byte(skey+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("create trail: %w", err)
	}
	return vkey, nil
}

func createParts(fsys *durable.FS, dir, vkey string, signer note.Signer, segmentBytes int64) error {
	for _, name := range []string{logDir, journalDir, blobDir, headDir} {
		perm := fs.FileMode(0o700)
		if name == logDir {
			perm = 0o755
		}
		if err := fsys.Mkdir(filepath.Join(dir, name), perm); err != nil {
			return err
		}
	}
	l, err := newTesseraLog(filepath.Join(dir, logDir), signer)
	if err != nil {
		return err
	}
	if err := l.create(); err != nil {
		return err
	}
	cp, err := os.ReadFile(filepath.Join(dir, logDir, cpFile))
	if err != nil {
		return err
	}
	if err := fsys.WriteFile(filepath.Join(dir, headDir, cpFile), cp, 0o600); err != nil {
		return err
	}
	return journal.Create(filepath.Join(dir, journalDir), journal.Options{FS: fsys, ID: logID(vkey), SegmentBytes: segmentBytes})
}

// checkOrigin holds an origin to what a note's signer name may be
// (https://c2sp.org/signed-note).
func checkOrigin(origin string) error {
	bad := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '+' }
	if origin == "" || len(origin) > 255 || !utf8.ValidString(origin) || strings.ContainsFunc(origin, bad) {
		return fmt.Errorf("create trail: origin %q: give a name of 1 to 255 bytes without spaces and plus signs, such as example.com/trailgate", origin)
	}
	return nil
}
