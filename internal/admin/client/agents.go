package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Agent is an audited party.
type Agent struct {
	Name    string     `json:"name"`
	Note    string     `json:"note"`
	Created time.Time  `json:"created"`
	Revoked *time.Time `json:"revoked"` // nil while it may call
	// LastSeen is when its newest call arrived, as lists have it; nil: never.
	LastSeen *time.Time `json:"last_seen,omitempty"`
}

// Token is an issued token, all but the secret.
type Token struct {
	ID           string     `json:"id"`
	Agent        string     `json:"agent"`
	Note         string     `json:"note"`
	Title        string     `json:"title"`
	Purpose      string     `json:"purpose"`
	Created      time.Time  `json:"created"`
	Expires      time.Time  `json:"expires"`
	Revoked      *time.Time `json:"revoked"`
	SessionBound bool       `json:"session_bound"`
	Connections  []string   `json:"connections,omitempty"` // that it may be used for; none: all
	Sources      []string   `json:"sources,omitempty"`     // that it may be used from; none: any
	Human        string     `json:"human,omitempty"`       // on whose behalf
	Replaces     string     `json:"replaces,omitempty"`
	ReplacedBy   string     `json:"replaced_by,omitempty"`
	LastUsed     *time.Time `json:"last_used,omitempty"`
	LastAddress  string     `json:"last_address,omitempty"`
}

// Agents lists all agents by name, revoked ones included.
func (c *Client) Agents(ctx context.Context) ([]Agent, error) {
	var out struct {
		Agents []Agent `json:"agents"`
	}
	err := c.doInto(ctx, "agents", nil, &out)
	return out.Agents, err
}

// AddAgent lets an agent in. The note is for people.
func (c *Client) AddAgent(ctx context.Context, name, note string) (*Agent, error) {
	out := &Agent{}
	in := struct {
		Name string `json:"name"`
		Note string `json:"note,omitempty"`
	}{name, note}
	return out, c.do(ctx, http.MethodPost, "agents", nil, in, out)
}

// RevokeAgent shuts an agent out, at once and for good.
func (c *Client) RevokeAgent(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodPost, "agents/"+url.PathEscape(name)+":revoke", nil, struct{}{}, nil)
}

// Tokens lists an agent's tokens, the newest first.
func (c *Client) Tokens(ctx context.Context, agent string) ([]Token, error) {
	var out struct {
		Tokens []Token `json:"tokens"`
	}
	err := c.doInto(ctx, "agents/"+url.PathEscape(agent)+"/tokens", nil, &out)
	return out.Tokens, err
}

// TokenOptions say what token to make.
type TokenOptions struct {
	TTL            time.Duration // Default a day; whole seconds.
	Note           string        // Optional.
	Title, Purpose string        // Optional; claims about its session.
	SessionBound   bool
	Connections    []string // Optional: all.
	Sources        []string // Optional: any; networks or addresses.
	Human          string   // Optional; on whose behalf, vouched for by who makes the token.
}

// IssuedToken is a new token. The secret is here and nowhere else.
type IssuedToken struct {
	Secret  string    `json:"token"`
	ID      string    `json:"token_id"`
	Agent   string    `json:"agent"`
	Expires time.Time `json:"expires"`
}

// IssueToken makes a token for an agent.
func (c *Client) IssueToken(ctx context.Context, agent string, o TokenOptions) (*IssuedToken, error) {
	out := &IssuedToken{}
	in := struct {
		TTLSeconds   int64    `json:"ttl_seconds,omitempty"`
		Note         string   `json:"note,omitempty"`
		Title        string   `json:"title,omitempty"`
		Purpose      string   `json:"purpose,omitempty"`
		SessionBound bool     `json:"session_bound,omitempty"`
		Connections  []string `json:"connections,omitempty"`
		Sources      []string `json:"sources,omitempty"`
		Human        string   `json:"human,omitempty"`
	}{int64(o.TTL / time.Second), o.Note, o.Title, o.Purpose, o.SessionBound, o.Connections, o.Sources, o.Human}
	return out, c.do(ctx, http.MethodPost, "agents/"+url.PathEscape(agent)+"/tokens", nil, in, out)
}

// RevokeToken ends a token, at once and for good.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, "tokens/"+url.PathEscape(id)+":revoke", nil, struct{}{}, nil)
}

// RotateOptions say how to rotate a token.
type RotateOptions struct {
	TTL     time.Duration // Optional: as long as the old one was made for; whole seconds.
	Overlap time.Duration // how long the old one still holds; whole seconds
}

// RotateToken makes a token that takes another's place.
func (c *Client) RotateToken(ctx context.Context, id string, o RotateOptions) (*IssuedToken, error) {
	out := &IssuedToken{}
	in := struct {
		TTLSeconds     int64 `json:"ttl_seconds,omitempty"`
		OverlapSeconds int64 `json:"overlap_seconds,omitempty"`
	}{int64(o.TTL / time.Second), int64(o.Overlap / time.Second)}
	return out, c.do(ctx, http.MethodPost, "tokens/"+url.PathEscape(id)+":rotate", nil, in, out)
}

// RevokeSession ends a session token, and those that were got for it.
func (c *Client) RevokeSession(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, "sessions/"+url.PathEscape(id)+":revoke", nil, struct{}{}, nil)
}

// Check is one step of a connection's way to Google, tried.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	Fix    string `json:"fix,omitempty"`
}

// CheckConnection tries a connection's way to Google as an agent, and where it
// works by consent on behalf of a human.
func (c *Client) CheckConnection(ctx context.Context, connection, agent, human string) ([]Check, error) {
	in := struct {
		Agent string `json:"agent"`
		Human string `json:"human,omitempty"`
	}{agent, human}
	var out struct {
		Checks []Check `json:"checks"`
	}
	err := c.do(ctx, http.MethodPost, "connections/"+url.PathEscape(connection)+":check", nil, in, &out)
	return out.Checks, err
}

// Consent is what a human allowed.
type Consent struct {
	Connection string    `json:"connection"`
	Human      string    `json:"human"`
	Account    string    `json:"account"`
	ClientID   string    `json:"client_id"`
	Scopes     []string  `json:"scopes"`
	Granted    time.Time `json:"granted"`
	Broken     string    `json:"broken,omitempty"`
}

// Consents lists the consents that humans gave.
func (c *Client) Consents(ctx context.Context) ([]Consent, error) {
	var out struct {
		Consents []Consent `json:"consents"`
	}
	return out.Consents, c.do(ctx, http.MethodGet, "consents", nil, nil, &out)
}

// RevokeConsent ends a human's consent to a connection.
func (c *Client) RevokeConsent(ctx context.Context, connection, human string) error {
	in := struct {
		Human string `json:"human"`
	}{human}
	return c.do(ctx, http.MethodPost, "consents/"+url.PathEscape(connection)+":revoke", nil, in, nil)
}
