package trailgate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// contents checks each member that SHA256SUMS lists, and that nothing is missing which
// the entries name.
func (v *bundleVerifier) contents() error {
	list := newLines(v.b.Member(BundleSums), BundleSums, 256)
	for _, m := range v.b.list[len(fixedMembers):] {
		line, err := list.next()
		if errors.Is(err, io.EOF) {
			return &BundleError{m.name, 0, "not in " + BundleSums}
		}
		if err != nil {
			return err
		}
		sum, name, ok := strings.Cut(string(line), "  ")
		if !ok || !isHex(sum) {
			return list.bad("not a hash and a name")
		}
		if name != m.name {
			return list.bad("lists %q where the bundle has %s", name, m.name)
		}
		if err := v.content(m, sum); err != nil {
			return err
		}
	}
	if line, err := list.next(); !errors.Is(err, io.EOF) {
		return list.bad("lists %q, which the bundle does not have", line)
	}
	return v.whole()
}

// content checks one member: its hash, and that it is what its name says.
func (v *bundleVerifier) content(m member, sum string) error {
	h, count := sha256.New(), &lineCounter{}
	if _, err := io.Copy(io.MultiWriter(h, count), v.b.Member(m.name)); err != nil {
		return fmt.Errorf("read the bundle: %w", err)
	}
	if hex.EncodeToString(h.Sum(nil)) != sum {
		return &BundleError{m.name, 0, "was changed: it has another hash than " + BundleSums + " says"}
	}
	dir, base, _ := strings.Cut(m.name, "/")
	switch {
	case m.name == BundleEntries:
		return nil
	case m.name == BundleOCSF, m.name == BundleHTML, m.name == BundleMarkdown:
		v.r.Renderings = append(v.r.Renderings, m.name)
		return nil
	case dir == "blobs" && base == sum && v.r.Statements() && v.blobs[sum]:
		delete(v.blobs, sum)
		v.r.Blobs++
		return nil
	case dir == "identity" && base == sum+".json" && v.identities[sum]:
		delete(v.identities, sum)
		v.r.Identities++
		return nil
	case m.name == BundleAbsentRows && v.r.Rows():
		return v.absent()
	case dir == "rows" && v.r.Rows():
		return v.body(m, base, h.Sum(nil), count)
	}
	return &BundleError{m.name, 0, "no entry names it, or it was not asked for"}
}

// body checks recorded rows, or a schema, against the commitment that an entry holds. The
// opening is what ties them; it tells nothing of other rows under the same data key.
func (v *bundleVerifier) body(m member, base string, sum []byte, count *lineCounter) error {
	if c, ok := strings.CutSuffix(base, ".opening"); ok {
		if v.b.Member(BundleRows+c+".body") == nil {
			return &BundleError{m.name, 0, "opens a body that is not there"}
		}
		return nil
	}
	c, ok := strings.CutSuffix(base, ".body")
	facts, named := v.bodies[c]
	if !ok || !named {
		return &BundleError{m.name, 0, "no entry names it"}
	}
	delete(v.bodies, c)
	if v.b.Member(BundleRows+c+".opening") == nil {
		return &BundleError{m.name, 0, "there is no opening, so that it cannot be checked"}
	}
	text, err := v.small(BundleRows+c+".opening", 65)
	if err != nil {
		return err
	}
	mac, err := hex.DecodeString(strings.TrimSuffix(string(text), "\n"))
	if err != nil || len(mac) != sha256.Size || len(text) != 65 || !isHex(string(text[:64])) {
		return &BundleError{BundleRows + c + ".opening", 0, "not 32 bytes in hex and a newline"}
	}
	h := sha256.New()
	h.Write([]byte("trailgate recording v1\n"))
	h.Write(mac)
	h.Write(sum)
	if hex.EncodeToString(h.Sum(nil)) != c {
		return &BundleError{m.name, 0, "not the rows that were recorded: the commitment differs"}
	}
	if !facts.schema && (m.size != facts.bytes || count.lines != facts.rows) {
		return &BundleError{m.name, 0, fmt.Sprintf("%d rows of %d bytes, the entry says %d of %d", count.lines, m.size, facts.rows, facts.bytes)}
	}
	v.r.Bodies++
	return nil
}

// AbsentReasons are why recorded rows may not be in a bundle.
var absentReasons = map[string]bool{"erased": true, "missing": true, "damaged": true}

// absent reads which rows could not be put in: lines of a commitment and a reason, sorted.
func (v *bundleVerifier) absent() error {
	list := newLines(v.b.Member(BundleAbsentRows), BundleAbsentRows, 256)
	last := ""
	for {
		line, err := list.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		c, why, _ := strings.Cut(string(line), " ")
		if _, named := v.bodies[c]; !named || c <= last || !absentReasons[why] {
			return list.bad("not rows that an entry names, and a reason")
		}
		last = c
		delete(v.bodies, c)
		v.r.AbsentRows++
	}
	return nil
}

// whole checks that all is there that the entries name and that was asked for.
func (v *bundleVerifier) whole() error {
	if v.r.Statements() {
		if sha := least(v.blobs); sha != "" {
			return &BundleError{BundleBlobs + sha, 0, "missing, although an entry names it"}
		}
	}
	if sha := least(v.identities); sha != "" {
		return &BundleError{BundleIdentity + sha + ".json", 0, "missing, although an entry names it"}
	}
	if v.r.Rows() {
		if c := least(v.bodies); c != "" {
			return &BundleError{BundleRows + c + ".body", 0, "missing, although an entry names it, and not said to be absent"}
		}
	}
	return nil
}

func least[V any](set map[string]V) string {
	first := ""
	for k := range set {
		if first == "" || k < first {
			first = k
		}
	}
	return first
}

// lineCounter counts line ends.
type lineCounter struct{ lines int64 }

func (c *lineCounter) Write(p []byte) (int, error) {
	c.lines += int64(bytes.Count(p, []byte{'\n'}))
	return len(p), nil
}
