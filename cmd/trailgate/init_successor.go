package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail"
)

// predecessor finds out how the log ended that a new one is to go on from: a data
// directory or a log, which is verified, or all that is left of it, a checkpoint.
func (c *cli) predecessor(ctx context.Context, path, keyFile string) (*trailgate.Predecessor, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("--successor-of: %w", err)
	}
	if !info.IsDir() {
		return predecessorCheckpoint(path, keyFile)
	}
	o, err := c.verifyOptions(path, keyFile, "")
	if err != nil {
		return nil, err
	}
	progress := newProgress(c.err, "verify the predecessor")
	o.Progress = progress.update
	r, err := trail.Verify(ctx, o)
	progress.end()
	if err != nil {
		return nil, hinted(fmt.Errorf("the log to go on from does not verify: %w", err),
			"keep it as evidence; a new log can go on from a checkpoint of it that you trust: --successor-of FILE --predecessor-key FILE")
	}
	p := &trailgate.Predecessor{Origin: r.Origin, Key: r.Key, Checkpoint: r.Checkpoint, Size: r.Size, Root: r.Root, Frozen: r.Frozen}
	if r.JournalSize > r.Size {
		p.TailSize, p.TailRoot = r.JournalSize, r.JournalRoot
	}
	return p, nil
}

func predecessorCheckpoint(path, keyFile string) (*trailgate.Predecessor, error) {
	if keyFile == "" {
		return nil, usagef("--successor-of: with a checkpoint, name the key that signed it with --predecessor-key")
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--successor-of: %w", err)
	}
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("--predecessor-key: %w", err)
	}
	vkey := strings.TrimSpace(string(text))
	key, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("--predecessor-key: %w", err)
	}
	cp, err := trailgate.OpenCheckpoint(raw, key)
	if err != nil {
		return nil, fmt.Errorf("--successor-of: %w", err)
	}
	return &trailgate.Predecessor{Origin: cp.Origin, Key: vkey, Checkpoint: cp.Raw, Size: cp.Size, Root: cp.Root}, nil
}

// endedHow says how the predecessor ended.
func endedHow(p *trailgate.Predecessor) string {
	if p.Frozen {
		return "was frozen"
	}
	return "ended, unfrozen,"
}

// beginAfter makes the first entry of a new log, which commits to the one before.
func (c *cli) beginAfter(p *trailgate.Predecessor, id, reason string) func(ctx context.Context, data string) error {
	return func(ctx context.Context, data string) error {
		gateway := trailgate.Gateway{ID: id, Version: thisBuild().Version}
		return withTrail(ctx, data, trail.Options{Gateway: gateway, MinFreeBytes: -1}, func(t *trail.Trail) error {
			e := logEntry(gateway, trailgate.ActionSucceed, p.Origin, "")
			e.Event.Detail = p.Detail()
			if reason != "" {
				e.Event.Detail["reason"] = strings.ToValidUTF8(reason, "\uFFFD")
			}
			if err := t.Append(ctx, e); err != nil {
				return err
			}
			if e.Seq != 0 {
				return errors.New("something came before the log's first entry")
			}
			return nil
		})
	}
}

// predecessorOptions says where verify finds the log that one goes on from.
func predecessorOptions(at string) (*trail.VerifyOptions, error) {
	switch {
	case at == "":
		return nil, nil
	case strings.HasPrefix(at, "http://"), strings.HasPrefix(at, "https://"):
		return &trail.VerifyOptions{URL: strings.TrimSuffix(at, "/")}, nil
	}
	if _, err := os.Stat(at); err != nil {
		return nil, fmt.Errorf("--predecessor: %w", err)
	}
	if exists(filepath.Join(at, "log")) {
		return &trail.VerifyOptions{Dir: at}, nil
	}
	return &trail.VerifyOptions{LogDir: at}, nil
}
