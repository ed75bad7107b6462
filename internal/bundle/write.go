package bundle

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

// Write makes the second pass: it writes the bundle whose creation is the entry at seq,
// once a checkpoint covers that. An error means that what was written is no bundle, and
// no verifier takes it for one.
func (m *Maker) Write(ctx context.Context, w io.Writer, creation uint64) error {
	cp, err := m.t.Covering(ctx, creation)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	created, err := m.t.Get(ctx, creation)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	first := m.q.First
	if first == nil {
		first = cp
	}
	hashes := m.t.Hashes(cp.Size)
	consistency, err := consistencyOf(first, cp, hashes)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	out := &tarWriter{w: bufio.NewWriterSize(w, 256<<10)}
	for _, f := range []struct {
		name string
		text []byte
	}{
		{trailgate.BundleReadme, []byte(trailgate.BundleReadmeText)},
		{trailgate.BundleCheckpoint, cp.Raw},
		{trailgate.BundleFirst, first.Raw},
		{trailgate.BundleConsistency, consistency},
		{trailgate.BundleCreation, created},
	} {
		if err := out.member(f.name, f.text); err != nil {
			return err
		}
	}
	// The size of the proofs is known once they were made: they are made twice rather
	// than kept.
	size := &measure{h: sha256.New()}
	if err := m.writeProofs(ctx, size, cp, hashes, created, creation); err != nil {
		return err
	}
	err = out.stream(trailgate.BundleProofs, size.n, func(w io.Writer) error {
		return m.writeProofs(ctx, w, cp, hashes, created, creation)
	})
	if err != nil {
		return err
	}
	if err := out.member(trailgate.BundleSums, m.sums); err != nil {
		return err
	}
	for i := range m.contents {
		c := &m.contents[i]
		again := &measure{h: sha256.New()}
		err := out.stream(c.name, c.size, func(w io.Writer) error { return c.write(ctx, io.MultiWriter(w, again)) })
		if err != nil {
			return fmt.Errorf("bundle: %s: %w", c.name, err)
		}
		if !bytes.Equal(again.h.Sum(nil), c.sum[:]) {
			return fmt.Errorf("bundle: %s: %w", c.name, ErrChanged)
		}
	}
	return out.close()
}

// consistencyOf proves that the tree only grew between two checkpoints.
func consistencyOf(first, last *trailgate.Checkpoint, hashes tlog.HashReader) ([]byte, error) {
	var proof []tlog.Hash
	if first.Size > last.Size {
		return nil, fmt.Errorf("the first checkpoint is of %d entries, the log has %d", first.Size, last.Size)
	}
	if first.Size > 0 && first.Size < last.Size {
		tree, err := tlog.ProveTree(int64(last.Size), int64(first.Size), hashes)
		if err != nil {
			return nil, err
		}
		if err := tlog.CheckTree(tree, int64(last.Size), last.Root, int64(first.Size), first.Root); err != nil {
			return nil, fmt.Errorf("the log does not extend the first checkpoint: %w", err)
		}
		proof = tree
	}
	return hashLine(nil, proof), nil
}

// hashLine appends hashes as one line of base64.
func hashLine(dst []byte, hashes []tlog.Hash) []byte {
	raw := make([]byte, 0, len(hashes)*tlog.HashSize)
	for i := range hashes {
		raw = append(raw, hashes[i][:]...)
	}
	return append(base64.StdEncoding.AppendEncode(dst, raw), '\n')
}

// writeProofs writes a line for each entry and one for the creation, each checked as the
// auditor will.
func (m *Maker) writeProofs(ctx context.Context, w io.Writer, cp *trailgate.Checkpoint, hashes tlog.HashReader, created []byte, creation uint64) error {
	out := bufio.NewWriterSize(w, 64<<10)
	walk := trailgate.NewTreeWalk(cp.Size, cp.Root)
	var line []byte
	prove := func(raw []byte, seq uint64) error {
		siblings, err := walk.Siblings(seq)
		if err != nil {
			return fmt.Errorf("bundle: prove entry %d: %w", seq, err)
		}
		path := make([]tlog.Hash, len(siblings))
		for i, s := range siblings {
			if path[i], err = rangeHash(hashes, s[0], s[1]); err != nil {
				return fmt.Errorf("bundle: prove entry %d: %w", seq, err)
			}
		}
		if err := walk.Take(seq, trailgate.LeafHash(raw), path); err != nil {
			return fmt.Errorf("bundle: the log is not as it was: entry %d: %w", seq, err)
		}
		line = hashLine(line[:0], path)
		_, err = out.Write(line)
		return err
	}
	for _, seq := range m.q.Seqs {
		raw, err := m.t.Get(ctx, seq)
		if err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
		if err := prove(raw, seq); err != nil {
			return err
		}
	}
	if err := prove(created, creation); err != nil {
		return err
	}
	return out.Flush()
}

// tarWriter writes members as docs/spec/bundle.md has them.
type tarWriter struct{ w *bufio.Writer }

func (t *tarWriter) member(name string, text []byte) error {
	return t.stream(name, int64(len(text)), func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

// stream writes a member of a size that is known beforehand.
func (t *tarWriter) stream(name string, size int64, write func(w io.Writer) error) error {
	h, err := trailgate.BundleHeader(name, size)
	if err != nil {
		return err
	}
	if _, err := t.w.Write(h); err != nil {
		return err
	}
	exact := &limited{w: t.w, left: size}
	if err := write(exact); err != nil {
		return err
	}
	if exact.left != 0 {
		return ErrChanged
	}
	_, err = t.w.Write(make([]byte, trailgate.BundlePadding(size)))
	return err
}

func (t *tarWriter) close() error {
	if _, err := t.w.Write(make([]byte, trailgate.BundleEnd)); err != nil {
		return err
	}
	return t.w.Flush()
}

// limited refuses what is longer than it was.
type limited struct {
	w    io.Writer
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	if int64(len(p)) > l.left {
		return 0, ErrChanged
	}
	l.left -= int64(len(p))
	return l.w.Write(p)
}
