package trail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

var (
	// ErrUnavailable means that nothing can be recorded now, so the caller must
	// refuse what it wanted to record. The trail keeps trying to recover by
	// itself; [Trail.Ready] tells when it has.
	ErrUnavailable = errors.New("the trail cannot record now")
	// ErrNoSpace is the [ErrUnavailable] of a disk that is nearly full.
	ErrNoSpace = fmt.Errorf("%w: too little disk space", ErrUnavailable)
	// ErrClosed is the [ErrUnavailable] of a trail after [Trail.Close].
	ErrClosed = fmt.Errorf("%w: closed", ErrUnavailable)
	// ErrLocked means that another process has the trail open.
	ErrLocked = errors.New("the trail is in use by another process")
	// ErrMissing means that a part of the trail is not there.
	ErrMissing = errors.New("the trail is missing")
	// ErrForeign means that what lies in the directory belongs to another log.
	ErrForeign = errors.New("the log is not this trail's")
	// ErrTruncated means that entries that were once published or acknowledged
	// are gone, or were changed.
	ErrTruncated = errors.New("the log is shorter than, or differs from, what it was")
	// ErrNotFound means that there is no entry, or no blob, of that name.
	ErrNotFound = errors.New("not found")
	// ErrExists means that [Create] found a trail where it was to make one.
	ErrExists = errors.New("a trail exists already")
)

// Options configure [Open]. The zero value is good.
type Options struct {
	// Log receives operational messages; never an entry's content. Default: discarded.
	Log *slog.Logger
	// Gateway is who signs for the entries that the trail writes on its own
	// account ("clock.step", "trail.recovered").
	Gateway trailgate.Gateway
	// SegmentBytes is a journal segment's size. Default 32 MiB, at least 256 KiB.
	SegmentBytes int64
	// MinFreeBytes is how much disk space must be free for an entry to be
	// accepted. Default 64 MiB; negative: no check.
	MinFreeBytes int64
	// MaxJournalBytes bounds what waits to be integrated. Default 1 GiB.
	MaxJournalBytes int64
	// BatchMaxSize is the most entries that Tessera is given at once. Default 4096.
	BatchMaxSize int
	// BatchMaxAge is how long an entry waits for company before it goes to
	// Tessera on an idle log. Default 20 ms.
	BatchMaxAge time.Duration
	// CheckpointInterval is the time between two checkpoints of a growing log. Default 1 s.
	CheckpointInterval time.Duration
	// Now is the wall clock. Default [time.Now].
	Now func() time.Time
	// Witnesses have checkpoints cosigned. Optional.
	Witnesses Witnessing

	hooks    hooks
	rotating bool // it is RotateKey that opens
}

// Stats is a snapshot of a trail's figures. Counters start at [Open].
type Stats struct {
	Size       uint64 // durable entries
	Integrated uint64 // entries in the tiled log
	Published  uint64 // entries under the newest checkpoint
	// JournalBytes is what the journal holds beyond the newest checkpoint.
	JournalBytes    int64
	JournalSegments int
	FreeBytes       int64 // on the trail's disk, as of the last look

	Commits  uint64        // fdatasync calls that committed them
	Refused  uint64        // entries that Append refused
	SyncTime time.Duration // total time in those writes and fdatasync calls
	Failures uint64        // failed journal writes
	Batches  uint64        // batches integrated
	// SequencerError is why the log does not grow at the moment, empty if it does.
	// Entries are accepted all the same, up to Options.MaxJournalBytes of them.
	SequencerError string
	// PublishedAt is when the newest checkpoint was published, zero if not since Open.
	PublishedAt time.Time
}

// VerifyOptions say what [Verify] checks, and against what. Exactly one of Dir,
// LogDir and URL is set.
type VerifyOptions struct {
	// Dir is a data directory: log, journal, blobs, head and key are all checked.
	Dir string
	// LogDir is a directory that holds nothing but a tiled log.
	LogDir string
	// URL is the http or https address of a tiled log (its checkpoint is at URL/checkpoint).
	URL string
	// Token goes with every request to URL, as a bearer token: a gateway serves
	// its own log to those who may read the trail. Optional; secret.
	Token string
	// Key is the log's verifier key ("vkey"). Default, with Dir only: Dir/log.pub.
	Key string
	// Head is a file with checkpoints remembered from earlier, one or many. Optional; with
	// Dir, Dir/head/checkpoint is checked as well.
	Head string
	// Witnesses is the policy that the log's checkpoint must meet. Optional.
	Witnesses *trailgate.WitnessPolicy
	// Since is a file with a checkpoint up to which the log was verified before, such
	// as [Report.Checkpoint] of that time. Entries below it, and what they name, are
	// not read again; that the log still begins with them is proven. Optional.
	Since string
	// Predecessor is where the log lies that this one goes on from: one of Dir, LogDir
	// and URL, with what else is needed to read it; its key is the one that this log
	// commits to. It is verified too, and must end where this log's first entry says.
	// Optional.
	Predecessor *VerifyOptions
	committed   []byte // a checkpoint that the log must extend
	// Index checks the search index against the log, once the log was found good. It is
	// called last. Optional: the index is not looked at.
	Index func(ctx context.Context) (*IndexReport, error)
	// Recording checks the recorded rows that an entry names, with the data key. Gone
	// says that the key is not there any more, which an entry must explain. It may be
	// called concurrently. Optional: recorded rows are not looked at.
	Recording func(ctx context.Context, r *trailgate.Recording) (gone bool, err error)
	// Progress, if set, is called now and then from one goroutine.
	Progress func(done, total uint64)
	// Parallel is how many goroutines hash and decode. Default: one a CPU.
	Parallel int
}

// Report is what [Verify] found.
type Report struct {
	Origin string
	// Size and Root are the checkpoint's, which all that was checked leads to.
	Size uint64
	Root tlog.Hash
	// JournalSize is the number of entries that are durable, those in the
	// journal beyond the checkpoint included. Equal to Size without a journal.
	JournalSize uint64
	// JournalRoot is the root over those, where they are more than Size.
	JournalRoot tlog.Hash
	// Frozen says that the last entry ends the log; Rotating that a change of its key
	// was begun and not completed.
	Frozen, Rotating bool
	// Predecessor is the log that this one goes on from, or nil; PredecessorGood says
	// that it was verified, and ends where this one begins.
	Predecessor     *trailgate.Predecessor
	PredecessorGood bool
	// Checkpoint is the signed note that says so, Key the newest of the log's keys.
	Checkpoint []byte
	Key        string
	// Since is the size of the checkpoint from which the check went on; the first NotRead
	// entries were not read again.
	Since, NotRead uint64
	// Entries is how many entries were checked, from the log and the journal.
	Entries uint64
	// Open is how many of the calls in them have no outcome, FirstOpen the first such
	// entry. That is legal: how they ended is not known, or not yet. There may be more
	// where Open is a million.
	Open, FirstOpen uint64
	// Blobs is how many distinct stored bodies were read and hashed.
	Blobs uint64
	// Recordings is how many distinct recordings of rows were read and checked.
	Recordings uint64
	// ErasedKeys is how many data keys are gone that recordings need, as the log says
	// that they were erased.
	ErasedKeys uint64
	// Tiles and Bundles are the files that were read.
	Tiles, Bundles uint64
	// Index is what was found out about the search index, nil where nobody looked.
	Index *IndexReport
	// Cosignatures are the witnesses' on the checkpoint, where a policy was given.
	Cosignatures []trailgate.Cosignature
	// FirstBad is the first place that is not as it must be, nil if there is none.
	FirstBad *Bad
	// LastGood is how many entries, from the first on, are as they were written.
	LastGood uint64
}

// IndexReport is how the search index compares with the log.
type IndexReport struct {
	Absent          bool // there is none to compare; it is made anew when it is needed
	Entries, Behind uint64
	Files           int
	Rows, Terms     uint64 // that were compared
	Bad             *Bad   // nil where it says what the log does
}

// Bad is a place where a trail is not as it must be.
type Bad struct {
	Seq    uint64 // the first entry concerned
	Place  string // file or address
	Reason string
}

// TamperError is evidence that a trail was changed, cut or exchanged.
type TamperError struct {
	Bad
	// LastGood is how many entries, from the first on, are as they were written.
	LastGood uint64
}

// Error names the place, the entry and how far the trail is good.
func (e *TamperError) Error() string {
	good := "no entry before it could be confirmed"
	if e.LastGood > 0 {
		good = fmt.Sprintf("entries 0 to %d are good", e.LastGood-1)
	}
	return fmt.Sprintf("%s: entry %d: %s (%s)", e.Place, e.Seq, e.Reason, good)
}
