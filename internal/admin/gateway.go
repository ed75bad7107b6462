package admin

import (
	_ "embed"
	"errors"
	"net/http"
	"time"

	"github.com/trailgate/trailgate/internal/trail"
)

// Info is what the gateway says of itself.
type Info struct {
	ID           string       `json:"id"`
	Version      string       `json:"version"`
	ConfigDigest string       `json:"config_digest,omitempty"`
	PolicyDigest string       `json:"policy_digest,omitempty"`
	PublicURL    string       `json:"public_url,omitempty"` // for agents
	AdminURL     string       `json:"admin_url,omitempty"`  // for humans
	Connections  []Connection `json:"connections"`
	PublicKey    string       `json:"public_key"` // of the log
	Origin       string       `json:"origin"`     // of the log
	// Entries are durable, Published of them under the newest checkpoint, Indexed
	// of them searchable.
	Entries   uint64 `json:"entries"`
	Published uint64 `json:"published"`
	Indexed   uint64 `json:"indexed"`
	Ready     bool   `json:"ready"`
	NotReady  string `json:"not_ready,omitempty"` // why
}

// gateway is GET gateway.
func (a *API) gateway(w http.ResponseWriter, _ *request) error {
	t := a.cfg.Trail
	cp, err := t.Checkpoint()
	if err != nil {
		return err
	}
	info := Info{
		ID: a.cfg.Gateway.ID, Version: a.cfg.Gateway.Version, ConfigDigest: a.cfg.Gateway.ConfigDigest, PolicyDigest: a.cfg.Gateway.PolicyDigest,
		PublicURL: a.cfg.PublicURL, AdminURL: a.cfg.AdminURL, Connections: a.cfg.Connections,
		PublicKey: t.PublicKey(), Origin: cp.Origin, Published: cp.Size, Indexed: a.cfg.Index.Cursor(), Entries: t.Size(),
		Ready: true,
	}
	if info.Connections == nil {
		info.Connections = []Connection{}
	}
	if err := t.Ready(); err != nil {
		info.Ready, info.NotReady = false, err.Error()
	}
	return reply(w, http.StatusOK, info)
}

type healthy struct {
	Status string `json:"status"`
}

// health is GET healthz: the process answers.
func (a *API) health(w http.ResponseWriter, _ *request) error {
	return reply(w, http.StatusOK, healthy{"ok"})
}

// ready is GET readyz: calls are accepted. Anybody may ask, so the reason is a
// word and no more.
func (a *API) ready(w http.ResponseWriter, _ *request) error {
	err := a.cfg.Trail.Ready()
	if err == nil {
		return reply(w, http.StatusOK, healthy{"ok"})
	}
	message := "the trail cannot record now; calls are refused until it can"
	if errors.Is(err, trail.ErrNoSpace) {
		message = "the disk is nearly full; calls are refused until there is room"
	}
	return &Error{Code: http.StatusServiceUnavailable, Message: message, cause: err}
}

// metrics is GET metrics, in Prometheus' formats.
func (a *API) metrics(w http.ResponseWriter, r *request) error {
	if a.gathered == nil {
		return &Error{Code: http.StatusNotFound, Message: "there are no metrics where no gateway runs"}
	}
	pace(w)
	a.gathered.ServeHTTP(w, r.Request)
	return nil
}

//go:embed openapi.json
var openAPI []byte

// document is GET openapi.json.
func (a *API) document(w http.ResponseWriter, _ *request) error {
	w.Header().Set("Cache-Control", "no-cache")
	return send(w, http.StatusOK, "application/json; charset=utf-8", openAPI)
}

// quickRebuild is how long a rebuild may take to be answered with a status of
// its own.
const quickRebuild = 20 * time.Second

// rebuildIndex is POST index:rebuild. It ends with the caller's connection. When
// it takes long, the answer begins as 200 and line breaks, which JSON ignores,
// keep the connection alive; a failure is then told by the object that ends it.
func (a *API) rebuildIndex(w http.ResponseWriter, r *request) error {
	if err := decode(w, r, &struct{}{}, true); err != nil {
		return err
	}
	if !a.rebuild.enter() {
		return &Error{Code: http.StatusConflict, Message: "the index is being rebuilt already"}
	}
	defer a.rebuild.leave()
	out := newStream(w, "application/json; charset=utf-8")
	err := a.change(r, actionRebuild, "", nil, func() error {
		done := make(chan error, 1)
		go func() { done <- a.cfg.Index.Rebuild(r.Context(), nil) }()
		wait := time.NewTimer(quickRebuild)
		defer wait.Stop()
		for {
			select {
			case err := <-done:
				return err
			case <-wait.C:
				// A caller that is gone ends r's context, and that the rebuild.
				_ = out.beat()
				wait.Reset(a.cfg.Heartbeat)
			}
		}
	})
	if err != nil {
		if !out.begun {
			return err
		}
		return out.json(errorBody{explain(err)})
	}
	answer := struct {
		Entries uint64 `json:"entries"`
	}{a.cfg.Index.Cursor()}
	if !out.begun {
		return reply(w, http.StatusOK, answer)
	}
	return out.json(answer)
}
