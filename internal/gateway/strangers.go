package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/identity"
)

const (
	// aggregateEvery is how often counts of refused strangers are written, and
	// so how much of them a crash can lose.
	aggregateEvery = 5 * time.Second
	maxAddresses   = 16
)

// strangerError says why a credential was not accepted: the short word that is
// counted, and what the caller is told. An unknown token and a revoked one read
// the same outside, so that nothing is to be learnt by trying.
func strangerError(err error) (reason string, answer *bigquery.Error) {
	answer = &bigquery.Error{
		Status: http.StatusUnauthorized, Reason: "authError",
		Message: "Trailgate: the request carries no valid gateway token; get one with 'trailgate agent token NAME'",
	}
	switch {
	case errors.Is(err, identity.ErrExpired):
		answer.Message = "Trailgate: the gateway token has expired; get a new one with 'trailgate agent token NAME'"
		return "expired", answer
	case errors.Is(err, identity.ErrRevoked):
		return "revoked", answer
	case errors.Is(err, identity.ErrUnknown):
		return "unknown", answer
	default:
		return "malformed", answer
	}
}

// aggregate counts calls that came without a valid credential.
type aggregate struct {
	now func() time.Time

	mu    sync.Mutex // guards the rest
	since time.Time
	by    map[string]*tally
}

type tally struct {
	count     int64
	addresses []string
}

func newAggregate(now func() time.Time) *aggregate {
	return &aggregate{now: now, by: map[string]*tally{}}
}

// add counts one. reason is from a closed set.
func (a *aggregate) add(reason, remote string) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.by) == 0 {
		a.since = a.now()
	}
	t := a.by[reason]
	if t == nil {
		t = &tally{}
		a.by[reason] = t
	}
	t.count++
	if len(t.addresses) < maxAddresses && !slices.Contains(t.addresses, host) {
		t.addresses = append(t.addresses, host)
	}
}

// restore puts back what could not be written.
func (a *aggregate) restore(reason string, t *tally, since time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.by) == 0 || since.Before(a.since) {
		a.since = since
	}
	if old := a.by[reason]; old != nil {
		old.count += t.count
		return
	}
	a.by[reason] = t
}

// flushNobody writes what was counted, an entry a reason, and forgets it. What
// cannot be written is kept for the next time.
func (g *Gateway) flushNobody(ctx context.Context) {
	a := g.nobody
	a.mu.Lock()
	by, since := a.by, a.since
	a.by = map[string]*tally{}
	a.mu.Unlock()
	for _, reason := range []string{"malformed", "unknown", "expired", "revoked"} {
		t := by[reason]
		if t == nil {
			continue
		}
		err := g.append(ctx, &trailgate.Entry{
			Kind:      trailgate.KindRefused,
			Decision:  &trailgate.Decision{Effect: "refuse", Rule: "builtin/authentication", Reason: reason + " credential"},
			Outcome:   &trailgate.Outcome{Status: http.StatusUnauthorized, End: trailgate.EndRefused, ErrorReason: "authError"},
			Aggregate: &trailgate.Aggregate{Count: t.count, Since: since, Addresses: t.addresses},
		})
		if err != nil {
			a.restore(reason, t, since)
		}
	}
}
