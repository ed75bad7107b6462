package federation

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Check is one step on the way to a credential, tried.
type Check struct {
	Name   string // what was tried
	OK     bool
	Detail string // what came of it; never a secret
	Fix    string // where it failed: the command that mends it
}

// Diagnose walks the chain that ends in a credential for r, step by step, past the
// cache, and stops where one fails. What it mints is thrown away.
func Diagnose(ctx context.Context, s Source, r Request) []Check {
	if d, ok := s.(diagnoser); ok {
		return d.diagnose(ctx, r)
	}
	c, err := s.Credential(ctx, r)
	if err != nil {
		return []Check{failedCheck("credential", err)}
	}
	return []Check{{Name: "credential", OK: true, Detail: describe(c)}}
}

type diagnoser interface {
	diagnose(ctx context.Context, r Request) []Check
}

func failedCheck(name string, err error) Check {
	c := Check{Name: name, Detail: cleanText(err.Error(), nil)}
	if known, ok := errors.AsType[*Error](err); ok {
		c.Detail, c.Fix = known.Message, known.Fix
	}
	return c
}

func describe(c Credential) string {
	text := "mode " + c.Mode
	if c.Principal != "" {
		text = "calls are made as " + c.Principal
	}
	if c.Shared {
		text += ", which all agents of this connection share: BigQuery's own log cannot tell them apart"
	}
	return text
}

func (a *adc) diagnose(ctx context.Context, r Request) []Check {
	c, err := a.mint(ctx, r)
	if err != nil {
		return []Check{failedCheck("the gateway's own credential", err)}
	}
	return []Check{{Name: "the gateway's own credential", OK: true, Detail: "from " + a.base.where() + "; " + describe(c)}}
}

func (s *impersonation) diagnose(ctx context.Context, r Request) []Check {
	r.Connection = s.connection
	account, err := s.to.of(r)
	if err != nil {
		return []Check{failedCheck("the agent's service account", err)}
	}
	out := []Check{{Name: "the agent's service account", OK: true, Detail: account}}
	own, err := s.base.token(ctx)
	if err != nil {
		return append(out, failedCheck("the gateway's own credential", s.base.failed(s.connection, err)))
	}
	out = append(out, Check{Name: "the gateway's own credential", OK: true, Detail: "from " + s.base.where() + ", " + s.base.member()})
	// Hop by hop, so that the link that is missing is named.
	for i, next := range append(append([]string{}, s.delegates...), account) {
		name := "become " + next
		scopes, through := []string{scopeCloud}, s.delegates[:min(i, len(s.delegates))]
		if next == account {
			scopes = s.scopes
		}
		_, expires, err := s.ends.become(ctx, own.Value, next, through, scopes, min(s.lifetime, defaultLifetime))
		if next == account && err == nil && s.lifetime > defaultLifetime {
			_, expires, err = s.ends.become(ctx, own.Value, next, through, scopes, s.lifetime)
		}
		if err != nil {
			return append(out, failedCheck(name, s.to.refused(r, s.base.member(), next, through, roleTokenCreator, err)))
		}
		out = append(out, Check{Name: name, OK: true, Detail: "a token until " + expires.Format(time.RFC3339)})
	}
	if s.to.shared(r.principal().Agent, account) {
		out = append(out, Check{
			Name: "an account of its own", OK: true, Detail: account + " is also other agents': BigQuery's own log cannot tell them apart",
			Fix: "put {agent} into service_account of connection " + s.connection,
		})
	}
	return out
}

func (s *workload) diagnose(ctx context.Context, r Request) []Check {
	r.Connection = s.connection
	own, err := s.own(r)
	if err != nil {
		return []Check{failedCheck("the JWT to exchange", err)}
	}
	if !own {
		r.Assertion = ""
	}
	var c Credential
	jwt, err := s.assertion(ctx, r, &c)
	if err != nil {
		return []Check{failedCheck("the JWT to exchange", err)}
	}
	claims := claimsOf(jwt)
	detail := fmt.Sprintf("the %s's, issuer %s, subject %s", c.Assertion, claims.Issuer, claims.Subject)
	if !own && s.prefer == PreferAgent {
		detail += "; a call that comes with the agent's own JWT exchanges that one"
	}
	out := []Check{{Name: "the JWT to exchange", OK: true, Detail: detail}}
	scopes := s.scopes
	if s.to.on() {
		scopes = []string{scopeCloud}
	}
	token, expires, err := s.exchange(ctx, jwt, s.audienceOf(c.Assertion), scopes)
	if err != nil {
		return append(out, failedCheck("exchange at the Security Token Service", s.refused(jwt, c.Assertion, err)))
	}
	federated := poolPrincipal(s.audienceOf(c.Assertion), claims.Subject)
	out = append(out, Check{Name: "exchange at the Security Token Service", OK: true, Detail: federated + ", until " + expires.Format(time.RFC3339)})
	if !s.to.on() {
		return out
	}
	account, err := s.to.of(r)
	if err != nil {
		return append(out, failedCheck("the agent's service account", err))
	}
	if _, expires, err = s.ends.become(ctx, token, account, nil, s.scopes, s.lifetime); err != nil {
		return append(out, failedCheck("become "+account, s.to.refused(r, quote(federated), account, nil, roleWorkload, err)))
	}
	return append(out, Check{Name: "become " + account, OK: true, Detail: "a token until " + expires.Format(time.RFC3339)})
}

func (o *OAuthSource) diagnose(ctx context.Context, r Request) []Check {
	human := r.principal().Human
	consent, err := o.consent(human)
	if err != nil {
		return []Check{failedCheck("consent", err)}
	}
	out := []Check{{Name: "consent", OK: true, Detail: fmt.Sprintf("of %s as %s, given %s", cleanText(human, nil), consent.Account, consent.Granted.Format(time.RFC3339))}}
	c, err := o.mint(ctx, r)
	if err != nil {
		return append(out, failedCheck("refresh the access token", err))
	}
	return append(out, Check{Name: "refresh the access token", OK: true, Detail: describe(c)})
}
