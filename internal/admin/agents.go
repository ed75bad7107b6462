package admin

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/index"
)

// listAgents is GET agents.
func (a *API) listAgents(w http.ResponseWriter, r *request) error {
	if _, err := a.record(r, actionAgents, "", nil); err != nil {
		return err
	}
	list := []seenAgent{}
	for i, one := range a.cfg.Agents.Agents() {
		seen := seenAgent{Agent: one}
		if i < maxLastSeen {
			// The index may be away for a while: the list does without then.
			rows, _, err := a.cfg.Index.Search(r.Context(), index.Query{Filter: "agent = " + strconv.Quote(one.Name) + ` AND kind != "session"`, PageSize: 1})
			if err == nil && len(rows) > 0 {
				seen.LastSeen = moment(rows[0].Entry.Time)
			}
		}
		list = append(list, seen)
	}
	return reply(w, http.StatusOK, struct {
		Agents []seenAgent `json:"agents"`
	}{list})
}

// maxLastSeen bounds the agents of which the index is asked when they were last seen.
const maxLastSeen = 1_000

// seenAgent is an agent with the time of its newest entry.
type seenAgent struct {
	identity.Agent
	LastSeen *time.Time `json:"last_seen,omitempty"`
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
		TTLSeconds   int64    `json:"ttl_seconds"`
		Note         string   `json:"note"`
		Title        string   `json:"title"`
		Purpose      string   `json:"purpose"`
		SessionBound bool     `json:"session_bound"`
		Connections  []string `json:"connections"`
		Sources      []string `json:"sources"`
		Human        string   `json:"human"`
	}
	if err := decode(w, r, &in, true); err != nil {
		return err
	}
	if err := a.knownConnections(in.Connections); err != nil {
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
	detail := map[string]string{
		"token_id": id, "ttl": ttl.String(), "note": in.Note, "title": in.Title, "purpose": in.Purpose,
		"connections": strings.Join(in.Connections, " "), "sources": strings.Join(in.Sources, " "), "human": in.Human,
	}
	var out issuedToken
	err = a.change(r, actionTokenIssue, name, detail, func() error {
		secret, t, err := a.cfg.Agents.IssueToken(name, identity.TokenOptions{
			ID: id, TTL: ttl, Note: in.Note, Title: in.Title, Purpose: in.Purpose, SessionBound: in.SessionBound,
			Connections: in.Connections, Sources: in.Sources, Human: in.Human,
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

// knownConnections refuses a token for a connection that there is none of: it
// would be good for nothing, and nobody would know why.
func (a *API) knownConnections(names []string) error {
	for _, name := range names {
		if !slices.ContainsFunc(a.cfg.Connections, func(c Connection) bool { return c.Name == name }) {
			return invalid("connections: there is no connection " + strconv.Quote(clip(name, 64)))
		}
	}
	return nil
}

// seconds reads a span of time that a caller gives, within bounds.
func seconds(name string, n int64) (time.Duration, error) {
	if n < 0 || n > int64(identity.MaxTTL/time.Second) {
		return 0, invalid(name + ": want 0 to " + strconv.FormatInt(int64(identity.MaxTTL/time.Second), 10))
	}
	return time.Duration(n) * time.Second, nil
}

// rotateToken is POST tokens/{token_id}:rotate.
func (a *API) rotateToken(w http.ResponseWriter, r *request) error {
	var in struct {
		TTLSeconds     int64 `json:"ttl_seconds"`
		OverlapSeconds int64 `json:"overlap_seconds"`
	}
	if err := decode(w, r, &in, true); err != nil {
		return err
	}
	ttl, err := seconds("ttl_seconds", in.TTLSeconds)
	if err != nil {
		return err
	}
	overlap, err := seconds("overlap_seconds", in.OverlapSeconds)
	if err != nil {
		return err
	}
	next, err := identity.NewTokenID()
	if err != nil {
		return err
	}
	id := r.args["token_id"]
	detail := map[string]string{"token_id": next, "overlap": overlap.String()}
	if t, err := a.cfg.Agents.Token(id); err == nil {
		detail["agent"] = t.Agent
	}
	var out issuedToken
	err = a.change(r, actionTokenRotate, id, detail, func() error {
		secret, t, err := a.cfg.Agents.RotateToken(id, identity.RotateOptions{ID: next, TTL: ttl, Overlap: overlap})
		out = issuedToken{secret, t.ID, t.Agent, t.Expires}
		return err
	})
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, out)
}

// revokeSession is POST sessions/{session_token_id}:revoke.
func (a *API) revokeSession(w http.ResponseWriter, r *request) error {
	if err := decode(w, r, &struct{}{}, true); err != nil {
		return err
	}
	if a.cfg.Sessions == nil {
		return &Error{Code: http.StatusNotFound, Message: "there are no session tokens where no gateway runs"}
	}
	id := r.args["session_token_id"]
	err := a.change(r, actionSessionRevoke, id, nil, func() error { return a.cfg.Sessions.RevokeSession(id) })
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, struct{}{})
}

// checkConnection is POST connections/{connection}:check. It asks Google for
// tokens as an agent, so it is on record as that.
func (a *API) checkConnection(w http.ResponseWriter, r *request) error {
	var in struct {
		Agent string `json:"agent"`
		Human string `json:"human"`
	}
	if err := decode(w, r, &in, false); err != nil {
		return err
	}
	if a.cfg.Check == nil {
		return &Error{Code: http.StatusNotFound, Message: "no gateway runs, so there is nothing to try; start it: trailgate serve"}
	}
	if !a.busy.enter() {
		return busy()
	}
	defer a.busy.leave()
	name := r.args["connection"]
	if _, err := a.record(r, actionCheck, name, map[string]string{"agent": in.Agent, "human": in.Human}); err != nil {
		return err
	}
	checks, err := a.cfg.Check(r.Context(), name, in.Agent, in.Human)
	if err != nil {
		return err
	}
	if checks == nil {
		checks = []Check{}
	}
	return reply(w, http.StatusOK, struct {
		Checks []Check `json:"checks"`
	}{checks})
}
