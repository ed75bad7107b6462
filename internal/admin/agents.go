package admin

import (
	"net/http"
	"strconv"
	"time"

	"github.com/trailgate/trailgate/internal/identity"
)

// listAgents is GET agents.
func (a *API) listAgents(w http.ResponseWriter, r *request) error {
	if _, err := a.record(r, actionAgents, "", nil); err != nil {
		return err
	}
	list := a.cfg.Agents.Agents()
	if list == nil {
		list = []identity.Agent{}
	}
	return reply(w, http.StatusOK, struct {
		Agents []identity.Agent `json:"agents"`
	}{list})
}

// addAgent is POST agents.
func (a *API) addAgent(w http.ResponseWriter, r *request) error {
	var in struct {
		Name string `json:"name"`
		Note string `json:"note"`
	}
	if err := decode(w, r, &in, false); err != nil {
		return err
	}
	var made identity.Agent
	err := a.change(r, actionAgentAdd, in.Name, map[string]string{"note": in.Note}, func() (err error) {
		made, err = a.cfg.Agents.AddAgent(in.Name, in.Note)
		return err
	})
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, made)
}

// revokeAgent is POST agents/{agent}:revoke.
func (a *API) revokeAgent(w http.ResponseWriter, r *request) error {
	if err := decode(w, r, &struct{}{}, true); err != nil {
		return err
	}
	name := r.args["agent"]
	err := a.change(r, actionAgentRevoke, name, nil, func() error { return a.cfg.Agents.RevokeAgent(name) })
	if err != nil {
		return err
	}
	agent, err := a.cfg.Agents.Agent(name)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, agent)
}

// listTokens is GET agents/{agent}/tokens.
func (a *API) listTokens(w http.ResponseWriter, r *request) error {
	name := r.args["agent"]
	if _, err := a.record(r, actionTokens, name, nil); err != nil {
		return err
	}
	if _, err := a.cfg.Agents.Agent(name); err != nil {
		return err
	}
	list := a.cfg.Agents.Tokens(name)
	if list == nil {
		list = []identity.Token{}
	}
	return reply(w, http.StatusOK, struct {
		Tokens []identity.Token `json:"tokens"`
	}{list})
}

// issuedToken is the one answer that has a secret in it.
type issuedToken struct {
	Token   string    `json:"token"`
	ID      string    `json:"token_id"`
	Agent   string    `json:"agent"`
	Expires time.Time `json:"expires"`
}

// issueToken is POST agents/{agent}/tokens.
func (a *API) issueToken(w http.ResponseWriter, r *request) error {
	var in struct {
		TTLSeconds   int64  `json:"ttl_seconds"`
		Note         string `json:"note"`
		Title        string `json:"title"`
		Purpose      string `json:"purpose"`
		SessionBound bool   `json:"session_bound"`
	}
	if err := decode(w, r, &in, true); err != nil {
		return err
	}
	if in.TTLSeconds < 0 || in.TTLSeconds > int64(identity.MaxTTL/time.Second) {
		return invalid("ttl_seconds: want 1 to " + strconv.FormatInt(int64(identity.MaxTTL/time.Second), 10) + ", or 0 for the default of a day")
	}
	ttl := time.Duration(in.TTLSeconds) * time.Second
	if ttl == 0 {
		ttl = identity.DefaultTTL
	}
	id, err := identity.NewTokenID()
	if err != nil {
		return err
	}
	name := r.args["agent"]
	detail := map[string]string{"token_id": id, "ttl": ttl.String(), "note": in.Note, "title": in.Title, "purpose": in.Purpose}
	var out issuedToken
	err = a.change(r, actionTokenIssue, name, detail, func() error {
		secret, t, err := a.cfg.Agents.IssueToken(name, identity.TokenOptions{
			ID: id, TTL: ttl, Note: in.Note, Title: in.Title, Purpose: in.Purpose, SessionBound: in.SessionBound,
		})
		out = issuedToken{secret, t.ID, t.Agent, t.Expires}
		return err
	})
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, out)
}

// revokeToken is POST tokens/{token_id}:revoke.
func (a *API) revokeToken(w http.ResponseWriter, r *request) error {
	if err := decode(w, r, &struct{}{}, true); err != nil {
		return err
	}
	id := r.args["token_id"]
	detail := map[string]string{}
	if t, err := a.cfg.Agents.Token(id); err == nil {
		detail["agent"] = t.Agent
	}
	err := a.change(r, actionTokenRevoke, id, detail, func() error { return a.cfg.Agents.RevokeToken(id) })
	if err != nil {
		return err
	}
	t, err := a.cfg.Agents.Token(id)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, t)
}
