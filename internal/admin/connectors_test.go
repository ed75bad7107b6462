package admin_test

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/connector"
)

// connectors are a registry without a hub.
type connectors struct{ *connector.Registry }

func (c connectors) NewToken(name string, connections []string, ttl time.Duration, record func(connector.Token) error) (string, connector.Token, error) {
	return c.Registry.NewToken(name, connections, ttl, make([]byte, 32), record)
}

func (c connectors) Revoke(name string, record func(connector.Enrolled) error) (int, error) {
	_, err := c.Registry.Revoke(name, record)
	return 0, err
}

// withConnectors has a rig take connectors, for connection prod.
func withConnectors(t *testing.T) func(*admin.Config) {
	t.Helper()
	r, err := connector.OpenRegistry(filepath.Join(t.TempDir(), "connectors.json"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *admin.Config) {
		c.Connectors = connectors{r}
		c.Connections = slices.Clone(c.Connections)
		for i := range c.Connections {
			c.Connections[i].Connectors = c.Connections[i].Name == "prod"
		}
	}
}

// TestConnectors: what is made and revoked is in the trail before it is done, and what
// cannot be recorded is not done.
func TestConnectors(t *testing.T) {
	r := newRig(t, withConnectors(t))
	a := r.socket(http.MethodPost, "/api/v1/connectors", `{"name":"prod-1","connections":["prod"]}`)
	if a.StatusCode != 201 || !strings.Contains(string(a.body), `"token":"tgc_`) {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if got := r.trail.actions(t); got[len(got)-1] != "connector.token" {
		t.Errorf("the trail has %v", got)
	}
	if a := r.socket(http.MethodPost, "/api/v1/connectors/prod-1:revoke", ""); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if got := r.trail.actions(t); got[len(got)-1] != "connector.revoke" {
		t.Errorf("the trail has %v", got)
	}
	if a := r.socket(http.MethodGet, "/api/v1/connectors", ""); !strings.Contains(string(a.body), `"state":"revoked"`) {
		t.Errorf("%s", a.body)
	}
}

// TestNoConnectors: a gateway that takes none says so.
func TestNoConnectors(t *testing.T) {
	r := newRig(t)
	if a := r.socket(http.MethodGet, "/api/v1/connectors", ""); a.StatusCode != 404 || !strings.Contains(string(a.body), "connectors.listen") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}
