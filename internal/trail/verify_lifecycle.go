package trail

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/trailgate/trailgate"
)

// lifeCheck looks at what a log says of itself: changes of its key, its end, and
// which log it goes on from. It belongs to one goroutine.
type lifeCheck struct {
	frozen   bool
	frozenAt uint64
	rotated  []rotationEntry
	before   *trailgate.Predecessor
}

type rotationEntry struct {
	seq uint64
	key string // that it names
}

// lifeOf is the event of an entry if it is about the log itself, or nil.
func lifeOf(e *trailgate.Entry) *trailgate.Event {
	if e.Kind != trailgate.KindAdmin || e.Event == nil {
		return nil
	}
	switch e.Event.Action {
	case trailgate.ActionRotateKey, trailgate.ActionFreeze, trailgate.ActionSucceed, trailgate.ActionMove:
		return e.Event
	}
	return nil
}

// take takes entries in order.
func (c *lifeCheck) take(seq uint64, f *facts, place string) error {
	if c.frozen && seq > c.frozenAt {
		return &Bad{Seq: seq, Place: place, Reason: fmt.Sprintf("the log was frozen with entry %d, and goes on", c.frozenAt)}
	}
	if f.life == nil {
		return nil
	}
	switch f.life.Event.Action {
	case trailgate.ActionFreeze:
		c.frozen, c.frozenAt = true, seq
	case trailgate.ActionRotateKey:
		if len(c.rotated) < maxKeys {
			c.rotated = append(c.rotated, rotationEntry{seq, f.life.Event.Target})
		}
	case trailgate.ActionSucceed:
		if seq != 0 {
			return &Bad{Seq: seq, Place: place, Reason: "the entry says that the log begins with it, and goes on from another one"}
		}
		before, err := trailgate.ReadPredecessor(f.life)
		if err != nil {
			return &Bad{Seq: seq, Place: place, Reason: err.Error()}
		}
		c.before = before
	}
	return nil
}

// checkRotations compares what the entries say of changes of the key with what the
// log's file of rotations proves.
func (v *verifier) checkRotations() *Bad {
	entries, _ := v.chain.Rotations()
	first := uint64(0) // the first entry that was read
	if v.since != nil && v.since.Size > 0 {
		first = (v.since.Size - 1) / tileWidth * tileWidth
	}
	place := v.src.place(rotationsFile)
	for _, seq := range entries {
		if seq >= first && !slices.ContainsFunc(v.life.rotated, func(r rotationEntry) bool { return r.seq == seq }) {
			return &Bad{Seq: seq, Place: place, Reason: "it tells of a change of the log's key that the log does not"}
		}
	}
	for _, r := range v.life.rotated {
		switch {
		case v.chain.Follows(r.key):
		case v.o.Dir != "" && exists(filepath.Join(v.o.Dir, nextKeyFile)):
			v.report.Rotating = true // and will be completed
		default:
			return &Bad{Seq: r.seq, Place: place, Reason: "the log says that it went over to another key, and the proof of it is missing"}
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// checkPredecessor verifies the log that this one goes on from, and compares it
// with what the first entry commits to.
func (v *verifier) checkPredecessor(ctx context.Context) error {
	p := v.life.before
	if v.o.Predecessor == nil {
		return nil
	}
	if p == nil {
		if v.since != nil {
			return fmt.Errorf("the log's first entry is not read where a check goes on from a checkpoint: check the predecessor without that")
		}
		return &Bad{Place: v.place(0), Reason: "the log does not say that it goes on from another one"}
	}
	o := *v.o.Predecessor
	o.Key, o.Parallel = p.Key, v.o.Parallel
	o.committed = p.Checkpoint
	r, err := Verify(ctx, o)
	if bad := r.badIn(err); bad != nil {
		bad.Reason = "in the predecessor: " + bad.Reason
		bad.Seq = 0
		return bad
	}
	if err != nil {
		return fmt.Errorf("predecessor: %w", err)
	}
	bad := func(format string, args ...any) error {
		return &Bad{Place: v.place(0), Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case r.Size != p.Size || r.Root != p.Root:
		return bad("the predecessor has a checkpoint of %d entries; this log was begun after %d", r.Size, p.Size)
	case p.TailSize > 0 && o.Dir != "" && (r.JournalSize != p.TailSize || r.JournalRoot != p.TailRoot):
		return bad("the predecessor's journal ends with entry %d and is not what this log was begun with, up to %d", r.JournalSize, p.TailSize)
	case p.TailSize == 0 && r.JournalSize > r.Size:
		return bad("the predecessor has %d entries, and had %d when this log was begun", r.JournalSize, p.Size)
	}
	v.report.PredecessorGood = true
	return nil
}

// badIn is the bad place that an error of Verify tells of.
func (r *Report) badIn(err error) *Bad {
	if r == nil || err == nil || r.FirstBad == nil {
		return nil
	}
	b := *r.FirstBad
	return &b
}
