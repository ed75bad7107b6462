package trailgate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/note"
)

// What a log says of itself, the event.action of entries.
const (
	// ActionRotateKey: the log goes on with another key, the event's target.
	// Detail["previous"] is the key that gives the log over.
	ActionRotateKey = "log.rotate_key"
	// ActionFreeze: nothing comes after this entry.
	ActionFreeze = "log.freeze"
	// ActionSucceed is a log's first entry where it goes on from another one, whose
	// origin is the event's target; see [Predecessor].
	ActionSucceed = "log.succeed"
	// ActionMove: the log goes on in another place, the event's target.
	ActionMove = "log.move"
)

// maxRotations bounds what is read of a log's rotations: a key a week for 80 years.
const maxRotations = 4096

// MaxRotationsBytes is the most that is read of a log's file of rotations.
const MaxRotationsBytes = 64 << 20

// ParseRotations reads a log's file "rotations": a [Proof] for each change of its
// key, oldest first, a line of JSON each.
func ParseRotations(raw []byte) ([]Proof, error) {
	var list []Proof
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	for {
		var p Proof
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("rotations: %w", err)
		}
		if list = append(list, p); len(list) > maxRotations {
			return nil, fmt.Errorf("rotations: more than %d", maxRotations)
		}
	}
}

// Keychain is the keys that a log had, one after the other. Each but the last
// signed, before it was given up, a checkpoint over the entry that names the
// next: so whoever trusts one of them can follow to the newest.
//
// What this cannot show: whoever stole a key before it was given up can sign
// another log that gives itself over to another key. Against that a checkpoint,
// or the new key, has to be known from elsewhere.
type Keychain struct {
	keys []chainKey
}

type chainKey struct {
	vkey     string
	verifier note.Verifier
	entry    uint64      // the entry that gives over to the next key
	end      *Checkpoint // its last act; nil of the newest
}

// NewKeychain checks a log's rotations, oldest first, and puts them together. One
// of the keys must be the trusted one, a verifier key ("vkey"). Without
// rotations that is all there is.
func NewKeychain(trusted string, rotations []Proof) (*Keychain, error) {
	v, err := note.NewVerifier(trusted)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if len(rotations) == 0 {
		return &Keychain{keys: []chainKey{{vkey: trusted, verifier: v}}}, nil
	}
	k := &Keychain{}
	for i := range rotations {
		if err := k.add(&rotations[i]); err != nil {
			return nil, fmt.Errorf("rotation %d: %w", i+1, err)
		}
	}
	for _, key := range k.keys {
		if key.vkey == trusted {
			return k, nil
		}
	}
	return nil, errors.New("rotations: none of them is about the key at hand")
}

// add checks that the key so far gives the log over to another one.
func (k *Keychain) add(p *Proof) error {
	e, err := Decode(p.Entry)
	if err != nil {
		return err
	}
	if e.Kind != KindAdmin || e.Event == nil || e.Event.Action != ActionRotateKey {
		return errors.New("the entry does not change the log's key")
	}
	previous := e.Event.Detail["previous"]
	if n := len(k.keys); n > 0 && k.keys[n-1].vkey != previous {
		return errors.New("it gives over another key than the one before it named")
	}
	from, err := note.NewVerifier(previous)
	if err != nil {
		return fmt.Errorf("previous key: %w", err)
	}
	to, err := note.NewVerifier(e.Event.Target)
	if err != nil {
		return fmt.Errorf("next key: %w", err)
	}
	if from.Name() != to.Name() {
		return fmt.Errorf("the next key is for %q, the log is %q", to.Name(), from.Name())
	}
	_, cp, err := p.Verify(from)
	if err != nil {
		return err
	}
	if n := len(k.keys); n > 1 && k.keys[n-2].end.Size > e.Seq {
		return errors.New("it lies before the one before it")
	} else if n == 0 {
		k.keys = append(k.keys, chainKey{vkey: previous, verifier: from})
	}
	last := &k.keys[len(k.keys)-1]
	last.entry, last.end = e.Seq, cp
	k.keys = append(k.keys, chainKey{vkey: e.Event.Target, verifier: to})
	return nil
}

// Origin is the log's name, which all its keys have.
func (k *Keychain) Origin() string { return k.keys[0].verifier.Name() }

// Genesis is the key with which the log began.
func (k *Keychain) Genesis() string { return k.keys[0].vkey }

// Current is the newest key.
func (k *Keychain) Current() string { return k.keys[len(k.keys)-1].vkey }

// Keys are all of them, the newest last.
func (k *Keychain) Keys() []string {
	var list []string
	for _, key := range k.keys {
		list = append(list, key.vkey)
	}
	return list
}

// Follows reports whether a verifier key is one that the log went over to.
func (k *Keychain) Follows(vkey string) bool {
	for _, key := range k.keys[1:] {
		if key.vkey == vkey {
			return true
		}
	}
	return false
}

// Rotations tells, by key that was given up, oldest first: which entry says so,
// and the checkpoint that was its last act.
func (k *Keychain) Rotations() (entries []uint64, ends []*Checkpoint) {
	for _, key := range k.keys[:len(k.keys)-1] {
		entries, ends = append(entries, key.entry), append(ends, key.end)
	}
	return entries, ends
}

// Open checks a checkpoint's signature as [OpenCheckpoint] does, with the newest
// key that signed it. A key that was given up counts up to its last act.
func (k *Keychain) Open(raw []byte) (*Checkpoint, error) {
	var err error
	for i := len(k.keys) - 1; i >= 0; i-- {
		key := &k.keys[i]
		cp, oerr := OpenCheckpoint(raw, key.verifier)
		switch {
		case oerr != nil:
			if err == nil {
				err = oerr // of the newest key
			}
		case key.end != nil && cp.Size > key.end.Size:
			return nil, fmt.Errorf("checkpoint: %d entries are signed for by a key that was given up after %d", cp.Size, key.end.Size)
		default:
			return cp, nil
		}
	}
	return nil, err
}
