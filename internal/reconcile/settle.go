package reconcile

import (
	"context"
	"fmt"
	"slices"

	"github.com/trailgate/trailgate"
)

// How a call without an end was settled, as the gateway's own settlements have it.
const (
	settledFound  = "job_found"
	settledAbsent = "job_absent"
)

// settle writes what became of a call whose outcome is not there, or says that the
// answer was lost: the job that BigQuery has, or that it has none. The gateway settles
// what it can at its start, with the agent's own credential; this is for what it cannot.
func (r *run) settle(ctx context.Context, c *call, j *Job) (bool, error) {
	if !c.closed && c.seq >= r.cfg.SettleBefore {
		return false, nil // it may be under way
	}
	stages, err := r.cfg.Lookup(ctx, c.entry)
	if err != nil {
		return false, fmt.Errorf("look up entry %s: %w", c.entry, err)
	}
	// The end may stand far behind the call, beyond what was read.
	full := callOf(stages)
	if full == nil || full.entry != c.entry || !full.open() {
		return false, nil
	}
	intent := stages[slices.IndexFunc(stages, func(e *trailgate.Entry) bool { return e.ID == c.entry })]
	e := &trailgate.Entry{
		Kind: trailgate.KindSettled, IntentID: intent.ID, Session: intent.Session, Connection: intent.Connection, Project: intent.Project,
		Method: intent.Method, Class: intent.Class, Outcome: &trailgate.Outcome{End: settledAbsent},
	}
	if intent.Principal != nil {
		e.Principal = &trailgate.Principal{Agent: intent.Principal.Agent}
	}
	if j != nil {
		o := &trailgate.Outcome{
			End: settledFound, ErrorReason: clip(j.ErrorReason, 64), JobState: "RUNNING", BytesProcessed: max(j.Processed, 0), BytesBilled: max(j.Billed, 0),
			RowsAffected: max(j.Affected, 0), CacheHit: j.CacheHit, SlotMillis: max(j.SlotMillis, 0),
		}
		if j.Done {
			o.JobState = "DONE"
		}
		e.Outcome = o
		e.Job = &trailgate.Job{Project: clip(j.Project, 256), ID: clip(j.ID, 1024), Location: clip(j.Location, 64), Type: clip(j.Type, 32)}
		if j.StatementType != "" {
			e.StatementType = &trailgate.StatementType{Final: clip(j.StatementType, 64)}
		}
	}
	if err := r.cfg.Append(ctx, e); err != nil {
		return false, fmt.Errorf("settle %s: %w", c.entry, err)
	}
	c.closed, c.settled, c.unknown = true, true, false
	return true, nil
}
