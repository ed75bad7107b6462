package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/trailgate/trailgate"
)

// unrecorded are the variables that no entry holds.
var unrecorded = []string{
	"request.maximum_bytes_billed", "request.priority",
	"session.calls", "session.rows", "session.bytes", "session.bytes_billed", "session.started",
	"budget.limited", "budget.name", "budget.limit", "budget.used", "budget.remaining", "budget.warning",
}

var dryRunVariables = []string{
	"dry_run.ran", "dry_run.error", "dry_run.statement_type", "dry_run.read", "dry_run.written", "dry_run.bytes", "dry_run.differs",
}

// ErrNotJudged says that an entry is not of a call that a policy decided about.
var ErrNotJudged = errors.New("not the opening entry of a call that a policy decided about")

// FromEntry makes the input of a recorded call, so that a policy can decide about
// it again. open is the entry that opened it (intent, denied or held), outcome the
// one that closed it, or nil. Neither is kept or changed.
//
// What an entry does not hold is in [Input.Unknown]. A caller that knows better (a
// statement's blob, totals of the session counted while replaying) sets the field
// and takes the name out. Facts of a dry run are those of the finished job, where
// the outcome has them, and count as unknown too.
func FromEntry(open, outcome *trailgate.Entry) (*Input, error) {
	if open == nil {
		return nil, ErrNotJudged
	}
	switch open.Kind {
	case trailgate.KindIntent, trailgate.KindDenied, trailgate.KindHeld:
	default:
		return nil, fmt.Errorf("entry %s of kind %s: %w", open.ID, open.Kind, ErrNotJudged)
	}
	if open.Method == "" {
		return nil, fmt.Errorf("entry %s has no method: %w", open.ID, ErrNotJudged)
	}
	in := &Input{
		Connection: open.Connection, Project: open.Project, Location: open.Location, Method: open.Method,
		Class: open.Class, Classes: slices.Clone(open.Classes), Destinations: slices.Clone(open.Destinations), Flags: slices.Clone(open.Flags),
		Session: Session{ID: open.Session}, Now: open.Time, Unknown: slices.Clone(unrecorded),
	}
	if open.Principal != nil {
		in.Principal = *open.Principal
	}
	if open.Claims != nil {
		in.Claims = *open.Claims
	}
	if open.Job != nil {
		in.Job = *open.Job
	}
	if open.Request != nil {
		in.Request = Request{DryRun: open.Request.DryRun, Bytes: open.Request.Bytes}
	}
	if open.StatementType != nil {
		in.StatementType = open.StatementType.Local
	}
	if open.Tables != nil {
		in.Tables = *open.Tables
		in.Tables.Omitted = 0 // the live call knew them; which they were is unknown
		if open.Tables.Omitted > 0 {
			in.Unknown = append(in.Unknown, "tables.read", "tables.written", "tables.all", "dry_run.differs")
		}
	}
	for _, flag := range []string{"names_omitted", "destinations_omitted"} {
		if slices.Contains(open.Flags, flag) {
			in.Unknown = append(in.Unknown, "destinations", "tables.read", "tables.written", "tables.all")
			break
		}
	}
	in.statements(open.Statements)
	in.dryRunFrom(open, outcome)
	return in, nil
}

func (in *Input) statements(all []trailgate.Statement) {
	var b strings.Builder
	for _, s := range all {
		if s.Text == "" && s.Length > 0 {
			in.Unknown = append(in.Unknown, "statement")
			return // in a blob
		}
		if b.Len() > 0 {
			b.WriteString("\n")
		}
		b.WriteString(s.Text)
		if b.Len() > MaxStatementBytes {
			break
		}
	}
	in.Statement = b.String()
}

// dryRunFrom takes what the job did for what a dry run would have said.
func (in *Input) dryRunFrom(open, outcome *trailgate.Entry) {
	in.Unknown = append(in.Unknown, dryRunVariables...)
	d := &DryRun{}
	if t := open.StatementType; t != nil && t.DryRun != "" {
		d.Ran, d.StatementType = true, t.DryRun
	}
	if outcome != nil {
		if t := outcome.StatementType; t != nil && t.Final != "" {
			d.Ran, d.StatementType = true, t.Final
		}
		if t := outcome.Tables; t != nil && t.Final {
			d.Ran, d.Read, d.Written = true, t.Read, t.Written
		}
		if o := outcome.Outcome; o != nil && o.BytesProcessed > 0 {
			d.Ran, d.Bytes = true, o.BytesProcessed
		}
	}
	if !d.Ran {
		d.Error = "the trail does not hold what the job would have done"
	}
	in.DryRun = d
}

// Replayed is a decision about a recorded call.
type Replayed struct {
	Decision
	// Uncertain names the variables that rules looked at and whose values the trail
	// does not hold, or only nearly: a live call might have been decided otherwise.
	Uncertain []string
}

// Replay decides about a recorded call.
func (s *Set) Replay(ctx context.Context, in *Input) Replayed {
	d, needDryRun, touched := s.evaluate(ctx, in)
	out := Replayed{Decision: d}
	for i := range variables {
		path := variables[i].path()
		if touched&(1<<i) != 0 && contains(in.Unknown, path) || needDryRun && path == "dry_run.ran" {
			out.Uncertain = append(out.Uncertain, path)
		}
	}
	return out
}

// Difference is a recorded call that another policy decides otherwise.
type Difference struct {
	Entry    string // the id of the entry that opened the call
	Was, Now Decision
	// Limits says which limits differ, where the call is let through either way, each
	// like "max_rows: none, now 10".
	Limits    []string
	Uncertain []string
}

// Compare tells how a replayed decision differs from the recorded one: in its
// effect, or in the limits that it sets. That another rule, or a rule of another
// name, came to the same is no difference.
func Compare(open *trailgate.Entry, now Replayed) (d Difference, differs bool) {
	if open.Decision == nil {
		return Difference{}, false
	}
	d = Difference{
		Entry:     open.ID,
		Was:       Decision{Effect: open.Decision.Effect, Rule: open.Decision.Rule, Reason: open.Decision.Reason},
		Now:       now.Decision,
		Uncertain: now.Uncertain,
	}
	if d.Was.Effect != d.Now.Effect {
		return d, true
	}
	if d.Now.Effect == Deny {
		return d, false
	}
	was, is := open.Decision.Limits, now.Limits.Map()
	all := maps.Clone(was)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, is)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if was[name] != is[name] {
			d.Limits = append(d.Limits, name+": "+cmp.Or(was[name], "none")+", now "+cmp.Or(is[name], "none"))
		}
	}
	return d, len(d.Limits) > 0
}
