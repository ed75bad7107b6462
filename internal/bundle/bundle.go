package bundle

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/export"
)

// MaxEntries bounds the entries of one bundle. What is kept in memory for each is some
// 40 bytes.
const MaxEntries = 1_000_000

var (
	// ErrTooMany means that a bundle would have more than MaxEntries entries.
	ErrTooMany = fmt.Errorf("a bundle holds at most %d entries; ask for less at a time", MaxEntries)
	// ErrChanged means that between the two passes something that was to go into the
	// bundle became another thing, such as rows that were erased. What was written so
	// far is no bundle.
	ErrChanged = errors.New("what the bundle holds changed while it was made; make it again")
)

// Trail is the log, as *trail.Trail is one. All methods may be called concurrently.
type Trail interface {
	Get(ctx context.Context, seq uint64) ([]byte, error)
	GetBlob(ctx context.Context, sha256 string) ([]byte, error)
	// Covering waits until a checkpoint covers the entry at seq and returns the newest.
	Covering(ctx context.Context, seq uint64) (*trailgate.Checkpoint, error)
	// Hashes reads hashes of the tree of that size, unchecked.
	Hashes(size uint64) tlog.HashReader
}

// Rows are recorded rows, as *recording.Store keeps them.
type Rows interface {
	Open(ctx context.Context, key, address string) (io.ReadCloser, error)
	Opening(ctx context.Context, key, address string) (opening string, size int64, err error)
}

// Request says what a bundle is to hold.
type Request struct {
	Seqs   []uint64 // the entries, in order, each once
	Filter string   // what found them; for the record
	// Range is the first and last of Seqs, where the bundle is to hold all entries
	// from the one to the other.
	Range *[2]uint64
	// Statements has statements and parameters that are stored aside put in, Rows the
	// recorded rows.
	Statements, Rows bool
	// First is the checkpoint from which on the log is shown to have only grown.
	First *trailgate.Checkpoint
	// Absent says why rows cannot be had, of an error of Rows: "erased", "missing",
	// "damaged", or "" where the bundle cannot be made. Required with Rows.
	Absent func(err error) string
	// Origin is the log's name.
	Origin string
}

// Maker makes one bundle. It is for one goroutine.
type Maker struct {
	t    Trail
	rows Rows
	q    Request

	calls    [][]int32 // which of Seqs each call is, in the order of their first ones
	blobs    []string
	evidence []string
	bodies   []recorded
	absent   []string // lines of absent.txt
	contents []content
	sums     []byte // SHA256SUMS
}

// recorded is a body that an entry names, under which data key.
type recorded struct{ address, key string }

// content is a member that SHA256SUMS lists: its size and hash, as of the first pass.
type content struct {
	name  string
	size  int64
	sum   [sha256.Size]byte
	write func(ctx context.Context, w io.Writer) error
}

// New makes the first pass. Its errors are of reading, or ErrTooMany.
func New(ctx context.Context, t Trail, rows Rows, q Request) (*Maker, error) {
	if len(q.Seqs) > MaxEntries {
		return nil, ErrTooMany
	}
	m := &Maker{t: t, rows: rows, q: q}
	if err := m.survey(ctx); err != nil {
		return nil, err
	}
	if err := m.list(ctx); err != nil {
		return nil, err
	}
	for i := range m.contents {
		c := &m.contents[i]
		h := &measure{h: sha256.New()}
		if err := c.write(ctx, h); err != nil {
			return nil, fmt.Errorf("bundle: %s: %w", c.name, err)
		}
		c.size = h.n
		h.h.Sum(c.sum[:0])
		m.sums = fmt.Appendf(m.sums, "%x  %s\n", c.sum, c.name)
	}
	return m, nil
}

// Detail is what the entry of the bundle's creation must say.
func (m *Maker) Detail() map[string]string {
	d := map[string]string{
		"format": trailgate.BundleFormat, "entries": strconv.Itoa(len(m.q.Seqs)),
		"contents": fmt.Sprintf("%x", sha256.Sum256(m.sums)),
	}
	if m.q.Range != nil {
		d["range"] = fmt.Sprintf("%d-%d", m.q.Range[0], m.q.Range[1])
	} else if m.q.Filter != "" {
		d["filter"] = m.q.Filter
	}
	if m.q.Statements {
		d["statements"] = "true"
	}
	if m.q.Rows {
		d["rows"] = "true"
	}
	return d
}

// Counts are the entries and calls in it.
func (m *Maker) Counts() (entries, calls int) { return len(m.q.Seqs), len(m.calls) }

// survey goes through the entries once: which belong together, and what they name.
func (m *Maker) survey(ctx context.Context) error {
	blobs, evidence, bodies := map[string]bool{}, map[string]bool{}, map[string]string{}
	var groups export.Groups
	last := uint64(0)
	for i, seq := range m.q.Seqs {
		if i > 0 && seq <= last {
			return errors.New("bundle: the entries are not in order")
		}
		last = seq
		e, err := m.entry(ctx, seq)
		if err != nil {
			return err
		}
		groups.Add(e.ID, e.IntentID)
		if m.q.Statements {
			for _, sha := range e.Blobs() {
				blobs[sha] = true
			}
		}
		if e.Principal != nil && e.Principal.Evidence != "" {
			evidence[e.Principal.Evidence] = true
		}
		if r := e.Recording; r != nil && m.q.Rows {
			for _, address := range []string{r.Body, r.Schema} {
				if address != "" {
					bodies[address] = r.Key
				}
			}
		}
	}
	m.calls = groups.Calls()
	m.blobs, m.evidence = sorted(blobs), sorted(evidence)
	for _, address := range sorted(bodies) {
		m.bodies = append(m.bodies, recorded{address, bodies[address]})
	}
	return nil
}

func sorted[V any](set map[string]V) []string {
	out := make([]string, 0, len(set))
	for s := range set {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

func (m *Maker) entry(ctx context.Context, seq uint64) (*trailgate.Entry, error) {
	raw, err := m.t.Get(ctx, seq)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	return trailgate.Decode(raw)
}

// eachCall renders call by call.
func (m *Maker) eachCall(ctx context.Context, take func(c export.Call) error) error {
	for _, places := range m.calls {
		stages := make([]*trailgate.Entry, len(places))
		for i, at := range places {
			e, err := m.entry(ctx, m.q.Seqs[at])
			if err != nil {
				return err
			}
			stages[i] = e
		}
		if err := take(export.NewCall(stages)); err != nil {
			return err
		}
	}
	return nil
}

// measure counts and hashes what is written.
type measure struct {
	h interface {
		io.Writer
		Sum(b []byte) []byte
	}
	n int64
}

func (m *measure) Write(p []byte) (int, error) {
	m.n += int64(len(p))
	return m.h.Write(p)
}

// rangeHash is the hash of the subtree of the entries from lo to hi-1.
func rangeHash(r tlog.HashReader, lo, hi uint64) (tlog.Hash, error) {
	n := hi - lo
	if n&(n-1) == 0 {
		level := 0
		for 1<<level < n {
			level++
		}
		hs, err := r.ReadHashes([]int64{tlog.StoredHashIndex(level, int64(lo>>level))})
		if err != nil {
			return tlog.Hash{}, err
		}
		return hs[0], nil
	}
	k := uint64(1)
	for k<<1 < n {
		k <<= 1
	}
	left, err := rangeHash(r, lo, lo+k)
	if err != nil {
		return tlog.Hash{}, err
	}
	right, err := rangeHash(r, lo+k, hi)
	if err != nil {
		return tlog.Hash{}, err
	}
	return tlog.NodeHash(left, right), nil
}
