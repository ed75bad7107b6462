package bundletest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

// Part is a member of a bundle.
type Part struct {
	Name string
	Data []byte
}

// Parts is a bundle taken apart. What is made of it need not be a good one.
type Parts []Part

// Split takes a bundle apart, with the standard library's own reader of tar files.
func Split(file []byte) (Parts, error) {
	var out Parts
	r := tar.NewReader(bytes.NewReader(file))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		out = append(out, Part{h.Name, data})
	}
}

// Pack puts it together again.
func (p Parts) Pack() []byte {
	var out []byte
	for _, m := range p {
		h, err := trailgate.BundleHeader(m.Name, int64(len(m.Data)))
		if err != nil {
			panic(err) // a test's mistake
		}
		out = append(out, h...)
		out = append(out, m.Data...)
		out = append(out, make([]byte, trailgate.BundlePadding(int64(len(m.Data))))...)
	}
	return append(out, make([]byte, trailgate.BundleEnd)...)
}

// Clone copies it.
func (p Parts) Clone() Parts {
	out := slices.Clone(p)
	for i := range out {
		out[i].Data = bytes.Clone(out[i].Data)
	}
	return out
}

// At is the first member whose name begins so.
func (p Parts) At(prefix string) *Part {
	for i := range p {
		if strings.HasPrefix(p[i].Name, prefix) {
			return &p[i]
		}
	}
	panic("no member " + prefix) // a test's mistake
}

// Without leaves a member out.
func (p Parts) Without(prefix string) Parts {
	name := p.At(prefix).Name
	return slices.DeleteFunc(p, func(m Part) bool { return m.Name == name })
}

// With adds a member, in its place among the contents.
func (p Parts) With(name string, data string) Parts {
	p = append(p, Part{name, []byte(data)})
	slices.SortStableFunc(p[7:], func(a, b Part) int { return strings.Compare(a.Name, b.Name) })
	return p
}

// Resum writes SHA256SUMS anew, as anybody can.
func (p Parts) Resum() Parts {
	var sums []byte
	for _, m := range p[7:] {
		sums = fmt.Appendf(sums, "%x  %s\n", sha256.Sum256(m.Data), m.Name)
	}
	p.At(trailgate.BundleSums).Data = sums
	return p
}

// Relog does what only the log's owner can: it writes the list of contents anew, logs a
// creation that names it, with detail changed, signs a checkpoint and makes the proofs.
func (l *Log) Relog(p Parts, change func(detail map[string]string)) (Parts, error) {
	p.Resum()
	old, err := trailgate.Decode(p.At(trailgate.BundleCreation).Data)
	if err != nil {
		return nil, err
	}
	detail := old.Event.Detail
	detail["contents"] = fmt.Sprintf("%x", sha256.Sum256(p.At(trailgate.BundleSums).Data))
	if change != nil {
		change(detail)
	}
	e, err := l.Append(Creation(detail))
	if err != nil {
		return nil, err
	}
	return p, l.Reprove(p, e.Seq)
}

// Reprove makes the proofs anew, for a creation that stands at a place in the log.
func (l *Log) Reprove(p Parts, creation uint64) error {
	p.At(trailgate.BundleCreation).Data = l.Entries[creation]
	cp, err := l.Checkpoint(len(l.Entries))
	if err != nil {
		return err
	}
	p[1].Data = cp.Raw
	first, err := trailgate.OpenCheckpoint(p.At(trailgate.BundleFirst).Data, l.Verifier)
	if err != nil {
		return err
	}
	grown, err := tlog.ProveTree(int64(cp.Size), int64(first.Size), l.reader())
	if err != nil {
		return err
	}
	p.At(trailgate.BundleConsistency).Data = line(grown)
	walk := trailgate.NewTreeWalk(cp.Size, cp.Root)
	var proofs []byte
	prove := func(raw []byte, seq uint64) error {
		siblings, err := walk.Siblings(seq)
		if err != nil {
			return err
		}
		path := make([]tlog.Hash, len(siblings))
		for i, s := range siblings {
			if path[i], err = l.rangeHash(s[0], s[1]); err != nil {
				return err
			}
		}
		proofs = append(proofs, line(path)...)
		return walk.Take(seq, trailgate.LeafHash(raw), path)
	}
	for raw := range bytes.Lines(p.At(trailgate.BundleEntries).Data) {
		raw = bytes.TrimSuffix(raw, []byte("\n"))
		seq := slices.IndexFunc(l.Entries, func(e []byte) bool { return bytes.Equal(e, raw) })
		if err := prove(raw, uint64(seq)); err != nil {
			return err
		}
	}
	if err := prove(l.Entries[creation], creation); err != nil {
		return err
	}
	p.At(trailgate.BundleProofs).Data = proofs
	return nil
}

func line(hashes []tlog.Hash) []byte {
	var raw []byte
	for i := range hashes {
		raw = append(raw, hashes[i][:]...)
	}
	return []byte(base64.StdEncoding.EncodeToString(raw) + "\n")
}

// rangeHash hashes the leaves themselves: it is a check on cleverer ways.
func (l *Log) rangeHash(lo, hi uint64) (tlog.Hash, error) {
	if hi-lo == 1 {
		return trailgate.LeafHash(l.Entries[lo]), nil
	}
	k := uint64(1)
	for k*2 < hi-lo {
		k *= 2
	}
	a, err := l.rangeHash(lo, lo+k)
	if err != nil {
		return a, err
	}
	b, err := l.rangeHash(lo+k, hi)
	return tlog.NodeHash(a, b), err
}
