package trailgate

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint is the head of a log at one moment (https://c2sp.org/tlog-checkpoint).
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   tlog.Hash
	// Raw is the signed note as it was read.
	Raw []byte
}

// maxCheckpointBytes bounds what is parsed; a checkpoint with many
// cosignatures stays far below it.
const maxCheckpointBytes = 1 << 16

// OpenCheckpoint checks the signature on a checkpoint and parses it. The
// verifier's name is the log's origin, as C2SP has it; a checkpoint of another
// origin is an error even where the key fits.
func OpenCheckpoint(raw []byte, key note.Verifier) (*Checkpoint, error) {
	if len(raw) > maxCheckpointBytes {
		return nil, errors.New("checkpoint: larger than 64 KiB")
	}
	n, err := note.Open(raw, note.VerifierList(key))
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return nil, err
	}
	if c.Origin != key.Name() {
		return nil, fmt.Errorf("checkpoint: origin is %q, the key is for %q", c.Origin, key.Name())
	}
	c.Raw = bytes.Clone(raw)
	return c, nil
}

// ParseCheckpoint reads a checkpoint's body, which is the text of a signed note,
// without any signature. Raw is not set.
func ParseCheckpoint(text []byte) (*Checkpoint, error) {
	if len(text) > maxCheckpointBytes {
		return nil, errors.New("checkpoint: larger than 64 KiB")
	}
	return parseCheckpoint(string(text))
}

func parseCheckpoint(text string) (*Checkpoint, error) {
	lines := strings.SplitN(text, "\n", 4)
	if len(lines) < 4 {
		return nil, errors.New("checkpoint: fewer than three lines")
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return nil, fmt.Errorf("checkpoint: size %q", lines[1])
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return nil, errors.New("checkpoint: root hash is not 32 bytes of base64")
	}
	c := &Checkpoint{Origin: lines[0], Size: size}
	copy(c.Root[:], root)
	return c, nil
}

// LeafHash is the RFC 6962 leaf hash of an encoded entry.
func LeafHash(entry []byte) tlog.Hash { return tlog.RecordHash(entry) }

// Proof shows that an entry stands in a log, offline. It carries the entry's
// own bytes, since the proof is over bytes and not over fields.
type Proof struct {
	Entry      []byte   `json:"entry"`      // canonical encoding (base64 in JSON)
	Index      uint64   `json:"index"`      // the entry's sequence number
	Checkpoint string   `json:"checkpoint"` // signed note
	Hashes     [][]byte `json:"hashes"`     // RFC 6962 audit path, leaf to root
}

// Verify checks the whole proof against the log's key: the checkpoint's
// signature, the path from the entry to its root, and that the entry says of
// itself that it stands at that index. It returns the entry.
func (p *Proof) Verify(key note.Verifier) (*Entry, *Checkpoint, error) {
	cp, err := OpenCheckpoint([]byte(p.Checkpoint), key)
	if err != nil {
		return nil, nil, err
	}
	if p.Index >= cp.Size || len(p.Hashes) > 64 {
		return nil, nil, fmt.Errorf("proof: index %d in a log of %d entries", p.Index, cp.Size)
	}
	path := make(tlog.RecordProof, len(p.Hashes))
	for i, h := range p.Hashes {
		if len(h) != sha256.Size {
			return nil, nil, errors.New("proof: a hash is not 32 bytes")
		}
		copy(path[i][:], h)
	}
	if err := tlog.CheckRecord(path, int64(cp.Size), cp.Root, int64(p.Index), LeafHash(p.Entry)); err != nil {
		return nil, nil, fmt.Errorf("proof: entry %d is not in the log of %d entries: %w", p.Index, cp.Size, err)
	}
	e, err := Decode(p.Entry)
	if err != nil {
		return nil, nil, err
	}
	if e.Seq != p.Index {
		return nil, nil, fmt.Errorf("proof: the entry at index %d says it is %d", p.Index, e.Seq)
	}
	return e, cp, nil
}
