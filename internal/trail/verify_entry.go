package trail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

const (
	// recentIDs is how many of the newest opening entries are remembered, twice
	// over, to find what a later stage refers to. Older ones cost a second pass.
	recentIDs = 1 << 17
	// maxUnresolved bounds the references that wait for that pass.
	maxUnresolved = 1 << 20
	// maxKnownBlobs bounds the bodies that are remembered as checked.
	maxKnownBlobs = 1 << 20
)

// facts are what is kept of an entry once it was decoded.
type facts struct {
	leaf tlog.Hash
	// opens is the entry's id, if later stages may refer to it.
	opens string
	// refers is the id that the entry refers to, if any.
	refers string
	// intent: the entry opens a call that should be closed; closes: it closes one.
	intent, closes bool
	// aside is what is wrong with a stored body that the entry names, if anything.
	aside *Bad
	// gone is the data key of rows that cannot be read any more, erased one that the
	// entry says was erased.
	gone, erased string
	// life is the entry, if it is about the log itself.
	life *trailgate.Entry
}

// entryCheck checks entries. Look may be called concurrently; the rest belongs
// to one goroutine.
type entryCheck struct {
	blobDir string
	blobs   atomic.Uint64
	// recording checks recorded rows; nil: they are not looked at. gone and erased are
	// data keys, gone with the first entry that needs it.
	recording func(ctx context.Context, r *trailgate.Recording) (gone bool, err error)
	rows      atomic.Uint64
	gone      map[string]uint64
	erased    map[string]bool

	mu    sync.Mutex // guards known
	known map[string]bool

	young, old map[string]struct{} // ids of opening entries
	unresolved map[string]uint64   // id → the first entry that refers to it
	forgot     bool                // ids have been dropped from old
	open       map[string]uint64   // intents without outcome so far
}

func (c *entryCheck) init(dir string) {
	c.gone, c.erased = map[string]uint64{}, map[string]bool{}
	if dir != "" {
		c.blobDir = filepath.Join(dir, blobDir)
	}
	c.known = map[string]bool{}
	c.young, c.old = map[string]struct{}{}, map[string]struct{}{}
	c.unresolved, c.open = map[string]uint64{}, map[string]uint64{}
}

// look checks one entry by itself. An error that is a *[Bad] is about the entry.
func (c *entryCheck) look(seq uint64, raw []byte, place string) (facts, error) {
	sum, ok := canonical(raw)
	if !ok {
		e, err := trailgate.Decode(raw)
		if err != nil {
			return facts{}, &Bad{Seq: seq, Place: place, Reason: err.Error()}
		}
		sum = summarize(e)
	}
	if sum.seq != seq {
		return facts{}, &Bad{Seq: seq, Place: place, Reason: fmt.Sprintf("the entry says that it is entry %d", sum.seq)}
	}
	f := facts{leaf: trailgate.LeafHash(raw), refers: string(sum.intent)}
	switch trailgate.Kind(sum.kind) {
	case trailgate.KindIntent, trailgate.KindHeld, trailgate.KindDenied, trailgate.KindRefused:
		f.opens = string(sum.id)
		f.intent = trailgate.Kind(sum.kind) == trailgate.KindIntent
	case trailgate.KindOutcome, trailgate.KindSettled:
		f.closes = true
	}
	if sum.beside {
		if err := c.checkBeside(seq, raw, place, &f); err != nil {
			return f, err
		}
	}
	for _, sha := range sum.blobs {
		if err := c.checkBlob(seq, string(sha), &f); err != nil {
			return f, err
		}
	}
	return f, nil
}

// summarize is what canonical would have said.
func summarize(e *trailgate.Entry) summary {
	s := summary{seq: e.Seq, id: []byte(e.ID), kind: []byte(e.Kind), intent: []byte(e.IntentID)}
	s.beside = e.Recording != nil && e.Recording.Key != "" || e.Event != nil && (e.Event.Action == EraseRecording || lifeOf(e) != nil)
	for _, sha := range e.Blobs() {
		s.blobs = append(s.blobs, []byte(sha))
	}
	if e.Principal != nil && e.Principal.Evidence != "" {
		s.blobs = append(s.blobs, []byte(e.Principal.Evidence))
	}
	return s
}

// checkBlob checks a stored body that an entry names.
func (c *entryCheck) checkBlob(seq uint64, sha string, f *facts) error {
	if sha == "" || c.blobDir == "" {
		return nil
	}
	c.mu.Lock()
	seen := c.known[sha]
	c.mu.Unlock()
	if seen {
		return nil
	}
	path, err := blobPath(c.blobDir, sha)
	if err != nil {
		return &Bad{Seq: seq, Place: c.blobDir, Reason: err.Error()}
	}
	_, err = readBlob(c.blobDir, sha)
	switch {
	case errors.Is(err, ErrNotFound):
		f.aside = &Bad{Seq: seq, Place: path, Reason: "the stored body that the entry names is missing"}
		return nil
	case errors.Is(err, errBlob):
		f.aside = &Bad{Seq: seq, Place: path, Reason: fmt.Sprintf("the stored body that the entry names was changed: %v", err)}
		return nil
	case err != nil:
		return err
	}
	c.blobs.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxKnownBlobs {
		clear(c.known)
	}
	c.known[sha] = true
	return nil
}

// EraseRecording is the action of the entry that says that a data key of recorded rows,
// its target, is erased.
const EraseRecording = "recording.erase"

// maxKeys bounds the data keys that are remembered: 100 connections for 80 years.
const maxKeys = 100_000

// checkBeside checks the rows that an entry names, or takes note of what it says was erased.
func (c *entryCheck) checkBeside(seq uint64, raw []byte, place string, f *facts) error {
	e, err := trailgate.Decode(raw)
	if err != nil {
		return &Bad{Seq: seq, Place: place, Reason: err.Error()}
	}
	if e.Kind == trailgate.KindAdmin && e.Event != nil && e.Event.Action == EraseRecording && e.Event.Detail["failed"] == "" {
		f.erased = e.Event.Target
	}
	if lifeOf(e) != nil {
		f.life = e
	}
	r := e.Recording
	if c.recording == nil || r == nil || r.Key == "" || r.Body == "" && r.Schema == "" {
		return nil
	}
	known := r.Key + "/" + r.Body + "/" + r.Schema
	c.mu.Lock()
	seen := c.known[known]
	c.mu.Unlock()
	if seen {
		return nil
	}
	gone, err := c.recording(context.Background(), r)
	switch {
	case gone:
		f.gone = r.Key
		return nil
	case err != nil:
		f.aside = &Bad{Seq: seq, Place: "recorded rows of " + r.Key, Reason: err.Error()}
		return nil
	}
	c.rows.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxKnownBlobs {
		clear(c.known)
	}
	c.known[known] = true
	return nil
}

// unexplained is the first of the rows that are gone although no entry says that they
// were erased, or nil.
func (c *entryCheck) unexplained() *Bad {
	var first *Bad
	for key, seq := range c.gone {
		if !c.erased[key] && (first == nil || seq < first.Seq) {
			first = &Bad{Seq: seq, Place: "recorded rows of " + key, Reason: "the data key is gone, and no entry says that it was erased"}
		}
	}
	return first
}

// link takes entries in order and notes those that refer to one that was not seen.
func (c *entryCheck) link(seq uint64, f *facts) {
	if f.gone != "" && len(c.gone) < maxKeys {
		if _, noted := c.gone[f.gone]; !noted {
			c.gone[f.gone] = seq
		}
	}
	if f.erased != "" && len(c.erased) < maxKeys {
		c.erased[f.erased] = true
	}
	if f.refers != "" {
		_, young := c.young[f.refers]
		_, old := c.old[f.refers]
		if _, noted := c.unresolved[f.refers]; !young && !old && !noted && len(c.unresolved) < maxUnresolved {
			c.unresolved[f.refers] = seq
		}
	}
	switch {
	case f.closes:
		delete(c.open, f.refers)
	case f.intent && len(c.open) < maxUnresolved:
		c.open[f.opens] = seq
	}
	if f.opens != "" {
		c.young[f.opens] = struct{}{}
		if len(c.young) >= recentIDs {
			c.forgot = c.forgot || len(c.old) > 0
			c.young, c.old = c.old, c.young
			clear(c.young)
		}
	}
}

// resolveLinks goes through the log again, if need be, to find what references
// to old entries name. One that names nothing before it is bad.
func (c *entryCheck) resolveLinks(ctx context.Context, v *verifier) error {
	if len(c.unresolved) > 0 && (c.forgot || v.since != nil) {
		if err := c.searchOld(ctx, v); err != nil {
			return err
		}
	}
	var first *Bad
	for id, seq := range c.unresolved {
		if first == nil || seq < first.Seq {
			first = &Bad{Seq: seq, Place: v.place(seq), Reason: fmt.Sprintf("the entry refers to %q, but no entry before it has that id", id)}
		}
	}
	if first != nil {
		return first
	}
	return nil
}

// place names the file that an entry is in.
func (v *verifier) place(seq uint64) string {
	if seq >= v.cp.Size {
		return filepath.Join(v.o.Dir, journalDir)
	}
	return v.src.place(layout.EntriesPathForLogIndex(seq, v.cp.Size))
}

var idKey = []byte(`","id":"`)

// entryID reads the id of an entry that is known to be canonical.
func entryID(raw []byte) []byte {
	_, stamp, err := entryHeader(raw)
	if err != nil {
		return nil
	}
	at := bytes.Index(raw, stamp) + len(stamp)
	rest, ok := bytes.CutPrefix(raw[at:], idKey)
	if !ok {
		return nil
	}
	id, _, _ := bytes.Cut(rest, []byte{'"'})
	return id
}

// missing reports whether an error says that a file is not there.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
