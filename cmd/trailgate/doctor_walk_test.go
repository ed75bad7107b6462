package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/idptest"
)

const walkConfig = `id: walk
gateway: {listen: "127.0.0.1:0"}
admin: {listen: "off"}
federation:
  endpoints: {sts: %[1]s, iam_credentials: %[1]s, oauth_token: %[2]s}
connections:
  - name: analytics
    projects: [demo-project]
    upstream: %[3]s
    credential:
      mode: impersonation
      service_account: "agent-{agent}@{project}.iam.gserviceaccount.com"
      credential_file: gateway.json
  - name: rest
    projects: ["*"]
    upstream: %[3]s
    credential: {mode: impersonation, service_account: "agent-{agent}@{project}.iam.gserviceaccount.com", credential_file: gateway.json}
trail: {min_free_bytes: 0}
`

// TestDoctorWalk: the chain to an agent's service account, on a gateway that runs,
// against an IAM that allows it and then no longer does; what doctor says mends
// it is Google's own command with the names in it.
func TestDoctorWalk(t *testing.T) {
	const own, agents = "gateway@demo-project.iam.gserviceaccount.com", "agent-etl-bot@demo-project.iam.gserviceaccount.com"
	google := idptest.NewGoogle(t)
	upstream := httptest.NewServer(http.NotFoundHandler())
	defer upstream.Close()
	dir := t.TempDir()
	text := fmt.Sprintf(walkConfig, google.URL(), google.TokenURL(), upstream.URL)
	if _, err := initialise(t.Context(), dir, text, "walk", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "gateway.json"), google.ServiceAccountKey(own), 0o600); err != nil {
		t.Fatal(err)
	}
	google.AddServiceAccount(agents)
	google.AllowImpersonation(own, agents)
	path := filepath.Join(dir, config.DefaultName)
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	g, err := startGateway(t.Context(), cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.stop(t.Context(), "test"); err != nil {
			t.Error(err)
		}
	}()
	if _, stderr, code := execute(t, "--config", path, "agent", "add", "etl-bot"); code != 0 {
		t.Fatal(stderr)
	}
	walk := func(wantCode int) (steps []finding, all string) {
		t.Helper()
		stdout, stderr, code := execute(t, "--config", path, "doctor", "--connection", "analytics", "--as", "etl-bot", "-o", "json")
		if code != wantCode {
			t.Errorf("exit code %d, want %d: %s%s", code, wantCode, stdout, stderr)
		}
		var got struct{ Checks []finding }
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Fatal(err)
		}
		for _, f := range got.Checks {
			if strings.HasPrefix(f.Name, "analytics as etl-bot: ") {
				steps = append(steps, f)
			}
		}
		return steps, stdout
	}
	steps, all := walk(exitOK)
	if len(steps) < 3 || !strings.Contains(all, agents) {
		t.Errorf("steps: %+v", steps)
	}
	// "*" is no project: an account's name is not made of it.
	stdout, stderr, code := execute(t, "--config", path, "doctor", "--connection", "rest", "--as", "etl-bot")
	if code != exitOK || strings.Contains(stdout, "@*") || !strings.Contains(stdout, "not tried") {
		t.Errorf("every project: exit code %d: %s%s", code, stdout, stderr)
	}
	google.RevokeImpersonation(own, agents)
	steps, all = walk(exitFailed)
	last := steps[len(steps)-1]
	if last.OK || !strings.Contains(last.Fix, "gcloud iam service-accounts add-iam-policy-binding "+agents) || !strings.Contains(last.Fix, "serviceAccount:"+own) {
		t.Errorf("the last step: %+v", last)
	}
	for _, issued := range google.Issued() {
		if strings.Contains(all, issued.Token) {
			t.Error("a token is shown")
		}
	}
	if strings.Contains(all, "PRIVATE KEY") {
		t.Error("a key is shown")
	}
	// Nothing is minted for an agent whose calls are refused, and doctor says so.
	google.AllowImpersonation(own, agents)
	if _, stderr, code := execute(t, "--config", path, "agent", "revoke", "etl-bot"); code != 0 {
		t.Fatal(stderr)
	}
	minted := len(google.Issued())
	steps, _ = walk(exitFailed)
	if len(steps) != 1 || steps[0].OK || !strings.Contains(steps[0].Detail, "revoked") || steps[0].Fix == "" || len(google.Issued()) != minted {
		t.Errorf("a revoked agent: %+v, %d tokens minted", steps, len(google.Issued())-minted)
	}
}
