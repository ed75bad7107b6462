package admin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/bundle/bundletest"
)

// TestBundleRefuses: what cannot be a bundle is told before anything is recorded.
func TestBundleRefuses(t *testing.T) {
	r := newRig(t)
	r.intent(1, "etl-bot")
	r.caughtUp()
	for body, code := range map[string]int{
		`{"first":0}`:                                         400,
		`{"first":1,"last":0}`:                                400,
		`{"first":-1,"last":0}`:                               400,
		`{"first":0,"last":99}`:                               400,
		`{"first":0,"last":0,"filter":"agent = x"}`:           400,
		`{"filter":"agnt = 1"}`:                               400,
		`{"from_checkpoint":"x"}`:                             500, // the harness's key is none
		`{"rows":true}`:                                       404,
		`{"filter":"` + strings.Repeat("a OR ", 2000) + `a"}`: 400,
		`{"format":"zip"}`:                                    400,
	} {
		if a := r.socket(http.MethodPost, "/api/v1/bundles", body); a.StatusCode != code {
			t.Errorf("%.60s: %d, want %d: %s", body, a.StatusCode, code, a.body)
		}
	}
	if actions := r.trail.actions(t); len(actions) > 0 {
		t.Errorf("recorded %v", actions)
	}
	// Nothing leaves that is not recorded first.
	r.trail.set(func(m *memory) {
		m.refuse = func(e *trailgate.Entry) error {
			if e.Kind == trailgate.KindAdmin {
				return errors.New("no")
			}
			return nil
		}
	})
	a := r.socket(http.MethodPost, "/api/v1/bundles", `{}`)
	if a.StatusCode != http.StatusServiceUnavailable || bytes.Contains(a.body, []byte("ustar")) {
		t.Errorf("a bundle that is not recorded: %d", a.StatusCode)
	}
	bare := newRig(t, func(c *admin.Config) { c.Bundles = nil })
	if a := bare.socket(http.MethodPost, "/api/v1/bundles", `{}`); a.StatusCode != http.StatusNotFound {
		t.Error(a.StatusCode)
	}
}

// TestBundleApproval: who asks for one side of an approval gets all of it.
func TestBundleApproval(t *testing.T) {
	r := newRig(t)
	ask := func(e *trailgate.Entry) *trailgate.Entry { r.entry(e); return e }
	who := &trailgate.Principal{Agent: "etl-bot"}
	held := ask(&trailgate.Entry{ID: id(1), Kind: trailgate.KindHeld, Principal: who, Class: trailgate.ClassWrite, Decision: &trailgate.Decision{Effect: "require_approval", ApprovalID: "apr_1"}})
	ask(&trailgate.Entry{ID: id(2), Kind: trailgate.KindApproved, IntentID: held.ID, Decision: &trailgate.Decision{Effect: "allow", ApprovalID: "apr_1", Approvers: []string{"grace"}}})
	r.entry(&trailgate.Entry{ID: id(3), Kind: trailgate.KindIntent, Principal: &trailgate.Principal{Agent: "other"}})
	ask(&trailgate.Entry{ID: id(4), Kind: trailgate.KindIntent, IntentID: held.ID, Principal: who, Class: trailgate.ClassWrite, Decision: &trailgate.Decision{Effect: "allow", ApprovalID: "apr_1", Approvers: []string{"grace"}}})
	ask(&trailgate.Entry{ID: id(5), Kind: trailgate.KindOutcome, IntentID: id(4), Outcome: &trailgate.Outcome{Status: 200, End: trailgate.EndComplete}})
	r.caughtUp()
	for _, filter := range []string{`id = "` + id(4) + `"`, `id = "` + id(1) + `"`, `agent = "etl-bot" AND state = "held"`} {
		body, err := json.Marshal(map[string]string{"filter": filter})
		if err != nil {
			t.Fatal(err)
		}
		a := r.socket(http.MethodPost, "/api/v1/bundles", string(body))
		if a.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		parts, err := bundletest.Split(a.body)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range bytes.Lines(parts.At("entries.jsonl").Data) {
			e, err := trailgate.Decode(bytes.TrimSuffix(line, []byte("\n")))
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e.ID)
		}
		if want := fmt.Sprint([]string{id(1), id(2), id(4), id(5)}); fmt.Sprint(got) != want {
			t.Errorf("%s: %v, want %s", filter, got, want)
		}
		if n := bytes.Count(parts.At("rendered/ocsf.jsonl").Data, []byte("\n")); n != 1 {
			t.Errorf("%s: %d events of one call", filter, n)
		}
	}
}

// TestBundleReal makes bundles of a real log, and checks them as an auditor does.
func TestBundleReal(t *testing.T) {
	h := newHouse(t)
	c, err := client.New("unix:"+h.socket, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	key, err := note.NewVerifier(h.trail.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	blob, err := h.trail.PutBlob(t.Context(), []byte("SELECT long"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 700 {
		agent := []string{"etl-bot", "bi-bot"}[i%2]
		in := &trailgate.Entry{ID: fmt.Sprintf("in%024d", i), Kind: trailgate.KindIntent, Principal: &trailgate.Principal{Agent: agent}, Method: "bigquery.jobs.query", Project: "p", Class: trailgate.ClassRead}
		if i == 100 {
			in.Statements = []trailgate.Statement{{Where: "query", Blob: blob, SHA256: blob, Length: 11}}
		}
		if err := h.trail.Append(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		if err := h.trail.Append(t.Context(), &trailgate.Entry{ID: fmt.Sprintf("out%023d", i), Kind: trailgate.KindOutcome, IntentID: in.ID, Outcome: &trailgate.Outcome{Status: 200}}); err != nil {
			t.Fatal(err)
		}
	}
	verify := func(q client.BundleRequest, remembered string) (*trailgate.BundleReport, string) {
		t.Helper()
		var out bytes.Buffer
		id, err := c.Bundle(t.Context(), q, &out)
		if err != nil {
			t.Fatal(err)
		}
		b, err := trailgate.OpenBundle(bytes.NewReader(out.Bytes()), int64(out.Len()))
		if err != nil {
			t.Fatal(err)
		}
		o := trailgate.BundleOptions{Key: key}
		if remembered != "" {
			o.Remembered = []byte(remembered)
		}
		r, err := b.Verify(o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Creation.ID != id || r.Creation.Event.Actor == "" {
			t.Errorf("created by %+v, told %q", r.Creation, id)
		}
		cp := make([]byte, b.Member(trailgate.BundleCheckpoint).Size())
		if _, err := b.Member(trailgate.BundleCheckpoint).ReadAt(cp, 0); err != nil {
			t.Fatal(err)
		}
		return r, string(cp)
	}
	r, kept := verify(client.BundleRequest{Filter: `agent = "etl-bot"`, Statements: true}, "")
	if r.Entries != 700 || r.Blobs != 1 || r.Filter != `agent = "etl-bot"` {
		t.Errorf("%+v", r)
	}
	first, last := uint64(301), uint64(1000)
	r, _ = verify(client.BundleRequest{First: &first, Last: &last, FromCheckpoint: kept}, kept)
	if r.Entries != 700 || r.Range == nil || r.First.Seq != first || r.Last.Seq != last {
		t.Errorf("%+v", r)
	}
	if r, _ = verify(client.BundleRequest{Filter: `agent = "nobody"`}, ""); r.Entries != 0 {
		t.Errorf("%+v", r)
	}
	if _, err := c.Bundle(t.Context(), client.BundleRequest{FromCheckpoint: "no checkpoint"}, &bytes.Buffer{}); err == nil {
		t.Error("made from no checkpoint")
	}
}
