package client

import (
	"context"
	"net/http"
)

// Ready returns nil where the gateway takes calls.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.read(ctx, http.MethodGet, "readyz", nil, nil)
	return err
}

// Live returns nil where the gateway answers at all.
func (c *Client) Live(ctx context.Context) error {
	_, err := c.read(ctx, http.MethodGet, "healthz", nil, nil)
	return err
}
