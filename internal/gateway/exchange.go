package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/identity"
)

// The paths beside BigQuery's own. None of them leads to BigQuery or the trail.
const (
	pathToken      = "/v1/token"      // RFC 8693
	pathIntrospect = "/v1/introspect" // RFC 7662
	pathDiscovery  = "/.well-known/openid-configuration"
	pathJWKS       = "/.well-known/jwks.json"
)

// maxFormBytes bounds a token request: two JWTs and some words.
const maxFormBytes = 64 << 10

// identityDoor is what answers a request that is about identity and not
// about BigQuery; nil for all others.
func (g *Gateway) identityDoor(r *http.Request) http.HandlerFunc {
	if r.URL.Host != "" || r.URL.Scheme != "" {
		return nil
	}
	switch path := r.URL.EscapedPath(); {
	case path == pathToken && g.cfg.Exchange != nil:
		return g.exchange
	case path == pathIntrospect && g.cfg.Introspect != nil:
		return g.introspect
	case path == pathDiscovery && g.cfg.Issuer != nil:
		return func(w http.ResponseWriter, r *http.Request) { published(w, r, g.cfg.Issuer.Discovery()) }
	case path == pathJWKS && g.cfg.Issuer != nil:
		return func(w http.ResponseWriter, r *http.Request) { published(w, r, g.cfg.Issuer.JWKS()) }
	}
	return nil
}

// published answers with a document that anybody may have.
func published(w http.ResponseWriter, r *http.Request, doc []byte) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		oauthError(w, &identity.OAuthError{Status: http.StatusMethodNotAllowed, Code: "invalid_request", Description: "GET is served here"})
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "public, max-age=300") // a key is published that long before it signs
	h.Set("Content-Length", strconv.Itoa(len(doc)))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		_, _ = w.Write(doc) // whoever has gone reads nothing anyway
	}
}

// exchange is the token endpoint of RFC 8693: a credential in, a short-lived
// token for one session out. The entry about it is durable before the token
// leaves; what is refused is counted like any other bad credential.
func (g *Gateway) exchange(w http.ResponseWriter, r *http.Request) {
	form, refusal := g.tokenForm(w, r)
	if refusal != nil {
		g.refuseExchange(w, r, refusal)
		return
	}
	req := identity.ExchangeRequest{
		GrantType: form.Get("grant_type"),
		// Google's libraries send a token's file as it is, line break and all.
		SubjectToken: strings.TrimSpace(form.Get("subject_token")), SubjectTokenType: form.Get("subject_token_type"),
		ActorToken: strings.TrimSpace(form.Get("actor_token")), ActorTokenType: form.Get("actor_token_type"),
		RequestedTokenType: form.Get("requested_token_type"),
		Audience:           form.Get("audience"), Resource: form.Get("resource"), Scope: form.Get("scope"),
		Address: peerAddress(r.RemoteAddr),
	}
	if r.TLS != nil {
		req.ClientCertificates = r.TLS.PeerCertificates
	}
	out, err := g.cfg.Exchange(r.Context(), req)
	if err != nil {
		g.refuseExchange(w, r, err)
		return
	}
	session, err := g.session(r.Context(), out.Identity, claims(r.Header))
	if err == nil {
		p := out.Identity.Principal
		e := &trailgate.Entry{
			Kind: trailgate.KindSession, Session: session, Principal: &p, Client: r.RemoteAddr, Claims: claims(r.Header),
			Event: &trailgate.Event{Action: "token.exchange", Target: p.TokenID, Detail: map[string]string{
				"expires_in": strconv.FormatInt(out.ExpiresIn, 10), "subject_token_type": clip(req.SubjectTokenType, 128),
			}},
		}
		if req.ActorToken != "" {
			e.Event.Detail["actor_token_type"] = clip(req.ActorTokenType, 128)
		}
		// Durable before the token leaves: a crash here means a token that nobody
		// was given; after it, one whose entry tells for whom it was made.
		err = g.append(r.Context(), e)
	}
	if err != nil {
		g.refuseExchange(w, r, &identity.OAuthError{Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable", Description: unrecorded(err).Message})
		return
	}
	g.metrics.exchanges.WithLabelValues("ok").Inc()
	answerJSON(w, http.StatusOK, struct {
		Token      string `json:"access_token"`
		IssuedType string `json:"issued_token_type"`
		Type       string `json:"token_type"`
		ExpiresIn  int64  `json:"expires_in"`
	}{out.Token, out.IssuedTokenType, out.TokenType, out.ExpiresIn})
}

// refuseExchange answers in OAuth's words (RFC 6749, section 5.2) and counts.
func (g *Gateway) refuseExchange(w http.ResponseWriter, r *http.Request, err error) {
	refusal, ok := errors.AsType[*identity.OAuthError](err)
	if !ok {
		g.cfg.Log.ErrorContext(r.Context(), "token exchange", "err", err)
		refusal = &identity.OAuthError{Status: http.StatusInternalServerError, Code: "server_error", Description: "the exchange failed; the gateway's log says why"}
	}
	if refusal.Status < http.StatusInternalServerError {
		g.nobody.add(reasonOf(err), r.RemoteAddr, "")
	}
	g.metrics.exchanges.WithLabelValues(refusal.Code).Inc()
	oauthError(w, refusal)
}

// introspect is the introspection endpoint of RFC 7662, for clients that want
// to know whose token they hold (bq does). Whoever has a token may ask about it:
// there is nothing in the answer that using the token would not show.
func (g *Gateway) introspect(w http.ResponseWriter, r *http.Request) {
	form, refusal := g.tokenForm(w, r)
	if refusal == nil && form.Get("token") == "" {
		refusal = &identity.OAuthError{Status: http.StatusBadRequest, Code: "invalid_request", Description: "the parameter token is missing"}
	}
	if refusal != nil {
		oauthError(w, refusal)
		return
	}
	answer := g.cfg.Introspect(r.Context(), form.Get("token"))
	if !answer.Active {
		g.nobody.add("unknown", r.RemoteAddr, "")
	}
	answerJSON(w, http.StatusOK, answer)
}

// tokenForm reads the body of a token request: a form of parameters of which
// none stands twice (RFC 6749, section 3.2). Credentials in the query, where
// logs would have them, are not looked at.
func (g *Gateway) tokenForm(w http.ResponseWriter, r *http.Request) (url.Values, *identity.OAuthError) {
	bad := func(status int, why string) (url.Values, *identity.OAuthError) {
		return nil, &identity.OAuthError{Status: status, Code: "invalid_request", Description: why}
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		return bad(http.StatusMethodNotAllowed, "POST is served here")
	}
	if r.URL.RawQuery != "" {
		return bad(http.StatusBadRequest, "parameters belong in the body")
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return bad(http.StatusUnsupportedMediaType, "the body must be a form, application/x-www-form-urlencoded")
	}
	if r.Header.Get("Content-Encoding") != "" {
		return bad(http.StatusUnsupportedMediaType, "the body must not have a Content-Encoding")
	}
	raw, err := io.ReadAll(io.LimitReader(g.paced(w, r), maxFormBytes+1))
	switch {
	case err != nil:
		return bad(http.StatusBadRequest, "the body could not be read whole")
	case len(raw) > maxFormBytes:
		return bad(http.StatusRequestEntityTooLarge, "the body is larger than "+strconv.Itoa(maxFormBytes)+" bytes")
	}
	form, err := url.ParseQuery(string(raw))
	if err != nil {
		return bad(http.StatusBadRequest, "the form cannot be read")
	}
	for name, values := range form {
		if len(values) > 1 {
			return bad(http.StatusBadRequest, "the parameter "+clip(name, 64)+" stands more than once")
		}
	}
	return form, nil
}

func oauthError(w http.ResponseWriter, e *identity.OAuthError) {
	if e.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	answerJSON(w, e.Status, struct {
		Error       string `json:"error"`
		Description string `json:"error_description,omitempty"`
	}{e.Code, e.Description})
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json;charset=UTF-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // plain values: what fails is a client that has gone
}
