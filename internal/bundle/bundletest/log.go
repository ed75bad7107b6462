// Package bundletest makes logs in memory and bundles of them, the same bytes each time,
// and takes bundles apart, for tests and for the vectors in testdata/bundle.
package bundletest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

// Origin is the name of the logs.
const Origin = "example.com/trailgate/bundle"

// seeded makes keys that are the same each time.
type seeded byte

func (s seeded) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s)
	}
	return len(p), nil
}

// Log is a log in memory, with its blobs and recorded rows. It is what bundle.Trail and
// bundle.Rows ask for.
type Log struct {
	Key       string // the verifier key
	Verifier  note.Verifier
	Policy    string // 1 of 2 witnesses
	Entries   [][]byte
	Blobs     map[string][]byte
	Bodies    map[string][]byte // recorded rows, by commitment
	Gone      map[string]error  // commitments whose bodies are not to be had
	signer    note.Signer
	witnesses []*trailgate.Cosigner
	hashes    []tlog.Hash
	gateway   string
}

// NewLog makes an empty one; another seed is another log's keys.
func NewLog(seed byte) (*Log, error) {
	l := &Log{gateway: fmt.Sprintf("gw-%d", seed), Blobs: map[string][]byte{}, Bodies: map[string][]byte{}, Gone: map[string]error{}}
	skey, vkey, err := note.GenerateKey(seeded(seed), Origin)
	if err != nil {
		return nil, err
	}
	if l.signer, err = note.NewSigner(skey); err != nil {
		return nil, err
	}
	l.Key = vkey
	if l.Verifier, err = note.NewVerifier(vkey); err != nil {
		return nil, err
	}
	l.Policy = "log " + vkey + "\n"
	for i, name := range []string{"one", "two"} {
		w, err := cosigner("example.com/witness/"+name, seed+byte(i)+1)
		if err != nil {
			return nil, err
		}
		l.witnesses = append(l.witnesses, w)
		l.Policy += "witness " + name + " " + w.Verifier().String() + "\n"
	}
	l.Policy += "group both all one two\nquorum both\n"
	return l, nil
}

// cosigner makes a witness's key of a seed.
func cosigner(name string, seed byte) (*trailgate.Cosigner, error) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	public := append([]byte{4}, key.Public().(ed25519.PublicKey)...)
	sum := sha256.Sum256(append([]byte(name+"\n"), public...))
	return trailgate.NewCosigner(fmt.Sprintf("PRIVATE+KEY+%s+%x+%s", name, sum[:4], base64.StdEncoding.EncodeToString(append([]byte{4}, key.Seed()...))))
}

// began is when the logs begin; an entry comes each second.
var began = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

// Append adds an entry, giving it an id where it has none, and returns it.
func (l *Log) Append(e *trailgate.Entry) (*trailgate.Entry, error) {
	e.Seq = uint64(len(l.Entries))
	e.Time = began.Add(time.Duration(e.Seq) * time.Second)
	if e.ID == "" {
		e.ID = fmt.Sprintf("01kapq%020d", e.Seq)
	}
	e.Gateway = trailgate.Gateway{ID: l.gateway, Version: "v1.0.0"}
	raw, err := e.Encode()
	if err != nil {
		return nil, err
	}
	return e, l.AppendRaw(raw)
}

// AppendRaw adds bytes as an entry, whatever they are.
func (l *Log) AppendRaw(raw []byte) error {
	hs, err := tlog.StoredHashes(int64(len(l.Entries)), raw, l.reader())
	if err != nil {
		return err
	}
	l.hashes = append(l.hashes, hs...)
	l.Entries = append(l.Entries, raw)
	return nil
}

func (l *Log) reader() tlog.HashReaderFunc {
	return func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, at := range indexes {
			if at >= int64(len(l.hashes)) {
				return nil, errors.New("no such hash")
			}
			out[i] = l.hashes[at]
		}
		return out, nil
	}
}

// Checkpoint signs the tree of the first n entries, and has the witnesses cosign it.
func (l *Log) Checkpoint(n int) (*trailgate.Checkpoint, error) {
	root, err := tlog.TreeHash(int64(n), l.reader())
	if err != nil {
		return nil, err
	}
	return l.Sign(fmt.Sprintf("%s\n%d\n%s\n", Origin, n, root))
}

// Sign signs a text as if it were a checkpoint.
func (l *Log) Sign(text string) (*trailgate.Checkpoint, error) {
	signed, err := note.Sign(&note.Note{Text: text}, l.signer)
	if err != nil {
		return nil, err
	}
	for _, w := range l.witnesses {
		sig, err := w.SignAt([]byte(text), began.Add(time.Hour))
		if err != nil {
			return nil, err
		}
		var hash [4]byte
		h := w.KeyHash()
		hash[0], hash[1], hash[2], hash[3] = byte(h>>24), byte(h>>16), byte(h>>8), byte(h)
		signed = fmt.Appendf(signed, "— %s %s\n", w.Name(), base64.StdEncoding.EncodeToString(append(hash[:], sig...)))
	}
	return trailgate.OpenCheckpoint(signed, l.Verifier)
}

// Get, GetBlob, Covering and Hashes are those of bundle.Trail.
func (l *Log) Get(_ context.Context, seq uint64) ([]byte, error) {
	if seq >= uint64(len(l.Entries)) {
		return nil, errors.New("no such entry")
	}
	return l.Entries[seq], nil
}

// GetBlob is a stored text.
func (l *Log) GetBlob(_ context.Context, sha string) ([]byte, error) {
	if raw, ok := l.Blobs[sha]; ok {
		return raw, nil
	}
	return nil, errors.New("no such blob")
}

// Covering is a checkpoint of the whole log.
func (l *Log) Covering(context.Context, uint64) (*trailgate.Checkpoint, error) {
	return l.Checkpoint(len(l.Entries))
}

// Hashes are the tree's.
func (l *Log) Hashes(uint64) tlog.HashReader { return l.reader() }

// PutBlob keeps a text and returns its name.
func (l *Log) PutBlob(text string) string {
	sum := sha256.Sum256([]byte(text))
	sha := hex.EncodeToString(sum[:])
	l.Blobs[sha] = []byte(text)
	return sha
}

var salt = []byte("a salt, as a data key makes one.")

func opening(body []byte) (mac, sum []byte) {
	s := sha256.Sum256(body)
	h := hmac.New(sha256.New, salt)
	h.Write(s[:])
	return h.Sum(nil), s[:]
}

// PutBody keeps recorded rows, and returns their commitment (docs/spec/recording.md).
func (l *Log) PutBody(body string) string {
	mac, sum := opening([]byte(body))
	h := sha256.New()
	h.Write([]byte("trailgate recording v1\n"))
	h.Write(mac)
	h.Write(sum)
	c := hex.EncodeToString(h.Sum(nil))
	l.Bodies[c] = []byte(body)
	return c
}

// Open and Opening are those of bundle.Rows.
func (l *Log) Open(_ context.Context, _, address string) (io.ReadCloser, error) {
	if err := l.Gone[address]; err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(l.Bodies[address])), nil
}

// Opening is what shows that a body is the one that was committed to.
func (l *Log) Opening(_ context.Context, _, address string) (string, int64, error) {
	if err := l.Gone[address]; err != nil {
		return "", 0, err
	}
	mac, _ := opening(l.Bodies[address])
	return hex.EncodeToString(mac), int64(len(l.Bodies[address])), nil
}
