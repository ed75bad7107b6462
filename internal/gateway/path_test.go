package gateway_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/gateway"
)

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

const (
	jobsPath   = "/bigquery/v2/projects/demo-project/jobs"
	deleteBody = `{"configuration":{"query":{"query":"DELETE FROM staging.imports WHERE batch_id = 42","useLegacySql":false},"labels":{"team":"ops","trailgate_agent":"somebody-else"}}}`
	jobAnswer  = `{"kind":"bigquery#job","jobReference":{"projectId":"demo-project","jobId":"j1","location":"US"},"user_email":"sa@demo-project.iam.gserviceaccount.com",` +
		`"configuration":{"jobType":"QUERY","query":{"query":"DELETE"}},"status":{"state":"DONE"},"statistics":{"totalBytesProcessed":"1024","totalSlotMs":"7",` +
		`"query":{"statementType":"DELETE","totalBytesBilled":"10485760","numDmlAffectedRows":"3","referencedTables":[{"projectId":"demo-project","datasetId":"staging","tableId":"imports"}]}}}`
)

func answerJob(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Set-Cookie", "session=upstream")
	io.WriteString(w, jobAnswer)
}

// TestEntryBeforeEffect: when the request reaches BigQuery, its intent is in
// the trail, complete, and what arrives is what the intent says.
func TestEntryBeforeEffect(t *testing.T) {
	var r *rig
	r = newRig(t, func(w http.ResponseWriter, req *http.Request) {
		id := req.Header.Get("X-Goog-Request-Reason")
		e := r.trail.byID(id)
		body, _ := io.ReadAll(req.Body)
		switch {
		case e == nil:
			t.Errorf("no intent %q when the request arrived", id)
		case e.Kind != trailgate.KindIntent || e.Request.SHA256 != sha256Hex(body) || e.Request.Bytes != int64(len(body)):
			t.Errorf("the intent does not describe what arrived: %s\n%s", dump(e), body)
		}
		answerJob(w, req)
	})
	req := r.request("etl-bot", "POST", jobsPath+"?alt=json", deleteBody)
	req.Header.Set("X-Goog-Request-Reason", "because I say so")
	req.Header.Set("X-Goog-User-Project", "billing-project")
	req.Header.Set("X-Forwarded-For", "10.0.0.1")
	req.Header.Set("X-Goog-Authenticated-User-Email", "boss@example.com")
	req.Header.Set("Cookie", "a=b")
	resp, body, err := r.do(req)
	if err != nil || resp.StatusCode != 200 || body != jobAnswer {
		t.Fatalf("%v %v %s", err, resp, body)
	}
	if resp.Header.Get("Set-Cookie") != "" {
		t.Error("an upstream cookie reached the agent")
	}
	intent, outcome := r.one()
	if resp.Header.Get("X-Trailgate-Entry") != intent.ID {
		t.Error("the answer does not name its entry")
	}

	seen, bodies := r.upstreamSaw()
	for _, h := range []string{"Authorization", "X-Goog-User-Project", "X-Forwarded-For", "X-Goog-Authenticated-User-Email", "Cookie"} {
		if v := seen[0].Header.Get(h); v != "" {
			t.Errorf("the upstream got %s: %s", h, v)
		}
	}
	var sent struct {
		JobReference  struct{ ProjectID, JobID string }
		Configuration struct{ Labels map[string]string }
	}
	if err := json.Unmarshal([]byte(bodies[0]), &sent); err != nil {
		t.Fatal(err)
	}
	if sent.JobReference.JobID != "trailgate_"+intent.ID || intent.Job.ID != sent.JobReference.JobID || intent.Job.AssignedBy != "gateway" {
		t.Errorf("job id: sent %+v, entry %s", sent.JobReference, dump(intent.Job))
	}
	want := map[string]string{"team": "ops", "trailgate_entry": intent.ID, "trailgate_agent": "etl-bot", "trailgate_session": intent.Session}
	if fmt.Sprint(sent.Configuration.Labels) != fmt.Sprint(want) {
		t.Errorf("labels sent: %v, want %v", sent.Configuration.Labels, want)
	}

	p := intent.Principal
	if p.Agent != "etl-bot" || p.TokenID == "" || intent.Session == "" || intent.Connection != "main" || intent.Decision.Effect != "allow" {
		t.Errorf("who: %s", dump(intent))
	}
	c := intent.Claims
	if c.Reason != "because I say so" || c.QuotaProject != "billing-project" || c.DroppedLabels["trailgate_agent"] != "somebody-else" || c.Labels["team"] != "ops" {
		t.Errorf("claims: %s", dump(c))
	}
	if intent.Method != "bigquery.jobs.insert" || intent.Class != trailgate.ClassWrite || len(intent.Statements) != 1 ||
		intent.Statements[0].Text != "DELETE FROM staging.imports WHERE batch_id = 42" || intent.StatementType.Local != "DELETE" ||
		fmt.Sprint(intent.Tables.Written) != "[demo-project.staging.imports]" {
		t.Errorf("what: %s", dump(intent))
	}
	o := outcome.Outcome
	if o.Status != 200 || o.End != trailgate.EndComplete || o.JobState != "DONE" || o.RowsAffected != 3 || o.BytesProcessed != 1024 || o.BytesBilled != 10485760 ||
		o.SlotMillis != 7 || o.Bytes != int64(len(jobAnswer)) || o.DurationNanos <= 0 || outcome.StatementType.Final != "DELETE" || outcome.StatementType.Disagree ||
		outcome.Upstream.Principal != "sa@demo-project.iam.gserviceaccount.com" || !outcome.Tables.Final {
		t.Errorf("outcome: %s", dump(outcome))
	}
	raw, _ := json.Marshal(r.trail.all())
	if bytes.Contains(raw, []byte(r.tokens["etl-bot"])) {
		t.Error("the agent's token is in the trail")
	}
}

// TestNoTrailNoCall: an intent that cannot be written refuses the call, whole.
func TestNoTrailNoCall(t *testing.T) {
	r := newRig(t, answerJob)
	for _, kind := range []trailgate.Kind{trailgate.KindSession, trailgate.KindIntent} {
		r.trail.fail(func(e *trailgate.Entry) error {
			if e.Kind == kind {
				return errDisk
			}
			return nil
		})
		status, body := r.call(map[trailgate.Kind]string{trailgate.KindSession: "analyst-bot", trailgate.KindIntent: "etl-bot"}[kind], "POST", jobsPath, deleteBody)
		why, msg := reason(t, body)
		if status != 503 || why != "backendError" || !strings.Contains(msg, "no space left") {
			t.Errorf("%s: %d %s", kind, status, body)
		}
	}
	if seen, _ := r.upstreamSaw(); len(seen) != 0 {
		t.Errorf("the upstream saw %d requests", len(seen))
	}
	r.trail.fail(nil)
	for _, agent := range []string{"etl-bot", "analyst-bot"} {
		if status, body := r.call(agent, "POST", jobsPath, deleteBody); status != 200 {
			t.Errorf("after recovery: %d %s", status, body)
		}
	}
	// The session whose beginning was lost is not one that the trail does not know.
	opened := map[string]bool{}
	for _, e := range r.trail.all() {
		if e.Kind == trailgate.KindSession {
			opened[e.Session] = true
		} else if !opened[e.Session] {
			t.Errorf("entry %s is of a session that never began", e.ID)
		}
	}
}

// TestOutcomeBeforeLastByte holds the outcome's commit and looks at what the
// agent has by then: everything but the end.
func TestOutcomeBeforeLastByte(t *testing.T) {
	row := `{"f":[{"v":"` + strings.Repeat("x", 990) + `"}]}`
	big := `{"jobComplete":true,"rows":[` + strings.Repeat(row+",", 999) + row + `],"totalRows":"1000"}`
	for name, length := range map[string]bool{"content-length": true, "chunked": false} {
		for _, size := range []string{jobAnswer, big} {
			t.Run(fmt.Sprintf("%s/%d", name, len(size)), func(t *testing.T) {
				r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "application/json")
					if length {
						w.Header().Set("Content-Length", fmt.Sprint(len(size)))
					}
					for _, part := range []string{size[:len(size)/2], size[len(size)/2:]} {
						io.WriteString(w, part)
						w.(http.Flusher).Flush()
					}
				})
				reached, release := make(chan struct{}), make(chan struct{})
				r.trail.fail(func(e *trailgate.Entry) error {
					if e.Kind == trailgate.KindOutcome {
						close(reached)
						<-release
					}
					return nil
				})
				conn, err := net.Dial("tcp", r.front.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				fmt.Fprintf(conn, "GET /bigquery/v2/projects/demo-project/queries/j1?maxResults=1000 HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer %s\r\n\r\n", r.tokens["etl-bot"])
				got := make(chan string, 1)
				go func() {
					resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
					if err != nil {
						got <- err.Error()
						return
					}
					body, _ := io.ReadAll(resp.Body)
					got <- string(body)
				}()
				<-reached
				select {
				case body := <-got:
					t.Fatalf("the answer was whole (%d bytes) before its outcome was committed", len(body))
				case <-time.After(50 * time.Millisecond):
				}
				close(release)
				if body := <-got; body != size {
					t.Errorf("the answer came out as %d bytes instead of %d", len(body), len(size))
				}
				if _, outcome := r.one(); outcome.Outcome.Bytes != int64(len(size)) {
					t.Errorf("outcome says %d bytes", outcome.Outcome.Bytes)
				}
			})
		}
	}
}

// TestOutcomeNotWritable: no whole answer without its outcome.
func TestOutcomeNotWritable(t *testing.T) {
	big := `{"rows":[` + strings.Repeat(`{"f":[{"v":"1"}]},`, 20000) + `{"f":[]}]}`
	for name, body := range map[string]string{"small": jobAnswer, "big": big} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) })
			r.trail.fail(func(e *trailgate.Entry) error {
				if e.Kind == trailgate.KindOutcome {
					return errDisk
				}
				return nil
			})
			resp, got, err := r.do(r.request("etl-bot", "GET", "/bigquery/v2/projects/demo-project/queries/j1", ""))
			switch name {
			case "small":
				if err != nil || resp.StatusCode != 503 {
					t.Fatalf("%v %v", resp, err)
				}
				if _, msg := reason(t, got); !strings.Contains(msg, "its intent") {
					t.Error(msg)
				}
			case "big":
				if err == nil || got == body {
					t.Errorf("the answer was whole: %d bytes, %v", len(got), err)
				}
			}
		})
	}
}

// TestUpstreamBadDays: whatever BigQuery does, the agent gets an error in
// BigQuery's shape or a broken body, and the trail an outcome that says so.
func TestUpstreamBadDays(t *testing.T) {
	hijack := func(raw string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				io.WriteString(conn, raw)
				conn.Close()
			}
		}
	}
	long := strings.Repeat("x", 300<<10)
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		status  int // 0: the body breaks
		end     string
		unknown bool // flagged effect_unknown
	}{
		"refuses":       {hijack(""), 502, trailgate.EndUpstreamDown, true},
		"garbage":       {hijack("SSH-2.0-nothing\r\n\r\n"), 502, trailgate.EndUpstreamDown, true},
		"cuts at once":  {hijack("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"kind\":"), 502, trailgate.EndUpstreamCut, true},
		"cuts mid-body": {hijack("HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n" + long), 0, trailgate.EndUpstreamCut, true},
		"chunk cut":     {hijack("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"), 502, trailgate.EndUpstreamCut, true},
		"redirects": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:9/", http.StatusFound)
		}, 502, trailgate.EndRefused, false},
		"308 off upload": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(308) }, 502, trailgate.EndRefused, false},
		"odd encoding":   {hijack("HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n{}"), 502, trailgate.EndRefused, false},
		"error": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(404)
			io.WriteString(w, `{"error":{"code":404,"message":"Not found: Table x","errors":[{"message":"Not found: Table x","domain":"global","reason":"notFound"}],"status":"NOT_FOUND"}}`)
		}, 404, trailgate.EndComplete, false},
		"not json":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503); io.WriteString(w, "<html>busy") }, 503, trailgate.EndComplete, false},
		"empty":         {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, 204, trailgate.EndComplete, false},
		"informational": {hijack("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), 200, trailgate.EndComplete, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, tt.handler)
			resp, body, err := r.do(r.request("etl-bot", "POST", jobsPath, deleteBody))
			switch {
			case tt.status == 0 && err == nil:
				t.Errorf("the agent took a broken answer for whole: %d %d bytes", resp.StatusCode, len(body))
			case tt.status != 0 && (err != nil || resp.StatusCode != tt.status):
				t.Fatalf("got %v %v %s", resp, err, body)
			case tt.status == 502:
				reason(t, body)
			}
			_, outcome := r.one()
			if outcome.Outcome.End != tt.end {
				t.Errorf("outcome: %s", dump(outcome))
			}
			if got := strings.Contains(fmt.Sprint(outcome.Flags), "effect_unknown"); got != tt.unknown {
				t.Errorf("effect_unknown is %v", got)
			}
			if name == "error" && (outcome.Outcome.ErrorReason != "notFound" || outcome.Outcome.ErrorMessage != "Not found: Table x") {
				t.Errorf("outcome: %s", dump(outcome))
			}
		})
	}
}

func TestUpstreamHangs(t *testing.T) {
	hang := make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) { <-hang }, func(c *gateway.Config) { c.UpstreamTimeout = 50 * time.Millisecond })
	t.Cleanup(func() { close(hang) }) // before the servers are closed, which waits
	status, body := r.call("etl-bot", "POST", jobsPath, deleteBody)
	reason(t, body)
	_, outcome := r.one()
	if status != 504 || outcome.Outcome.End != trailgate.EndUpstreamDown {
		t.Errorf("%d %s", status, dump(outcome))
	}
}

// TestAgentGoes: the outcome is recorded for an agent that went away, before
// the answer and in the middle of it.
func TestAgentGoes(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		arrived, finish := make(chan struct{}), make(chan struct{})
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) { close(arrived); <-finish; answerJob(w, req) },
			func(c *gateway.Config) { c.GraceTimeout = time.Minute })
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-arrived; cancel() }()
		_, _, err := r.do(r.request("etl-bot", "POST", jobsPath, deleteBody).WithContext(ctx))
		close(finish) // it has gone; with both at once the answer may still win
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		r.waitFor(2)
		if _, outcome := r.one(); outcome.Outcome.JobState != "DONE" {
			t.Errorf("what BigQuery did is not known: %s", dump(outcome))
		}
	})
	t.Run("never answered", func(t *testing.T) {
		arrived, finish := make(chan struct{}), make(chan struct{})
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) { close(arrived); <-finish })
		t.Cleanup(func() { close(finish) })
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-arrived; cancel() }()
		r.do(r.request("etl-bot", "POST", jobsPath, deleteBody).WithContext(ctx))
		r.waitFor(2)
		if _, outcome := r.one(); outcome.Outcome.End != trailgate.EndClientGone || fmt.Sprint(outcome.Flags) != "[effect_unknown]" {
			t.Errorf("%s", dump(outcome))
		}
	})
	t.Run("it is there, and never reads", func(t *testing.T) {
		r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
			for range 64 << 20 / (64 << 10) { // more than all buffers on the way hold
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, func(c *gateway.Config) { c.StallTimeout = 100 * time.Millisecond })
		resp, err := http.DefaultTransport.RoundTrip(r.request("etl-bot", "GET", "/bigquery/v2/projects/demo-project/queries/j1", ""))
		if err != nil {
			t.Fatal(err)
		}
		r.waitFor(2)
		resp.Body.Close()
		if _, outcome := r.one(); outcome.Outcome.End != trailgate.EndClientGone {
			t.Errorf("%s", dump(outcome))
		}
	})
	t.Run("mid-answer, and BigQuery takes its time", func(t *testing.T) {
		// Which of the two breaks off first is not left to chance: BigQuery never does.
		finish := make(chan struct{})
		r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Write(make([]byte, 256<<10))
			w.(http.Flusher).Flush()
			<-finish
		})
		t.Cleanup(func() { close(finish) })
		resp, err := http.DefaultTransport.RoundTrip(r.request("etl-bot", "GET", "/bigquery/v2/projects/demo-project/queries/j1", ""))
		if err != nil {
			t.Fatal(err)
		}
		io.CopyN(io.Discard, resp.Body, 64<<10)
		resp.Body.Close()
		r.waitFor(2)
		if _, outcome := r.one(); outcome.Outcome.End != trailgate.EndClientGone {
			t.Errorf("%s", dump(outcome))
		}
	})
	t.Run("mid-answer", func(t *testing.T) {
		r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
			for range 64 << 20 / (64 << 10) {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		})
		resp, err := http.DefaultTransport.RoundTrip(r.request("etl-bot", "GET", "/bigquery/v2/projects/demo-project/queries/j1", ""))
		if err != nil {
			t.Fatal(err)
		}
		io.CopyN(io.Discard, resp.Body, 1<<20)
		resp.Body.Close()
		r.waitFor(2)
		if _, outcome := r.one(); outcome.Outcome.End != trailgate.EndClientGone || outcome.Outcome.Bytes >= 64<<20 {
			t.Errorf("%s", dump(outcome))
		}
	})
}

// waitFor waits until the trail has n entries of calls.
func (r *rig) waitFor(n int) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); len(r.trail.calls()) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("the trail has %s", dump(r.trail.calls()))
		}
	}
}

// TestGzip: a compressed answer passes as it is and is understood all the same;
// a compressed request is judged by what it says.
func TestGzip(t *testing.T) {
	pack := func(s string) []byte {
		var b bytes.Buffer
		zw := gzip.NewWriter(&b)
		io.WriteString(zw, s)
		zw.Close()
		return b.Bytes()
	}
	rows := `{"jobComplete":true,"totalRows":"5000","rows":[` + strings.Repeat(`{"f":[{"v":"abc"}]},`, 4999) + `{"f":[{"v":"z"}]}]}`
	for _, answer := range []string{jobAnswer, rows} {
		packed := pack(answer)
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			if req.Header.Get("Accept-Encoding") != "gzip" || req.Header.Get("Content-Encoding") != "" {
				t.Errorf("headers: %v", req.Header)
			}
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(packed)
		})
		req := r.request("etl-bot", "POST", "/bigquery/v2/projects/demo-project/queries", "x")
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(pack(`{"query":"SELECT 1","useLegacySql":false}`))), -1
		req.Header.Set("Content-Encoding", "gzip")
		req.Header.Set("Accept-Encoding", "br, gzip;q=0.5")
		resp, body, err := r.do(req)
		if err != nil || resp.StatusCode != 200 || body != string(packed) || resp.Header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%v %v", resp, err)
		}
		intent, outcome := r.one()
		if intent.Statements[0].Text != "SELECT 1" || outcome.Outcome.CaptureError != "" || outcome.Outcome.JobState == "" && outcome.Outcome.Rows != 5000 {
			t.Errorf("%s %s", dump(intent), dump(outcome))
		}
	}
	r := newRig(t, answerJob, func(c *gateway.Config) { c.MaxBodyBytes = 1 << 20 })
	req := r.request("etl-bot", "POST", jobsPath, "x")
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(pack(strings.Repeat(" ", 64<<20)))), -1
	req.Header.Set("Content-Encoding", "gzip")
	if resp, body, err := r.do(req); err != nil || resp.StatusCode != 413 {
		t.Errorf("gzip bomb: %v %v %s", resp, err, body)
	}
	r.refused()
}

// TestRefusals: what cannot be read strictly goes no further than the trail.
func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		verb, path, body string
		header           map[string]string
		status           int
	}{
		"unknown method":  {"GET", "/bigquery/v2/projects/demo-project/nothing", "", nil, 404},
		"batch":           {"POST", "/batch/bigquery/v2", "x", nil, 0},
		"encoded slash":   {"GET", "/bigquery/v2/projects/demo-project%2Fdatasets", "", nil, 0},
		"dot segments":    {"GET", "/bigquery/v2/projects/../projects/demo-project/datasets", "", nil, 0},
		"double slash":    {"GET", "/bigquery/v2//projects/demo-project/datasets", "", nil, 0},
		"casing":          {"GET", "/bigquery/v2/Projects/demo-project/datasets", "", nil, 0},
		"token in query":  {"GET", "/bigquery/v2/projects/demo-project/datasets?access_token=hunter2", "", nil, 0},
		"alt=media":       {"GET", "/bigquery/v2/projects/demo-project/datasets?alt=media", "", nil, 0},
		"override":        {"POST", "/bigquery/v2/projects/demo-project/datasets", "", map[string]string{"X-HTTP-Method-Override": "DELETE"}, 0},
		"duplicate name":  {"POST", jobsPath, `{"configuration":{},"configuration":{}}`, nil, 400},
		"case variant":    {"POST", jobsPath, `{"Configuration":{"query":{"query":"SELECT 1"}}}`, nil, 400},
		"trailing data":   {"POST", jobsPath, deleteBody + "{}", nil, 400},
		"invalid utf-8":   {"POST", jobsPath, "{\"configuration\":{\"query\":{\"query\":\"\xff\"}}}", nil, 400},
		"deep":            {"POST", jobsPath, strings.Repeat(`{"a":`, 10000) + "1" + strings.Repeat("}", 10000), nil, 400},
		"body on a get":   {"GET", "/bigquery/v2/projects/demo-project/datasets", "{}", nil, 400},
		"other encoding":  {"POST", jobsPath, deleteBody, map[string]string{"Content-Encoding": "br"}, 415},
		"nested encoding": {"POST", jobsPath, deleteBody, map[string]string{"Content-Encoding": "gzip, gzip"}, 415},
		"upgrade":         {"GET", "/bigquery/v2/projects/demo-project/datasets", "", map[string]string{"Upgrade": "h2c", "Connection": "Upgrade"}, 400},
		"unknown upload":  {"PUT", "/upload/bigquery/v2/projects/demo-project/jobs?uploadType=resumable&upload_id=nope", "x", nil, 404},
		"foreign project": {"GET", "/bigquery/v2/projects/other-project/datasets", "", nil, 403},
		"admin api":       {"GET", "/api/v1/entries", "", nil, 404},
		"other discovery": {"GET", "/$discovery/rest?version=v1", "", nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, answerJob)
			req := r.request("etl-bot", tt.verb, tt.path, tt.body)
			for k, v := range tt.header {
				req.Header.Set(k, v)
			}
			resp, body, err := r.do(req)
			if err != nil {
				t.Fatal(err)
			}
			reason(t, body)
			if resp.StatusCode < 400 || tt.status != 0 && resp.StatusCode != tt.status {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
			e := r.refused()
			if e.Principal.Agent != "etl-bot" || e.Outcome.Status != resp.StatusCode || e.Decision.Effect == "allow" {
				t.Errorf("%s", dump(e))
			}
			if raw, _ := json.Marshal(e); bytes.Contains(raw, []byte("hunter2")) {
				t.Errorf("a secret is in the trail: %s", raw)
			}
		})
	}
}

// panicky is a body whose reading panics, as a fault of our own might.
type panicky struct{}

func (panicky) Read([]byte) (int, error) { panic("found by an agent") }
func (panicky) Close() error             { return nil }

// TestPanicIsARefusal: a fault in reading a call refuses and records it.
func TestPanicIsARefusal(t *testing.T) {
	r := newRig(t, answerJob)
	req := httptest.NewRequest("POST", jobsPath, nil)
	req.Header.Set("Authorization", "Bearer "+r.tokens["etl-bot"])
	req.Body = panicky{}
	w := httptest.NewRecorder()
	r.gw.ServeHTTP(w, req)
	if w.Code != 400 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if e := r.refused(); e.Principal.Agent != "etl-bot" {
		t.Errorf("%s", dump(e))
	}
}

// TestStrangers: no credential, no call; counted, not recorded one by one.
func TestStrangers(t *testing.T) {
	r := newRig(t, answerJob)
	other, _, err := r.store.IssueToken("etl-bot", identityOptions())
	if err != nil {
		t.Fatal(err)
	}
	flipped := other[:10] + string(rune('a'+(other[10]-'a'+1)%26)) + other[11:]
	if err := r.store.RevokeAgent("analyst-bot"); err != nil {
		t.Fatal(err)
	}
	for name, header := range map[string][]string{
		"none": nil, "basic": {"Basic Zm9vOmJhcg=="}, "two": {"Bearer " + r.tokens["etl-bot"], "Bearer " + other},
		"empty": {"Bearer "}, "flipped": {"Bearer " + flipped}, "revoked": {"Bearer " + r.tokens["analyst-bot"]}, "jwt": {"Bearer eyJhbGciOiJub25lIn0.e30."},
	} {
		req := r.request("", "GET", "/bigquery/v2/projects/demo-project/datasets", "")
		req.Header["Authorization"] = header
		resp, body, err := r.do(req)
		if err != nil {
			t.Fatal(err)
		}
		if why, _ := reason(t, body); resp.StatusCode != 401 || why != "authError" {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
	}
	if n := len(r.trail.all()); n != 0 {
		t.Errorf("%d entries before the aggregate", n)
	}
	// What could not be written is not lost.
	r.trail.fail(func(*trailgate.Entry) error { return errDisk })
	r.gw.Close(t.Context())
	r.trail.fail(nil)
	if err := r.gw.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, e := range r.trail.calls() {
		if e.Kind != trailgate.KindRefused || e.Aggregate == nil || fmt.Sprint(e.Aggregate.Addresses) != "[127.0.0.1]" {
			t.Fatalf("%s", dump(e))
		}
		total += e.Aggregate.Count
	}
	if total != 7 {
		t.Errorf("counted %d strangers of 7", total)
	}
}

// TestForeignJob: who reads a job that another agent made stands out.
func TestForeignJob(t *testing.T) {
	r := newRig(t, answerJob)
	r.call("etl-bot", "POST", jobsPath, `{"jobReference":{"projectId":"demo-project","jobId":"mine"},"configuration":{"query":{"query":"SELECT 1"}}}`)
	r.call("analyst-bot", "GET", "/bigquery/v2/projects/demo-project/queries/mine", "")
	r.call("etl-bot", "GET", "/bigquery/v2/projects/demo-project/queries/mine", "")
	r.call("etl-bot", "POST", jobsPath, `{"jobReference":{"projectId":"demo-project","jobId":"mine"},"configuration":{"query":{"query":"SELECT 1"}}}`)
	var intents []*trailgate.Entry
	for _, e := range r.trail.calls() {
		if e.Kind == trailgate.KindIntent {
			intents = append(intents, e)
		}
	}
	if fmt.Sprint(intents[1].Flags) != "[foreign_job]" || intents[1].Job.OwnerAgent != "etl-bot" || intents[1].Job.OwnerEntry != intents[0].ID {
		t.Errorf("foreign read: %s", dump(intents[1]))
	}
	if len(intents[2].Flags) != 0 || intents[2].Job.OwnerAgent != "etl-bot" {
		t.Errorf("own read: %s", dump(intents[2]))
	}
	if fmt.Sprint(intents[3].Flags) != "[duplicate_job_id]" || intents[3].Request.DuplicateOf != intents[0].ID {
		t.Errorf("resent: %s", dump(intents[3]))
	}
	// jobs.query names its job only in the answer.
	r.call("etl-bot", "POST", "/bigquery/v2/projects/demo-project/queries", `{"query":"SELECT 1","requestId":"r1"}`)
	r.call("etl-bot", "POST", "/bigquery/v2/projects/demo-project/queries", `{"query":"SELECT 1","requestId":"r1"}`)
	r.call("analyst-bot", "GET", "/bigquery/v2/projects/demo-project/jobs/j1", "")
	calls := r.trail.calls()
	if e := calls[len(calls)-2]; e.Job.OwnerAgent != "etl-bot" {
		t.Errorf("job of jobs.query: %s", dump(e))
	}
	if e := calls[len(calls)-4]; fmt.Sprint(e.Flags) != "[duplicate_request_id]" {
		t.Errorf("resent jobs.query: %s", dump(e))
	}
}

// TestTakenJobID: a job id that an earlier run of the gateway saw given is
// recognised when BigQuery refuses it.
func TestTakenJobID(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(409)
		io.WriteString(w, `{"error":{"code":409,"message":"Already Exists: Job demo-project:mine","errors":[{"reason":"duplicate"}]}}`)
	}, func(c *gateway.Config) {
		c.JobOwner = func(_ context.Context, project, job string) (gateway.Owner, bool, error) {
			return gateway.Owner{Agent: "analyst-bot", Entry: "entry-of-then"}, project == "demo-project" && job == "mine", nil
		}
	})
	r.call("etl-bot", "POST", jobsPath, `{"jobReference":{"projectId":"demo-project","jobId":"mine"},"configuration":{"query":{"query":"SELECT 1"}}}`)
	_, outcome := r.one()
	if fmt.Sprint(outcome.Flags) != "[duplicate_job_id foreign_job]" || outcome.Job.OwnerEntry != "entry-of-then" || outcome.Outcome.ErrorReason != "duplicate" {
		t.Errorf("%s", dump(outcome))
	}
}

// TestLongStatement: what does not fit an entry is stored whole beside it.
func TestLongStatement(t *testing.T) {
	r := newRig(t, answerJob)
	sql := "SELECT '" + strings.Repeat("\\u0001 é", 200_000) + "'"
	body, _ := json.Marshal(map[string]any{"configuration": map[string]any{"query": map[string]any{"query": sql, "useLegacySql": false}}})
	if status, text := r.call("etl-bot", "POST", jobsPath, string(body)); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	intent, _ := r.one()
	s := intent.Statements[0]
	if s.Text != "" || s.SHA256 != sha256Hex([]byte(sql)) || s.Length != int64(len(sql)) || string(r.trail.blobs[s.Blob]) != sql {
		t.Errorf("%s", dump(s))
	}
}

func TestDiscoveryIsLocal(t *testing.T) {
	r := newRig(t, answerJob)
	status, body := r.call("etl-bot", "GET", "/$discovery/rest?version=v2", "")
	var doc struct{ RootURL, ServicePath, ID string }
	if err := json.Unmarshal([]byte(body), &doc); err != nil || status != 200 || doc.ID != "bigquery:v2" || doc.RootURL != r.front.URL+"/" || doc.ServicePath != "bigquery/v2/" {
		t.Fatalf("%d %v %+v", status, err, doc)
	}
	intent, outcome := r.one()
	if intent.Method != "discovery.apis.getRest" || outcome.Upstream.Mode != "local" {
		t.Errorf("%s", dump(intent))
	}
	if seen, _ := r.upstreamSaw(); len(seen) != 0 {
		t.Error("discovery went upstream")
	}
}

type brokenCredential struct{ federation.Source }

func (brokenCredential) Credential(context.Context, federation.Request) (federation.Credential, error) {
	return federation.Credential{}, errors.New("token endpoint is away")
}

func TestNoCredential(t *testing.T) {
	r := newRig(t, answerJob, func(c *gateway.Config) { c.Connections[0].Credential = brokenCredential{federation.None()} })
	status, body := r.call("etl-bot", "POST", jobsPath, deleteBody)
	if _, msg := reason(t, body); status != 503 || !strings.Contains(msg, "connection main") {
		t.Errorf("%d %s", status, body)
	}
	if _, outcome := r.one(); outcome.Outcome.End != trailgate.EndNotForwarded || !strings.Contains(outcome.Outcome.ErrorMessage, "token endpoint is away") {
		t.Errorf("%s", dump(outcome))
	}
	if seen, _ := r.upstreamSaw(); len(seen) != 0 {
		t.Error("forwarded without a credential")
	}
}
