package gateway

import (
	"errors"
	"net/url"
	"sync"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
)

const (
	// maxUploads bounds the resumable uploads that may be open at a time.
	maxUploads = 10_000
	// uploadLife is how long BigQuery keeps a resumable session
	// (https://cloud.google.com/bigquery/docs/reference/api-uploads).
	uploadLife = 7 * 24 * time.Hour
)

// upload is one resumable upload: begun by a jobs.insert that was judged and
// recorded, continued by chunks that are recorded against it.
type upload struct {
	url        string // where the chunks go upstream
	agent      string
	entry      string // that began it
	made       trailgate.Job
	class      trailgate.Class
	classes    []trailgate.Class
	connection *Connection
	began      time.Time
}

// take has a chunk's entry say what it is a part of; it refuses one that is none.
func (u *upload) take(e *trailgate.Entry, conn *Connection) *bigquery.Error {
	if u.agent != e.Principal.Agent {
		return denied("the upload session belongs to another agent")
	}
	if u.connection != conn {
		return invalid("the upload session belongs to another connection")
	}
	e.Job = u.job()
	e.Class, e.Classes = u.class, u.classes
	return nil
}

func (u *upload) job() *trailgate.Job {
	j := u.made
	j.OwnerAgent, j.OwnerEntry = u.agent, u.entry
	return &j
}

// uploads are the open resumable sessions, by upload id. They live in memory:
// after a restart a client is told to begin again, since what it began with
// cannot be held against a recorded intent any more.
type uploads struct {
	now func() time.Time

	mu   sync.Mutex // guards open
	open map[string]*upload
}

func newUploads(now func() time.Time) *uploads {
	return &uploads{now: now, open: map[string]*upload{}}
}

// begin remembers where BigQuery wants the chunks, and returns the place at the
// gateway that the client is told instead. A client that was told the upstream
// location would follow it past the gateway, its token in hand.
func (u *uploads) begin(location string, e *trailgate.Entry, conn *Connection, root string) (string, error) {
	loc, err := url.Parse(location)
	if err != nil || loc.Host == "" {
		return "", errors.New("BigQuery's upload location cannot be read")
	}
	if loc.Host != conn.Upstream.Host || loc.Scheme != conn.Upstream.Scheme {
		// The credential must not follow a location to wherever it points.
		return "", errors.New("BigQuery's upload location is on another host, " + clip(loc.Host, 128))
	}
	id := loc.Query().Get("upload_id")
	if id == "" {
		return "", errors.New("BigQuery's upload location names no upload_id")
	}
	up := &upload{url: loc.String(), agent: e.Principal.Agent, entry: e.ID, class: e.Class, classes: e.Classes, connection: conn, began: u.now()}
	if e.Job != nil {
		up.made = *e.Job
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.open) >= maxUploads {
		for k, v := range u.open {
			if u.now().Sub(v.began) > uploadLife {
				delete(u.open, k)
			}
		}
		if len(u.open) >= maxUploads {
			return "", errors.New("too many uploads are open; finish or cancel some")
		}
	}
	u.open[id] = up
	at, err := url.Parse(root)
	if err != nil {
		return "", errors.New("the gateway's own address cannot be read")
	}
	at = at.JoinPath(loc.EscapedPath())
	at.RawQuery = loc.RawQuery
	return at.String(), nil
}

func (u *uploads) get(id string) *upload {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.open[id]
}

func (u *uploads) end(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.open, id)
}
