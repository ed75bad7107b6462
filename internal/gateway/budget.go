package gateway

import (
	"context"
	"strconv"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/policy"
)

// Budgets bound the bytes billed in a period, exactly under concurrency: what a call
// may be billed is reserved before it goes, and sent as maximumBytesBilled.
type Budgets interface {
	// Peek is the budget nearest to its end of those that hold for the call.
	Peek(agent, human, connection string) policy.Budget
	// Reserve takes what a call may be billed out of every budget that holds for it, or
	// out of none. want below 0: all that is left. amount is what was reserved; ok is
	// false where no budget holds. The error's text is for the agent. warned names the
	// budgets whose warning level is reached by it.
	Reserve(entry, agent, human, connection string, want int64) (amount int64, ok bool, warned []string, err error)
	// Release gives back what a call had reserved whose intent is not in the trail.
	// Those whose intents are come back to it from there.
	Release(entry string)
}

// limitReserved is the name of the reservation among a decision's limits.
const limitReserved = "budget_reserved"

// mebibyte and perTable are what BigQuery rounds on-demand bytes to
// (https://cloud.google.com/bigquery/pricing#on_demand_pricing).
const (
	mebibyte = 1 << 20
	perTable = 10 * mebibyte
)

func (g *Gateway) budget(e *trailgate.Entry) policy.Budget {
	return g.cfg.Budgets.Peek(e.Principal.Agent, e.Principal.Human, e.Connection)
}

// reservation is what a call holds of its budgets. nil holds nothing.
type reservation struct {
	g     *Gateway
	entry string
	kept  bool // the intent is in the trail, or may be: from there on the trail decides
}

// reserve has the call's budgets hold what it may be billed, which becomes its bound.
// Without an estimate from a dry run it makes one. The error is that of a trail that
// cannot be written.
func (g *Gateway) reserve(ctx context.Context, e *trailgate.Entry, who identity.Identity, c *bigquery.Call, conn *Connection, v *verdict, b *bigquery.Bounds) (*reservation, *bigquery.Error, error) {
	if g.cfg.Budgets == nil || !c.RunsQuery() || c.DryRun || !g.budget(e).Limited {
		return nil, nil, nil
	}
	if v.input.DryRun == nil {
		facts, instead, err := g.rehearse(ctx, e, who, c, conn)
		if err != nil {
			return nil, nil, err
		}
		g.rehearsed(e, v.input, facts)
		if instead != nil {
			return nil, instead, nil
		}
	}
	want := estimate(v.input.DryRun)
	if limit := lower(b.MaximumBytesBilled, v.input.Request.MaximumBytesBilled); limit > 0 && (want < 0 || want > limit) {
		want = limit
	}
	amount, ok, warned, err := g.cfg.Budgets.Reserve(e.ID, e.Principal.Agent, e.Principal.Human, e.Connection, want)
	if err != nil {
		g.metrics.overBudget.WithLabelValues(g.budget(e).Name, "refused").Inc()
		return nil, denied(err.Error()), nil
	}
	if !ok {
		return nil, nil, nil
	}
	for _, name := range warned {
		g.metrics.overBudget.WithLabelValues(name, "warning").Inc()
		e.Flags = append(e.Flags, "budget_warning")
	}
	if amount > 0 {
		b.MaximumBytesBilled = lower(b.MaximumBytesBilled, amount)
	}
	limits := map[string]string{limitReserved: strconv.FormatInt(amount, 10)}
	for k, x := range e.Decision.Limits {
		limits[k] = x
	}
	e.Decision.Limits = limits
	return &reservation{g: g, entry: e.ID}, nil, nil
}

// estimate is what a query will be billed at most by what BigQuery says of it; -1
// where that tells nothing: of a script it knows only the first statement.
func estimate(d *policy.DryRun) int64 {
	switch {
	case d == nil || !d.Ran, d.StatementType == "SCRIPT", d.StatementType == "CALL", d.StatementType == "":
		return -1
	case d.Bytes <= 0 && len(d.Read) == 0:
		return 0
	}
	return max((d.Bytes+mebibyte-1)/mebibyte*mebibyte, perTable*int64(max(len(d.Read), 1)))
}

// sent says that the intent is on its way into the trail.
func (r *reservation) sent() {
	if r != nil {
		r.kept = true
	}
}

// end gives back what was reserved for a call that did not come to its intent.
func (r *reservation) end() {
	if r != nil && !r.kept {
		r.g.cfg.Budgets.Release(r.entry)
	}
}
