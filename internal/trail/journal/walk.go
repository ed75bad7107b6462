package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

const (
	segmentSuffix = ".seg"
	sparePrefix   = "spare-"
)

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

// End is where a journal ends.
type End struct {
	// First is the sequence number of the oldest record, or Next if there is none.
	First uint64
	// Next is the sequence number that comes next.
	Next uint64
	// Chain is the hash over all records before Next.
	Chain tlog.Hash

	segs []segmentEnd
}

// segmentEnd is a segment that a walk went through.
type segmentEnd struct {
	header
	path      string
	end       int64 // offset after the last live record
	lastBatch int64 // offset of the first record of the last batch in this segment
	offs      []uint32
}

// Walk reads a journal from its oldest record to its end. It changes nothing,
// and may run while another process writes: then the end is that of some
// moment during the walk.
//
// Begin is called before anything is read, and gives the function that is then
// called for each record in order; Entry must not be kept. Where the walk has
// to start anew, since the writer was in its way, begin is called again.
//
// Segments that lie below covered as a whole are left out: they are only there
// because a crash interrupted their removal.
//
// What an interrupted write left at the very end is not an error. What is one
// is a *[DamageError], or wraps [ErrForeign] or [ErrMissing].
func Walk(dir string, id tlog.Hash, covered uint64, begin func() func(Record) error) (*End, error) {
	const attempts = 100
	// A writer may remove or reuse a segment between our listing it and our
	// reading it, and a read that overlaps writes may see a later batch and not
	// an earlier one. Both are gone at the next look; damage is not.
	var last error
	for range attempts {
		end, err := walkOnce(dir, id, covered, begin())
		damage, again := errors.AsType[*DamageError](err)
		if !again && !errors.Is(err, fs.ErrNotExist) {
			return end, err
		}
		if before, ok := errors.AsType[*DamageError](last); ok && again && *before == *damage {
			return nil, err
		}
		last = err
	}
	return nil, last
}

func walkOnce(dir string, id tlog.Hash, covered uint64, fn func(Record) error) (*End, error) {
	segs, err := listSegments(dir, id, covered)
	if err != nil {
		return nil, err
	}
	end := &End{First: segs[0].first, Next: segs[0].first, Chain: segs[0].prev, segs: segs}
	var buf []byte
	for i := range segs {
		seg := &segs[i]
		damage := func(off int64, format string, args ...any) error {
			return &DamageError{Path: seg.path, Offset: off, Seq: end.Next, Reason: fmt.Sprintf(format, args...)}
		}
		if seg.first != end.Next {
			return nil, damage(0, "begins at entry %d, but the segment before it ends at %d", seg.first, end.Next)
		}
		if seg.prev != end.Chain {
			return nil, damage(0, "is not chained to the segment before it")
		}
		if buf, err = readSegment(seg.path, buf[:0]); err != nil {
			return nil, err
		}
		if h, err := parseHeader(buf); err != nil || h != seg.header {
			return nil, damage(0, "header changed while it was read")
		}
		// Where a later segment begins, this one has nothing more to say.
		isLast, limit := i == len(segs)-1, uint64(0)
		if !isLast {
			limit = segs[i+1].first
		}
		stop, err := seg.scan(buf, end, isLast, limit, fn)
		if err != nil {
			return nil, err
		}
		seg.end = int64(stop)
		switch {
		case !isLast && end.Next < limit:
			return nil, damage(seg.end, "record is damaged or missing")
		case isLast && acknowledgedBeyond(buf, stop, seg.number, end.Next):
			return nil, damage(seg.end, "record is damaged or missing, though later ones show that it was durable")
		}
	}
	return end, nil
}

// scan goes through a segment's live records and returns the offset after the
// last of them.
func (s *segmentEnd) scan(b []byte, end *End, isLast bool, limit uint64, fn func(Record) error) (int, error) {
	off := headerBytes
	s.lastBatch = headerBytes
	var batch uint64
	for isLast || end.Next < limit {
		r, ok := parseRecord(b[min(off, len(b)):], s.number)
		if !ok || r.Seq != end.Next || r.Batch > r.Seq {
			break
		}
		r.Leaf = trailgate.LeafHash(r.Entry)
		if chainHash(end.Chain, r.Leaf) != r.Chain {
			break
		}
		if err := fn(r); err != nil {
			return off, err
		}
		if len(s.offs) == 0 || r.Batch != batch {
			s.lastBatch, batch = int64(off), r.Batch
		}
		s.offs = append(s.offs, uint32(off))
		off += int(RecordBytes(len(r.Entry)))
		end.Next, end.Chain = r.Seq+1, r.Chain
	}
	return off, nil
}

// acknowledgedBeyond looks, in what follows the last good record of the newest
// segment, for a whole record that was written after entry next was already
// durable. An interrupted write cannot leave one: a batch begins only when the
// one before it is synced.
func acknowledgedBeyond(b []byte, off int, number, next uint64) bool {
	most := uint64(len(b) / recordHead)
	for ; off+recordHead <= len(b); off += align {
		if binary.LittleEndian.Uint64(b[off:]) == 0 {
			continue
		}
		seq := binary.LittleEndian.Uint64(b[off+8:])
		batch := binary.LittleEndian.Uint64(b[off+16:])
		if seq <= next || seq-next > most || batch <= next || batch > seq {
			continue
		}
		if _, ok := parseRecord(b[off:], number); ok {
			return true
		}
	}
	return false
}

// listSegments reads the headers of all segments, oldest first, without those
// that covered makes superfluous.
func listSegments(dir string, id tlog.Hash, covered uint64) ([]segmentEnd, error) {
	names, err := os.ReadDir(dir) // sorted, and so by number
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s does not exist", ErrMissing, dir)
	}
	if err != nil {
		return nil, err
	}
	var segs []segmentEnd
	for _, de := range names {
		var number uint64
		if !strings.HasSuffix(de.Name(), segmentSuffix) || strings.HasPrefix(de.Name(), sparePrefix) {
			continue
		}
		path := filepath.Join(dir, de.Name())
		if _, err := fmt.Sscanf(de.Name(), "%016x", &number); err != nil || segmentName(number) != de.Name() {
			return nil, &DamageError{Path: path, Reason: "a segment has no such name"}
		}
		h, err := readHeader(path)
		if err != nil {
			return nil, err
		}
		if h.id != id {
			return nil, fmt.Errorf("%w: %s", ErrForeign, path)
		}
		if h.number != number {
			return nil, &DamageError{Path: path, Seq: h.first, Reason: fmt.Sprintf("says that it is segment %d", h.number)}
		}
		segs = append(segs, segmentEnd{header: h, path: path})
	}
	if len(segs) == 0 {
		return nil, fmt.Errorf("%w: %s has no segment", ErrMissing, dir)
	}
	for len(segs) > 1 && segs[1].first <= covered {
		segs = segs[1:]
	}
	if segs[0].first == 0 && segs[0].prev != id {
		return nil, &DamageError{Path: segs[0].path, Reason: "does not begin the chain of this log"}
	}
	return segs, nil
}

func readHeader(path string) (header, error) {
	f, err := os.Open(path)
	if err != nil {
		return header{}, err
	}
	defer f.Close() //nolint:errcheck // read only
	b := make([]byte, headerBytes)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return header{}, fmt.Errorf("read %s: %w", path, err)
	}
	h, err := parseHeader(b[:n])
	if err != nil {
		return header{}, &DamageError{Path: path, Reason: err.Error()}
	}
	return h, nil
}

// maxSegmentBytes bounds what is read of a file that calls itself a segment;
// offsets are kept in 32 bits.
const maxSegmentBytes = 1 << 31

func readSegment(path string, buf []byte) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > maxSegmentBytes {
		return nil, &DamageError{Path: path, Reason: "larger than any segment"}
	}
	buf = slices.Grow(buf, int(st.Size()))[:st.Size()]
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return buf[:n], nil
}
