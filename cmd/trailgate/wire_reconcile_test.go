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
	"time"

	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/reconcile"
	"github.com/trailgate/trailgate/internal/sandbox"
)

const toldConfig = `id: told
gateway: {listen: "127.0.0.1:0"}
admin: {listen: "off"}
approval:
  webhooks: [{name: ops, url: %[1]s, secret_file: hook.secret, format: json, events: [reconcile.bypassed]}]
connections:
  - name: sandbox
    projects: [demo-project]
    upstream: %[2]s
    credential: {mode: none}
    recording: {level: %[3]s}
    reconcile: {credential: {mode: none}, principals: [%[4]s]}
reconcile: {every: 0s, grace: 0s}
trail: {min_free_bytes: 0}
`

// TestFindingsAreTold: a new finding is counted and sent to the webhook, once however
// often it is found again; its statement goes along only where statements are recorded.
func TestFindingsAreTold(t *testing.T) {
	const bot = "bot@demo-project.iam.gserviceaccount.com"
	for _, level := range []string{config.RecordingMetadata, config.RecordingRequest} {
		t.Run(level, func(t *testing.T) {
			box, err := sandbox.New(sandbox.Config{})
			if err != nil {
				t.Fatal(err)
			}
			upstream := httptest.NewServer(box)
			defer func() {
				upstream.Close()
				if err := box.Close(); err != nil {
					t.Error(err)
				}
			}()
			got := make(chan string, 16)
			receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				raw, err := io.ReadAll(r.Body)
				if err != nil || r.Header.Get("Webhook-Signature") == "" {
					w.WriteHeader(http.StatusBadRequest)
					return
				}
				got <- string(raw)
			}))
			defer receiver.Close()
			dir := t.TempDir()
			if _, err := initialise(t.Context(), dir, fmt.Sprintf(toldConfig, receiver.URL, upstream.URL, level, bot), "told", nil, nil); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "hook.secret"), []byte("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Load(filepath.Join(dir, config.DefaultName))
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
			created := time.Now().Add(-time.Hour)
			plant := func(id string) {
				t.Helper()
				if err := box.Plant(sandbox.PlantedJob{Project: "demo-project", ID: id, Principal: bot, Statement: "SELECT 'past " + id + "'", Created: created, Took: time.Second}); err != nil {
					t.Fatal(err)
				}
			}
			run := func(findings, fresh int64) {
				t.Helper()
				report, err := g.parts.reconciler.ask(t.Context(), admin.CoverageRun{Connection: "sandbox", Since: created.Add(-time.Hour)})
				if err != nil || report.Findings != findings || report.New != fresh {
					t.Fatalf("%+v, %v", report, err)
				}
			}
			// A notice comes for each job in turn, and none in between: a second one for the
			// first finding would come before that for the second.
			for i, id := range []string{"first", "second"} {
				plant(id)
				run(int64(i)+1, 1)
				run(int64(i)+1, 0)
				var body string
				select {
				case body = <-got:
				case <-time.After(patience):
					t.Fatal("no webhook came")
				}
				var notice struct {
					Type string
					Data struct{ Statement, Subject string }
				}
				if err := json.Unmarshal([]byte(body), &notice); err != nil {
					t.Fatal(err)
				}
				if notice.Type != "reconcile."+reconcile.Bypassed || notice.Data.Subject == "" || !strings.Contains(body, "demo-project:"+id) || !strings.Contains(body, bot) {
					t.Errorf("the notice: %s", body)
				}
				if has := notice.Data.Statement == "SELECT 'past "+id+"'"; has != (level != config.RecordingMetadata) {
					t.Errorf("its statement: %q", notice.Data.Statement)
				}
			}
			if n := counted(t, g, "trailgate_reconcile_findings_total", `connection="sandbox" kind="bypassed"`); n != 2 {
				t.Errorf("findings: %v", n)
			}
			if n := counted(t, g, "trailgate_reconcile_jobs", `connection="sandbox" side="only_bigquery"`); n != 2 {
				t.Errorf("only in BigQuery: %v", n)
			}
		})
	}
}

// counted is what a metric with labels stands at.
func counted(t *testing.T, g *gatewayProcess, name, labels string) float64 {
	t.Helper()
	families, err := g.parts.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var all []string
			for _, l := range m.GetLabel() {
				all = append(all, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			if strings.Join(all, " ") == labels {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Errorf("there is no %s{%s}", name, labels)
	return 0
}
