package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/approval"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/policy"
)

// A jobs.insert that waits for a human is answered at once, with a job in state
// PENDING that BigQuery does not have yet. Clients poll it as they poll any job; once
// it is approved the real one is begun under the same id, and they never notice. Of
// other calls there is nothing that could be polled: they are kept waiting.

// canBePending reports whether a call's answer can be a job that waits.
func canBePending(c *bigquery.Call) bool {
	return c.Method == methodInsert && c.Upload == bigquery.UploadNone && !c.DryRun
}

const (
	resultsWait    = 10 * time.Second // how long getQueryResults waits by default (jobs.getQueryResults, timeoutMs)
	maxResultsWait = time.Minute
	maxFailed      = 10_000 // releases that BigQuery refused, kept for whoever polls
)

// heldJob is the request behind a job that a call asks about, where that job waits, or
// never came to be. Only its own agent sees it.
func (g *Gateway) heldJob(agent string, c *bigquery.Call) (approval.Request, bool) {
	if g.cfg.Approvals == nil || c.Job == nil || c.CreatesJob {
		return approval.Request{}, false
	}
	switch c.Method {
	case methodJob, methodResults, methodCancel:
		return g.cfg.Approvals.ByJob(agent, c.Job.Project, c.Job.ID)
	}
	return approval.Request{}, false
}

// poll brings a held job as far as it can be brought, for a call that asks about it.
// What is returned answers the call in BigQuery's place; nil: BigQuery has the job.
func (g *Gateway) poll(ctx context.Context, r *http.Request, who identity.Identity, c *bigquery.Call, a approval.Request) http.RoundTripper {
	if c.Method == methodResults && a.State == approval.StatePending {
		wait, cancel := context.WithTimeout(ctx, resultsTimeout(c))
		if now, err := g.cfg.Approvals.Wait(wait, a.ID); err == nil {
			a = now
		}
		cancel()
	}
	if a.State == approval.StateApproved && c.Method != methodCancel {
		g.release(ctx, r, who, a)
		if now, ok := g.cfg.Approvals.ByJob(who.Principal.Agent, a.JobProject, a.JobID); ok {
			a = now
		}
	}
	// On its way: BigQuery is not asked about a job that it is just being told of.
	if done := g.onTheWay(jobKey(a.JobProject, a.JobID)); done != nil {
		wait := time.NewTimer(maxResultsWait)
		defer wait.Stop()
		select {
		case <-done:
			if now, ok := g.cfg.Approvals.ByJob(who.Principal.Agent, a.JobProject, a.JobID); ok {
				a = now
			}
		case <-ctx.Done():
			a.State = approval.StateReleasing
		case <-wait.C:
			a.State = approval.StateReleasing // not there yet, and to be asked about again
		}
	}
	failed := g.failedRelease(jobKey(a.JobProject, a.JobID))
	if a.State == approval.StateReleased && failed == nil {
		return nil
	}
	return &heldJobAnswer{g: g, call: c, a: a, failed: failed}
}

// resultsTimeout is how long a getQueryResults wants to wait.
func resultsTimeout(c *bigquery.Call) time.Duration {
	_, query, _ := strings.Cut(c.Path, "?")
	q, err := url.ParseQuery(query)
	if err != nil {
		return resultsWait
	}
	ms, err := strconv.ParseInt(q.Get("timeoutMs"), 10, 64)
	if err != nil || ms < 0 {
		return resultsWait
	}
	return min(time.Duration(ms)*time.Millisecond, maxResultsWait)
}

// releaseWhenDecided has a held jobs.insert go on as soon as it is approved, whether
// or not its client asks. The credential that it came with must be good then, too.
// After a restart it is the client's next question that has it go on: credentials
// are kept in memory alone.
func (g *Gateway) releaseWhenDecided(a approval.Request, r *http.Request, who identity.Identity) {
	header := r.Header.Clone()
	came := &http.Request{Method: r.Method, URL: r.URL, Host: r.Host, Header: header, RemoteAddr: r.RemoteAddr, TLS: r.TLS, Proto: r.Proto}
	g.held.Go(func() {
		now, err := g.cfg.Approvals.Wait(g.life, a.ID)
		if err != nil || now.State != approval.StateApproved {
			return
		}
		who, err := g.identify(came.WithContext(g.life))
		if err != nil {
			g.cfg.Log.InfoContext(g.life, "an approved call's credential is no longer good; it goes on when its client asks", "approval", a.ID, "err", err)
			return
		}
		g.calls.Add(1)
		defer g.calls.Done()
		g.release(g.life, came, who, now)
	})
}

// release sends a held jobs.insert on its way, if it may go now: it is read from what
// was stored, judged again, and carried out like any call.
func (g *Gateway) release(ctx context.Context, r *http.Request, who identity.Identity, a approval.Request) {
	key := jobKey(a.JobProject, a.JobID)
	arrived := g.beginRelease(key)
	if arrived == nil {
		return // another is at it; whoever asks waits for that
	}
	defer arrived()
	ctx = context.WithoutCancel(ctx) // who asks about the job may go away, the job need not
	body, err := g.cfg.Approvals.Body(a.ID)
	if err != nil {
		g.cfg.Log.ErrorContext(ctx, "an approved call cannot be read", "approval", a.ID, "err", err)
		return
	}
	path, query, _ := strings.Cut(a.Call.Target, "?")
	c, refusal := bigquery.Route(bigquery.Request{Verb: a.Call.Method, EscapedPath: path, RawQuery: query})
	if refusal == nil {
		refusal = c.ReadBody(body)
	}
	conn := g.connectionNamed(a.Connection)
	if refusal != nil || conn == nil {
		g.cfg.Log.ErrorContext(ctx, "an approved call cannot be read any more", "approval", a.ID, "err", refusal)
		return
	}
	if c.Job != nil && c.Job.ID == "trailgate_"+a.HeldEntry {
		c.Job.AssignedBy = "gateway"
	}
	req := (&http.Request{Method: a.Call.Method, URL: r.URL, Host: r.Host, Header: http.Header{}, RemoteAddr: r.RemoteAddr, TLS: r.TLS}).WithContext(ctx)
	for name, value := range a.Call.Header {
		req.Header.Set(name, value)
	}
	by := g.rules.Load()
	intent := g.arrived(r, who, by)
	intent.IntentID, intent.Session = a.HeldEntry, a.Session
	intent.Connection = conn.Name
	describe(intent, c)

	w := &unheard{header: http.Header{}}
	ctx, x := g.flights.begin(ctx, intent.Principal.Agent)
	defer g.flights.end(x)
	g.flights.over(x, conn.Name)
	if refusal := g.suspended(intent.Principal.Agent, conn.Name); refusal != nil {
		g.refuse(ctx, w, intent, c, trailgate.KindDenied, trailgate.Decision{Effect: policy.Deny, Rule: ruleSuspended, Reason: refusal.Message, ApprovalID: a.ID}, refusal)
		return
	}
	v, err := g.judge(ctx, by, intent, who, c, conn)
	if err != nil {
		return // logged; the approval stands, and the next question tries again
	}
	if v.Effect == policy.Deny {
		// The rules have changed since, or BigQuery would refuse it.
		g.refuse(ctx, w, intent, c, trailgate.KindDenied, v.entry(), v.denial())
		g.failedReleases(key, w)
		g.withdraw(ctx, a, v.Rule, v.Reason)
		return
	}
	asked := &question{g: g, sum: callDigest(c, req.Header)}
	claim, err := asked.claim(ctx, intent, v)
	switch {
	case errors.Is(err, approval.ErrChanged) && v.Effect == policy.RequireApproval:
		// Other tables, another kind of statement, far more bytes: the humans are
		// asked again, about that. The job waits on.
		if _, err := asked.hold(ctx, req, intent, c, conn, v); err != nil {
			g.cfg.Log.ErrorContext(ctx, "asking again for approval", "approval", a.ID, "err", err)
		}
		return
	case err != nil:
		// Somebody else is just releasing it, or it was used or lapsed meanwhile; or an
		// approver may approve no longer, and it waits on.
		return
	}
	g.carryOut(ctx, w, req, time.Now(), intent, who, c, &input{}, conn, v, claim)
	if w.status >= 400 {
		g.failedReleases(key, w)
	}
}

// beginRelease marks a job as on its way to BigQuery, and returns what ends that; nil
// where it is on its way already.
func (g *Gateway) beginRelease(key string) (arrived func()) {
	g.failedMu.Lock()
	defer g.failedMu.Unlock()
	if g.releases[key] != nil {
		return nil
	}
	done := make(chan struct{})
	g.releases[key] = done
	return func() {
		g.failedMu.Lock()
		defer g.failedMu.Unlock()
		delete(g.releases, key)
		close(done)
	}
}

// onTheWay is closed when the job has arrived, or will not; nil where it is not on
// its way.
func (g *Gateway) onTheWay(key string) <-chan struct{} {
	g.failedMu.Lock()
	defer g.failedMu.Unlock()
	if done := g.releases[key]; done != nil {
		return done
	}
	return nil
}

// withdraw ends a request that the gateway itself will not carry out.
func (g *Gateway) withdraw(ctx context.Context, a approval.Request, rule, why string) {
	_, err := g.cfg.Approvals.Cancel(ctx, a.ID, a.Principal.Agent, func(a approval.Request) error {
		e := stageOf(&a, trailgate.KindDenied)
		e.Decision = &trailgate.Decision{Effect: policy.Deny, Rule: rule, Reason: clip(why, 1024), ApprovalID: a.ID, Approvers: approvers(&a)}
		return g.append(ctx, e)
	})
	if err != nil {
		g.cfg.Log.ErrorContext(ctx, "withdraw an approval", "approval", a.ID, "err", err)
	}
}

// unheard takes the answer of a call that nobody waits for on this connection.
type unheard struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (u *unheard) Header() http.Header { return u.header }

func (u *unheard) WriteHeader(status int) {
	if u.status == 0 {
		u.status = status
	}
}

func (u *unheard) Write(p []byte) (int, error) {
	u.WriteHeader(http.StatusOK)
	if room := bufferBytes - u.body.Len(); room > 0 {
		u.body.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// failedReleases remembers what BigQuery said to a job that was approved and that it
// would not begin.
func (g *Gateway) failedReleases(key string, w *unheard) {
	var said struct {
		Error struct {
			Message string `json:"message"`
			Errors  []struct {
				Reason string `json:"reason"`
			} `json:"errors"`
		} `json:"error"`
	}
	e := &bigquery.Error{Status: w.status, Reason: "backendError", Message: fmt.Sprintf("Trailgate: BigQuery answered %d when the approved job was to begin", w.status)}
	if json.Unmarshal(w.body.Bytes(), &said) == nil && said.Error.Message != "" {
		e.Message = said.Error.Message
		if len(said.Error.Errors) > 0 {
			e.Reason = said.Error.Errors[0].Reason
		}
	}
	g.failedMu.Lock()
	defer g.failedMu.Unlock()
	g.failed.drop(key)
	g.failed.get(key, func() *bigquery.Error { return e })
}

func (g *Gateway) failedRelease(key string) *bigquery.Error {
	g.failedMu.Lock()
	defer g.failedMu.Unlock()
	if el, ok := g.failed.at[key]; ok {
		return el.Value.(*kept[*bigquery.Error]).value
	}
	return nil
}

// heldJobAnswer is BigQuery's answer about a job that it does not have.
type heldJobAnswer struct {
	g      *Gateway
	call   *bigquery.Call
	a      approval.Request
	failed *bigquery.Error // BigQuery would not begin it
}

// RoundTrip implements http.RoundTripper.
func (h *heldJobAnswer) RoundTrip(req *http.Request) (*http.Response, error) {
	switch {
	case h.call.Method == methodCancel && h.a.State.Open():
		a, err := h.g.cfg.Approvals.Cancel(req.Context(), h.a.ID, h.a.Principal.Agent, func(a approval.Request) error {
			e := stageOf(&a, trailgate.KindDenied)
			e.Decision = &trailgate.Decision{Effect: policy.Deny, Rule: "builtin/withdrawn", Reason: "the agent cancelled the job", ApprovalID: a.ID}
			return h.g.append(req.Context(), e)
		})
		if err != nil {
			return jsonAnswer(req, http.StatusServiceUnavailable, unavailable(rootCause(err)).JSON()), nil
		}
		h.a = a
		fallthrough
	case h.call.Method == methodCancel:
		raw := append([]byte(`{"kind":"bigquery#jobCancelResponse","job":`), h.g.jobResource(&h.a, h.failed)...)
		return jsonAnswer(req, http.StatusOK, append(raw, '}')), nil
	case h.call.Method == methodResults:
		if e := jobError(&h.a, h.failed); e != nil {
			return jsonAnswer(req, e.Status, e.JSON()), nil
		}
		raw, err := json.Marshal(map[string]any{"kind": "bigquery#getQueryResultsResponse", "jobComplete": false, "jobReference": jobReference(&h.a)})
		if err != nil {
			return nil, err
		}
		return jsonAnswer(req, http.StatusOK, raw), nil
	}
	return jsonAnswer(req, http.StatusOK, h.g.jobResource(&h.a, h.failed)), nil
}

func jsonAnswer(req *http.Request, status int, raw []byte) *http.Response {
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req, ContentLength: int64(len(raw)),
		Header: http.Header{"Content-Type": {"application/json; charset=UTF-8"}, "Cache-Control": {"no-store"}},
		Body:   io.NopCloser(bytes.NewReader(raw)),
	}
}

func jobLocation(a *approval.Request) string { return a.Location }

func jobReference(a *approval.Request) map[string]string {
	ref := map[string]string{"projectId": a.JobProject, "jobId": a.JobID}
	if a.Location != "" {
		ref["location"] = a.Location
	}
	return ref
}

// jobError is why a held job will not be; nil while it may still.
func jobError(a *approval.Request, failed *bigquery.Error) *bigquery.Error {
	switch {
	case failed != nil:
		return failed
	case a.State == approval.StateDenied:
		return denied(denialText(a))
	case a.State.Final() && a.State != approval.StateReleased && a.State != approval.StateChanged:
		return denied("approval " + a.ID + " " + ended(a.State))
	}
	return nil
}

// jobResource is the job as jobs.get would show it, with the configuration that the
// client sent while that is kept
// (https://cloud.google.com/bigquery/docs/reference/rest/v2/Job).
func (g *Gateway) jobResource(a *approval.Request, failed *bigquery.Error) []byte {
	status := map[string]any{"state": "PENDING"}
	statistics := map[string]any{"creationTime": strconv.FormatInt(a.Created.UnixMilli(), 10)}
	if e := jobError(a, failed); e != nil {
		said := map[string]string{"reason": e.Reason, "message": e.Message}
		status = map[string]any{"state": "DONE", "errorResult": said, "errors": []any{said}}
		end := strconv.FormatInt(a.Ended.UnixMilli(), 10)
		statistics["startTime"], statistics["endTime"] = end, end
	}
	var sent struct {
		Configuration map[string]any `json:"configuration"`
	}
	if body, err := g.cfg.Approvals.Body(a.ID); err != nil || json.Unmarshal(body, &sent) != nil || sent.Configuration == nil {
		sent.Configuration = map[string]any{} // its end is all that matters now
		if a.Statement != "" && !a.StatementCut {
			sent.Configuration["query"] = map[string]any{"query": a.Statement}
		}
	}
	for key, kind := range map[string]string{"query": "QUERY", "load": "LOAD", "copy": "COPY", "extract": "EXTRACT"} {
		if sent.Configuration[key] != nil {
			sent.Configuration["jobType"] = kind
		}
	}
	id := a.JobProject + ":" + a.JobID
	if a.Location != "" {
		id = a.JobProject + ":" + a.Location + "." + a.JobID
	}
	raw, err := json.Marshal(map[string]any{
		"kind": "bigquery#job", "id": id, "jobReference": jobReference(a), "configuration": sent.Configuration, "status": status, "statistics": statistics,
	})
	if err != nil {
		return []byte(`{}`) // texts and numbers always encode
	}
	return raw
}
