package admin

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/oauth2"

	"github.com/trailgate/trailgate/internal/federation"
)

// Consenter is per-user OAuth of one connection, as *federation.OAuthSource is.
type Consenter interface {
	Begin(human, redirectURI, state, verifier string) (authURL string, err error)
	Complete(ctx context.Context, human, redirectURI, code, verifier string) (federation.Consent, error)
	Consents() []federation.Consent
	Revoke(ctx context.Context, human string) error
}

const (
	actionConsent       = "consent.grant"
	actionConsented     = "consent.account"
	actionConsentRevoke = "consent.revoke"
)

func (a *API) consenter(name string) (Consenter, error) {
	c := a.cfg.Consents[name]
	if c == nil {
		return nil, &Error{Code: http.StatusNotFound, Message: "no connection of that name works by consent"}
	}
	return c, nil
}

func (a *API) consentURL(connection string) string {
	return strings.TrimSuffix(a.cfg.AdminURL, "/") + "/consent/" + connection + "/callback"
}

// signedInHuman is who asks, where that is a human by name: consent is nobody
// else's to give.
func signedInHuman(r *request) (string, error) {
	if r.who.via != viaOIDC {
		return "", &Error{Code: http.StatusForbidden, Message: "consent is given by a human who signed in at /login; the admin token is nobody in particular"}
	}
	return r.who.actor, nil
}

// beginConsent is GET consent/{connection}: to Google.
func (a *API) beginConsent(w http.ResponseWriter, r *request) error {
	name := r.args["connection"]
	c, err := a.consenter(name)
	if err != nil {
		return err
	}
	human, err := signedInHuman(r)
	if err != nil {
		return err
	}
	flow := &pending{verifier: oauth2.GenerateVerifier(), connection: name, human: human}
	state := a.login.start(w, r.Request, flow)
	to, err := c.Begin(human, a.consentURL(name), state, flow.verifier)
	if err != nil {
		return err
	}
	http.Redirect(w, r.Request, to, http.StatusSeeOther)
	return nil
}

// endConsent is GET consent/{connection}/callback: from Google. The state is
// this browser's, this connection's and this human's, or it is nothing.
func (a *API) endConsent(w http.ResponseWriter, r *request) error {
	name := r.args["connection"]
	c, err := a.consenter(name)
	if err != nil {
		return err
	}
	human, err := signedInHuman(r)
	if err != nil {
		return err
	}
	flow, ok := a.login.finish(r.Request, r.query.Get("state"))
	if !ok || flow.connection != name || flow.human != human {
		return &Error{Code: http.StatusForbidden, Message: "the consent did not work; begin again at /consent/" + name}
	}
	if r.query.Get("error") != "" {
		return &Error{Code: http.StatusForbidden, Message: "Google was not given consent (" + clip(printableWord(r.query.Get("error")), 64) + ")"}
	}
	var given federation.Consent
	err = a.change(r, actionConsent, name, map[string]string{"human": human}, func() (err error) {
		given, err = c.Complete(r.Context(), human, a.consentURL(name), r.query.Get("code"), flow.verifier)
		return err
	})
	if err != nil {
		return consentError(err)
	}
	// As whom the human's agents will act is known only now.
	_, err = a.record(r, actionConsented, name, map[string]string{"human": human, "account": given.Account, "scopes": strings.Join(given.Scopes, " ")})
	if err != nil {
		if rerr := c.Revoke(context.WithoutCancel(r.Context()), human); rerr != nil {
			a.cfg.Log.ErrorContext(r.Context(), "a consent that could not be recorded could not be taken back", "connection", name, "err", rerr)
		}
		return err
	}
	return a.page(w, r, "Consent given: agents that act for you reach "+name+" as "+given.Account+".")
}

// consentError tells a human what was wrong; the source's words are meant for them.
func consentError(err error) error {
	if e := explain(err); e.Code != http.StatusInternalServerError {
		return e
	}
	return &Error{Code: http.StatusForbidden, Message: err.Error(), cause: err}
}

// shownConsent is a consent as the API shows it.
type shownConsent struct {
	federation.Consent
}

// listConsents is GET consents: one's own, or for auditors all.
func (a *API) listConsents(w http.ResponseWriter, r *request) error {
	if _, err := a.record(r, "consent.list", "", nil); err != nil {
		return err
	}
	list := []shownConsent{}
	for _, name := range sortedKeys(a.cfg.Consents) {
		for _, c := range a.cfg.Consents[name].Consents() {
			if forAuditors.lets(r.who.roles) || c.Human == r.who.actor {
				list = append(list, shownConsent{c})
			}
		}
	}
	return reply(w, http.StatusOK, struct {
		Consents []shownConsent `json:"consents"`
	}{list})
}

// revokeConsent is POST consents/{connection}:revoke: one's own, or as an admin
// anybody's.
func (a *API) revokeConsent(w http.ResponseWriter, r *request) error {
	var in struct {
		Human string `json:"human"`
	}
	if err := decode(w, r, &in, true); err != nil {
		return err
	}
	name := r.args["connection"]
	c, err := a.consenter(name)
	if err != nil {
		return err
	}
	if in.Human == "" {
		in.Human = r.who.actor
	}
	if in.Human != r.who.actor && !slices.Contains(r.who.roles, RoleAdmin) {
		return &Error{Code: http.StatusForbidden, Message: "another human's consent is for an admin to revoke"}
	}
	err = a.change(r, actionConsentRevoke, name, map[string]string{"human": in.Human}, func() error { return c.Revoke(r.Context(), in.Human) })
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, struct{}{})
}
