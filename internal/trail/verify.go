package trail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

// Verify reads a whole trail, or a whole tiled log, and checks that it is what
// was written: the checkpoint's signature; every bundle and every tile, full
// and partial, down to the byte; that they hash to the checkpoint's root; that
// each entry is in canonical form, stands where it says, and is no older than
// the one before; that later stages of a call refer to entries that are there.
//
// Of a data directory it also checks that every stored body exists and is what
// its name says, that the log still holds what head/checkpoint remembers, and
// the journal's chain on from the checkpoint. A gateway may be running on the
// directory meanwhile.
//
// Evidence of tampering or loss is a *[TamperError], and the report says the
// same; other errors mean that the check could not be made.
func Verify(ctx context.Context, o VerifyOptions) (*Report, error) {
	v, err := newVerifier(o)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	err = v.run(ctx)
	if bad, ok := errors.AsType[*Bad](err); ok {
		v.bad(bad)
		err = nil
	}
	v.blame()
	if err == nil && v.report.FirstBad == nil && v.o.Index != nil {
		v.report.Index, err = v.o.Index(ctx)
		if err == nil {
			v.aside(v.report.Index.Bad)
		}
	}
	v.summarize()
	v.report.Blobs, v.report.Recordings = v.entries.blobs.Load(), v.entries.rows.Load()
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	v.report.ErasedKeys = uint64(len(v.entries.gone))
	if v.report.FirstBad != nil {
		v.report.LastGood = v.lastGood()
		return &v.report, &TamperError{Bad: *v.report.FirstBad, LastGood: v.report.LastGood}
	}
	v.report.LastGood = v.report.JournalSize
	return &v.report, nil
}

// summarize takes over what was counted.
func (v *verifier) summarize() {
	if v.cp != nil {
		v.report.Checkpoint = v.cp.Raw
		v.report.Key = v.chain.Current()
	}
	v.report.Frozen, v.report.Predecessor = v.life.frozen, v.life.before
	if v.tree.rooted && v.report.JournalSize > v.report.Size {
		v.report.JournalRoot = v.tree.rootBeyond()
	}
	for _, seq := range v.entries.open {
		if v.report.Open++; v.report.Open == 1 || seq < v.report.FirstOpen {
			v.report.FirstOpen = seq
		}
	}
}

// Error makes a Bad usable as an error while it travels up to Verify.
func (b *Bad) Error() string { return fmt.Sprintf("%s: entry %d: %s", b.Place, b.Seq, b.Reason) }

// verifier is one run of Verify.
type verifier struct {
	o      VerifyOptions
	vkey   string              // the key that is trusted
	chain  *trailgate.Keychain // all keys of the log; see open
	src    source
	since  *trailgate.Checkpoint // from which to go on, or nil
	report Report
	heads  []rememberedHead
	// noQuorum is set where too few witnesses cosigned the checkpoint.
	noQuorum *Bad
	cp       *trailgate.Checkpoint
	// entriesBad is set where FirstBad is about entries, and not only about files
	// that are made from them.
	entriesBad bool
	exchanged  bool // the log is not the one that a remembered checkpoint is of

	tree    *treeCheck
	entries entryCheck
	life    lifeCheck
}

// rememberedHead is a checkpoint that the log must still contain.
type rememberedHead struct {
	*trailgate.Checkpoint
	place   string
	checked bool
}

func newVerifier(o VerifyOptions) (*verifier, error) {
	v := &verifier{o: o}
	given := 0
	for _, s := range []string{o.Dir, o.LogDir, o.URL} {
		if s != "" {
			given++
		}
	}
	if given != 1 {
		return nil, errors.New("name one of: a data directory, a log directory, a log's address")
	}
	if o.Parallel <= 0 {
		v.o.Parallel = runtime.GOMAXPROCS(0)
	}
	var err error
	switch {
	case o.Dir != "":
		v.src = dirSource(filepath.Join(o.Dir, logDir))
	case o.LogDir != "":
		v.src = dirSource(o.LogDir)
	default:
		v.src, err = newHTTPSource(o.URL, o.Token)
	}
	if err != nil {
		return nil, err
	}
	var key note.Verifier
	switch {
	case o.Key != "":
		v.vkey = o.Key
		key, err = note.NewVerifier(o.Key)
	case o.Dir != "":
		v.vkey, key, err = readVerifier(filepath.Join(o.Dir, pubFile))
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w (no data directory of a trail, unless the key was removed: then give it)", ErrMissing, err)
		}
	default:
		return nil, errors.New("give the log's verifier key (the line in log.pub)")
	}
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	v.report.Origin = key.Name()
	v.tree = newTreeCheck(v)
	v.entries.init(o.Dir)
	v.entries.recording = o.Recording
	return v, nil
}

// bad notes the first thing that is wrong with the entries.
func (v *verifier) bad(b *Bad) {
	if v.report.FirstBad == nil {
		v.report.FirstBad, v.entriesBad = b, true
	}
}

// aside notes something that is wrong with a file beside the entries, which may
// be good all the same; b may be nil. The check goes on.
func (v *verifier) aside(b *Bad) {
	if v.report.FirstBad == nil && b != nil {
		v.report.FirstBad = b
	}
}

// blame decides who is wrong where an entry and its hash in the tile disagree:
// if the tile leads to the signed root, it is the entry.
func (v *verifier) blame() {
	b := v.report.FirstBad
	if b == nil || b.Reason != tileDiffers || v.tree.rooted {
		return
	}
	reader := tlog.TileHashReader(tlog.Tree{N: int64(v.cp.Size), Hash: v.cp.Root}, sourceTiles{v.src})
	if _, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(b.Seq))}); err == nil {
		b.Place, b.Reason = v.place(b.Seq), "the entry was changed: its hash is not the one that was signed for"
	}
	v.entriesBad = true
}

func (v *verifier) run(ctx context.Context) error {
	// What is remembered is read before the log: a running gateway publishes first
	// and remembers then, so that the log is never the older one of the two.
	if err := v.readKeys(ctx); err != nil {
		return err
	}
	if err := v.readHeads(); err != nil {
		return err
	}
	if err := v.readSince(); err != nil {
		return err
	}
	for first := true; ; first = false {
		grown, err := v.readCheckpoint(ctx)
		if err != nil {
			return err
		}
		if first && v.since != nil {
			if v.since.Size > v.cp.Size {
				return v.checkHeads()
			}
			if err := v.tree.goOn(ctx, v.since); err != nil {
				return err
			}
		}
		if grown {
			// Before the journal is read: files are made from nothing but what it held.
			if err := v.tree.listLeftovers(v.cp.Size); err != nil {
				return err
			}
			if err := v.tree.run(ctx, v.cp); err != nil {
				return err
			}
			// Before the journal is read, which bears the name of the first key.
			if bad := v.checkRotations(); bad != nil {
				return bad
			}
		}
		if err := v.checkHeads(); err != nil {
			return err
		}
		v.report.JournalSize = v.cp.Size
		if v.o.Dir == "" {
			break
		}
		again, err := v.checkJournal(ctx, grown)
		if err != nil {
			return err
		}
		if !again {
			break
		}
	}
	if err := v.tree.finish(); err != nil {
		return err
	}
	v.witnessed()
	v.aside(v.entries.unexplained())
	v.aside(v.checkRotations())
	if err := v.entries.resolveLinks(ctx, v); err != nil {
		return err
	}
	if v.report.FirstBad != nil {
		return nil
	}
	return v.checkPredecessor(ctx)
}

// readHeads reads the checkpoints that the log must still contain.
func (v *verifier) readHeads() error {
	var paths []string
	if v.o.Dir != "" {
		paths = append(paths, filepath.Join(v.o.Dir, headDir, cpFile))
	}
	if v.o.Head != "" {
		paths = append(paths, v.o.Head)
	}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && path != v.o.Head {
			return &Bad{Place: path, Reason: "the remembered checkpoint is missing"}
		}
		if err != nil {
			return err
		}
		notes := [][]byte{raw}
		if path == v.o.Head {
			notes = splitNotes(raw)
		}
		if len(notes) == 0 {
			return &Bad{Place: path, Reason: "there is no checkpoint in it"}
		}
		for _, n := range notes {
			cp, err := v.chain.Open(n)
			if err != nil {
				return &Bad{Place: path, Reason: fmt.Sprintf("the remembered checkpoint is not one of this log: %v", err)}
			}
			cp.Raw = nil // there may be very many
			v.heads = append(v.heads, rememberedHead{Checkpoint: cp, place: path})
		}
	}
	_, ends := v.chain.Rotations()
	for _, cp := range ends {
		v.heads = append(v.heads, rememberedHead{Checkpoint: cp, place: v.src.place(rotationsFile)})
	}
	if v.o.committed != nil {
		cp, err := v.chain.Open(v.o.committed)
		if err != nil {
			return &Bad{Place: v.src.place(cpFile), Reason: fmt.Sprintf("the checkpoint that the successor was begun with is not one of this log: %v", err)}
		}
		v.heads = append(v.heads, rememberedHead{Checkpoint: cp, place: "the successor's first entry"})
	}
	return nil
}

// readCheckpoint reads the log's checkpoint, and reports whether it is larger
// than the one that was read before.
func (v *verifier) readCheckpoint(ctx context.Context) (grown bool, err error) {
	raw, err := v.src.read(ctx, cpFile)
	place := v.src.place(cpFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, &Bad{Place: place, Reason: "the log's checkpoint is missing"}
	}
	if err != nil {
		return false, err
	}
	cp, err := v.chain.Open(raw)
	if err != nil {
		return false, &Bad{Place: place, Reason: fmt.Sprintf("the checkpoint is not signed by the log's key: %v", err)}
	}
	switch {
	case v.cp == nil:
	case cp.Size < v.cp.Size:
		return false, &Bad{Seq: cp.Size, Place: place, Reason: fmt.Sprintf("the checkpoint went back from %d entries to %d while the log was read", v.cp.Size, cp.Size)}
	case cp.Size == v.cp.Size:
		if cp.Root != v.cp.Root {
			return false, &Bad{Place: place, Reason: fmt.Sprintf("there are two checkpoints of %d entries", cp.Size)}
		}
		return false, nil
	}
	v.cp = cp
	v.report.Size, v.report.Root = cp.Size, cp.Root
	if v.o.Witnesses != nil {
		if err := v.readCosignatures(raw, place); err != nil {
			return false, err
		}
	}
	return true, nil
}

// checkHeads looks at the remembered checkpoints that lie beyond the log.
func (v *verifier) checkHeads() error {
	for _, h := range v.heads {
		if h.checked {
			continue
		}
		return &Bad{
			Seq: v.cp.Size, Place: v.src.place(cpFile),
			Reason: fmt.Sprintf("the log ends after %d entries, but a checkpoint of %d was published (%s)", v.cp.Size, h.Size, h.place),
		}
	}
	return nil
}

// notThose notes that the log does not begin with the entries of a remembered checkpoint.
func (v *verifier) notThose(h *rememberedHead) {
	v.exchanged, v.entriesBad = true, true
	v.bad(&Bad{Place: v.src.place(cpFile), Reason: fmt.Sprintf("the log's first %d entries are not those of the checkpoint in %s: the log was exchanged", h.Size, h.place)})
}

// lastGood is how many entries are known to be as they were written although
// something is wrong: all before the first bad one, if they lead to the signed
// root.
func (v *verifier) lastGood() uint64 {
	if v.cp == nil {
		return 0
	}
	seq := v.report.FirstBad.Seq
	if v.tree.rooted {
		// All entries under the checkpoint are good. What is wrong lies beyond it, or
		// beside the entries, or is what they say rather than that they were changed.
		switch {
		case !v.entriesBad:
			return max(v.cp.Size, v.report.JournalSize)
		case v.exchanged:
			return 0
		case seq < v.cp.Size:
			return seq
		}
		return max(v.cp.Size, min(seq, v.report.JournalSize))
	}
	n := min(seq, v.tree.seen())
	if n == 0 {
		return 0
	}
	mine, err := v.tree.rootAt(n)
	if err != nil {
		return 0
	}
	reader := tlog.TileHashReader(tlog.Tree{N: int64(v.cp.Size), Hash: v.cp.Root}, sourceTiles{v.src})
	theirs, err := tlog.TreeHash(int64(n), reader)
	if err != nil || theirs != mine {
		return 0
	}
	return n
}
