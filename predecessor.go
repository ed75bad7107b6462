package trailgate

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Predecessor is the log that a log goes on from, as its first entry commits to
// it ([ActionSucceed]).
type Predecessor struct {
	Origin string
	Key    string // the verifier key that signed its last checkpoint
	// Checkpoint is its last one, of Size entries with that Root.
	Checkpoint []byte
	Size       uint64
	Root       tlog.Hash
	// Frozen: its last entry says that none comes after it.
	Frozen bool
	// TailSize and TailRoot are of all its entries, where there were more than it
	// could still sign for; else TailSize is zero. Only the successor vouches for these.
	TailSize uint64
	TailRoot tlog.Hash
}

// Detail is what the entry's event.detail says of the predecessor; its target is
// the origin.
func (p *Predecessor) Detail() map[string]string {
	d := map[string]string{
		"key": p.Key, "checkpoint": string(p.Checkpoint),
		"size": strconv.FormatUint(p.Size, 10), "root": base64.StdEncoding.EncodeToString(p.Root[:]),
	}
	if p.Frozen {
		d["frozen"] = "true"
	}
	if p.TailSize > 0 {
		d["tail_size"] = strconv.FormatUint(p.TailSize, 10)
		d["tail_root"] = base64.StdEncoding.EncodeToString(p.TailRoot[:])
	}
	return d
}

// ReadPredecessor reads which log the one that begins with e goes on from, and
// checks that the checkpoint in it is signed by that log's key. It is nil where e
// is no such entry.
func ReadPredecessor(e *Entry) (*Predecessor, error) {
	if e.Kind != KindAdmin || e.Event == nil || e.Event.Action != ActionSucceed {
		return nil, nil
	}
	d := e.Event.Detail
	key, err := note.NewVerifier(d["key"])
	if err != nil {
		return nil, fmt.Errorf("predecessor: key: %w", err)
	}
	cp, err := OpenCheckpoint([]byte(d["checkpoint"]), key)
	if err != nil {
		return nil, fmt.Errorf("predecessor: %w", err)
	}
	p := &Predecessor{Origin: cp.Origin, Key: d["key"], Checkpoint: cp.Raw, Size: cp.Size, Root: cp.Root, Frozen: d["frozen"] == "true"}
	if e.Event.Target != p.Origin || d["size"] != strconv.FormatUint(p.Size, 10) || d["root"] != base64.StdEncoding.EncodeToString(p.Root[:]) {
		return nil, errors.New("predecessor: the entry says something else than the checkpoint in it")
	}
	if d["tail_size"] == "" {
		return p, nil
	}
	n, err := strconv.ParseUint(d["tail_size"], 10, 63)
	root, rerr := base64.StdEncoding.DecodeString(d["tail_root"])
	if err != nil || rerr != nil || n <= p.Size || len(root) != tlog.HashSize {
		return nil, errors.New("predecessor: its tail cannot be read")
	}
	p.TailSize = n
	copy(p.TailRoot[:], root)
	return p, nil
}
