package client

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/trailgate/trailgate"
)

// LoginLink opens the pages, once, as whoever made it.
type LoginLink struct {
	URL     string    `json:"url"`
	Expires time.Time `json:"expires"`
}

// LoginLink makes a link that signs a browser in.
func (c *Client) LoginLink(ctx context.Context) (*LoginLink, error) {
	var out LoginLink
	if err := c.do(ctx, http.MethodPost, "login-links", nil, struct{}{}, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// Rotations prove each change of the log's key, oldest first; unchecked.
func (c *Client) Rotations(ctx context.Context) ([]trailgate.Proof, error) {
	raw, err := c.read(ctx, http.MethodGet, "log/rotations", nil, nil)
	if e, ok := errors.AsType[*Error](err); ok && e.Code == http.StatusNotFound {
		return nil, nil // it has its first key
	}
	if err != nil {
		return nil, err
	}
	return trailgate.ParseRotations(raw)
}

// Checkpoint is the log's newest signed note, unchecked.
func (c *Client) Checkpoint(ctx context.Context) (string, error) {
	raw, err := c.read(ctx, http.MethodGet, "log/checkpoint", nil, nil)
	return string(raw), err
}
