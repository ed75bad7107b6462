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
	// Witnesses cosign the log; absent where there are none.
	Witnesses *Witnesses `json:"witnesses,omitempty"`
}

// Witnesses is who cosigns the log's checkpoints, and how that goes.
type Witnesses struct {
	Needed  string `json:"needed"`  // such as "2 of (a, b, c)"
	Quorum  bool   `json:"quorum"`  // the last checkpoint found one
	Require bool   `json:"require"` // calls are refused where there is none for too long
	// Size and At are of the last checkpoint that found a quorum.
	Size      uint64     `json:"size"`
	At        *time.Time `json:"at,omitempty"`
	Witnesses []Witness  `json:"witnesses"`
}

// Witness is one of them.
type Witness struct {
	Name     string     `json:"name"`               // in the policy
	Key      string     `json:"key"`                // its key's name
	URL      string     `json:"url"`                //
	Cosigned *time.Time `json:"cosigned,omitempty"` // the published checkpoint, at that time
	Size     uint64     `json:"size"`               // of what it cosigned last
	Error    string     `json:"error,omitempty"`    // why it does not
	Disputes bool       `json:"disputes"`           // it has cosigned another log than this
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
	if a.cfg.Witnesses != nil {
		info.Witnesses = a.cfg.Witnesses()
	}
	return reply(w, http.StatusOK, info)
}

type healthy struct {
	Status string `json:"status"`
	// Witnesses is "quorum" or "no quorum"; absent where there are none.
	Witnesses string `json:"witnesses,omitempty"`
}

// health is GET healthz: the process answers.
func (a *API) health(w http.ResponseWriter, _ *request) error {
	return reply(w, http.StatusOK, healthy{Status: "ok"})
}

// ready is GET readyz: calls are accepted. Anybody may ask, so the reason is a
// word and no more.
func (a *API) ready(w http.ResponseWriter, _ *request) error {
	err := a.cfg.Trail.Ready()
	if err == nil {
		h := healthy{Status: "ok"}
		if a.cfg.Witnesses != nil {
			if ws := a.cfg.Witnesses(); ws != nil {
				h.Witnesses = "no quorum"
				if ws.Quorum {
					h.Witnesses = "quorum"
				}
			}
		}
		return reply(w, http.StatusOK, h)
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
