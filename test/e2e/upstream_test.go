package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/sandbox"
)

const (
	upstreamToken = "upstream-token"
	gatewaySA     = "gateway@demo-project.iam.gserviceaccount.com"
)

// upstream is a sandbox BigQuery with the demo's data that listens, and keeps
// every request that arrives to the last byte.
type upstream struct {
	box *sandbox.Sandbox
	url string

	mu   sync.Mutex // guards seen
	seen []arrival
}

// arrival is one request as BigQuery got it.
type arrival struct {
	verb, path, reason, authorization string
	header                            http.Header
	body                              []byte
	raw                               string // head and body, for looking for what must not be there
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	box, err := sandbox.New(sandbox.Config{Principals: map[string]string{upstreamToken: gatewaySA}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close() })
	if err := box.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	u := &upstream{box: box}
	srv := httptest.NewServer(http.HandlerFunc(u.serve))
	t.Cleanup(srv.Close)
	u.url = srv.URL
	return u
}

func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	head, err := httputil.DumpRequest(r, false)
	if err != nil {
		head = []byte(err.Error())
	}
	body, err := io.ReadAll(r.Body)
	u.mu.Lock()
	u.seen = append(u.seen, arrival{
		verb: r.Method, path: r.URL.RequestURI(), reason: r.Header.Get("X-Goog-Request-Reason"), authorization: r.Header.Get("Authorization"),
		header: r.Header.Clone(), body: body, raw: string(head) + string(body),
	})
	u.mu.Unlock()
	if err != nil {
		return // the client broke off, and so the sandbox gets nothing
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	u.box.ServeHTTP(w, r)
}

// arrivals are the requests until now, oldest first.
func (u *upstream) arrivals() []arrival {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.seen)
}

// forwarded are the calls that must have gone upstream: all intents but those
// for the discovery document, which the gateway answers itself.
func forwarded(rows []index.Row) []index.Row {
	return slices.DeleteFunc(slices.Clone(rows), func(w index.Row) bool {
		return w.Entry.Kind != trailgate.KindIntent || w.Entry.Method == "discovery.apis.getRest"
	})
}

// checkArrivals holds what the sandbox saw against the trail: the same calls,
// one for one, to the byte, each with an outcome, and no
// secret of the agents' side among them.
func (r *rig) checkArrivals(rows []index.Row) {
	r.t.Helper()
	arrived, want := r.box.arrivals(), forwarded(rows)
	// Calls that a client makes at the same moment have no order among themselves.
	slices.SortStableFunc(arrived, func(a, b arrival) int { return strings.Compare(a.reason, b.reason) })
	slices.SortStableFunc(want, func(a, b index.Row) int { return strings.Compare(a.Entry.ID, b.Entry.ID) })
	var got, ids []string
	for _, a := range arrived {
		got = append(got, a.reason)
	}
	for _, w := range want {
		ids = append(ids, w.Entry.ID)
	}
	if diff := cmp.Diff(ids, got); diff != "" {
		r.t.Errorf("the intents of the trail (-) are not the requests that reached BigQuery (+), one for one:\n%s", diff)
		return
	}
	for i, a := range arrived {
		e, o := want[i].Entry, want[i].Closing
		if o == nil || e.Outcome == nil || e.Outcome.Status == 0 {
			r.t.Errorf("%s %s has no proper outcome: %+v", e.Method, e.ID, e.Outcome)
			continue
		}
		if a.verb != e.Request.Verb || a.path != e.Request.Path {
			r.t.Errorf("%s reached BigQuery as %s %s, recorded is %s %s", e.ID, a.verb, a.path, e.Request.Verb, e.Request.Path)
		}
		// A body that was read whole is hashed in the intent, one that streamed in the outcome.
		if sum := e.Request.SHA256 + e.Outcome.RequestSHA256; len(a.body) > 0 && sum != sha256Hex(a.body) {
			r.t.Errorf("%s %s: the body that reached BigQuery has another hash than the recorded %q", e.ID, e.Method, sum)
		}
		if a.authorization != "Bearer "+upstreamToken {
			r.t.Errorf("%s %s reached BigQuery with the credential %q", a.verb, a.path, a.authorization)
		}
		if strings.Contains(a.raw, "tgt_") {
			r.t.Errorf("%s %s reached BigQuery with an agent's token in it", a.verb, a.path)
		}
	}
}

// checkLabels holds the labels of the jobs that BigQuery has against the trail.
func (r *rig) checkLabels(rows []index.Row) {
	r.t.Helper()
	byID := map[string]*trailgate.Entry{}
	for _, w := range rows {
		byID[w.Entry.ID] = w.Entry
	}
	for _, job := range r.box.box.Jobs() {
		if job.Parent != "" {
			continue // a script's child has no configuration of its own
		}
		e := byID[job.Labels["trailgate_entry"]]
		if e == nil || e.Principal.Agent != job.Labels["trailgate_agent"] || e.Session != job.Labels["trailgate_session"] {
			r.t.Errorf("job %s has the labels %v, which fit no entry", job.ID, job.Labels)
			continue
		}
		// A dry run takes no id, and the error of a jobs.query names none.
		named := !job.DryRun && (e.Method != "bigquery.jobs.query" || e.Outcome.Status < 400)
		if named && (e.Job == nil || e.Job.ID != job.ID) {
			r.t.Errorf("job %s is in the trail as %+v", job.ID, e.Job)
		}
	}
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
