package trailgate_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

// smallLog is a log of a few entries in memory, with keys that are the same every time.
type smallLog struct {
	t       *testing.T
	entries [][]byte
	hashes  []tlog.Hash
}

func (l *smallLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, n := range indexes {
		out[i] = l.hashes[n]
	}
	return out, nil
}

func (l *smallLog) add(action, target string, detail map[string]string) []byte {
	l.t.Helper()
	n := uint64(len(l.entries))
	e := trailgate.Entry{
		Seq: n, Time: time.Date(2026, 11, 29, 12, 0, int(n), 0, time.UTC), ID: "01jdvectors000000000000000" + string(rune('0'+n)),
		Kind: trailgate.KindAdmin, Gateway: trailgate.Gateway{ID: "gw", Version: "v1"},
		Event: &trailgate.Event{Action: action, Target: target, Actor: "uid:1000", Via: "cli", Detail: detail},
	}
	raw, err := e.Encode()
	if err != nil {
		l.t.Fatal(err)
	}
	hashes, err := tlog.StoredHashes(int64(n), raw, l)
	if err != nil {
		l.t.Fatal(err)
	}
	l.entries, l.hashes = append(l.entries, raw), append(l.hashes, hashes...)
	return raw
}

func (l *smallLog) sign(skeys ...string) []byte {
	l.t.Helper()
	root, err := tlog.TreeHash(int64(len(l.entries)), l)
	if err != nil {
		l.t.Fatal(err)
	}
	text := strings.Split(string(tlog.FormatTree(tlog.Tree{N: int64(len(l.entries)), Hash: root})), "\n")
	var signers []note.Signer
	for _, skey := range skeys {
		s, err := note.NewSigner(skey)
		if err != nil {
			l.t.Fatal(err)
		}
		signers = append(signers, s)
	}
	raw, err := note.Sign(&note.Note{Text: signers[0].Name() + "\n" + text[1] + "\n" + text[2] + "\n"}, signers...)
	if err != nil {
		l.t.Fatal(err)
	}
	return raw
}

func (l *smallLog) prove(n uint64, checkpoint []byte) trailgate.Proof {
	l.t.Helper()
	path, err := tlog.ProveRecord(int64(len(l.entries)), int64(n), l)
	if err != nil {
		l.t.Fatal(err)
	}
	p := trailgate.Proof{Entry: l.entries[n], Index: n, Checkpoint: string(checkpoint)}
	for i := range path {
		p.Hashes = append(p.Hashes, path[i][:])
	}
	return p
}

// keyOf makes a key from one byte.
func keyOf(t *testing.T, b byte) (skey, vkey string) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{b}, 64)), "example.com/log")
	if err != nil {
		t.Fatal(err)
	}
	return skey, vkey
}

// lifeVectors is testdata/log-life.json: see docs/spec/log.md.
type lifeVectors struct {
	Keys       []string `json:"keys"`       // verifier keys, the newest last
	Rotations  string   `json:"rotations"`  // the file
	Checkpoint string   `json:"checkpoint"` // of the log, after the last rotation
	Stale      string   `json:"stale"`      // one that the first key signed after it was given up
	Successor  string   `json:"successor"`  // the first entry of a log that goes on from it
}

func makeLifeVectors(t *testing.T) lifeVectors {
	t.Helper()
	l := &smallLog{t: t}
	s1, v1 := keyOf(t, 1)
	s2, v2 := keyOf(t, 2)
	s3, v3 := keyOf(t, 3)
	l.add("serve.start", "gw", nil)
	l.add(trailgate.ActionRotateKey, v2, map[string]string{"previous": v1, "reason": "yearly"})
	var rotations bytes.Buffer
	enc := json.NewEncoder(&rotations)
	if err := enc.Encode(l.prove(1, l.sign(s1))); err != nil {
		t.Fatal(err)
	}
	l.add("serve.start", "gw", nil)
	l.add(trailgate.ActionRotateKey, v3, map[string]string{"previous": v2})
	if err := enc.Encode(l.prove(3, l.sign(s2))); err != nil {
		t.Fatal(err)
	}
	l.add(trailgate.ActionFreeze, "", nil)
	cp := l.sign(s3)
	v := lifeVectors{Keys: []string{v1, v2, v3}, Rotations: rotations.String(), Checkpoint: string(cp), Stale: string(l.sign(s1))}
	key, err := note.NewVerifier(v3)
	if err != nil {
		t.Fatal(err)
	}
	last, err := trailgate.OpenCheckpoint(cp, key)
	if err != nil {
		t.Fatal(err)
	}
	p := trailgate.Predecessor{Origin: last.Origin, Key: v3, Checkpoint: cp, Size: last.Size, Root: last.Root, Frozen: true}
	next := &smallLog{t: t}
	v.Successor = string(next.add(trailgate.ActionSucceed, p.Origin, p.Detail()))
	return v
}

// TestLogLife holds the formats of rotations and successors to the vectors.
func TestLogLife(t *testing.T) {
	path := filepath.Join("testdata", "log-life.json")
	made := makeLifeVectors(t)
	if os.Getenv("TRAILGATE_UPDATE") != "" {
		raw, err := json.MarshalIndent(made, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v lifeVectors
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	if a, _ := json.Marshal(v); !bytes.Equal(a, must(json.Marshal(made))) {
		t.Error("the format has changed")
	}
	list, err := trailgate.ParseRotations([]byte(v.Rotations))
	if err != nil || len(list) != 2 {
		t.Fatal(err, len(list))
	}
	for i, key := range v.Keys {
		k, err := trailgate.NewKeychain(key, list)
		if err != nil {
			t.Fatalf("key %d: %v", i, err)
		}
		if cp, err := k.Open([]byte(v.Checkpoint)); err != nil || cp.Size != 5 {
			t.Errorf("key %d: %v", i, err)
		}
		if _, err := k.Open([]byte(v.Stale)); err == nil || !strings.Contains(err.Error(), "given up after 2") {
			t.Errorf("key %d: a key that was given up: %v", i, err)
		}
		if k.Genesis() != v.Keys[0] || k.Current() != v.Keys[2] || k.Origin() != "example.com/log" {
			t.Errorf("key %d: %v", i, k.Keys())
		}
	}
	_, strange := keyOf(t, 9)
	for name, c := range map[string]struct {
		key  string
		list []trailgate.Proof
	}{
		"a key that it is not about":  {strange, list},
		"the other way round":         {v.Keys[0], []trailgate.Proof{list[1], list[0]}},
		"a link is missing":           {v.Keys[0], list[1:]},
		"another entry under a proof": {v.Keys[0], []trailgate.Proof{{Entry: list[1].Entry, Index: 1, Checkpoint: list[0].Checkpoint, Hashes: list[0].Hashes}}},
		"another checkpoint":          {v.Keys[0], []trailgate.Proof{{Entry: list[0].Entry, Index: 1, Checkpoint: list[1].Checkpoint, Hashes: list[1].Hashes}}},
	} {
		if _, err := trailgate.NewKeychain(c.key, c.list); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	e, err := trailgate.Decode([]byte(v.Successor))
	if err != nil {
		t.Fatal(err)
	}
	p, err := trailgate.ReadPredecessor(e)
	if err != nil || p.Size != 5 || p.Key != v.Keys[2] || !p.Frozen {
		t.Fatalf("%v %+v", err, p)
	}
	for member, value := range map[string]string{"size": "4", "root": "x", "key": v.Keys[0], "checkpoint": v.Stale, "tail_size": "3"} {
		was := e.Event.Detail[member]
		e.Event.Detail[member] = value
		if _, err := trailgate.ReadPredecessor(e); err == nil {
			t.Errorf("another %s is taken", member)
		}
		if e.Event.Detail[member] = was; was == "" {
			delete(e.Event.Detail, member)
		}
	}
}

func must(raw []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return raw
}

// FuzzRotations: whatever the file says, it is refused or holds.
func FuzzRotations(f *testing.F) {
	raw, err := os.ReadFile(filepath.Join("testdata", "log-life.json"))
	if err != nil {
		f.Fatal(err)
	}
	var v lifeVectors
	if err := json.Unmarshal(raw, &v); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(v.Rotations))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		list, err := trailgate.ParseRotations(raw)
		if err != nil {
			return
		}
		k, err := trailgate.NewKeychain(v.Keys[0], list)
		if err == nil && len(list) > 0 && k.Genesis() != v.Keys[0] && k.Current() != v.Keys[0] && !k.Follows(v.Keys[0]) {
			t.Error("the trusted key is not in it")
		}
	})
}
