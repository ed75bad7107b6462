package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/identity/assertion"
)

const (
	// aggregateEvery is how often counts of refused strangers are written, and
	// so how much of them a crash can lose.
	aggregateEvery = 5 * time.Second
	maxAddresses   = 16
)

// reasons are why a credential is not accepted, as they are counted and in the
// order in which they are written.
var reasons = []struct {
	word string
	err  error
}{
	{"expired", identity.ErrExpired},
	{"revoked", identity.ErrRevoked},
	{"unknown", identity.ErrUnknown},
	{"source", identity.ErrSource},
	{"unknown_agent", identity.ErrUnknownAgent},
	{"conflict", identity.ErrConflict},
	{"unavailable", assertion.ErrUnavailable},
	{"issuer", assertion.ErrIssuer},
	{"audience", assertion.ErrAudience},
	{"expired", assertion.ErrExpired},
	{"not_yet", assertion.ErrNotYet},
	{"signature", assertion.ErrSignature},
	{"algorithm", assertion.ErrAlgorithm},
	{"key", assertion.ErrKey},
	{"chain", assertion.ErrChain},
	{"mapping", assertion.ErrMapping},
	{"certificate", assertion.ErrCertificate},
	{"malformed", nil},
}

// reasonOf is the short word for why a credential is not accepted.
func reasonOf(err error) string {
	for _, r := range reasons {
		if r.err != nil && errors.Is(err, r.err) {
			return r.word
		}
	}
	return "malformed"
}

// strangerError says why a credential was not accepted: the short word that is
// counted, and what the caller is told. An unknown token and a revoked one read
// the same outside, so that nothing is to be learnt by trying; who holds a
// credential that somebody else signed may know what is wrong with it.
func strangerError(err error) (reason string, answer *bigquery.Error) {
	reason = reasonOf(err)
	answer = &bigquery.Error{
		Status: http.StatusUnauthorized, Reason: "authError",
		Message: "Trailgate: the request carries no valid gateway token; get one with 'trailgate agent token NAME'",
	}
	switch {
	case reason == "unavailable":
		return reason, unavailable("the credential cannot be checked at the moment: its issuer's keys cannot be had, or a new agent cannot be recorded; try again")
	case reason == "expired" && errors.Is(err, identity.ErrExpired):
		answer.Message = "Trailgate: the gateway token has expired; get a new one with 'trailgate agent token NAME'"
	case reason == "revoked", reason == "unknown", reason == "malformed":
	case reason == "source":
		answer.Message = "Trailgate: the gateway token is not for use from this address; 'trailgate agent list NAME' tells from where it is"
	case reason == "unknown_agent":
		answer.Message = "Trailgate: the credential is good, but names no agent that this gateway knows; 'trailgate agent add NAME' lets it in"
	default:
		answer.Message = "Trailgate: the credential is not accepted (" + reason + "): " + clip(rootCause(err), 200)
	}
	return reason, answer
}

// whoseCredential names the owner of a credential that was good and not
// accepted all the same; empty where nothing was verified.
func whoseCredential(who identity.Identity, err error) string {
	switch {
	case errors.Is(err, identity.ErrSource):
		return who.Principal.Agent + " " + who.Principal.TokenID
	case errors.Is(err, identity.ErrUnknownAgent):
		return who.Principal.Issuer + " " + who.Principal.Subject
	}
	return ""
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
	owners    []string // of credentials that are good and may not be used so
}

func newAggregate(now func() time.Time) *aggregate {
	return &aggregate{now: now, by: map[string]*tally{}}
}

// add counts one. reason is from a closed set.
func (a *aggregate) add(reason, remote, owner string) {
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
	if owner = clip(owner, 256); owner != "" && len(t.owners) < maxAddresses && !slices.Contains(t.owners, owner) {
		t.owners = append(t.owners, owner)
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
	for _, r := range reasons {
		t := by[r.word]
		if t == nil {
			continue
		}
		delete(by, r.word) // a word may stand for several errors
		e := &trailgate.Entry{
			Kind:      trailgate.KindRefused,
			Decision:  &trailgate.Decision{Effect: "refuse", Rule: "builtin/authentication", Reason: r.word + " credential"},
			Outcome:   &trailgate.Outcome{Status: http.StatusUnauthorized, End: trailgate.EndRefused, ErrorReason: "authError"},
			Aggregate: &trailgate.Aggregate{Count: t.count, Since: since, Addresses: t.addresses},
		}
		if r.word == "unavailable" {
			e.Outcome.Status, e.Outcome.ErrorReason = http.StatusServiceUnavailable, "backendError"
		}
		if len(t.owners) > 0 {
			e.Event = &trailgate.Event{Action: "credential.refused", Detail: map[string]string{"owners": strings.Join(t.owners, "\n")}}
		}
		if err := g.append(ctx, e); err != nil {
			a.restore(r.word, t, since)
		}
	}
}
