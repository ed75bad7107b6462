package trailgate

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Verify checks everything in a bundle, with nothing but the bundle and the log's key.
// An error that is a [*BundleError] names the first thing that is not as it must be; others
// are about reading the file. It holds a line of each member in memory, and of each stored
// text, body and identity that an entry names its hash.
func (b *Bundle) Verify(o BundleOptions) (*BundleReport, error) {
	if o.Key == nil && o.Keys == nil {
		return nil, errors.New("bundle: the log's key is required")
	}
	v := &bundleVerifier{b: b, o: o, r: &BundleReport{}, blobs: map[string]bool{}, identities: map[string]bool{}, bodies: map[string]bodyFacts{}}
	for _, step := range []func() error{v.readme, v.checkpoints, v.creation, v.entries, v.sums, v.contents} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return v.r, nil
}

// bodyFacts is what entries say of recorded rows. Schemas have neither rows nor length.
type bodyFacts struct {
	rows, bytes int64
	schema      bool
}

type bundleVerifier struct {
	b  *Bundle
	o  BundleOptions
	r  *BundleReport
	cp *Checkpoint
	// What the entries name, and the bundle must therefore hold.
	blobs, identities map[string]bool
	bodies            map[string]bodyFacts
	created           []byte // the creation entry
}

// open checks a checkpoint's signature by the log's key, or keys.
func (v *bundleVerifier) open(raw []byte) (*Checkpoint, error) {
	if v.o.Keys != nil {
		return v.o.Keys.Open(raw)
	}
	return OpenCheckpoint(raw, v.o.Key)
}

// openCosigned checks the witnesses' signatures too.
func (v *bundleVerifier) openCosigned(raw []byte) (*CosignedCheckpoint, error) {
	if v.o.Keys != nil {
		return v.o.Keys.OpenCosigned(raw, v.o.Policy)
	}
	return OpenCosigned(raw, v.o.Key, v.o.Policy)
}

// small reads a member of which no more than max bytes make sense.
func (v *bundleVerifier) small(name string, most int64) ([]byte, error) {
	r := v.b.Member(name)
	if r.Size() > most {
		return nil, &BundleError{name, 0, fmt.Sprintf("%d bytes, at most %d make sense", r.Size(), most)}
	}
	raw := make([]byte, r.Size())
	if err := readFull(r, raw, 0); err != nil {
		return nil, err
	}
	return raw, nil
}

func (v *bundleVerifier) readme() error {
	raw, err := v.small(BundleReadme, 1<<16)
	if err == nil && string(raw) != BundleReadmeText {
		err = &BundleError{BundleReadme, 0, "not the text of this version of the format"}
	}
	return err
}

// checkpoints checks the log's signature, the witnesses', and that the tree only grew.
func (v *bundleVerifier) checkpoints() error {
	raw, err := v.small(BundleCheckpoint, maxCheckpointBytes)
	if err != nil {
		return err
	}
	if v.cp, err = v.open(raw); err != nil {
		return &BundleError{BundleCheckpoint, 0, v.explain(err)}
	}
	if v.o.Policy != nil {
		cosigned, err := v.openCosigned(raw)
		if err != nil {
			return &BundleError{BundleCheckpoint, 0, err.Error()}
		}
		v.r.Witnesses = cosigned.Cosignatures
	}
	if v.cp.Size == 0 {
		return &BundleError{BundleCheckpoint, 0, "of a log without entries"}
	}
	v.r.Origin, v.r.Size, v.r.Root = v.cp.Origin, v.cp.Size, v.cp.Root
	if raw, err = v.small(BundleFirst, maxCheckpointBytes); err != nil {
		return err
	}
	first, err := v.open(raw)
	if err != nil {
		return &BundleError{BundleFirst, 0, v.explain(err)}
	}
	v.r.FirstSize = first.Size
	if first.Size > v.cp.Size {
		return &BundleError{BundleFirst, 0, "of a larger log than the last checkpoint"}
	}
	if raw, err = v.small(BundleConsistency, 1<<13); err != nil {
		return err
	}
	if err := consistent(first, v.cp, raw); err != nil {
		return &BundleError{BundleConsistency, 0, err.Error()}
	}
	return v.remembered(first)
}

// explain says what a foreign key may mean.
func (v *bundleVerifier) explain(err error) string {
	if _, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		if v.o.Keys != nil {
			return "not signed by a key of " + v.o.Keys.Origin()
		}
		return "not signed by the key of " + v.o.Key.Name() + " (a log whose key was changed since has a file \"rotations\", with which verification follows from the old key)"
	}
	return err.Error()
}

// consistent checks the RFC 6962 proof, base64 of all its hashes in a line, that the tree
// of one checkpoint is the beginning of another's.
func consistent(first, last *Checkpoint, raw []byte) error {
	proof, err := hashLine(bytes.TrimSuffix(raw, []byte("\n")))
	switch {
	case err != nil:
		return err
	case !bytes.HasSuffix(raw, []byte("\n")):
		return errors.New("the line has no end")
	case first.Size == 0 || first.Size == last.Size:
		if len(proof) > 0 {
			return errors.New("there is a proof where none is needed")
		}
		if first.Size > 0 && first.Root != last.Root {
			return errors.New("two checkpoints of one size have different roots")
		}
		return nil
	}
	if err := tlog.CheckTree(tlog.TreeProof(proof), int64(last.Size), last.Root, int64(first.Size), first.Root); err != nil {
		return fmt.Errorf("the last checkpoint does not extend the first: %w", err)
	}
	return nil
}

// remembered holds the bundle against a checkpoint that whoever verifies has kept.
func (v *bundleVerifier) remembered(first *Checkpoint) error {
	if v.o.Remembered == nil {
		return nil
	}
	old, err := v.open(v.o.Remembered)
	if err != nil {
		return fmt.Errorf("the checkpoint that was kept: %w", err)
	}
	for name, cp := range map[string]*Checkpoint{BundleFirst: first, BundleCheckpoint: v.cp} {
		if cp.Size == old.Size {
			if cp.Root != old.Root {
				return &BundleError{name, 0, "another log than the one of the checkpoint that was kept: the roots differ"}
			}
			return nil
		}
	}
	return fmt.Errorf("the bundle proves nothing about the checkpoint that was kept, of %d entries: ask for one made with --checkpoint", old.Size)
}

// hashLine reads hashes that stand as one base64 text.
func hashLine(line []byte) ([]tlog.Hash, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(string(line))
	if err != nil || bytes.ContainsAny(line, "\r\n") || len(raw)%tlog.HashSize != 0 || len(raw) > 128*tlog.HashSize {
		return nil, errors.New("not hashes in base64")
	}
	hashes := make([]tlog.Hash, len(raw)/tlog.HashSize)
	for i := range hashes {
		copy(hashes[i][:], raw[i*tlog.HashSize:])
	}
	return hashes, nil
}

// creation reads the entry that says what the bundle must hold. That it stands in the log
// is checked behind the other entries.
func (v *bundleVerifier) creation() error {
	raw, err := v.small(BundleCreation, MaxEntryBytes)
	if err != nil {
		return err
	}
	e, err := Decode(raw)
	if err != nil {
		return &BundleError{BundleCreation, 0, err.Error()}
	}
	if e.Kind != KindAdmin || e.Event == nil || e.Event.Action != ActionBundle || e.Event.Detail["failed"] != "" {
		return &BundleError{BundleCreation, 0, "not the entry of a bundle's creation"}
	}
	d := e.Event.Detail
	if d["format"] != BundleFormat {
		return &BundleError{BundleCreation, 0, fmt.Sprintf("the bundle's format is %q, this program reads %s", d["format"], BundleFormat)}
	}
	n, ok := decimal(d["entries"])
	if !ok || !isHex(d["contents"]) {
		return &BundleError{BundleCreation, 0, "does not say what was put into the bundle"}
	}
	v.r.Creation, v.r.Entries, v.r.Filter, v.created = e, n, d["filter"], raw
	if s, has := d["range"]; has {
		a, b, _ := strings.Cut(s, "-")
		lo, ok1 := decimal(a)
		hi, ok2 := decimal(b)
		if !ok1 || !ok2 || lo > hi || hi-lo != n-1 {
			return &BundleError{BundleCreation, 0, fmt.Sprintf("the range %q does not have %d entries", s, n)}
		}
		v.r.Range = &[2]uint64{lo, hi}
	}
	return nil
}

// decimal reads a number in the one spelling that it has.
func decimal(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}

// entries checks each entry's form and that it stands in the log, and gathers what the
// entries name.
func (v *bundleVerifier) entries() error {
	walk := NewTreeWalk(v.cp.Size, v.cp.Root)
	proofs := newLines(v.b.Member(BundleProofs), BundleProofs, 1<<13)
	list := newLines(v.b.Member(BundleEntries), BundleEntries, MaxEntryBytes)
	take := func(raw []byte, seq uint64) error {
		line, err := proofs.next()
		if errors.Is(err, io.EOF) {
			return &BundleError{BundleProofs, proofs.n + 1, "the proof of an entry is missing"}
		}
		if err != nil {
			return err
		}
		path, err := hashLine(line)
		if err != nil {
			return proofs.bad("%v", err)
		}
		return walk.Take(seq, LeafHash(raw), path)
	}
	for {
		raw, err := list.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		e, err := Decode(raw)
		if err != nil {
			return list.bad("%v", err)
		}
		if err := take(raw, e.Seq); err != nil {
			return v.notInLog(err, list, e)
		}
		if v.r.Range != nil && e.Seq != v.r.Range[0]+list.n-1 {
			return list.bad("entry %d stands where entry %d of the range must", e.Seq, v.r.Range[0]+list.n-1)
		}
		v.gather(e)
		if v.r.First == nil {
			v.r.First = e
		}
		v.r.Last = e
		if v.o.Progress != nil && list.n%1024 == 0 {
			v.o.Progress(list.n, max(list.n, v.r.Entries))
		}
	}
	if list.n != v.r.Entries {
		return &BundleError{BundleEntries, 0, fmt.Sprintf("%d entries; the log says that %d were put in", list.n, v.r.Entries)}
	}
	if err := take(v.created, v.r.Creation.Seq); err != nil {
		if _, ok := errors.AsType[*BundleError](err); ok {
			return err
		}
		return &BundleError{BundleCreation, 0, fmt.Sprintf("entry %d is not in the log: %v", v.r.Creation.Seq, err)}
	}
	if _, err := proofs.next(); !errors.Is(err, io.EOF) {
		return &BundleError{BundleProofs, proofs.n, "a proof too many"}
	}
	return nil
}

func (v *bundleVerifier) notInLog(err error, list *lines, e *Entry) error {
	if _, ok := errors.AsType[*BundleError](err); ok {
		return err
	}
	return list.bad("entry %d (%s) is not in the log: %v", e.Seq, e.ID, err)
}

// gather notes what an entry names.
func (v *bundleVerifier) gather(e *Entry) {
	for _, sha := range e.Blobs() {
		v.blobs[sha] = true
	}
	if e.Principal != nil && e.Principal.Evidence != "" {
		v.identities[e.Principal.Evidence] = true
	}
	if r := e.Recording; r != nil {
		if r.Body != "" {
			v.bodies[r.Body] = bodyFacts{rows: r.StoredRows, bytes: r.StoredBytes}
		}
		if r.Schema != "" {
			v.bodies[r.Schema] = bodyFacts{schema: true}
		}
	}
}

// sums checks that the list of contents is the one that the log knows of.
func (v *bundleVerifier) sums() error {
	h := sha256.New()
	if _, err := io.Copy(h, v.b.Member(BundleSums)); err != nil {
		return fmt.Errorf("read the bundle: %w", err)
	}
	if want := v.r.Creation.Event.Detail["contents"]; hex.EncodeToString(h.Sum(nil)) != want {
		return &BundleError{BundleSums, 0, "not the list of contents whose hash is in the log: something was added, taken away or changed"}
	}
	return nil
}
