package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/policy"
)

// Policy decides about classified calls, as *policy.Set does. It must not block
// and must be safe for concurrent use.
type Policy interface {
	// Evaluate decides. needDryRun asks for in.DryRun, and to be asked again.
	Evaluate(ctx context.Context, in *policy.Input) (d policy.Decision, needDryRun bool)
	// Digest is the SHA-256, hex, of the rules; it stands in every entry.
	Digest() string
}

// RecordOnly is the policy that allows every call whose method is known: for
// finding out what agents do before rules are written. Unknown methods never get
// as far as a policy.
type RecordOnly struct{}

// RecordOnlyRule is the rule's name in entries.
const RecordOnlyRule = "builtin/record-only"

// Evaluate implements [Policy].
func (RecordOnly) Evaluate(context.Context, *policy.Input) (policy.Decision, bool) {
	return policy.Decision{Effect: policy.Allow, Rule: RecordOnlyRule}, false
}

// Digest implements [Policy].
func (RecordOnly) Digest() string { return "" }

// SetPolicy puts another policy in place of the present one, for all calls that
// arrive from now on. Calls under way are judged by the one that they met.
func (g *Gateway) SetPolicy(p Policy) {
	g.rules.Store(&rules{p, p.Digest()})
}

// rules are the policy in force, with what entries say of it.
type rules struct {
	policy Policy
	digest string
}

// Rules of the gateway's own, beside the policy's.
const (
	ruleConnections = "builtin/connections"
	ruleScope       = "builtin/credential-scope"
	ruleUpload      = "builtin/upload-begun" // a chunk of an upload that was judged when it began
	ruleDryRun      = "builtin/dry-run"      // the gateway's own question to BigQuery
	ruleSuspended   = "builtin/suspended"
	ruleBudget      = "builtin/budget"
	ruleResults     = "builtin/result-limit"
)

// verdict is what was decided about a call, and on what.
type verdict struct {
	policy.Decision
	input *policy.Input
	// instead is BigQuery's own refusal of the dry run, which the call itself would
	// have met: the agent gets it as BigQuery said it.
	instead *bigquery.Error
}

// judge asks the policy about a call, and BigQuery about what it would do where the
// policy wants to know. The error is that of a trail that cannot be written.
func (g *Gateway) judge(ctx context.Context, by *rules, intent *trailgate.Entry, who identity.Identity, c *bigquery.Call, conn *Connection) (verdict, error) {
	v := verdict{}
	options, refusal := c.Options()
	if refusal != nil {
		v.Decision = policy.Decision{Effect: policy.Deny, Rule: policy.DefaultDeny, Reason: refusal.Message}
		v.instead = refusal
		return v, nil
	}
	v.input = g.input(intent, c, conn, options)
	started := time.Now()
	d, needDryRun := by.policy.Evaluate(ctx, v.input)
	took := time.Since(started)
	// An approver sees what the statement would do, whether or not a rule asked.
	if d.Effect == policy.RequireApproval && c.RunsQuery() && v.input.DryRun == nil {
		needDryRun = true
	}
	if needDryRun {
		facts, instead, err := g.rehearse(ctx, intent, who, c, conn)
		if err != nil {
			return v, err
		}
		g.rehearsed(intent, v.input, facts)
		if instead != nil {
			v.Decision = policy.Decision{Effect: policy.Deny, Rule: d.Rule, Reason: "BigQuery refuses the statement: " + instead.Message}
			v.instead = instead
			return v, nil
		}
		started = time.Now()
		d, _ = by.policy.Evaluate(ctx, v.input)
		took += time.Since(started)
	}
	g.metrics.decision(d, took)
	v.Decision = d
	return v, nil
}

// entry is the decision as an entry holds it.
func (v *verdict) entry() trailgate.Decision {
	d := trailgate.Decision{Effect: v.Effect, Rule: v.Rule, Reason: clip(v.Reason, 1024), Limits: v.Limits.Map()}
	if v.Effect == policy.Deny {
		d.Limits = nil
	}
	return d
}

// denial is what the agent is told.
func (v *verdict) denial() *bigquery.Error {
	if v.instead != nil {
		return v.instead
	}
	return denied(v.Reason + " (rule " + v.Rule + ")")
}

func denied(why string) *bigquery.Error {
	return &bigquery.Error{Status: http.StatusForbidden, Reason: "accessDenied", Message: "Trailgate: " + why}
}

// input is what the policy looks at: names whole, before an entry has to bound them.
func (g *Gateway) input(e *trailgate.Entry, c *bigquery.Call, conn *Connection, o bigquery.Options) *policy.Input {
	in := &policy.Input{
		Principal: *e.Principal, Connection: conn.Name, Project: c.Project, Location: c.Location, Method: c.Method,
		Class: c.Class, Classes: c.Classes, StatementType: c.StatementType,
		Tables: trailgate.Tables{Read: c.Read, Written: c.Written}, Destinations: c.Destinations, Flags: e.Flags,
		Request: policy.Request{DryRun: c.DryRun, Bytes: e.Request.Bytes, MaximumBytesBilled: o.MaximumBytesBilled, Priority: o.Priority},
		Session: g.tallies.session(e.Session), Now: g.cfg.Now(),
	}
	if e.Claims != nil {
		in.Claims = *e.Claims
	}
	in.Claims.Labels = c.Labels
	if e.Job != nil {
		in.Job = *e.Job
	}
	switch len(c.Statements) {
	case 0:
	case 1:
		in.Statement = c.Statements[0].Text
	default:
		texts := make([]string, 0, len(c.Statements))
		for _, s := range c.Statements {
			texts = append(texts, s.Text)
		}
		in.Statement = strings.Join(texts, "\n;\n")
	}
	// What changes a dataset, or something in it that is no table, touches all of it.
	if len(c.Written) == 0 && c.Dataset != "" && c.Class.Gravity() > trailgate.ClassRead.Gravity() {
		in.Tables.Written = []string{c.Project + "." + c.Dataset + ".*"}
	}
	if g.cfg.Budgets != nil {
		in.Budget = g.budget(e)
	}
	return in
}

// rehearsed takes what BigQuery said into the call's entry, and marks where that is
// not what was read.
func (g *Gateway) rehearsed(e *trailgate.Entry, in *policy.Input, d *policy.DryRun) {
	in.DryRun = d
	if !d.Ran {
		return
	}
	if e.StatementType == nil {
		e.StatementType = &trailgate.StatementType{}
	}
	e.StatementType.DryRun = clip(d.StatementType, 64)
	differs := in.StatementType != "" && in.StatementType != "UNKNOWN" && d.StatementType != "" && d.StatementType != in.StatementType
	e.StatementType.Disagree = differs
	for _, name := range d.Written {
		differs = differs || !slices.Contains(in.Tables.Written, name)
	}
	if differs {
		e.Flags = append(e.Flags, "dry_run_differs")
		g.metrics.disagreements.WithLabelValues("dry_run").Inc()
	}
}

// rehearse has BigQuery say what a query would do, with the agent's own credential.
// It is a call like any other: its intent is durable before it goes, its outcome
// before its answer is used. instead is BigQuery's refusal of the statement.
//
// A crash in between leaves an intent of a dry run without outcome, which had no
// effect, and no trace of the call for which it was made: that had none either.
func (g *Gateway) rehearse(ctx context.Context, call *trailgate.Entry, who identity.Identity, c *bigquery.Call, conn *Connection) (facts *policy.DryRun, instead *bigquery.Error, err error) {
	e := g.sibling(call)
	path, body := c.Rehearsal(map[string]string{"trailgate_entry": e.ID, "trailgate_agent": e.Principal.Agent, "trailgate_session": e.Session})
	if body == nil {
		return &policy.DryRun{Error: "BigQuery has no dry run of " + c.Method}, nil, nil
	}
	sum := sha256.Sum256(body)
	up := conn.Credential.Describe()
	// Whatever the statement is, asking about it does nothing to its tables.
	e.Kind, e.Method, e.Class = trailgate.KindIntent, methodInsert, trailgate.ClassMetadataRead
	e.Request = &trailgate.Request{
		Verb: http.MethodPost, Path: path, Bytes: int64(len(body)), SHA256: hex.EncodeToString(sum[:]), DryRun: true, For: call.ID,
	}
	e.Decision = &trailgate.Decision{Effect: policy.Allow, Rule: ruleDryRun, Reason: "what the call would do has to be known to decide about it"}
	e.Upstream = &trailgate.Upstream{Mode: up.Mode, Shared: up.Shared, Host: conn.Upstream.Host}
	if err := g.commitIntent(ctx, e, c); err != nil {
		return nil, nil, err
	}
	result := outcomeOf(e)
	started := time.Now()
	answer := g.send(ctx, e, who, conn, c, http.MethodPost, path, body)
	o := answer.facts.Outcome
	o.Status, o.End, o.Bytes = answer.status, answer.end, answer.bytes
	o.ErrorReason, o.ErrorMessage = clip(o.ErrorReason, 128), clip(o.ErrorMessage, 1024)
	if answer.err != nil {
		o.ErrorMessage = clip(answer.err.Error(), 1024)
	}
	o.DurationNanos = time.Since(started).Nanoseconds()
	result.Outcome, result.Upstream, result.Flags = &o, answer.upstream, answer.flags
	if answer.facts.StatementType != "" {
		result.StatementType = &trailgate.StatementType{DryRun: clip(answer.facts.StatementType, 64)}
	}
	if err := g.append(ctx, result); err != nil {
		return nil, nil, err
	}
	g.metrics.outcome(result)
	switch {
	case answer.err != nil:
		return &policy.DryRun{Error: clip(answer.err.Error(), 512)}, nil, nil
	case answer.status >= 400 && answer.status < 500 && answer.status != http.StatusUnauthorized && answer.status != http.StatusTooManyRequests:
		instead := &bigquery.Error{Status: answer.status, Reason: o.ErrorReason, Message: o.ErrorMessage}
		return &policy.DryRun{Error: o.ErrorMessage}, instead, nil
	case answer.status != http.StatusOK:
		return &policy.DryRun{Error: fmt.Sprintf("BigQuery answered %d to the dry run: %s", answer.status, o.ErrorMessage)}, nil, nil
	case o.ErrorReason != "":
		instead := &bigquery.Error{Status: http.StatusBadRequest, Reason: o.ErrorReason, Message: o.ErrorMessage}
		return &policy.DryRun{Error: o.ErrorMessage}, instead, nil
	}
	return dryRunFacts(answer.facts, call), nil, nil
}

// dryRunFacts are BigQuery's words as the policy has them.
func dryRunFacts(f bigquery.Facts, call *trailgate.Entry) *policy.DryRun {
	d := &policy.DryRun{Ran: true, StatementType: f.StatementType, Bytes: f.Outcome.BytesProcessed}
	if f.Tables == nil {
		return d
	}
	for _, name := range f.Tables.Written {
		// Where a query's rows go that were not sent anywhere.
		if parts := strings.Split(name, "."); len(parts) >= 2 && strings.HasPrefix(parts[len(parts)-2], "_") {
			continue
		}
		d.Written = append(d.Written, name)
	}
	// Of a DML statement BigQuery names the target among the tables referenced.
	dml := slices.Contains([]string{"INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE_TABLE"}, f.StatementType)
	for _, name := range f.Tables.Read {
		if dml && call.Tables != nil && slices.Contains(call.Tables.Written, name) {
			d.Written = append(d.Written, name)
			if !slices.Contains(call.Tables.Read, name) {
				continue
			}
		}
		d.Read = append(d.Read, name)
	}
	slices.Sort(d.Written)
	d.Written = slices.Compact(d.Written)
	return d
}
