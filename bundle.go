package trailgate

import (
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Members of a bundle (docs/spec/bundle.md). The first ones stand in this order, and
// behind them the contents, which SHA256SUMS lists.
const (
	BundleReadme      = "README.txt"
	BundleCheckpoint  = "checkpoint"
	BundleFirst       = "checkpoint.first"
	BundleConsistency = "consistency"
	BundleCreation    = "creation.json"
	BundleProofs      = "proofs"
	BundleSums        = "SHA256SUMS"

	BundleEntries    = "entries.jsonl"
	BundleBlobs      = "blobs/"          // and the SHA-256 of the text
	BundleIdentity   = "identity/"       // and the SHA-256 of the evidence, and ".json"
	BundleRows       = "rows/"           // and the commitment, and ".body" or ".opening"
	BundleAbsentRows = "rows/absent.txt" // rows that could not be put in, and why
	BundleOCSF       = "rendered/ocsf.jsonl"
	BundleHTML       = "rendered/report.html"
	BundleMarkdown   = "rendered/report.md"
)

// BundleFormat is the "format" that a bundle's creation entry names.
const BundleFormat = "trailgate-bundle/1"

// ActionBundle is the action of the entry that a bundle's creation makes in the trail.
const ActionBundle = "bundle.create"

// BundleReadmeText is what README.txt says, always.
const BundleReadmeText = `This is an evidence bundle of a Trailgate audit log, format trailgate-bundle/1.

Do not believe what is in here because it is in here: check it, on a machine of
your own, with the log's public key from a source that you trust:

    trailgate bundle verify FILE --key log.pub

A second verifier, in JavaScript, and the format itself are in Trailgate's source
tree: test/bundle-js/verify.mjs and docs/spec/bundle.md.

What a bundle that verifies shows: each entry in entries.jsonl stands in the log,
unchanged, and the bundle is whole: it holds what the log says was put into it.
What it does not show: that nothing else in the log matches the filter that it was
made by. A bundle of a range holds every entry of that range.

What lies under rendered/ was made from the entries for reading. It is as the
gateway made it; where it and the entries differ, the entries hold.
`

// fixed are the members that every bundle begins with, in this order.
var fixedMembers = []string{BundleReadme, BundleCheckpoint, BundleFirst, BundleConsistency, BundleCreation, BundleProofs, BundleSums}

// BundleError is the first thing in a bundle that is not as it must be.
type BundleError struct {
	Member string // "": the file as a whole
	Line   uint64 // in the member, from 1 on; 0: the member as a whole
	Reason string
}

// Error names the place.
func (e *BundleError) Error() string {
	switch {
	case e.Member == "":
		return "the file: " + e.Reason
	case e.Line == 0:
		return e.Member + ": " + e.Reason
	}
	return fmt.Sprintf("%s, line %d: %s", e.Member, e.Line, e.Reason)
}

// Bundle is an evidence bundle whose parts were found, and not checked yet. It is safe
// for concurrent use.
type Bundle struct {
	r    io.ReaderAt
	list []member
	at   map[string]int
}

// OpenBundle reads the table of a bundle's members. An error that is a [*BundleError] is
// about the bundle; others are about reading it.
func OpenBundle(r io.ReaderAt, size int64) (*Bundle, error) {
	list, err := members(r, size)
	if err != nil {
		return nil, err
	}
	b := &Bundle{r: r, list: list, at: make(map[string]int, len(list))}
	for i, m := range list {
		switch {
		case i < len(fixedMembers):
			if m.name != fixedMembers[i] {
				return nil, &BundleError{m.name, 0, "stands where " + fixedMembers[i] + " must"}
			}
		case i > len(fixedMembers) && m.name <= list[i-1].name:
			return nil, &BundleError{m.name, 0, "is there twice, or not in the order of names"}
		}
		b.at[m.name] = i
	}
	if len(list) < len(fixedMembers) {
		return nil, &BundleError{"", 0, fixedMembers[len(list)] + " is missing"}
	}
	if _, ok := b.at[BundleEntries]; !ok {
		return nil, &BundleError{"", 0, BundleEntries + " is missing"}
	}
	return b, nil
}

// Member opens a member, nil if there is none of that name.
func (b *Bundle) Member(name string) *io.SectionReader {
	i, ok := b.at[name]
	if !ok {
		return nil
	}
	return io.NewSectionReader(b.r, b.list[i].offset, b.list[i].size)
}

// Entries goes through the entries, in the log's order, without checking that they stand
// in it: [Bundle.Verify] does. It ends after the first error.
func (b *Bundle) Entries() iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		lines := newLines(b.Member(BundleEntries), BundleEntries, MaxEntryBytes)
		for {
			raw, err := lines.next()
			if err == io.EOF {
				return
			}
			var e *Entry
			if err == nil {
				e, err = Decode(raw)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// BundleOptions say against what a bundle is checked.
type BundleOptions struct {
	// Key is the log's public key, from a source other than the bundle. Required, unless
	// there are Keys.
	Key note.Verifier
	// Keys are the keys that the log had, one of which is trusted, where its key was
	// changed: checkpoints may be signed by each, up to its last act. In Key's place.
	Keys *Keychain
	// Policy says whose cosignatures the bundle's checkpoint needs. Optional.
	Policy *WitnessPolicy
	// Remembered is a checkpoint of the log that was seen before: the bundle's must
	// extend it, as it can show of its own first one alone. Optional.
	Remembered []byte
	// Progress is called now and then. Optional.
	Progress func(done, total uint64)
}

// BundleReport is what a bundle was found to hold.
type BundleReport struct {
	Origin      string
	Size        uint64 // of the log under the bundle's checkpoint
	Root        tlog.Hash
	FirstSize   uint64 // of the log under the bundle's first checkpoint
	Witnesses   []Cosignature
	Creation    *Entry // how the bundle was made, by whom and when
	Filter      string
	Range       *[2]uint64 // first and last entry of a bundle of a range
	Entries     uint64
	First, Last *Entry // nil where there are no entries
	Blobs       int    // statements and parameters that are stored aside
	Bodies      int    // recorded rows and schemas
	AbsentRows  int    // such as are said to be gone
	Identities  int    // pieces of evidence of who called
	Renderings  []string
}

// Statements and Rows report what was asked for beside the entries.
func (r *BundleReport) Statements() bool { return r.Creation.Event.Detail["statements"] == "true" }

// Rows reports whether recorded rows were asked for.
func (r *BundleReport) Rows() bool { return r.Creation.Event.Detail["rows"] == "true" }

// Created is when the bundle's creation was recorded.
func (r *BundleReport) Created() time.Time { return r.Creation.Time }

// isHex reports whether s is a SHA-256 in lower-case hex.
func isHex(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
