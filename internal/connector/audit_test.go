package connector_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/trailgate/trailgate/internal/connector"
)

// TestAudit: what the gateway asks for its own sake goes on as the auditor, for reading
// jobs alone; no agent's call does, and nothing of it as an agent.
func TestAudit(t *testing.T) {
	r := newRig(t)
	mint := func(token string) connector.Mint {
		return func(context.Context, connector.Call) (string, connector.Minted, func(), error) {
			return token, connector.Minted{Mode: "adc"}, func() {}, nil
		}
	}
	cfg := r.config(r.enroll("pond-1", "pond"))
	cfg.Connections["pond"] = connector.Served{Mint: mint("of-agents"), Audit: mint("of-auditors")}
	c := r.start(cfg)
	ask := func(verb, path, purpose string) (as string, err error) {
		req, err := http.NewRequest(verb, r.backend.URL+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, _, err := r.hub.Forward(req, connector.Call{Connection: "pond", Purpose: purpose})
		if err != nil {
			return "", err
		}
		return resp.Header.Get("X-Authorization"), resp.Body.Close()
	}
	for _, x := range []struct {
		verb, path, purpose string
		as                  string // or the kind of failure
	}{
		{"GET", "/bigquery/v2/projects/p/jobs", "", "Bearer of-agents"},
		{"GET", "/bigquery/v2/projects/p/jobs?allUsers=true", connector.PurposeAudit, "Bearer of-auditors"},
		{"GET", "/bigquery/v2/projects/p/jobs/j", connector.PurposeAudit, "Bearer of-auditors"},
		{"POST", "/bigquery/v2/projects/p/jobs", connector.PurposeAudit, "Bearer of-auditors"},
		{"GET", "/bigquery/v2/projects/p/queries/j", connector.PurposeAudit, "Bearer of-auditors"},
		{"GET", "/bigquery/v2/projects/p/datasets", connector.PurposeAudit, connector.FailNotAllowed},
		{"GET", "/bigquery/v2/projects/p/queries", connector.PurposeAudit, connector.FailNotAllowed},
		{"POST", "/bigquery/v2/projects/p/queries", connector.PurposeAudit, connector.FailNotAllowed},
		{"POST", "/bigquery/v2/projects/p/jobs/j/cancel", connector.PurposeAudit, connector.FailNotAllowed},
		{"DELETE", "/bigquery/v2/projects/p/jobs/j", connector.PurposeAudit, connector.FailNotAllowed},
		{"GET", "/bigquery/v2/projects/p/jobs/../datasets", connector.PurposeAudit, connector.FailNotAllowed},
		{"GET", "/v1/secrets", connector.PurposeAudit, connector.FailNotAllowed},
		{"GET", "/bigquery/v2/projects/p/jobs", "something new", connector.FailNotAllowed},
	} {
		before := r.backend.total()
		as, err := ask(x.verb, x.path, x.purpose)
		if err != nil {
			as = kindOf(err)
		}
		if as != x.as {
			t.Errorf("%s %s for %q: %s, %v; want %s", x.verb, x.path, x.purpose, as, err, x.as)
		}
		if arrived := r.backend.total() - before; (arrived == 1) != strings.HasPrefix(x.as, "Bearer ") {
			t.Errorf("%s %s for %q arrived %d times", x.verb, x.path, x.purpose, arrived)
		}
	}
	c.kill()
	<-c.done

	cfg = r.config(r.enroll("pond-2", "pond"))
	cfg.Connections["pond"] = connector.Served{Mint: mint("of-agents")}
	r.start(cfg)
	if _, err := ask("GET", "/bigquery/v2/projects/p/jobs", connector.PurposeAudit); kindOf(err) != connector.FailCredential || !strings.Contains(err.Error(), "set auditor") {
		t.Errorf("without an auditor: %v", err)
	}
}

func (b *backend) total() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all
}
