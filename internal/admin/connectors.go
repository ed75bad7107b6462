package admin

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate/internal/connector"
)

const (
	actionConnectors      = "connector.list"
	actionConnectorToken  = "connector.token"
	actionConnectorRevoke = "connector.revoke"
)

// Connectors are the processes that reach BigQuery for the gateway.
type Connectors interface {
	// NewToken makes an enrolment token; record comes first, and its error changes nothing.
	NewToken(name string, connections []string, ttl time.Duration, record func(connector.Token) error) (string, connector.Token, error)
	// Revoke shuts one out for good and cuts its tunnels; it returns how many.
	Revoke(name string, record func(connector.Enrolled) error) (cut int, err error)
	Status() []connector.Status
}

// defaultTokenTTL is how long an enrolment token is good.
const defaultTokenTTL = time.Hour

func noConnectors() *Error {
	return &Error{Code: http.StatusNotFound, Message: "this gateway takes no connectors; set connectors.listen in its configuration"}
}

// listConnectors is GET connectors.
func (a *API) listConnectors(w http.ResponseWriter, r *request) error {
	if a.cfg.Connectors == nil {
		return noConnectors()
	}
	if _, err := a.record(r, actionConnectors, "", nil); err != nil {
		return err
	}
	list := a.cfg.Connectors.Status()
	if list == nil {
		list = []connector.Status{}
	}
	return reply(w, http.StatusOK, struct {
		Connectors []connector.Status `json:"connectors"`
	}{list})
}

// addConnector is POST connectors: a token with which one can enrol, once.
func (a *API) addConnector(w http.ResponseWriter, r *request) error {
	var in struct {
		Name        string   `json:"name"`
		Connections []string `json:"connections"`
		TTLSeconds  int64    `json:"ttl_seconds"`
	}
	if err := decode(w, r, &in, false); err != nil {
		return err
	}
	if a.cfg.Connectors == nil {
		return noConnectors()
	}
	for _, name := range in.Connections {
		i := slices.IndexFunc(a.cfg.Connections, func(c Connection) bool { return c.Name == name })
		switch {
		case i < 0:
			return &Error{Code: http.StatusNotFound, Message: "no connection is called " + strconv.Quote(clip(name, 64))}
		case !a.cfg.Connections[i].Connectors:
			return &Error{Code: http.StatusConflict, Message: "connection " + name + " does not go through connectors; set connectors: true there"}
		}
	}
	ttl := defaultTokenTTL
	if in.TTLSeconds != 0 {
		if in.TTLSeconds < 0 || in.TTLSeconds > int64(1<<31) {
			return invalid("ttl_seconds is out of range")
		}
		ttl = time.Duration(in.TTLSeconds) * time.Second
	}
	// Durable before the token is: that somebody made one. Its use is an entry, too.
	token, t, err := a.cfg.Connectors.NewToken(in.Name, in.Connections, ttl, func(t connector.Token) error {
		_, err := a.record(r, actionConnectorToken, t.Name, map[string]string{
			"token_id": t.ID, "connections": strings.Join(t.Connections, ","), "expires": t.Expires.UTC().Format(time.RFC3339),
		})
		return err
	})
	if err != nil {
		return connectorError(err)
	}
	return reply(w, http.StatusCreated, struct {
		Token       string    `json:"token"`
		TokenID     string    `json:"token_id"`
		Name        string    `json:"name"`
		Connections []string  `json:"connections"`
		Expires     time.Time `json:"expires"`
	}{token, t.ID, t.Name, t.Connections, t.Expires})
}

// revokeConnector is POST connectors/{connector}:revoke.
func (a *API) revokeConnector(w http.ResponseWriter, r *request) error {
	if err := decode(w, r, &struct{}{}, true); err != nil {
		return err
	}
	if a.cfg.Connectors == nil {
		return noConnectors()
	}
	cut, err := a.cfg.Connectors.Revoke(r.args["connector"], func(c connector.Enrolled) error {
		_, err := a.record(r, actionConnectorRevoke, c.Name, map[string]string{"connections": strings.Join(c.Connections, ","), "serial": c.Serial})
		return err
	})
	if err != nil {
		return connectorError(err)
	}
	return reply(w, http.StatusOK, struct {
		Cut int `json:"cut"` // tunnels
	}{cut})
}

func connectorError(err error) error {
	code := 0
	switch {
	case errors.Is(err, connector.ErrUnknown):
		code = http.StatusNotFound
	case errors.Is(err, connector.ErrTaken), errors.Is(err, connector.ErrRevoked):
		code = http.StatusConflict
	case errors.Is(err, connector.ErrInvalid):
		code = http.StatusBadRequest
	default:
		return err
	}
	return &Error{Code: code, Message: err.Error(), cause: err}
}
