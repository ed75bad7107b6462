package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/approval"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/policy"
)

// Notices of what becomes of a held call, for whoever is to be told.
const (
	NoticeHeld     = "approval.held"
	NoticeExpired  = "approval.expired"
	NoticeReleased = "approval.released"
)

// heldHeaders are kept with a held jobs.insert: those that go upstream.
var heldHeaders = requestHeaders

// askHumans takes a call that needs approval to where it has one, or is answered. With a
// claim the call goes on, under the entry and the verdict returned; without, all
// that was to be said has been said.
//
// The order at a release is: the claim is durable, then the intent, then that the
// claim was used. A crash between the first two leaves an approval that may be used
// again, for nothing went upstream; between the last two, one that was used, as the
// trail tells at the next start.
func (g *Gateway) askHumans(ctx context.Context, w http.ResponseWriter, r *http.Request, intent *trailgate.Entry, who identity.Identity, c *bigquery.Call, conn *Connection, v verdict) (*approval.Claimed, *trailgate.Entry, verdict) {
	if g.cfg.Approvals == nil {
		v.Effect, v.Reason = policy.Deny, "the call needs approval, and this gateway asks nobody"
		g.refuse(ctx, w, intent, c, trailgate.KindDenied, v.entry(), denied(v.Reason))
		return nil, nil, v
	}
	if c.Upload != bigquery.UploadNone {
		// What would be uploaded is not known when humans are asked, and an approval
		// is for exactly what they saw.
		why := "an upload cannot wait for approval, since nobody could see what it brings: load from Cloud Storage, or ask for a rule that allows it"
		g.refuse(ctx, w, intent, c, trailgate.KindDenied, trailgate.Decision{Effect: policy.Deny, Rule: v.Rule, Reason: why}, denied(why))
		return nil, nil, v
	}
	asked := &question{g: g, sum: callDigest(c, r.Header), deadline: time.Now().Add(g.cfg.ApprovalWait)}
	for {
		claim, err := asked.claim(ctx, intent, v)
		if err == nil || v.Effect == policy.Allow {
			return claim, intent, v
		}
		done, held := asked.refused(ctx, w, intent, c, v, err)
		if done {
			return nil, nil, v
		}
		if held == nil { // to be asked, or to be joined
			if held, err = asked.hold(ctx, r, intent, c, conn, v); err != nil {
				asked.failed(ctx, w, intent, c, v, err)
				return nil, nil, v
			}
		}
		opened := intent
		if canBePending(c) {
			asked.pending(ctx, w, opened, c, *held)
			if held.HeldEntry == opened.ID {
				g.releaseWhenDecided(*held, r, who)
			}
			return nil, nil, v
		}
		if !asked.wait(ctx, w, opened, c, held.ID) {
			return nil, nil, v
		}
		// Decided. The call begins anew under an entry of its own, and is judged by
		// the rules of now: the humans said yes to what they saw, not to whatever it
		// may have become.
		intent = g.again(opened, c)
		by := g.rules.Load()
		intent.Gateway = g.selfUnder(by)
		if v, err = g.judge(ctx, by, intent, who, c, conn); err != nil {
			writeError(w, unrecorded(err))
			return nil, nil, v
		}
		if v.Effect == policy.Deny {
			g.refuse(ctx, w, intent, c, trailgate.KindDenied, v.entry(), v.denial())
			return nil, nil, v
		}
	}
}

// question is a call on its way to an approval.
type question struct {
	g        *Gateway
	sum      string // of the canonical call
	deadline time.Time
}

func callDigest(c *bigquery.Call, h http.Header) string {
	sum := sha256.Sum256(c.Canonical(h))
	return hex.EncodeToString(sum[:])
}

// claim takes an approval that was given for exactly this call.
func (q *question) claim(ctx context.Context, intent *trailgate.Entry, v verdict) (*approval.Claimed, error) {
	key := approval.Key{Principal: *intent.Principal, Connection: intent.Connection, CallSHA256: q.sum}
	facts := q.g.pictured(key, factsOf(v.input))
	if v.Effect == policy.Allow {
		// The rules of now ask nobody. What was asked is used up all the same, so that
		// nobody decides about what has run.
		if open, ok := q.g.cfg.Approvals.Find(key); ok {
			facts = open.FactsSHA256
		}
	}
	return q.g.cfg.Approvals.Claim(context.WithoutCancel(ctx), key, facts, intent.ID)
}

// refused answers a call whose approval was refused or cannot be told, and says
// whether that was all. What is returned is the request that it may wait for.
func (q *question) refused(ctx context.Context, w http.ResponseWriter, intent *trailgate.Entry, c *bigquery.Call, v verdict, err error) (done bool, held *approval.Request) {
	var no *approval.Refusal
	switch {
	case errors.Is(err, approval.ErrNone), errors.Is(err, approval.ErrPending), errors.Is(err, approval.ErrChanged):
		return false, nil
	case errors.Is(err, approval.ErrDenied) && errors.As(err, &no):
		d := v.entry()
		d.Effect, d.Reason, d.ApprovalID, d.Limits = policy.Deny, clip(denialText(&no.Request), 1024), no.Request.ID, nil
		q.g.refuse(ctx, w, intent, c, trailgate.KindDenied, d, denied(denialText(&no.Request)))
	default:
		q.failed(ctx, w, intent, c, v, err)
	}
	return true, nil
}

// failed answers where nobody could be asked.
func (q *question) failed(ctx context.Context, w http.ResponseWriter, intent *trailgate.Entry, c *bigquery.Call, v verdict, err error) {
	var answer *bigquery.Error
	switch {
	case errors.Is(err, approval.ErrFull):
		answer = &bigquery.Error{Status: http.StatusTooManyRequests, Reason: "rateLimitExceeded", Message: "Trailgate: too many calls wait for approval; wait until some are decided"}
	case errors.Is(err, approval.ErrJobTaken):
		answer = &bigquery.Error{Status: http.StatusConflict, Reason: "duplicate", Message: "Trailgate: another call that waits for approval has this job id"}
	case errors.Is(err, approval.ErrReleasing):
		answer = unavailable("this very call is being released just now; try again")
	default:
		q.g.cfg.Log.ErrorContext(ctx, "asking for approval", "entry", intent.ID, "err", err)
		answer = unavailable("the call needs approval, and nobody could be asked: " + rootCause(err))
	}
	if intent.Kind == trailgate.KindHeld { // its entry stands already
		writeError(w, answer)
		return
	}
	d := v.entry()
	d.Effect, d.Reason = policy.Deny, "needs approval, and nobody could be asked: "+clip(err.Error(), 512)
	q.g.refuse(ctx, w, intent, c, trailgate.KindDenied, d, answer)
}

// hold has the call wait: its `held` entry first, then the question. A call that
// asks what is being asked already joins it, with an entry of its own.
func (q *question) hold(ctx context.Context, r *http.Request, intent *trailgate.Entry, c *bigquery.Call, conn *Connection, v verdict) (*approval.Request, error) {
	g := q.g
	now := g.cfg.Now()
	facts := factsOf(v.input)
	key := approval.Key{Principal: *intent.Principal, Connection: intent.Connection, CallSHA256: q.sum}
	req := approval.Request{
		Created: now, Expires: now.Add(v.Approval.Expires),
		Principal: *intent.Principal, Session: intent.Session, Connection: conn.Name, Project: c.Project, Location: c.Location,
		Method: c.Method, Class: c.Class, Classes: c.Classes, StatementType: c.StatementType,
		Rule: v.Rule, PolicyDigest: intent.Gateway.PolicyDigest, Reason: v.Reason, From: v.Approval.From, Need: v.Approval.Approvals,
		CallSHA256: q.sum, FactsSHA256: g.pictured(key, facts), Facts: facts, HeldEntry: intent.ID,
		Destinations: intent.Destinations,
	}
	if t := tables(v.input.Tables.Read, v.input.Tables.Written); t != nil {
		req.Tables = *t
	}
	if text := v.input.Statement; text != "" {
		sum := sha256.Sum256([]byte(text))
		req.StatementSHA256 = hex.EncodeToString(sum[:])
		req.Statement = text
		if len(text) > approval.MaxStatementBytes {
			req.Statement, req.StatementCut = strings.ToValidUTF8(text[:approval.MaxStatementBytes], ""), true
		}
	}
	if canBePending(c) {
		// The job id is settled now, for the client is told of the job.
		body, refusal := c.Stamp(bigquery.Stamp{JobID: "trailgate_" + intent.ID})
		if refusal != nil {
			return nil, refusal
		}
		job := *c.Job
		intent.Job = &job
		req.JobProject, req.JobID = job.Project, job.ID
		req.Call = approval.Stored{Method: c.Verb, Target: c.Path, Header: map[string]string{}, Body: body}
		for _, name := range heldHeaders {
			if h := r.Header.Get(name); h != "" && len(h) <= 1024 {
				req.Call.Header[name] = h
			}
		}
	}
	held, isNew, err := g.cfg.Approvals.Hold(context.WithoutCancel(ctx), req, func(a approval.Request) error {
		return g.recordHeld(ctx, intent, c, v, &a)
	})
	if err != nil {
		return nil, err
	}
	if !isNew && intent.Kind != trailgate.KindHeld {
		if err := g.recordHeld(ctx, intent, c, v, &held); err != nil {
			return nil, err
		}
	}
	if isNew {
		g.metrics.held.Inc()
		if held.JobID != "" {
			g.owners.claim(jobKey(held.JobProject, held.JobID), owner{agent: intent.Principal.Agent, entry: intent.ID})
		}
		g.notify(ctx, NoticeHeld, held)
	}
	return &held, nil
}

// recordHeld commits the `held` entry. A crash after it leaves a call that was held
// and that nobody was asked about: nothing has gone upstream, and the client asks
// again.
func (g *Gateway) recordHeld(ctx context.Context, e *trailgate.Entry, c *bigquery.Call, v verdict, a *approval.Request) error {
	d := v.entry()
	if d.Limits == nil {
		d.Limits = map[string]string{}
	}
	d.ApprovalID = a.ID
	d.Limits["approvals"] = strconv.Itoa(max(a.Need, 1))
	d.Limits["approval_from"] = clip(strings.Join(a.From, ","), 1024)
	d.Limits["approval_expires"] = a.Expires.UTC().Format(time.RFC3339)
	e.Kind, e.Decision = trailgate.KindHeld, &d
	if err := g.commitIntent(ctx, e, c); err != nil {
		e.Kind = ""
		return err
	}
	return nil
}

// wait keeps the call waiting for its humans, until they decide or the time for
// waiting is over: then the agent is told how to come back. False: it was answered.
func (q *question) wait(ctx context.Context, w http.ResponseWriter, held *trailgate.Entry, c *bigquery.Call, id string) bool {
	deadline := q.deadline
	select {
	case q.g.waiting <- struct{}{}:
		defer func() { <-q.g.waiting }()
	default: // enough calls wait already; those that do not must find a place
		deadline = time.Now()
	}
	wait, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	req, err := q.g.cfg.Approvals.Wait(wait, id)
	switch {
	case err == nil && (req.State == approval.StateApproved || req.State == approval.StateReleasing):
		return true
	case err == nil && req.State == approval.StateDenied:
		q.g.closeHeld(ctx, w, held, denied(denialText(&req)))
	case err == nil:
		q.g.closeHeld(ctx, w, held, denied(fmt.Sprintf("approval %s %s; send the call again to ask again", id, ended(req.State))))
	case wasCut(ctx):
		q.g.closeHeld(ctx, w, held, denied("the agent or the connection was suspended while the call waited"))
	case ctx.Err() != nil:
		q.g.closeHeld(ctx, w, held, unavailable("cancelled"))
	default:
		q.g.closeHeld(ctx, w, held, denied(fmt.Sprintf("the call waits for approval %s until %s. Send the very same call again once it is approved (\"trailgate approval approve %s\"): it then goes through without asking again",
			id, req.Expires.UTC().Format(time.RFC3339), id)))
	}
	return false
}

// closeHeld records how a held call was answered that did not go on, then answers it.
func (g *Gateway) closeHeld(ctx context.Context, w http.ResponseWriter, held *trailgate.Entry, answer *bigquery.Error) {
	result := outcomeOf(held)
	result.Outcome = &trailgate.Outcome{Status: answer.Status, End: trailgate.EndRefused, ErrorReason: answer.Reason, ErrorMessage: clip(answer.Message, 1024)}
	if err := g.append(ctx, result); err != nil {
		writeError(w, unrecorded(err))
		return
	}
	g.metrics.refusals.WithLabelValues(string(trailgate.KindHeld)).Inc()
	w.Header().Set("X-Trailgate-Entry", held.ID)
	writeError(w, answer)
}

// pending answers a held jobs.insert with a job that waits.
func (q *question) pending(ctx context.Context, w http.ResponseWriter, held *trailgate.Entry, c *bigquery.Call, a approval.Request) {
	raw := q.g.jobResource(&a, nil)
	result := outcomeOf(held)
	job := trailgate.Job{Project: a.JobProject, ID: a.JobID, Location: jobLocation(&a)}
	result.Job = &job
	result.Outcome = &trailgate.Outcome{Status: http.StatusOK, End: trailgate.EndRefused, JobState: "PENDING", Bytes: int64(len(raw))}
	if err := q.g.append(ctx, result); err != nil {
		writeError(w, unrecorded(err))
		return
	}
	w.Header().Set("X-Trailgate-Entry", held.ID)
	writeJSON(w, http.StatusOK, raw)
}

func writeJSON(w http.ResponseWriter, status int, raw []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=UTF-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(raw) // an agent that has gone reads nothing anyway
}

// again begins another entry for a call that was held.
func (g *Gateway) again(held *trailgate.Entry, c *bigquery.Call) *trailgate.Entry {
	e := g.sibling(held)
	e.IntentID = held.ID
	e.Claims, e.Request = held.Claims, &trailgate.Request{}
	*e.Request = *held.Request
	describe(e, c)
	return e
}

// factsOf is the picture that the humans see.
func factsOf(in *policy.Input) approval.Facts {
	d := in.DryRun
	if d == nil {
		return approval.Facts{}
	}
	return approval.Facts{Ran: d.Ran, Error: d.Error, StatementType: d.StatementType, Read: d.Read, Written: d.Written, Bytes: d.Bytes}
}

// pictured is the digest of the facts. A table that grows while humans look at a
// statement is no other picture; one that grows by a quarter is.
func (g *Gateway) pictured(key approval.Key, f approval.Facts) string {
	shown := f
	if open, ok := g.cfg.Approvals.Find(key); ok && f.Bytes >= 0 && f.Bytes <= open.Facts.Bytes+open.Facts.Bytes/4+64<<20 {
		shown.Bytes = open.Facts.Bytes
	}
	raw, err := json.Marshal(shown)
	if err != nil {
		raw = []byte(fmt.Sprint(shown)) // texts and numbers always encode
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// denialText is what the agent is told of a no.
func denialText(a *approval.Request) string {
	text := "approval " + a.ID + " was denied"
	if v := a.Denial(); v != nil {
		text += " by " + clip(v.Human, 256)
		if v.Reason != "" {
			text += ": " + v.Reason
		}
	}
	return text
}

func ended(s approval.State) string {
	switch s {
	case approval.StateExpired:
		return "was not decided, or not used, in time"
	case approval.StateCancelled:
		return "was withdrawn"
	case approval.StateChanged:
		return "was for what is not so any more"
	case approval.StateReleased:
		return "was used"
	}
	return "is " + string(s)
}

// approvers are the humans whose yes counted.
func approvers(a *approval.Request) []string {
	var names []string
	for _, v := range a.Votes {
		if v.Verdict == approval.Approve && !v.Void {
			names = append(names, clip(v.Human, 256))
		}
	}
	return names
}

func (g *Gateway) notify(ctx context.Context, what string, a approval.Request) {
	if g.cfg.Notify != nil {
		g.cfg.Notify(context.WithoutCancel(ctx), what, a)
	}
}

// expired records that a held call was not decided, or not used, in time.
func (g *Gateway) expired(ctx context.Context, a approval.Request) error {
	e := stageOf(&a, trailgate.KindExpired)
	e.Decision = &trailgate.Decision{Effect: policy.Deny, Rule: a.Rule, Reason: "approval " + ended(approval.StateExpired), ApprovalID: a.ID, Approvers: approvers(&a)}
	if err := g.append(ctx, e); err != nil {
		return err
	}
	g.notify(ctx, NoticeExpired, a)
	return nil
}

// stageOf begins a later entry of a held call.
func stageOf(a *approval.Request, kind trailgate.Kind) *trailgate.Entry {
	return &trailgate.Entry{
		Kind: kind, IntentID: a.HeldEntry, Session: a.Session, Connection: a.Connection, Project: a.Project, Method: a.Method, Class: a.Class,
		Principal: &trailgate.Principal{Agent: a.Principal.Agent},
	}
}
