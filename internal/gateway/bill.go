package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/policy"
)

// What a query was billed is in the job's own resource and in the answer to
// jobs.query. Clients that begin a job and then read its result, as bq and Google's
// libraries do, see neither again: jobs.getQueryResults does not say it. Where a budget
// holds for the call the gateway asks for itself, once, behind the agent's back. Until it
// knows, the call is charged with its reservation.

// Flags of outcomes, by which budgets go.
const (
	flagBillUnknown  = "bill_unknown"  // the job is done, and the answer should have said its bill
	flagScriptFailed = "script_failed" // what it did before it failed stays done, and billed
)

// maxBillAsks is how many jobs wait to be asked about; beyond, reservations stand.
const maxBillAsks = 1000

// billWait is between tries: BigQuery's job list lags by some seconds.
var billWait = []time.Duration{0, time.Second, 5 * time.Second, 20 * time.Second}

// billing marks an answer by which a budget could not go.
func (a *answer) billing(facts *bigquery.Facts, o *trailgate.Outcome) {
	if a.g.cfg.Budgets == nil || a.instead != nil {
		return
	}
	if failedScript(a.call, a.entry, o) {
		a.flags = append(a.flags, flagScriptFailed)
	}
	if o.JobState != "DONE" || o.CacheHit || facts.BilledTold || a.call.DryRun || a.call.Method == methodResults || facts.Job == nil {
		return
	}
	switch facts.Job.Type {
	case "LOAD", "COPY", "EXTRACT": // not billed by bytes
		return
	}
	// What failed before it ran has no statistics of a query.
	if o.ErrorReason == "" || severalSteps(a.entry.StatementType) {
		a.flags = append(a.flags, flagBillUnknown)
	}
}

// failedScript reports whether a jobs.query was answered with an error that may have
// come in its middle.
func failedScript(c *bigquery.Call, intent *trailgate.Entry, o *trailgate.Outcome) bool {
	return c.Method == methodQuery && !c.DryRun && o.Status >= 400 && o.Status < 500 && severalSteps(intent.StatementType)
}

// severalSteps reports whether a statement may do one thing before it fails at another.
func severalSteps(st *trailgate.StatementType) bool {
	if st == nil {
		return false
	}
	for _, name := range []string{st.Local, st.DryRun} {
		switch name {
		case "SCRIPT", "CALL", "EXECUTE_IMMEDIATE", "UNKNOWN":
			return true
		}
	}
	return false
}

// askBill has the gateway ask what a job was billed where an outcome leaves that open.
// It must be called before the job is forgotten as running.
func (g *Gateway) askBill(intent *trailgate.Entry, c *bigquery.Call, result *trailgate.Entry, who identity.Identity, conn *Connection) {
	if g.cfg.Budgets == nil || intent.Upstream != nil && intent.Upstream.Mode == "local" {
		return
	}
	began, job := intent, result.Job
	o := result.Outcome
	switch {
	case slices.Contains(result.Flags, flagScriptFailed):
		job = nil // to be found by its label
	case c.Method == methodResults && intent.Job != nil && !o.CacheHit && (o.JobState == "DONE" || o.Status >= 400 && o.Status < 500):
		if began = g.running.began(jobKey(intent.Job.Project, intent.Job.ID)); began == nil {
			return
		}
		if job == nil {
			job = intent.Job
		}
	case slices.Contains(result.Flags, flagBillUnknown) && c.CreatesJob && job != nil:
	default:
		return
	}
	if began.Principal.Agent != intent.Principal.Agent || !g.budget(began).Limited {
		return
	}
	select {
	case g.bills <- struct{}{}:
	default:
		g.cfg.Log.WarnContext(g.life, "too many jobs to ask about; their reservations stand", "entry", began.ID)
		return
	}
	g.held.Go(func() {
		defer func() { <-g.bills }()
		g.findBill(g.life, began, job, who, conn)
	})
}

// findBill asks until BigQuery tells. A crash before its outcome is committed leaves
// the call charged with its reservation.
func (g *Gateway) findBill(ctx context.Context, began *trailgate.Entry, job *trailgate.Job, who identity.Identity, conn *Connection) {
	for _, wait := range billWait {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		done, err := g.tryBill(ctx, began, &job, who, conn)
		if done {
			return
		}
		if err != nil && ctx.Err() == nil {
			g.cfg.Log.WarnContext(ctx, "ask what a job was billed", "entry", began.ID, "err", err)
		}
	}
}

// tryBill asks once. Its question is a call with entries of its own, like a dry run.
func (g *Gateway) tryBill(ctx context.Context, began *trailgate.Entry, job **trailgate.Job, who identity.Identity, conn *Connection) (done bool, err error) {
	if *job == nil {
		found, err := g.findLabelled(ctx, conn, began, asked(began, who, conn), began.Time.Add(-time.Minute), g.cfg.Now().Add(time.Minute))
		if err != nil || found == nil || found.Job == nil {
			return false, err
		}
		*job = found.Job
	}
	answer, err := g.askJob(ctx, began, *job, who, conn)
	if err != nil {
		return false, err
	}
	return answer.facts.Outcome.JobState == "DONE" && answer.facts.BilledTold || answer.status == http.StatusNotFound, answer.err
}

// askJob asks BigQuery about a job that a call began, on the record.
func (g *Gateway) askJob(ctx context.Context, began *trailgate.Entry, job *trailgate.Job, who identity.Identity, conn *Connection) (sent, error) {
	path := "/bigquery/v2/projects/" + url.PathEscape(job.Project) + "/jobs/" + url.PathEscape(job.ID)
	query := ""
	if job.Location != "" {
		query = "location=" + url.QueryEscape(job.Location)
	}
	c, refusal := bigquery.Route(bigquery.Request{Verb: http.MethodGet, EscapedPath: path, RawQuery: query})
	if refusal != nil {
		return sent{}, errors.New(refusal.Message)
	}
	e := g.sibling(began)
	e.Client = ""
	up := conn.Credential.Describe()
	e.Kind, e.Method, e.Class = trailgate.KindIntent, c.Method, c.Class
	e.Job = &trailgate.Job{Project: job.Project, ID: job.ID, Location: job.Location, OwnerAgent: began.Principal.Agent, OwnerEntry: began.ID}
	e.Request = &trailgate.Request{Verb: c.Verb, Path: c.Path, For: began.ID}
	e.Decision = &trailgate.Decision{Effect: policy.Allow, Rule: ruleBudget, Reason: "what the job was billed has to be known for a budget"}
	e.Upstream = &trailgate.Upstream{Mode: up.Mode, Shared: up.Shared, Host: conn.Upstream.Host}
	if err := g.append(ctx, e); err != nil {
		return sent{}, err
	}
	result := outcomeOf(e)
	answer := g.send(ctx, e, who, conn, c, c.Verb, c.Path, nil)
	o := answer.facts.Outcome
	o.Status, o.End, o.Bytes, o.ErrorReason, o.ErrorMessage = answer.status, answer.end, answer.bytes, clip(o.ErrorReason, 128), clip(o.ErrorMessage, 1024)
	if answer.err != nil {
		o.ErrorMessage = clip(answer.err.Error(), 1024)
	}
	result.Outcome, result.Upstream, result.Job = &o, answer.upstream, answer.facts.Job
	if o.JobState == "DONE" && !answer.facts.BilledTold && !o.CacheHit && (o.ErrorReason == "" || severalSteps(began.StatementType)) {
		result.Flags = append(result.Flags, flagBillUnknown)
	}
	if answer.facts.StatementType != "" {
		result.StatementType = &trailgate.StatementType{Final: clip(answer.facts.StatementType, 64)}
	}
	if err := g.append(ctx, result); err != nil {
		return sent{}, err
	}
	g.metrics.outcome(result)
	g.tallies.billedLater(began.Session, result)
	return answer, nil
}

// asked is whose credential a question of the gateway's own about a call goes with.
func asked(e *trailgate.Entry, who identity.Identity, conn *Connection) federation.Request {
	return federation.Request{
		Principal: e.Principal, Session: e.Session, Connection: conn.Name, Project: e.Project,
		Assertion: who.Assertion, AssertionExpires: who.AssertionExpires,
	}
}
