package gateway

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/approval"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/policy"
)

// ServeHTTP takes one call of an agent down the path.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.calls.Add(1)
	defer g.calls.Done()
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	default:
		g.metrics.refusals.WithLabelValues("overload").Inc()
		writeError(w, unavailable("the gateway is serving as many calls as it may; try again"))
		return
	}
	g.metrics.inFlight.Inc()
	defer g.metrics.inFlight.Dec()
	if door := g.identityDoor(r); door != nil {
		door(w, r)
		return
	}
	g.pass(w, r)
}

// pass is the one path, top to bottom. Every door leads here; every step takes
// plain values and returns plain values.
func (g *Gateway) pass(w http.ResponseWriter, r *http.Request) {
	ctx, start := r.Context(), time.Now()

	// Identify. A stranger is counted, not recorded one by one: a flood of bad
	// tokens must not fill the log.
	who, err := g.identify(r)
	if err != nil {
		reason, answer := strangerError(err)
		g.nobody.add(reason, r.RemoteAddr, whoseCredential(who, err))
		g.metrics.refusals.WithLabelValues("unauthenticated").Inc()
		writeError(w, answer)
		return
	}
	by := g.rules.Load()
	intent := g.arrived(r, who, by)
	ctx, x := g.flights.begin(ctx, intent.Principal.Agent)
	defer g.flights.end(x)
	if intent.Session, err = g.session(ctx, who, intent.Claims); err != nil {
		writeError(w, unrecorded(err))
		return
	}

	// Classify. What cannot be read strictly goes no further.
	call, in, refusal := g.classify(w, r)
	if call != nil {
		describe(intent, call)
	}
	if refusal != nil {
		if intent.Request.Path == "" {
			intent.Request.Path = redacted(r.URL)
		}
		g.refuse(ctx, w, intent, call, trailgate.KindRefused, trailgate.Decision{Effect: "refuse", Reason: refusal.Message}, refusal)
		return
	}
	deny := func(rule, reason string, answer *bigquery.Error) {
		g.refuse(ctx, w, intent, call, trailgate.KindDenied, trailgate.Decision{Effect: policy.Deny, Rule: rule, Reason: reason}, answer)
	}
	conn := g.connection(call.Project, who)
	if conn == nil {
		deny(ruleConnections, "no connection serves the project", denied("no connection is configured for project "+call.Project+"; ask whoever runs the gateway to add it under 'connections'"))
		return
	}
	intent.Connection = conn.Name
	g.record(intent, call, conn, policy.Decision{})
	g.flights.over(x, conn.Name)
	if refusal := g.suspended(intent.Principal.Agent, conn.Name); refusal != nil {
		deny(ruleSuspended, refusal.Message, refusal)
		return
	}
	if !who.MayUse(conn.Name) {
		deny(ruleScope, "the credential is not for connection "+conn.Name, denied("this credential may not use connection "+conn.Name+"; ask whoever runs the gateway for one that may"))
		return
	}

	// What is known of the job or upload that the call is about.
	if in.upload != nil {
		if refusal := in.upload.take(intent, conn); refusal != nil {
			g.refuse(ctx, w, intent, call, trailgate.KindRefused, trailgate.Decision{Effect: "refuse", Reason: refusal.Message}, refusal)
			return
		}
	}
	if held, ok := g.heldJob(intent.Principal.Agent, call); ok {
		in.instead = g.poll(ctx, r, who, call, held)
		g.owners.claim(jobKey(held.JobProject, held.JobID), owner{agent: held.Principal.Agent, entry: held.HeldEntry})
	}
	g.jobMaker(ctx, intent, call)

	// Judge, and ask a human where the rules say so.
	v := verdict{Decision: policy.Decision{Effect: policy.Allow, Rule: ruleUpload}}
	var claim *approval.Claimed
	intent.Request.Bytes = in.bytes
	if in.upload == nil { // a chunk is part of a call that was judged
		if v, err = g.judge(ctx, by, intent, who, call, conn); err != nil {
			writeError(w, unrecorded(err))
			return
		}
	}
	g.record(intent, call, conn, v.Decision)
	switch v.Effect {
	case policy.Allow:
	case policy.RequireApproval:
		if claim, intent, v = g.askHumans(ctx, w, r, intent, who, call, conn, v); claim == nil && v.Effect != policy.Allow {
			return
		}
	default:
		g.refuse(ctx, w, intent, call, trailgate.KindDenied, v.entry(), v.denial())
		return
	}
	g.carryOut(ctx, w, r, start, intent, who, call, in, conn, v, claim)
}

// carryOut takes a call that may go from its intent to its answer. A claim that comes
// with it is used up, or given back where the intent is certainly not in the trail.
func (g *Gateway) carryOut(ctx context.Context, w http.ResponseWriter, r *http.Request, start time.Time, intent *trailgate.Entry, who identity.Identity, call *bigquery.Call, in *input, conn *Connection, v verdict, claim *approval.Claimed) {
	give := func() {
		if claim != nil {
			if err := claim.Abort(); err != nil {
				g.cfg.Log.ErrorContext(ctx, "give an approval back", "approval", claim.Request.ID, "err", err)
			}
		}
	}
	refuse := func(kind trailgate.Kind, d trailgate.Decision, answer *bigquery.Error) {
		give()
		g.refuse(ctx, w, intent, call, kind, d, answer)
	}
	decision := v.entry()
	decision.Effect = policy.Allow
	if claim != nil {
		decision.ApprovalID, decision.Approvers = claim.Request.ID, approvers(&claim.Request)
	}
	intent.Decision = &decision
	up := conn.Credential.Describe()
	intent.Upstream = &trailgate.Upstream{Mode: up.Mode, Shared: up.Shared, Host: conn.Upstream.Host}
	if in.instead != nil {
		intent.Upstream = &trailgate.Upstream{Mode: "local"}
	}

	// Bound: what it may take, and what it may read.
	allowed, refusal := g.allow(ctx, intent, call, v.Limits)
	if refusal != nil {
		refuse(trailgate.KindDenied, trailgate.Decision{Effect: policy.Deny, Rule: ruleResults, Reason: refusal.Message}, refusal)
		return
	}
	var outcome *trailgate.Entry // once it is committed
	defer func() {
		if outcome != nil {
			allowed.done(outcome, outcome.Outcome)
		} else {
			allowed.done(nil, nil)
		}
	}()
	bounds := bigquery.Bounds{MaximumBytesBilled: v.Limits.MaximumBytesBilled, JobTimeoutMillis: v.Limits.JobTimeout.Milliseconds()}
	bounds.MaxRows, in.maxBytes = allowed.left()
	reserved, refusal, err := g.reserve(ctx, intent, who, call, conn, &v, &bounds)
	if err != nil {
		give()
		writeError(w, unrecorded(err))
		return
	}
	if refusal != nil {
		refuse(trailgate.KindDenied, trailgate.Decision{Effect: policy.Deny, Rule: ruleBudget, Reason: refusal.Message}, refusal)
		return
	}
	defer reserved.end()

	// Stamp: what goes upstream is encoded now, from what was judged.
	if refusal = call.Bound(bounds); refusal == nil {
		intent.Request.Path = clip(call.Path, 2048)
	}
	var out *output
	if refusal == nil {
		out, refusal = g.stamp(intent, call, in, conn)
	}
	if refusal != nil {
		refuse(trailgate.KindRefused, trailgate.Decision{Effect: "refuse", Reason: refusal.Message}, refusal)
		return
	}

	// Commit the intent. After this line the entry is on disk and fsynced; a
	// crash from here on leaves an intent without an outcome, which the next
	// start sees and settles. Before it, nothing has gone upstream.
	intent.Kind = trailgate.KindIntent
	reserved.sent()
	if err := g.commitIntent(ctx, intent, call); err != nil {
		// Whether it is in the trail is not known. A claim stays taken until the next
		// start finds out: an approval is used once or not at all. What was reserved
		// stays so, too.
		writeError(w, unrecorded(err))
		return
	}
	if claim != nil {
		if err := claim.Done(); err != nil {
			g.cfg.Log.ErrorContext(ctx, "note that an approval was used", "approval", claim.Request.ID, "err", err)
		}
		g.notify(ctx, NoticeReleased, claim.Request)
	}
	result := outcomeOf(intent)
	w.Header().Set("X-Trailgate-Entry", intent.ID)

	// Credential, forward, capture. From here on nothing returns before the
	// outcome is committed.
	answer := g.forward(ctx, w, r, intent, who, call, conn, out)

	// Commit the outcome. All of the answer but its tail may be with the agent,
	// which cannot take it for whole. A crash before this line leaves the intent
	// indeterminate; after it, the trail knows how the call ended even if the
	// agent does not.
	answer.describe(result)
	if answer.open {
		// The tunnel broke while the call was in it. The intent stays as it is: a legal,
		// visible state, which BigQuery's word about the job ends. A crash changes
		// nothing: the next start asks. The agent has been sent nothing yet, and is told.
		g.settleLater(intent)
		answer.finish()
		return
	}
	answer.recorded(ctx, result)
	g.taken(ctx, intent, call, result)
	result.Outcome.DurationNanos = time.Since(start).Nanoseconds()
	if err := g.append(ctx, result); err != nil {
		answer.cut(unrecorded(err))
		return
	}
	outcome = result
	g.metrics.outcome(result)
	g.remember(intent, call, result)
	g.askBill(intent, call, result, who, conn)
	g.running.saw(intent, result, who, call.CreatesJob && !call.DryRun)
	g.tallies.add(intent.Session, result)

	// Answer.
	answer.finish()
}

// session is the session that the call belongs to. Its beginning is on record
// before any of its calls is: who comes while it is being written waits.
func (g *Gateway) session(ctx context.Context, who identity.Identity, said *trailgate.Claims) (string, error) {
	for {
		session, opened := g.cfg.Sessions.Touch(who)
		switch {
		case opened:
			if err := g.openEntry(ctx, session, who, said); err != nil {
				g.cfg.Sessions.Forget(session)
				return "", err
			}
			g.cfg.Sessions.Recorded(session)
			return session.ID, nil
		case session.Begun(ctx):
			return session.ID, nil
		case ctx.Err() != nil:
			return "", ctx.Err()
		}
		// The one who was to record it could not; now it is this call's turn.
	}
}

// commitIntent makes the intent durable, its long parts first.
func (g *Gateway) commitIntent(ctx context.Context, e *trailgate.Entry, c *bigquery.Call) error {
	if err := g.fit(ctx, e, c); err != nil {
		return err
	}
	return g.append(ctx, e)
}

// refuse records a call that goes nowhere, with what it asked for as far as that
// was understood, then answers it. If even that cannot be recorded, the agent
// learns only that.
func (g *Gateway) refuse(ctx context.Context, w http.ResponseWriter, e *trailgate.Entry, c *bigquery.Call, kind trailgate.Kind, d trailgate.Decision, answer *bigquery.Error) {
	e.Kind = kind
	d.Reason = clip(d.Reason, 1024)
	e.Decision = &d
	e.Outcome = &trailgate.Outcome{Status: answer.Status, End: trailgate.EndRefused, ErrorReason: answer.Reason, ErrorMessage: clip(answer.Message, 1024)}
	if err := g.fit(ctx, e, c); err != nil {
		writeError(w, unrecorded(err))
		return
	}
	if err := g.append(ctx, e); err != nil {
		writeError(w, unrecorded(err))
		return
	}
	g.metrics.refusals.WithLabelValues(string(kind)).Inc()
	w.Header().Set("X-Trailgate-Entry", e.ID)
	writeError(w, answer)
}

// remember keeps who made the job whose id only the answer told.
func (g *Gateway) remember(intent *trailgate.Entry, c *bigquery.Call, result *trailgate.Entry) {
	if c.CreatesJob && !c.DryRun && intent.Job == nil && result.Job != nil && result.Job.ID != "" {
		g.owners.claim(jobKey(result.Job.Project, result.Job.ID), ownerOf(intent))
	}
	if result.Job != nil && result.Tables != nil && result.Tables.Omitted == 0 {
		g.owners.learn(jobKey(result.Job.Project, result.Job.ID), result.Tables.Read)
	}
}

// unrecorded is the answer when the trail cannot be written.
func unrecorded(err error) *bigquery.Error {
	if errors.Is(err, trailgate.ErrTooLarge) {
		return &bigquery.Error{Status: http.StatusBadRequest, Reason: "invalid", Message: "Trailgate: the call names more than one entry of the audit trail can hold; split it"}
	}
	return unavailable("the audit trail cannot be written, so the call is refused (" + rootCause(err) + "); the gateway's log and its readyz say why, and it recovers by itself")
}

func unavailable(why string) *bigquery.Error {
	return &bigquery.Error{Status: http.StatusServiceUnavailable, Reason: "backendError", Message: "Trailgate: " + why}
}

// rootCause is the innermost text of an error: operations are for the log,
// agents get the cause.
func rootCause(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return clip(err.Error(), 300)
		}
		err = next
	}
}

// writeError answers in BigQuery's own error JSON, which is what clients show.
func writeError(w http.ResponseWriter, e *bigquery.Error) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=UTF-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if e.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	if e.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="trailgate"`)
	}
	w.WriteHeader(e.Status)
	_, _ = w.Write(e.JSON()) // an agent that has gone reads nothing anyway
}
