package export_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/export"
)

// TestOCSFGap: a finding names as whom BigQuery ran the job, and why it is one; it is no
// success of anybody's.
func TestOCSFGap(t *testing.T) {
	e := &trailgate.Entry{
		Kind: trailgate.KindGap, Connection: "c", Project: "p", Gateway: trailgate.Gateway{ID: "gw", Version: "v1"},
		Event:    &trailgate.Event{Action: "reconcile.bypassed", Target: "p:job", Via: "self", Detail: map[string]string{"why": "no entry of it"}},
		Upstream: &trailgate.Upstream{Mode: "observed", Principal: "sa@p.iam.gserviceaccount.com"},
	}
	raw, err := export.OCSF(export.NewCall(stages(e)), "log")
	if err != nil {
		t.Fatal(err)
	}
	var ev struct {
		StatusID     int    `json:"status_id"`
		StatusDetail string `json:"status_detail"`
		Severity     string
		Message      string
		Actor        struct{ User struct{ Name string } }
	}
	if err := json.Unmarshal(raw, &ev); err != nil {
		t.Fatal(err)
	}
	if ev.StatusID != 99 || ev.StatusDetail != "no entry of it" || ev.Severity != "High" || ev.Actor.User.Name != e.Upstream.Principal || !strings.HasPrefix(ev.Message, e.Upstream.Principal+": ") {
		t.Errorf("%s", raw)
	}
}
