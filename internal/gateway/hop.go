package gateway

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
)

// Hop is what a connector is told of a call beside the request.
type Hop struct {
	Entry, Connection, Project, Session string
	Principal                           *trailgate.Principal
}

// Passed is which way a call went, known for good once its answer was read.
type Passed struct {
	Connector trailgate.ConnectorUse
	// Mode, Principal and Shared are of the credential that the connector made; Mode is
	// empty where it made none.
	Mode, Principal string
	Shared          bool
}

// HopError is why a call that was to go through a connector has no answer.
type HopError struct {
	Message   string
	Sent      bool // BigQuery may have got the call
	Lost      bool // the tunnel broke: how the call ended can be asked of BigQuery, another way
	Timeout   bool
	NoneThere bool // no connector took it
	Forbidden bool // the connector's own configuration does
	// Credential: there is no Google credential. Temporary: trying again may help.
	Credential, Temporary bool
}

func (e *HopError) Error() string { return e.Message }

// modeConnector is the credential mode of connections whose connectors make it.
const modeConnector = "connector"

// roundTrip sends a request of a call on: through a connector, where the connection has
// them, else by its transport. passed is nil where no connector took it, and may be asked
// once the answer's body was read or given up.
func (g *Gateway) roundTrip(conn *Connection, req *http.Request, hop Hop) (resp *http.Response, passed func() Passed, err error) {
	if conn.Forward == nil {
		resp, err = conn.Transport.RoundTrip(req)
		return resp, nil, err
	}
	hop.Connection = conn.Name
	return conn.Forward(req, hop)
}

// note puts the way that a call went into what its entry says of upstream.
func (p Passed) note(up *trailgate.Upstream) {
	use := p.Connector
	up.Connector = &use
	if p.Mode != "" {
		up.Mode, up.Principal, up.Shared = p.Mode, p.Principal, p.Shared
	}
}

// flags are the words of a receipt that is not as it should be.
func receiptFlags(use *trailgate.ConnectorUse) []string {
	switch use.Verdict {
	case trailgate.ReceiptMissing:
		return []string{flagReceiptMissing}
	case trailgate.ReceiptBad:
		return []string{flagReceiptBad}
	case trailgate.ReceiptDiffers:
		return []string{flagReceiptDiffers}
	}
	return nil
}

const (
	flagReceiptMissing = "receipt_missing"
	flagReceiptBad     = "receipt_bad"
	flagReceiptDiffers = "receipt_differs"
	flagTunnelLost     = "tunnel_lost"
)

// receipt looks at what the connector said of the call: the job that it saw must be the
// one that the gateway did.
func (a *answer) receipt(e *trailgate.Entry) {
	if a.passed == nil || a.upstream == nil {
		return
	}
	a.passed().note(a.upstream)
	use := a.upstream.Connector
	if use.Verdict == trailgate.ReceiptGood && e.Job != nil && e.Job.ID != "" {
		r, err := trailgate.ParseReceipt(use.Receipt)
		if err == nil && r.Job != "" && !strings.HasSuffix(r.Job, "."+e.Job.ID) && !strings.HasSuffix(r.Job, ":"+e.Job.ID) {
			use.Verdict, use.Differs = trailgate.ReceiptDiffers, "job"
		}
	}
	for _, flag := range receiptFlags(use) {
		if flag == flagReceiptMissing && a.lost {
			continue // that none came says no more than that the tunnel is gone
		}
		a.flags = append(a.flags, flag)
		a.g.metrics.receipts.WithLabelValues(flag).Inc()
	}
}

// failHop turns a call that a connector could not do into an answer.
func (a *answer) failHop(ctx context.Context, e *HopError) {
	switch {
	case e.Credential && !e.Temporary:
		a.fail(trailgate.EndNotForwarded, e.Message, &bigquery.Error{Status: http.StatusForbidden, Reason: "accessDenied", Message: "Trailgate: connection " + a.entry.Connection + " has no Google credential for this call: " + clip(e.Message, 1000)})
	case e.Credential, e.NoneThere:
		a.fail(trailgate.EndNotForwarded, e.Message, unavailable(clip(e.Message, 1000)))
	case e.Forbidden:
		a.fail(trailgate.EndNotForwarded, e.Message, &bigquery.Error{Status: http.StatusForbidden, Reason: "accessDenied", Message: "Trailgate: " + clip(e.Message, 1000)})
	case e.Timeout:
		a.fail(trailgate.EndUpstreamDown, e.Message, &bigquery.Error{Status: http.StatusGatewayTimeout, Reason: "backendError", Message: "Trailgate: BigQuery did not answer in time"})
	default:
		a.fail(trailgate.EndUpstreamDown, e.Message, &bigquery.Error{Status: http.StatusBadGateway, Reason: "backendError", Message: "Trailgate: " + clip(e.Message, 1000)})
	}
	if e.Sent {
		a.g.cfg.Log.WarnContext(ctx, "connector", "entry", a.entry.ID, "err", e.Message)
	}
	if e.Lost {
		a.tunnelLost()
	}
	if e.Sent && (a.call.CreatesJob && !a.call.DryRun || a.call.Verb != http.MethodGet) {
		a.flags = append(a.flags, "effect_unknown")
	}
}

// tunnelLost notes that how the call ended is not known here. Where it makes a job that
// can be asked about it is left without an outcome, which is what an intent means whose
// call is indeterminate, until BigQuery was asked.
func (a *answer) tunnelLost() {
	a.flags = append(a.flags, flagTunnelLost)
	a.lost = true
	a.open = makesJob(a.entry) && !a.call.DryRun && !a.begun && a.rows == nil && a.g.cfg.Unfinished != nil
	if a.open && a.instead != nil {
		a.instead.Message = clip(a.instead.Message, 800) + "; whether the job was begun is being asked of BigQuery, and will be in the trail"
	}
}

// unsettled is an intent of this run whose call's end is to be asked about.
type unsettled struct {
	intent *trailgate.Entry
	due    time.Time
	wait   time.Duration
}

// settleLater has an intent settled that has no outcome and will get none. It is in memory
// alone: after a crash the next start finds the intent.
func (g *Gateway) settleLater(intent *trailgate.Entry) {
	g.lostMu.Lock()
	g.lost = append(g.lost, unsettled{intent, g.cfg.Now(), time.Second})
	n := len(g.lost)
	g.lostMu.Unlock()
	g.metrics.lost.Set(float64(n))
}

const lostEvery = 500 * time.Millisecond

// settleLost settles what lost tunnels left, until ctx ends. What cannot be asked now,
// since no connector is there, is asked again, ever more rarely.
func (g *Gateway) settleLost(ctx context.Context) {
	tick := time.NewTicker(lostEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		g.lostMu.Lock()
		todo := g.lost
		g.lost = nil
		g.lostMu.Unlock()
		if len(todo) == 0 {
			continue
		}
		var left []unsettled
		for _, u := range todo {
			if ctx.Err() != nil || g.cfg.Now().Before(u.due) {
				left = append(left, u)
				continue
			}
			err := g.settle(ctx, u.intent)
			if err == nil {
				continue
			}
			if !errors.Is(err, errTooEarly) && ctx.Err() == nil {
				g.cfg.Log.WarnContext(ctx, "settle an intent", "entry", u.intent.ID, "err", err)
			}
			u.due, u.wait = g.cfg.Now().Add(u.wait), min(2*u.wait, settleEvery)
			left = append(left, u)
		}
		g.lostMu.Lock()
		g.lost = append(g.lost, left...)
		n := len(g.lost)
		g.lostMu.Unlock()
		g.metrics.lost.Set(float64(n))
	}
}
