package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/trailgate/trailgate/internal/reconcile"
)

// reconciled is what "reconcile -o json" prints.
type reconciled struct {
	Connections []struct {
		reconcile.Report
		List []reconcile.Finding `json:"list"`
	} `json:"connections"`
}

func (r *rig) reconcile(want int, args ...string) reconciled {
	r.t.Helper()
	out, errs, code := r.run(append([]string{"reconcile", "-o", "json"}, args...)...)
	if code != want {
		r.t.Fatalf("reconcile: exit %d, want %d\n%s%s", code, want, out, errs)
	}
	var got reconciled
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Connections) != 1 {
		r.t.Fatalf("reconcile printed %s: %v", out, err)
	}
	return got
}

// TestReconcile: bq through the gateway is covered whole; bq with the same principal and
// without the gateway is found, named, and is evidence (exit code 3), also when no
// gateway runs.
func TestReconcile(t *testing.T) {
	needBQ(t)
	r := newRig(t)
	r.stop()
	write(t, r.config(), read(t, r.config())+`    reconcile:
      credential: {mode: static, token_file: upstream.token}
      region: us
      source: information-schema
reconcile: {every: 0s, grace: 0s}
`)
	r.start()
	through, around := gated(t, r), direct(t, r.box)
	for _, args := range [][]string{
		{"query", "--use_legacy_sql=false", "SELECT COUNT(*) AS n FROM staging.imports"},
		{"query", "--use_legacy_sql=false", "DECLARE n INT64 DEFAULT 42; DELETE FROM staging.imports WHERE batch_id = n; SELECT 1 AS one"},
		{"query", "--use_legacy_sql=false", "--rpc", "SELECT 2 AS two"},
	} {
		if out := through.bq(t, "etl-bot", args); out.Code != 0 {
			t.Fatalf("bq %s: %+v", args, out)
		}
	}
	r.calls()
	for _, source := range []string{"jobs", "information-schema"} {
		clean := r.reconcile(0, "--source", source).Connections[0]
		if clean.Counts.Both != 3 || clean.Percent != 100 || len(clean.List) != 0 {
			t.Errorf("%s: %+v", source, clean)
		}
	}

	const statement = "DELETE FROM staging.imports WHERE batch_id = 7"
	if out := around.bq(t, "etl-bot", []string{"query", "--use_legacy_sql=false", statement}); out.Code != 0 {
		t.Fatalf("bq past the gateway: %+v", out)
	}
	job := ""
	for _, j := range r.box.box.Jobs() {
		if j.Statement == statement {
			job = j.ID
		}
	}
	check := func(one reconciled, fresh bool) {
		t.Helper()
		c := one.Connections[0]
		if len(c.List) != 1 || c.Counts.Direct != 1 || c.Counts.Both != 3 {
			t.Fatalf("%+v", c)
		}
		if f := c.List[0]; f.Kind != reconcile.Bypassed || f.Job != job || f.Principal != gatewaySA || f.New != fresh || f.Entry == "" {
			t.Errorf("%+v, want job %s", f, job)
		}
	}
	check(r.reconcile(3, "--source", "jobs"), true)
	check(r.reconcile(3), false) // by the other source: the same finding, known
	gaps := r.search(`kind = "gap" AND action = "reconcile.bypassed"`)
	if len(gaps) != 1 || gaps[0].Entry.Job.ID != job || gaps[0].Entry.Statements[0].Text != statement {
		t.Errorf("%d entries tell of it: %+v", len(gaps), gaps)
	}
	out, _, code := r.run("reconcile", "--connection", "main")
	if code != 3 || !strings.Contains(out, "bypassed") || !strings.Contains(out, "75.00 % relative to BigQuery's job list") {
		t.Errorf("exit %d, %s", code, out)
	}

	// What was logged of it finds it too, and a read over the Storage API.
	export := filepath.Join(t.TempDir(), "audit.json")
	write(t, export, fmt.Sprintf(`{"insertId":"a","timestamp":%[1]q,"resource":{"labels":{"project_id":"demo-project"}},"protoPayload":{"serviceName":"bigquery.googleapis.com",
"resourceName":"projects/demo-project/datasets/staging/tables/imports","authenticationInfo":{"principalEmail":%[2]q},"metadata":{"tableDataRead":{"reason":"CREATE_READ_SESSION"}}}}`,
		gaps[0].Entry.Event.Detail["created"], gatewaySA))
	logged := r.reconcile(3, "--source", "audit-log", "--audit-log", export).Connections[0]
	if len(logged.List) != 1 || logged.List[0].Method != "storage.read" {
		t.Errorf("%+v", logged)
	}

	r.stop()
	offline := r.reconcile(3, "--source", "jobs").Connections[0]
	if i := slices.IndexFunc(offline.List, func(f reconcile.Finding) bool { return f.Job == job && !f.New }); i < 0 || offline.Counts.Direct != 1 {
		t.Errorf("where no gateway runs: %+v", offline)
	}
	r.must("verify")
	if _, errs, code := r.run("reconcile", "--connection", "none"); code == 0 || code == 3 {
		t.Errorf("a connection that is not there: exit %d, %s", code, errs)
	}
	r.start()
}
