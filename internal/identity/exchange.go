package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/identity/assertion"
)

// The words of RFC 8693 that are understood here.
const (
	GrantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	TypeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	TypeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	TypeIDToken     = "urn:ietf:params:oauth:token-type:id_token"

	// audienceConnection, before a connection's name, narrows what is asked for.
	audienceConnection = "connection:"
	maxExchangeTTL     = 12 * time.Hour
	maxParents         = 16 // tokens that one was got for, by way of others
)

// ExchangeRequest is a token request as RFC 8693, section 2.1 has it.
type ExchangeRequest struct {
	GrantType, SubjectToken, SubjectTokenType     string
	ActorToken, ActorTokenType                    string
	RequestedTokenType, Audience, Resource, Scope string

	// ClientCertificates are the caller's, as TLS had them, and Address where the
	// request comes from.
	ClientCertificates []*x509.Certificate
	Address            netip.Addr
}

// Exchanged is what came of it.
type Exchanged struct {
	Token           string // secret
	TokenType       string // "Bearer"
	IssuedTokenType string
	ExpiresIn       int64 // seconds
	Identity        Identity
}

// OAuthError is why there is no token, in the words of RFC 6749, section 5.2.
type OAuthError struct {
	Status      int    // of HTTP
	Code        string // such as "invalid_grant"
	Description string // for people; never a secret

	cause error
}

func (e *OAuthError) Error() string { return e.Code + ": " + e.Description }

// Unwrap is what was wrong with a credential.
func (e *OAuthError) Unwrap() error { return e.cause }

func badRequest(why string) error {
	return &OAuthError{Status: http.StatusBadRequest, Code: "invalid_request", Description: why}
}

// refusedGrant says that a credential was not accepted: no more than the caller
// may know of it.
func refusedGrant(which string, err error) error {
	if errors.Is(err, assertion.ErrUnavailable) {
		return &OAuthError{Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable", Description: which + " cannot be checked at the moment; try again", cause: err}
	}
	why := "is not valid"
	switch {
	case errors.Is(err, ErrExpired), errors.Is(err, assertion.ErrExpired):
		why = "has expired"
	case errors.Is(err, ErrUnknownAgent):
		why = "names no agent that this gateway knows; 'trailgate agent add NAME' lets it in"
	case errors.Is(err, ErrSource):
		why = "is not for use from this address"
	case errors.Is(err, assertion.ErrIssuer), errors.Is(err, assertion.ErrAudience), errors.Is(err, assertion.ErrMapping), errors.Is(err, assertion.ErrChain), errors.Is(err, ErrConflict):
		why = "is not accepted: " + err.Error()
	}
	return &OAuthError{Status: http.StatusBadRequest, Code: "invalid_grant", Description: which + " " + why, cause: err}
}

// Exchange trades a credential for a session token (RFC 8693). With an actor
// token, the actor is the agent and the subject on whose behalf it acts. What
// comes out is good for no more, and for no longer, than what went in. Errors are
// *[OAuthError], but for one: there was no randomness to be had.
//
// The token exists from here on: the caller records it before it hands it out.
func (a *Authenticator) Exchange(ctx context.Context, r ExchangeRequest) (Exchanged, error) {
	switch {
	case r.GrantType != GrantExchange:
		return Exchanged{}, &OAuthError{Status: http.StatusBadRequest, Code: "unsupported_grant_type", Description: "grant_type must be " + GrantExchange}
	case r.SubjectToken == "" || r.SubjectTokenType == "":
		return Exchanged{}, badRequest("subject_token and subject_token_type are required")
	case (r.ActorToken == "") != (r.ActorTokenType == ""):
		return Exchanged{}, badRequest("actor_token and actor_token_type go together")
	case !understood(r.SubjectTokenType) || r.ActorTokenType != "" && !understood(r.ActorTokenType):
		return Exchanged{}, badRequest("subject_token_type and actor_token_type must be one of " + strings.Join(tokenTypes, ", "))
	case r.RequestedTokenType != "" && r.RequestedTokenType != TypeAccessToken:
		return Exchanged{}, badRequest("requested_token_type must be " + TypeAccessToken)
	case len(r.Audience) > 2048 || len(r.Resource) > 2048 || len(r.Scope) > 2048:
		return Exchanged{}, badRequest("audience, resource and scope have at most 2048 bytes")
	}
	who, err := a.party(ctx, r, r.SubjectToken, r.SubjectTokenType, r.ActorToken != "")
	if err != nil {
		return Exchanged{}, refusedGrant("subject_token", err)
	}
	parents := parentsOf(who)
	if r.ActorToken != "" {
		actor, err := a.party(ctx, r, r.ActorToken, r.ActorTokenType, false)
		if err != nil {
			return Exchanged{}, refusedGrant("actor_token", err)
		}
		parents = append(parents, parentsOf(actor)...)
		if who, err = act(who, actor); err != nil {
			return Exchanged{}, &OAuthError{Status: http.StatusBadRequest, Code: "invalid_grant", Description: err.Error(), cause: err}
		}
	}
	if err := a.agrees(who, r.ClientCertificates); err != nil {
		return Exchanged{}, refusedGrant("subject_token", err)
	}
	if name, ok := strings.CutPrefix(r.Audience, audienceConnection); ok {
		if !nameForm.MatchString(name) || !who.MayUse(name) {
			return Exchanged{}, &OAuthError{Status: http.StatusBadRequest, Code: "invalid_target", Description: "the credential is not for that connection"}
		}
		who.Connections, who.Scoped = []string{name}, true
	}
	return a.issue(who, parents)
}

// tokenTypes are those that a party's token may have. A client certificate is none:
// it is shown in the handshake.
var tokenTypes = []string{TypeAccessToken, TypeJWT, TypeIDToken}

func understood(kind string) bool { return slices.Contains(tokenTypes, kind) }

// party verifies one token of a request. A subject that somebody else acts for
// need not be an agent.
func (a *Authenticator) party(ctx context.Context, r ExchangeRequest, token, kind string, actedFor bool) (Identity, error) {
	isJWT := strings.Count(token, ".") == 2 && !strings.HasPrefix(token, tokenPrefix) && !strings.HasPrefix(token, sealPrefix)
	if kind != TypeAccessToken && !isJWT {
		return Identity{}, ErrMalformed
	}
	if isJWT && actedFor && a.cfg.Verifier != nil {
		said, err := a.cfg.Verifier.JWT(ctx, token)
		if err != nil {
			return Identity{}, err
		}
		if said.Agent == "" {
			return identityOf(said), nil
		}
	}
	who, err := a.bearer(ctx, token)
	if err != nil {
		return Identity{}, err
	}
	if !allows(who.Sources, r.Address) {
		return Identity{}, ErrSource
	}
	a.noteUse(who, r.Address)
	return who, nil
}

// parentsOf are the tokens whose end ends what they were exchanged for.
func parentsOf(who Identity) []string {
	if who.Principal.TokenID == "" {
		return nil
	}
	return append([]string{who.Principal.TokenID}, who.parents...)
}

// act makes the identity of an actor who acts for a subject: the actor is the
// agent; the human is the subject's; the chain is the subject and whoever had
// acted for it before. The credential that goes on to Google is the actor's.
func act(subject, actor Identity) (Identity, error) {
	p := actor.Principal
	if subject.mayAct != nil && !slices.Contains(subject.mayAct, p.Issuer+"|"+p.Subject) {
		return Identity{}, errors.New("the subject_token names who may act for it (may_act), and the actor is not among them")
	}
	if subject.Principal.Human != "" && p.Human != "" && !strings.EqualFold(subject.Principal.Human, p.Human) {
		return Identity{}, errors.New("subject_token and actor_token name different humans")
	}
	if subject.Principal.Human != "" {
		p.Human, p.HumanBy = subject.Principal.Human, subject.Principal.HumanBy
	}
	chain := append([]string{subject.Principal.Issuer + "|" + subject.Principal.Subject}, subject.Principal.Actors...)
	p.Actors = append(chain, p.Actors...)
	if len(p.Actors) > assertion.MaxDepth {
		return Identity{}, fmt.Errorf("%w: more than %d", assertion.ErrChain, assertion.MaxDepth)
	}
	who := actor
	who.Principal = p
	var err error
	if who.Sources, err = commonSources(subject.Sources, actor.Sources); err != nil {
		return Identity{}, err
	}
	// Who may act for the subject may act for who acts for it, if anybody.
	switch {
	case subject.mayAct == nil:
	case actor.mayAct == nil:
		who.mayAct = subject.mayAct
	default:
		who.mayAct = slices.DeleteFunc(slices.Clone(actor.mayAct), func(s string) bool { return !slices.Contains(subject.mayAct, s) })
	}
	who.behind = slices.Concat(subject.behind, actor.behind)
	if subject.Principal.Agent != "" {
		who.behind = append(who.behind, subject.Principal.Agent)
	}
	slices.Sort(who.behind)
	who.behind = slices.Compact(who.behind)
	switch {
	case !subject.Scoped:
	case !actor.Scoped:
		who.Connections, who.Scoped = subject.Connections, true
	default:
		who.Connections = slices.DeleteFunc(slices.Clone(actor.Connections), func(c string) bool { return !slices.Contains(subject.Connections, c) })
	}
	if subject.Expires.Before(who.Expires) {
		who.Expires = subject.Expires
	}
	who.SessionKey = sessionKey(&p, subject.SessionKey, actor.SessionKey)
	return who, nil
}

// issue makes a session token of an identity.
func (a *Authenticator) issue(who Identity, parents []string) (Exchanged, error) {
	now := a.cfg.Now().UTC()
	expires := now.Add(min(a.cfg.ExchangeTTL, maxExchangeTTL))
	if who.Expires.Before(expires) {
		expires = who.Expires
	}
	if len(parents) > maxParents {
		return Exchanged{}, badRequest("the token was exchanged too often; begin with the first one")
	}
	seconds := int64(expires.Sub(now) / time.Second)
	if seconds < 1 {
		return Exchanged{}, refusedGrant("subject_token", ErrExpired)
	}
	id, err := newSessionTokenID(now)
	if err != nil {
		return Exchanged{}, err
	}
	p := who.Principal
	token, err := a.seal.seal(sealed{
		Version: sealVersion, ID: id, Agent: p.Agent, Issuer: p.Issuer, Subject: p.Subject, Human: p.Human, HumanBy: p.HumanBy, Actors: p.Actors,
		Credential: p.CredentialSHA256, Evidence: p.Evidence, Session: who.SessionKey, Title: who.Title, Purpose: who.Purpose,
		Scoped: who.Scoped, Connections: who.Connections, Sources: who.Sources, MayAct: who.mayAct, Parents: parents, Behind: who.behind,
		Issued: now.Unix(), Expires: now.Unix() + seconds,
	})
	if err != nil {
		return Exchanged{}, badRequest(err.Error())
	}
	a.jwts.put(id, who.Assertion, who.AssertionExpires)
	who.Principal.TokenID, who.Principal.AuthMode = id, trailgate.AuthTokenExchange
	who.Issued, who.Expires, who.Token = time.Unix(now.Unix(), 0).UTC(), time.Unix(now.Unix()+seconds, 0).UTC(), Token{}
	return Exchanged{Token: token, TokenType: "Bearer", IssuedTokenType: TypeAccessToken, ExpiresIn: seconds, Identity: who}, nil
}

// Introspection is what a token's holder may know of it (RFC 7662, section 2.2).
type Introspection struct {
	Active    bool   `json:"active"`
	Username  string `json:"username,omitempty"` // the agent
	Subject   string `json:"sub,omitempty"`
	ClientID  string `json:"client_id,omitempty"`
	TokenType string `json:"token_type,omitempty"`
	Scope     string `json:"scope,omitempty"`
	Issued    int64  `json:"iat,omitempty"` // Unix seconds
	Expires   int64  `json:"exp,omitempty"`
}

// Introspect tells of a token. One that is not valid, for whatever reason, is
// "not active" and no more.
func (a *Authenticator) Introspect(ctx context.Context, token string) Introspection {
	who, err := a.bearer(ctx, token)
	if err != nil {
		return Introspection{}
	}
	var issued int64
	if !who.Issued.IsZero() {
		issued = who.Issued.Unix()
	}
	return Introspection{
		Active: true, Username: who.Principal.Agent, Subject: who.Principal.Subject, ClientID: who.Principal.Agent,
		TokenType: "Bearer", Scope: strings.Join(who.Connections, " "), Issued: issued, Expires: who.Expires.Unix(),
	}
}
