package trailgate

import (
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// TreeWalk checks entries of a log one after the other, in the log's order, against
// its root. Each comes with an RFC 6962 audit path, which ends at the smallest subtree
// whose hash is known already; what is to the right of the path is known from then on.
// So entries that stand near each other share most of their paths, and each is checked
// the moment it comes, in memory of the tree's height (docs/spec/bundle.md).
//
// A TreeWalk is for one goroutine.
type TreeWalk struct {
	known []span // subtrees to the right of all that was checked, the nearest last
}

// span is the subtree of the entries from lo to hi-1.
type span struct {
	lo, hi uint64
	hash   tlog.Hash
}

// NewTreeWalk begins a walk through the tree of that size, which is 1 or more.
func NewTreeWalk(size uint64, root tlog.Hash) *TreeWalk {
	return &TreeWalk{known: []span{{0, size, root}}}
}

// Siblings are the subtrees, each from [0] to [1]-1, whose hashes the path of an entry
// consists of, the leaf's own sibling first.
func (w *TreeWalk) Siblings(index uint64) ([][2]uint64, error) {
	at, _, err := w.find(index)
	if err != nil {
		return nil, err
	}
	steps := descend(at.lo, at.hi, index)
	out := make([][2]uint64, len(steps))
	for i, s := range steps {
		out[len(steps)-1-i] = [2]uint64{s.lo, s.hi}
	}
	return out, nil
}

// Take checks that a leaf stands at an index, which must be larger than the one before.
func (w *TreeWalk) Take(index uint64, leaf tlog.Hash, path []tlog.Hash) error {
	at, left, err := w.find(index)
	if err != nil {
		return err
	}
	steps := descend(at.lo, at.hi, index)
	if len(path) != len(steps) {
		return fmt.Errorf("the path has %d hashes, %d are needed", len(path), len(steps))
	}
	h := leaf
	for i, sibling := range path {
		if steps[len(steps)-1-i].lo > index {
			h = tlog.NodeHash(h, sibling)
		} else {
			h = tlog.NodeHash(sibling, h)
		}
	}
	if h != at.hash {
		return errors.New("the path does not lead to the root")
	}
	w.known = w.known[:left]
	for i, s := range steps {
		if s.lo > index {
			w.known = append(w.known, span{s.lo, s.hi, path[len(steps)-1-i]})
		}
	}
	return nil
}

// find is the known subtree that an index is in, and how many are to its right.
func (w *TreeWalk) find(index uint64) (at span, left int, err error) {
	left = len(w.known)
	for left > 0 && w.known[left-1].hi <= index {
		left--
	}
	if left == 0 || w.known[left-1].lo > index {
		return span{}, 0, fmt.Errorf("index %d is not in the tree behind the one before", index)
	}
	return w.known[left-1], left - 1, nil
}

// descend splits a subtree as RFC 6962, section 2.1 does until one leaf is left, and
// returns what it leaves aside, the largest first.
func descend(lo, hi, index uint64) []span {
	var aside []span
	for hi-lo > 1 {
		mid := lo + 1<<(bits.Len64(hi-lo-1)-1)
		if index < mid {
			aside, hi = append(aside, span{lo: mid, hi: hi}), mid
		} else {
			aside, lo = append(aside, span{lo: lo, hi: mid}), mid
		}
	}
	return aside
}
