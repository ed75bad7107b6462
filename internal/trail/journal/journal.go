package journal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate/internal/trail/durable"
)

// ErrBroken means that a write failed and [Journal.Turn] has not succeeded since.
var ErrBroken = errors.New("journal: an earlier write failed")

// Options configure a journal.
type Options struct {
	FS  *durable.FS // required
	Log *slog.Logger
	// ID names the log that the journal belongs to, and is where the chain starts.
	ID tlog.Hash
	// SegmentBytes is the size of new segments, at least [MinSegmentBytes].
	SegmentBytes int64
	// Covered is how many entries are known to be safe in the log, so that
	// segments below it need not be there.
	Covered uint64
}

// maxSpares is how many segments are kept ready. Old segments become spares
// rather than being removed, so that a busy journal writes no zeros.
const maxSpares = 2

// Journal is an open journal.
//
// Append and Turn belong to one goroutine at a time, the writer. All other
// methods may be called by any, at any time.
type Journal struct {
	dir string
	o   Options

	// The writer's own.
	active *segment // the last of segs
	chain  tlog.Hash
	number uint64 // of the newest segment that was ever tried
	broken bool
	buf    []byte

	mu     sync.RWMutex // guards all below; files are read under it, so that none is reused meanwhile
	segs   []*segment   // oldest first; the last is written to
	next   uint64
	spares []string
}

type segment struct {
	header
	file *durable.File
	size int64
	end  int64
	offs []uint32 // of each live record
}

// Create makes a new journal with one empty segment in dir, which must exist.
func Create(dir string, o Options) error {
	j := &Journal{dir: dir, o: o, chain: o.ID}
	if err := j.Turn(); err != nil {
		return err
	}
	return j.Close()
}

// Open reads the journal to its end and makes ready to go on there. Whatever
// it found it has made durable before it returns.
func Open(dir string, o Options) (*Journal, error) {
	end, err := walkOnce(dir, o.ID, o.Covered, func(Record) error { return nil })
	if err != nil {
		return nil, err
	}
	j := &Journal{dir: dir, o: o, chain: end.Chain, next: end.Next}
	if err := j.adopt(end); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

func (j *Journal) adopt(end *End) error {
	for _, s := range end.segs {
		f, err := j.o.FS.Open(s.path)
		if err != nil {
			return err
		}
		size, err := f.Size()
		if err != nil {
			return errors.Join(err, f.Close())
		}
		j.active = &segment{header: s.header, file: f, size: size, end: s.end, offs: s.offs}
		j.segs = append(j.segs, j.active)
		j.number = s.number
	}
	if err := j.tidy(); err != nil {
		return err
	}
	// The last batch, and the newest segment's header and name, may so far be in
	// the kernel's memory only: the writer may have been killed before its sync,
	// or its sync may have failed, after which the kernel calls the pages clean.
	// So write them once more, and sync.
	last, seg := end.segs[len(end.segs)-1], j.active
	buf := make([]byte, last.end-last.lastBatch)
	if _, err := seg.file.ReadAt(buf, last.lastBatch); err != nil {
		return fmt.Errorf("read %s: %w", last.path, err)
	}
	if err := seg.file.WriteAt(seg.encode(), 0); err != nil {
		return fmt.Errorf("write %s: %w", last.path, err)
	}
	if len(buf) > 0 {
		if err := seg.file.WriteAt(buf, last.lastBatch); err != nil {
			return fmt.Errorf("write %s: %w", last.path, err)
		}
	}
	if err := seg.file.Sync(); err != nil {
		return err
	}
	// On disk now: all that the walk found. A crash here changes nothing.
	return j.o.FS.SyncDir(j.dir)
}

// tidy removes what a crash left: segments that are covered, files that were
// to become spares. Whole spares are kept.
func (j *Journal) tidy() error {
	names, err := os.ReadDir(j.dir)
	if err != nil {
		return err
	}
	for _, de := range names {
		path := filepath.Join(j.dir, de.Name())
		switch {
		case strings.HasPrefix(de.Name(), sparePrefix):
			info, err := de.Info()
			if err == nil && info.Size() == j.o.SegmentBytes && len(j.spares) < maxSpares {
				j.spares = append(j.spares, path)
				continue
			}
		case strings.HasSuffix(de.Name(), segmentSuffix) && de.Name() < segmentName(j.segs[0].number):
		default:
			continue
		}
		if err := j.o.FS.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Close closes the files. It does not sync: whatever was acknowledged is durable.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	for _, s := range j.segs {
		errs = append(errs, s.file.Close())
	}
	j.segs = nil
	return errors.Join(errs...)
}

// MaxBatchBytes is the most that the records of one batch may take ([RecordBytes]).
func (j *Journal) MaxBatchBytes() int64 { return (j.o.SegmentBytes - headerBytes) / 2 }

// Append makes a batch of records durable, all or, where it returns an error,
// none as far as the caller may know: then no more is written until
// [Journal.Turn] has succeeded, and whatever the disk holds of the batch counts
// for nothing from then on. (Should the process end before that, what is whole
// on disk of the batch, from its beginning on, is found and counts.)
//
// Seq, Batch and Chain of the records are set here.
func (j *Journal) Append(batch []Record) error {
	if j.broken {
		return ErrBroken
	}
	var need int64
	for i := range batch {
		need += RecordBytes(len(batch[i].Entry))
	}
	if need > j.MaxBatchBytes() {
		return fmt.Errorf("journal: a batch of %d bytes, at most %d fit", need, j.MaxBatchBytes())
	}
	if j.active.end+need > j.active.size {
		if err := j.Turn(); err != nil {
			return err
		}
	}
	seg := j.active

	buf, offs := j.buf[:0], make([]uint32, len(batch))
	chain := j.chain
	for i := range batch {
		r := &batch[i]
		r.Seq, r.Batch = j.next+uint64(i), j.next
		chain = chainHash(chain, r.Leaf)
		r.Chain = chain
		offs[i] = uint32(seg.end) + uint32(len(buf))
		buf = appendRecord(buf, seg.number, r)
	}
	if cap(buf) <= 1<<20 {
		j.buf = buf
	}
	err := seg.file.WriteAt(buf, seg.end)
	if err == nil {
		// On disk now: any part of the batch, in any order of its sectors. A crash
		// here leaves a torn end: the next Open adopts the whole records that it
		// begins with and cuts off the rest; nobody has been told of either.
		err = seg.file.Sync()
	}
	if err != nil {
		j.broken = true
		return fmt.Errorf("journal: %w", err)
	}
	// On disk now: the batch. From here on it is never taken back.
	j.chain = chain
	j.mu.Lock()
	seg.offs = append(seg.offs, offs...)
	seg.end += int64(len(buf))
	j.next += uint64(len(batch))
	j.mu.Unlock()
	return nil
}

// Turn goes on in a new segment. It is how a full segment is followed by the
// next, and how the journal recovers from a failed write: the new header says
// that from this sequence number on nothing older counts.
func (j *Journal) Turn() error {
	j.broken = true // until all is done
	path, err := j.takeSpare()
	if err != nil {
		return err
	}
	// Each try has a number of its own: what an earlier try left may or may not
	// be on disk, and must not be mistaken for this one.
	j.number++
	h := header{number: j.number, first: j.next, prev: j.chain, id: j.o.ID}
	name := filepath.Join(j.dir, segmentName(h.number))
	f, err := j.install(path, name, h)
	if err != nil {
		// Whichever name the file has now, it holds nothing, and a disk that fails
		// for an hour must not fill up with such files.
		_ = j.o.FS.Remove(path)
		_ = j.o.FS.Remove(name)
		return fmt.Errorf("journal: new segment: %w", err)
	}
	size, err := f.Size()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	j.active = &segment{header: h, file: f, size: size, end: headerBytes}
	j.mu.Lock()
	j.segs = append(j.segs, j.active)
	j.mu.Unlock()
	j.broken = false
	return nil
}

func (j *Journal) install(spare, name string, h header) (*durable.File, error) {
	f, err := j.o.FS.Open(spare)
	if err != nil {
		return nil, err
	}
	err = f.WriteAt(h.encode(), 0)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		// On disk now: the header, in a file that is still called a spare. A crash
		// here leaves the journal as it was.
		err = f.Rename(name)
	}
	if err == nil {
		// The new name may or may not be on disk. A crash here leaves the journal as
		// it was, or with an empty segment at its end, which says the same but for
		// unacknowledged records that it cuts off.
		err = j.o.FS.SyncDir(j.dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (j *Journal) takeSpare() (string, error) {
	j.mu.Lock()
	if n := len(j.spares); n > 0 {
		path := j.spares[n-1]
		j.spares = j.spares[:n-1]
		j.mu.Unlock()
		return path, nil
	}
	j.mu.Unlock()
	return j.makeSpare()
}

func (j *Journal) makeSpare() (string, error) {
	path := j.spareName()
	f, err := j.o.FS.CreateZeroed(path, j.o.SegmentBytes, 0o600)
	if err != nil {
		return "", fmt.Errorf("journal: %w", err)
	}
	return path, f.Close()
}

// spareName is a name that no file has or had, of this process or an earlier one,
// whose spares live on and whose process id may be the same. Two files of one name
// would let a segment be renamed from under the file that its entries go to.
func (j *Journal) spareName() string { return filepath.Join(j.dir, sparePrefix+rand.Text()) }

// Spares is how many segments are ready to be turned to.
func (j *Journal) Spares() int {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return len(j.spares)
}

// Prepare makes sure that the next segment is at hand, so that Turn need not
// wait for it to be written.
func (j *Journal) Prepare() error {
	if j.Spares() > 0 {
		return nil
	}
	path, err := j.makeSpare()
	if err != nil {
		return err
	}
	j.mu.Lock()
	j.spares = append(j.spares, path)
	j.mu.Unlock()
	return nil
}

// Trim gives up the segments whose entries all lie below covered. Call it only
// with what is durable elsewhere.
func (j *Journal) Trim(covered uint64) error {
	for {
		j.mu.Lock()
		if len(j.segs) < 2 || j.segs[1].first > covered {
			j.mu.Unlock()
			return nil
		}
		old := j.segs[0]
		j.segs = j.segs[1:]
		reuse := len(j.spares) < maxSpares && old.size == j.o.SegmentBytes
		j.mu.Unlock()
		if err := j.retire(old, j.spareName(), reuse); err != nil {
			return fmt.Errorf("journal: retire a segment: %w", err)
		}
	}
}

func (j *Journal) retire(old *segment, spare string, reuse bool) error {
	name := filepath.Join(j.dir, segmentName(old.number))
	if err := old.file.Close(); err != nil {
		j.o.Log.LogAttrs(context.Background(), slog.LevelWarn, "closing a journal segment", slog.Any("err", err))
	}
	if !reuse {
		// A crash may bring the name back. The next Open sees that it is covered.
		return j.o.FS.Remove(name)
	}
	if err := j.o.FS.Rename(name, spare); err != nil {
		return err
	}
	// The old name must be gone from the disk before the file is written to, or
	// a crash could leave a segment under a name that its header denies.
	if err := j.o.FS.SyncDir(j.dir); err != nil {
		return err
	}
	j.mu.Lock()
	j.spares = append(j.spares, spare)
	j.mu.Unlock()
	return nil
}

// First is the oldest entry's sequence number, or Next if there is none.
func (j *Journal) First() uint64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if len(j.segs) == 0 {
		return j.next
	}
	return j.segs[0].first
}

// Next is the sequence number that the next record gets.
func (j *Journal) Next() uint64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.next
}

// Segments is the number of segments in use.
func (j *Journal) Segments() int {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return len(j.segs)
}

// BytesFrom is how many bytes the records from seq on take.
func (j *Journal) BytesFrom(seq uint64) int64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	var sum int64
	for i := len(j.segs) - 1; i >= 0; i-- {
		s := j.segs[i]
		if s.first >= seq {
			sum += s.end - headerBytes
			continue
		}
		if at := seq - s.first; at < uint64(len(s.offs)) {
			sum += s.end - int64(s.offs[at])
		}
		break
	}
	return sum
}

// Read returns records from seq on, at least one and at most maxBytes' worth
// beyond that one, from one segment. It returns none at the end of the
// journal, and [fs.ErrNotExist] below its beginning.
func (j *Journal) Read(seq uint64, maxBytes int64) ([]Record, error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if seq >= j.next {
		return nil, nil
	}
	// The last segment that begins at or before seq: later ones replace earlier ones.
	i := sort.Search(len(j.segs), func(i int) bool { return j.segs[i].first > seq }) - 1
	if i < 0 {
		return nil, fmt.Errorf("journal: entry %d: %w", seq, fs.ErrNotExist)
	}
	s := j.segs[i]
	at := int(seq - s.first)
	last := at + 1
	from := int64(s.offs[at])
	for last < len(s.offs) && int64(s.offs[last])-from < maxBytes {
		last++
	}
	end := s.end
	if last < len(s.offs) {
		end = int64(s.offs[last])
	}
	buf := make([]byte, end-from)
	if _, err := s.file.ReadAt(buf, from); err != nil {
		return nil, fmt.Errorf("journal: read: %w", err)
	}
	recs := make([]Record, 0, last-at)
	for ; at < last; at++ {
		r, ok := parseRecord(buf[int64(s.offs[at])-from:], s.number)
		if want := s.first + uint64(at); !ok || r.Seq != want {
			return nil, &DamageError{Path: s.file.Path(), Offset: int64(s.offs[at]), Seq: want, Reason: "record was changed"}
		}
		recs = append(recs, r)
	}
	return recs, nil
}
