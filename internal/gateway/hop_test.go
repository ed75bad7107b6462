package gateway_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/gateway"
)

// hop is a connector that does what the test says.
type hop struct {
	mu     sync.Mutex
	do     func(req *http.Request, h gateway.Hop) (*http.Response, error) // nil: by the upstream
	use    trailgate.ConnectorUse
	minted gateway.Passed
	calls  []gateway.Hop
}

func (x *hop) forward(req *http.Request, h gateway.Hop) (*http.Response, func() gateway.Passed, error) {
	x.mu.Lock()
	x.calls = append(x.calls, h)
	do := x.do
	x.mu.Unlock()
	passed := func() gateway.Passed {
		x.mu.Lock()
		defer x.mu.Unlock()
		p := x.minted
		p.Connector = x.use
		return p
	}
	if do != nil {
		resp, err := do(req, h)
		return resp, passed, err
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	return resp, passed, err
}

func through(x *hop) func(*gateway.Config) {
	return func(c *gateway.Config) {
		for i := range c.Connections {
			c.Connections[i].Forward = x.forward
		}
	}
}

const insertBody = `{"jobReference":{"projectId":"demo-project","jobId":"j1"},"configuration":{"query":{"query":"SELECT 1","useLegacySql":false}}}`

// hopAnswer is a job that is done.
func hopAnswer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, `{"kind":"bigquery#job","jobReference":{"projectId":"demo-project","jobId":"j1"},"status":{"state":"DONE"},"statistics":{"query":{"statementType":"SELECT"}}}`)
}

// TestReceiptFlags: what the connector said, and what is wrong with it, is in the outcome.
func TestReceiptFlags(t *testing.T) {
	receipt := func(job string) string {
		return (&trailgate.Receipt{Entry: "e", Job: job, Time: time.Now().Truncate(time.Millisecond)}).Text()
	}
	for _, c := range []struct {
		use     trailgate.ConnectorUse
		flag    string
		verdict string
	}{
		{trailgate.ConnectorUse{Name: "c", Verdict: trailgate.ReceiptGood, Receipt: receipt("demo-project:US.j1")}, "", trailgate.ReceiptGood},
		{trailgate.ConnectorUse{Name: "c", Verdict: trailgate.ReceiptGood, Receipt: receipt("")}, "", trailgate.ReceiptGood},
		{trailgate.ConnectorUse{Name: "c", Verdict: trailgate.ReceiptGood, Receipt: receipt("demo-project:US.another")}, "receipt_differs", trailgate.ReceiptDiffers},
		{trailgate.ConnectorUse{Name: "c", Verdict: trailgate.ReceiptMissing}, "receipt_missing", trailgate.ReceiptMissing},
		{trailgate.ConnectorUse{Name: "c", Verdict: trailgate.ReceiptBad}, "receipt_bad", trailgate.ReceiptBad},
		{trailgate.ConnectorUse{Name: "c", Verdict: trailgate.ReceiptDiffers, Differs: "status"}, "receipt_differs", trailgate.ReceiptDiffers},
	} {
		x := &hop{use: c.use, minted: gateway.Passed{Mode: "impersonation", Principal: "sa@p.iam.gserviceaccount.com"}}
		r := newRig(t, hopAnswer, through(x))
		if status, body := r.call("etl-bot", "POST", "/bigquery/v2/projects/demo-project/jobs", insertBody); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		intent, outcome := r.one()
		up := outcome.Upstream
		if up.Connector == nil || up.Connector.Verdict != c.verdict || up.Mode != "impersonation" || up.Principal != "sa@p.iam.gserviceaccount.com" {
			t.Errorf("%+v: %s", c.use, dump(up))
		}
		flags := slices.DeleteFunc(slices.Clone(outcome.Flags), func(f string) bool { return !strings.HasPrefix(f, "receipt_") })
		if strings.Join(flags, " ") != c.flag {
			t.Errorf("flags %v, want %q", outcome.Flags, c.flag)
		}
		if got := x.calls[0]; got.Entry != intent.ID || got.Connection != "main" || got.Project != "demo-project" || got.Session != intent.Session || got.Principal.Agent != "etl-bot" {
			t.Errorf("the connector was told %+v", got)
		}
	}
}

// TestTunnelLost: a call that makes a job and whose tunnel breaks is left without an
// outcome, and settled by asking BigQuery, in the same run; nothing is sent twice.
func TestTunnelLost(t *testing.T) {
	trail := &memory{}
	x := &hop{}
	lost := &gateway.HopError{Message: "the tunnel was lost", Sent: true, Lost: true}
	x.do = func(req *http.Request, _ gateway.Hop) (*http.Response, error) {
		resp, err := http.DefaultTransport.RoundTrip(req) // it arrived
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
		return nil, lost
	}
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) { hopAnswer(w, req) }, through(x), func(c *gateway.Config) {
		c.Trail, c.Unfinished = trail, unfinished(trail)
	})
	r.trail = trail
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- r.gw.Run(ctx, 0) }()
	defer func() { cancel(); <-done }()
	status, body := r.call("etl-bot", "POST", "/bigquery/v2/projects/demo-project/jobs", insertBody)
	if status != http.StatusBadGateway || !strings.Contains(body, "is being asked of BigQuery") {
		t.Fatalf("%d %s", status, body)
	}
	calls := trail.calls()
	if len(calls) == 0 || calls[0].Kind != trailgate.KindIntent || slices.ContainsFunc(calls, func(e *trailgate.Entry) bool { return e.Kind == trailgate.KindOutcome }) {
		t.Fatalf("want an intent without an outcome, have %s", dump(calls))
	}
	x.mu.Lock()
	x.do = nil // another connector is there
	x.mu.Unlock()
	for deadline := time.Now().Add(30 * time.Second); settled(trail)[calls[0].ID] == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it is not settled: %s", dump(trail.calls()))
		}
	}
	if e := settled(trail)[calls[0].ID]; e.Outcome.End != "job_found" || e.Job.ID != "j1" {
		t.Errorf("%s", dump(e))
	}
	posted := 0
	seen, _ := r.upstreamSaw()
	for _, q := range seen {
		if q.Method == http.MethodPost {
			posted++
		}
	}
	if posted != 1 {
		t.Errorf("the job was sent %d times", posted)
	}
}

// TestHopErrors: what a connector could not do, as the agent and the trail are told.
func TestHopErrors(t *testing.T) {
	for _, c := range []struct {
		name    string
		err     *gateway.HopError
		verb    string
		status  int
		end     string
		flags   string
		message string
	}{
		{"none", &gateway.HopError{Message: "no connector", NoneThere: true, Temporary: true}, "POST", 503, trailgate.EndNotForwarded, "", "no connector"},
		{"forbidden", &gateway.HopError{Message: "not allowed", Forbidden: true}, "POST", 403, trailgate.EndNotForwarded, "", "not allowed"},
		{"credential", &gateway.HopError{Message: "no grant", Credential: true}, "POST", 403, trailgate.EndNotForwarded, "", "no grant"},
		{"for now", &gateway.HopError{Message: "later", Credential: true, Temporary: true}, "POST", 503, trailgate.EndNotForwarded, "", "later"},
		{"unreachable", &gateway.HopError{Message: "no route"}, "POST", 502, trailgate.EndUpstreamDown, "", "no route"},
		{"timeout", &gateway.HopError{Message: "slow", Sent: true, Timeout: true}, "POST", 504, trailgate.EndUpstreamDown, "effect_unknown", "in time"},
		{"lost read", &gateway.HopError{Message: "gone", Sent: true, Lost: true}, "GET", 502, trailgate.EndUpstreamDown, "tunnel_lost", "gone"},
		{"lost change", &gateway.HopError{Message: "gone", Sent: true, Lost: true}, "DELETE", 502, trailgate.EndUpstreamDown, "effect_unknown tunnel_lost", "gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := &hop{do: func(*http.Request, gateway.Hop) (*http.Response, error) { return nil, c.err }}
			r := newRig(t, hopAnswer, through(x))
			path, body := "/bigquery/v2/projects/demo-project/jobs", insertBody
			if c.verb != "POST" {
				path, body = "/bigquery/v2/projects/demo-project/datasets/d/tables/t", ""
			}
			status, said := r.call("etl-bot", c.verb, path, body)
			if status != c.status || !strings.Contains(said, c.message) {
				t.Errorf("%d %s", status, said)
			}
			_, outcome := r.one()
			if outcome.Outcome.End != c.end || strings.Join(outcome.Flags, " ") != c.flags {
				t.Errorf("end %s, flags %v", outcome.Outcome.End, outcome.Flags)
			}
		})
	}
}

// broken is an answer whose tunnel breaks after some bytes.
type broken struct{ io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = errors.New("connector c: connection reset")
	}
	return n, err
}

func (broken) Close() error { return nil }

// TestTunnelLostInAnswer: of an answer that has begun, the outcome says how far it came.
func TestTunnelLostInAnswer(t *testing.T) {
	x := &hop{do: func(req *http.Request, _ gateway.Hop) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: -1, Request: req, Body: broken{strings.NewReader(`{"rows":[` + strings.Repeat(" ", 300_000))}}, nil
	}}
	r := newRig(t, hopAnswer, through(x))
	if _, _, err := r.do(r.request("etl-bot", "GET", "/bigquery/v2/projects/demo-project/datasets/d/tables/t/data", "")); err == nil {
		t.Error("the answer passes for whole")
	}
	var outcome *trailgate.Entry
	for deadline := time.Now().Add(30 * time.Second); outcome == nil; time.Sleep(time.Millisecond) {
		for _, e := range r.trail.calls() {
			if e.Kind == trailgate.KindOutcome {
				outcome = e
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("no outcome")
		}
	}
	if outcome.Outcome.End != trailgate.EndUpstreamCut || outcome.Outcome.Bytes < 300_000 || !slices.Contains(outcome.Flags, "tunnel_lost") {
		t.Errorf("%s", dump(outcome))
	}
}
