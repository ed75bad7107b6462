package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Connector is a connector as it stands.
type Connector struct {
	Name         string     `json:"name"`
	State        string     `json:"state"` // "connected", "draining", "away", "revoked", "not_enrolled"
	Connections  []string   `json:"connections"`
	Address      string     `json:"address,omitempty"`
	Build        string     `json:"build,omitempty"`
	Since        *time.Time `json:"since,omitempty"`
	LastBeat     *time.Time `json:"last_beat,omitempty"`
	Streams      int        `json:"streams"`
	Calls        int64      `json:"calls"`
	Bytes        int64      `json:"bytes"`
	Failed       int64      `json:"failed"`
	KeySHA256    string     `json:"key_sha256,omitempty"`
	CertExpires  *time.Time `json:"certificate_expires,omitempty"`
	TokenExpires *time.Time `json:"token_expires,omitempty"`
	Revoked      *time.Time `json:"revoked,omitempty"`
	By           string     `json:"by,omitempty"`
}

// Connectors lists all connectors by name.
func (c *Client) Connectors(ctx context.Context) ([]Connector, error) {
	var out struct {
		Connectors []Connector `json:"connectors"`
	}
	err := c.doInto(ctx, "connectors", nil, &out)
	return out.Connectors, err
}

// ConnectorToken lets one connector enrol, once. The secret is here and nowhere else.
type ConnectorToken struct {
	Token       string    `json:"token"`
	ID          string    `json:"token_id"`
	Name        string    `json:"name"`
	Connections []string  `json:"connections"`
	Expires     time.Time `json:"expires"`
}

// AddConnector makes an enrolment token; ttl 0 is an hour.
func (c *Client) AddConnector(ctx context.Context, name string, connections []string, ttl time.Duration) (*ConnectorToken, error) {
	in := struct {
		Name        string   `json:"name"`
		Connections []string `json:"connections"`
		TTLSeconds  int64    `json:"ttl_seconds,omitempty"`
	}{name, connections, int64(ttl / time.Second)}
	out := &ConnectorToken{}
	return out, c.do(ctx, http.MethodPost, "connectors", nil, in, out)
}

// RevokeConnector shuts a connector out, at once and for good. It returns how many
// tunnels that cut.
func (c *Client) RevokeConnector(ctx context.Context, name string) (int, error) {
	var out struct {
		Cut int `json:"cut"`
	}
	return out.Cut, c.do(ctx, http.MethodPost, "connectors/"+url.PathEscape(name)+":revoke", nil, struct{}{}, &out)
}
