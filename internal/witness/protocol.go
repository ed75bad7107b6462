package witness

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	addPath        = "add-checkpoint"
	checkpointPath = "checkpoint" // an addition of ours: see [LogID]
	sizeType       = "text/x.tlog.size"

	maxProof        = 63       // lines, as C2SP has it
	maxCheckpoint   = 64 << 10 // bytes, as the root package has it
	maxRequestBytes = maxCheckpoint + 8<<10
	maxAnswerBytes  = 64 << 10
)

// LogID names a log in the path below which a witness of ours shows what it cosigned
// last, GET PREFIX/checkpoint/ID: the SHA-256 of the origin, in hex. It is no part
// of C2SP; clients MUST do without it where a witness has no such thing.
func LogID(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(sum[:])
}

// request is the body of an add-checkpoint call.
type request struct {
	old        uint64
	proof      tlog.TreeProof
	checkpoint []byte
}

func parseRequest(body []byte) (*request, error) {
	head, checkpoint, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok {
		return nil, errors.New("no empty line before the checkpoint")
	}
	lines := strings.Split(string(head), "\n")
	old, ok := strings.CutPrefix(lines[0], "old ")
	if !ok {
		return nil, errors.New(`the first line is not "old SIZE"`)
	}
	r := &request{checkpoint: checkpoint}
	var err error
	if r.old, err = parseSize(old); err != nil {
		return nil, fmt.Errorf("old size: %w", err)
	}
	if len(lines)-1 > maxProof {
		return nil, fmt.Errorf("more than %d lines of proof", maxProof)
	}
	for _, line := range lines[1:] {
		raw, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(raw) != tlog.HashSize {
			return nil, errors.New("a line of the proof is not 32 bytes in base64")
		}
		r.proof = append(r.proof, tlog.Hash(raw))
	}
	return r, nil
}

// parseSize reads a tree's size: decimal, no zeros in front.
func parseSize(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%.30q is not a size", s)
	}
	return n, nil
}

func (r *request) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", r.old)
	for _, h := range r.proof {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	b.WriteByte('\n')
	b.Write(r.checkpoint)
	return b.Bytes()
}

// emptyRoot is the root of a tree without entries.
var emptyRoot = tlog.Hash(sha256.Sum256(nil))

// checkGrowth says whether the proof shows that the larger tree begins with the
// smaller one.
func checkGrowth(proof tlog.TreeProof, old uint64, oldRoot tlog.Hash, size uint64, root tlog.Hash) error {
	switch {
	case old > size:
		return errors.New("the tree is smaller than the one before")
	case old == size && oldRoot != root:
		return errors.New("there are two trees of one size")
	case (old == 0 || old == size) && len(proof) > 0:
		return errors.New("there is a proof where none is needed")
	case size == 0 && root != emptyRoot:
		return errors.New("the root is not that of an empty tree")
	case old == 0 || old == size:
		return nil
	}
	if err := tlog.CheckTree(proof, int64(size), root, int64(old), oldRoot); err != nil {
		return errors.New("the proof does not lead from the tree before to this one")
	}
	return nil
}
