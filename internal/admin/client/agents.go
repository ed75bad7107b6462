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
		TTLSeconds   int64  `json:"ttl_seconds,omitempty"`
		Note         string `json:"note,omitempty"`
		Title        string `json:"title,omitempty"`
		Purpose      string `json:"purpose,omitempty"`
		SessionBound bool   `json:"session_bound,omitempty"`
	}{int64(o.TTL / time.Second), o.Note, o.Title, o.Purpose, o.SessionBound}
	return out, c.do(ctx, http.MethodPost, "agents/"+url.PathEscape(agent)+"/tokens", nil, in, out)
}

// RevokeToken ends a token, at once and for good.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, "tokens/"+url.PathEscape(id)+":revoke", nil, struct{}{}, nil)
}
