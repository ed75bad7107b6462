package export

import (
	"time"

	"github.com/trailgate/trailgate"
)

// Call is a call with all of its stages, or an entry that stands alone.
type Call struct {
	Stages []*trailgate.Entry // in the log's order; at least one
	Folded *trailgate.Entry   // the whole as one entry
	State  string             // "done", "failed", "denied", "refused", "held", "expired", "settled", "open", "recorded"
	Ended  time.Time          // of the closing entry; zero where there is none
}

// NewCall puts a call together. Stages are in the log's order.
func NewCall(stages []*trailgate.Entry) Call {
	opening := stages[0]
	var closing, forwarded *trailgate.Entry
	expired := false
	for _, e := range stages {
		switch e.Kind {
		case trailgate.KindIntent:
			if forwarded == nil {
				forwarded = e
			}
		case trailgate.KindOutcome, trailgate.KindSettled:
			// What a held call's agent was told meanwhile is not how the call ended.
			if opening.Kind == trailgate.KindHeld && e.IntentID == opening.ID && e.Outcome != nil && e.Outcome.End == trailgate.EndRefused {
				continue
			}
			if closing == nil {
				closing = e
			}
		case trailgate.KindExpired:
			expired = true
		default:
		}
	}
	first := opening
	if forwarded != nil {
		first = forwarded // its job, decision and approvers are those that counted
	}
	c := Call{Stages: stages, Folded: trailgate.Fold(first, closing)}
	if closing != nil {
		c.Ended = closing.Time
	}
	c.State = state(opening, forwarded, closing, expired)
	return c
}

func state(opening, forwarded, closing *trailgate.Entry, expired bool) string {
	switch {
	case closing != nil && closing.Kind == trailgate.KindSettled:
		return "settled"
	case closing != nil && failed(closing.Outcome):
		return "failed"
	case closing != nil:
		return "done"
	case forwarded != nil:
		return "open"
	case expired:
		return "expired"
	}
	switch opening.Kind {
	case trailgate.KindDenied, trailgate.KindRefused, trailgate.KindHeld:
		return string(opening.Kind)
	default:
		return "recorded"
	}
}

func failed(o *trailgate.Outcome) bool {
	return o != nil && (o.ErrorReason != "" || o.Status >= 400)
}
