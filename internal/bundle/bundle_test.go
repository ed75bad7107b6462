package bundle_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bundle"
	"github.com/trailgate/trailgate/internal/bundle/bundletest"
)

func check(file []byte, key note.Verifier) (*trailgate.BundleReport, error) {
	b, err := trailgate.OpenBundle(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil, err
	}
	return b.Verify(trailgate.BundleOptions{Key: key})
}

func TestMake(t *testing.T) {
	made, err := bundletest.Make(t.Context(), 1, bundle.Request{Statements: true, Rows: true})
	if err != nil {
		t.Fatal(err)
	}
	again, err := bundletest.Make(t.Context(), 1, bundle.Request{Statements: true, Rows: true})
	if err != nil || !bytes.Equal(made.File, again.File) {
		t.Fatalf("the same request makes another file (%v)", err)
	}
	if _, err := check(made.File, made.Log.Verifier); err != nil {
		t.Fatal(err)
	}
	parts, err := bundletest.Split(made.File)
	if err != nil {
		t.Fatal(err)
	}
	report := string(parts.At("rendered/report.html").Data)
	for _, want := range []string{"&lt;/script&gt;&lt;b&gt;\\u202e", "grace@example.com", "ada@example.com", "tables are dropped by humans", "identity/", "4 "} {
		if !strings.Contains(report, want) {
			t.Errorf("the report does not say %q", want)
		}
	}
	for _, never := range []string{"<script", "<b>", "\u202e", "javascript:", "<a ", "<img"} {
		if strings.Contains(strings.ToLower(report), never) {
			t.Errorf("the report holds %q", never)
		}
	}
	if n := bytes.Count(parts.At("rendered/ocsf.jsonl").Data, []byte("\n")); n != 4 {
		t.Errorf("%d events of 4 calls: %s", n, parts.At("rendered/ocsf.jsonl").Data)
	}
	for line := range bytes.Lines(parts.At("rendered/ocsf.jsonl").Data) {
		var ev map[string]any
		if err := json.Unmarshal(line, &ev); err != nil {
			t.Fatal(err)
		}
		for _, required := range []string{"activity_id", "category_uid", "class_uid", "type_uid", "severity_id", "time", "metadata", "actor", "src_endpoint"} {
			if ev[required] == nil {
				t.Errorf("an event without %s: %s", required, line)
			}
		}
	}
}

// TestUnpack has tar and sha256sum, which know nothing of bundles, take one apart.
func TestUnpack(t *testing.T) {
	made, err := bundletest.Make(t.Context(), 1, bundle.Request{Statements: true, Rows: true})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "tar", "-xf", "-", "-C", dir)
	cmd.Stdin = bytes.NewReader(made.File)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("tar: %v: %s", err, out)
	}
	cmd = exec.CommandContext(t.Context(), "sha256sum", "--strict", "-c", "SHA256SUMS")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sha256sum: %v: %s", err, out)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "rows", "*.body")); len(names) != 2 {
		t.Errorf("unpacked %v", names)
	}
}

// vanishing is a trail of which an entry, or rows, change between the passes.
type vanishing struct {
	*bundletest.Log
	opened map[string]int
}

func (v *vanishing) Open(ctx context.Context, key, address string) (io.ReadCloser, error) {
	v.opened[address]++
	r, err := v.Log.Open(ctx, key, address)
	if v.opened[address] > 1 {
		return io.NopCloser(io.LimitReader(r, 3)), err
	}
	return r, err
}

func TestChanged(t *testing.T) {
	l, err := bundletest.NewLog(1)
	if err != nil {
		t.Fatal(err)
	}
	picked, err := l.Fill()
	if err != nil {
		t.Fatal(err)
	}
	v := &vanishing{l, map[string]int{}}
	m, err := bundle.New(t.Context(), v, v, bundle.Request{Seqs: picked, Rows: true, Absent: bundletest.Absent, Origin: bundletest.Origin})
	if err != nil {
		t.Fatal(err)
	}
	e, err := l.Append(bundletest.Creation(m.Detail()))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := m.Write(t.Context(), &out, e.Seq); !errors.Is(err, bundle.ErrChanged) {
		t.Errorf("rows became others between the passes: %v", err)
	}
	if _, err := check(out.Bytes(), l.Verifier); err == nil {
		t.Error("what was written until then is a bundle")
	}
	if _, err := bundle.New(t.Context(), v, v, bundle.Request{Seqs: []uint64{5, 4}}); err == nil {
		t.Error("entries in another order")
	}
	if _, err := bundle.New(t.Context(), v, v, bundle.Request{Seqs: make([]uint64, bundle.MaxEntries+1)}); !errors.Is(err, bundle.ErrTooMany) {
		t.Error(err)
	}
	l.Gone[first(l.Bodies)] = errors.New("the disk is on fire")
	if _, err := bundle.New(t.Context(), v, v, bundle.Request{Seqs: picked, Rows: true, Absent: bundletest.Absent}); err == nil {
		t.Error("rows that cannot be read are left out")
	}
}

func first(bodies map[string][]byte) string {
	for c, body := range bodies {
		if strings.Contains(string(body), `"v":"1"`) {
			return c
		}
	}
	return ""
}

// TestRangeProofs: neighbours share their paths.
func TestRangeProofs(t *testing.T) {
	l, err := bundletest.NewLog(1)
	if err != nil {
		t.Fatal(err)
	}
	var seqs []uint64
	for i := range 1000 {
		e, err := l.Append(&trailgate.Entry{Kind: trailgate.KindGateway, Event: &trailgate.Event{Action: "serve.start", Target: fmt.Sprint(i)}})
		if err != nil {
			t.Fatal(err)
		}
		if i >= 300 && i < 900 {
			seqs = append(seqs, e.Seq)
		}
	}
	m, err := bundle.New(t.Context(), l, l, bundle.Request{Seqs: seqs, Range: &[2]uint64{300, 899}, Origin: bundletest.Origin})
	if err != nil {
		t.Fatal(err)
	}
	e, err := l.Append(bundletest.Creation(m.Detail()))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := m.Write(t.Context(), &out, e.Seq); err != nil {
		t.Fatal(err)
	}
	r, err := check(out.Bytes(), l.Verifier)
	if err != nil || r.Range == nil || r.Range[1] != 899 || r.Entries != 600 {
		t.Fatalf("%+v %v", r, err)
	}
	parts, err := bundletest.Split(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	// 600 entries, 32 bytes of hash each and little more; 600 whole paths would be 256 KiB.
	if n := len(parts.At(trailgate.BundleProofs).Data); n > 40<<10 {
		t.Errorf("proofs of %d bytes", n)
	}
}
