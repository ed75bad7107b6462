package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/idptest"
	"github.com/trailgate/trailgate/internal/sandbox"
)

// Answers of Google's, as documented.
const (
	perimeterAnswer = `{"error":{"code":403,"message":"VPC Service Controls: Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: abc.","errors":[{"reason":"policyViolation"}]}}`
	deniedAnswer    = `{"error":{"code":403,"message":"Access Denied: Project demo-project: User does not have bigquery.jobs.create permission in project demo-project.","errors":[{"reason":"accessDenied"}]}}`
	quotaAnswer     = `{"error":{"code":403,"message":"Quota exceeded","errors":[{"message":"Quota exceeded","domain":"usageLimits","reason": "rateLimitExceeded"}]}}`
	unknownAnswer   = `{"error":{"code":401,"message":"Request had invalid authentication credentials.","errors":[{"reason":"authError"}]}}`
)

// TestDoctorDirect: what stands between an agent's machine and BigQuery, where that
// is nothing, the network, IAM, a perimeter, or cannot be told.
func TestDoctorDirect(t *testing.T) {
	const account = "agent-etl-bot@demo-project.iam.gserviceaccount.com"
	google := idptest.NewGoogle(t)
	google.AddServiceAccount(account)
	box, err := sandbox.New(sandbox.Config{Principal: google.Principal})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := box.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := box.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(key, google.ServiceAccountKey(account), 0o600); err != nil {
		t.Fatal(err)
	}
	answer := func(status int, body string) func(string) (int, string) {
		return func(string) (int, string) { return status, body }
	}
	inProject := func(status int, body string) func(string) (int, string) {
		return func(path string) (int, string) {
			if strings.HasPrefix(path, "/bigquery/v2/projects/") {
				return status, body
			}
			return 0, ""
		}
	}
	for _, tt := range []struct {
		name     string
		answer   func(path string) (int, string) // 0: the sandbox's
		projects []string
		closed   bool // the network
		ok       bool
		check    string // in its name
		detail   string
		fix      []string
		minted   bool
	}{
		{
			name: "open", projects: []string{"demo-project"}, check: "key.json in demo-project", detail: "an open road: with this service account of serviceAccount:" + account + " BigQuery runs queries and lists datasets", minted: true,
			fix: []string{
				"gcloud iam service-accounts keys delete ", "--iam-account=" + account, "gcloud projects remove-iam-policy-binding demo-project --member='serviceAccount:" + account + "'",
				"gcloud access-context-manager perimeters dry-run create trailgate ", "--perimeter-restricted-services=bigquery.googleapis.com,",
			},
		},
		{name: "listed", check: "key.json in demo-project", detail: "an open road", minted: true, fix: []string{"projects describe demo-project"}},
		{name: "network", closed: true, ok: true, check: "key.json", detail: "not tried, since the network leads nowhere", fix: []string{"keys delete"}},
		{name: "perimeter", answer: inProject(403, perimeterAnswer), projects: []string{"demo-project"}, ok: true, check: "in demo-project", detail: "closed from here by VPC Service Controls", minted: true},
		{name: "iam", answer: inProject(403, deniedAnswer), projects: []string{"demo-project"}, ok: true, check: "in demo-project", detail: "closes this project to it: status 403, Access Denied", minted: true},
		{name: "half", projects: []string{"demo-project"}, check: "in demo-project", detail: "BigQuery lists datasets past the gateway", minted: true, answer: func(path string) (int, string) {
			if strings.HasSuffix(path, "/queries") {
				return 403, deniedAnswer
			}
			return 0, ""
		}},
		{name: "unknown", answer: answer(401, unknownAnswer), ok: true, check: "key.json", detail: "does not take it: status 401", minted: true},
		{name: "quota", answer: inProject(403, quotaAnswer), projects: []string{"demo-project"}, check: "in demo-project", detail: "cannot be told whether BigQuery runs queries: status 403, Quota exceeded", minted: true},
		{name: "portal", answer: answer(200, "<html>Sign in to the network</html>"), check: "key.json", detail: "cannot be told: status 200", minted: true},
		{name: "broken", answer: answer(503, ""), check: "key.json", detail: "cannot be told: status 503", minted: true},
		{name: "no project", answer: answer(200, `{"kind":"bigquery#projectList","totalItems":0}`), check: "key.json", detail: "shows no project", minted: true, fix: []string{"--project PROJECT"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var sent []string
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				sent = append(sent, r.Method+" "+r.URL.Path)
				if tt.answer != nil {
					if status, body := tt.answer(r.URL.Path); status != 0 {
						w.WriteHeader(status)
						_, _ = io.WriteString(w, body)
						return
					}
				}
				box.ServeHTTP(w, r)
			}))
			at := upstream.URL
			defer upstream.Close()
			if tt.closed {
				at = "http://" + unusedAddress(t)
			}
			env := map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": key, "GCE_METADATA_HOST": "127.0.0.1:1"}
			getenv := func(name string) string { return env[name] }
			o := &directOptions{on: true, upstreams: []string{at + "/"}, projects: tt.projects}
			if err := o.prepare(getenv); err != nil {
				t.Fatal(err)
			}
			minted := len(google.Issued())
			d := &doctor{c: &cli{getenv: getenv}, now: time.Now}
			d.direct(t.Context(), o, federation.Place{Getenv: getenv})
			last := d.checks[len(d.checks)-1]
			if last.OK != tt.ok || !strings.Contains(last.Name, tt.check) || !strings.Contains(last.Detail, tt.detail) {
				t.Errorf("%+v", d.checks)
			}
			if first := d.checks[0]; !first.OK || !strings.HasPrefix(first.Name, "direct: network to 127.0.0.1:") || (first.Fix == "") != tt.closed {
				t.Errorf("the network: %+v", first)
			}
			for _, want := range append(tt.fix, "keys delete") {
				if !strings.Contains(last.Fix, want) {
					t.Errorf("%q is not in the fix:\n%s", want, last.Fix)
				}
			}
			if got := len(google.Issued()) > minted; got != tt.minted {
				t.Errorf("a token was minted: %v; the requests: %v", got, sent)
			}
			all := fmt.Sprint(d.checks)
			for _, issued := range google.Issued() {
				if strings.Contains(all, issued.Token) {
					t.Error("a token is shown")
				}
			}
			if strings.Contains(all, "PRIVATE KEY") {
				t.Error("a key is shown")
			}
		})
	}
	// A dry run makes no job.
	token := google.Give("serviceAccount:"+account, "https://www.googleapis.com/auth/bigquery")
	r := httptest.NewRequest(http.MethodGet, "/bigquery/v2/projects/demo-project/jobs?allUsers=true", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	box.ServeHTTP(w, r)
	var jobs struct{ Jobs []json.RawMessage }
	if err := json.Unmarshal(w.Body.Bytes(), &jobs); err != nil || w.Code != http.StatusOK || len(jobs.Jobs) > 0 {
		t.Errorf("jobs that looking left behind: %d %s, %v", w.Code, w.Body, err)
	}
}

// unusedAddress is one of loopback on which nobody listens.
func unusedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// TestDirectOptions: what makes no sense is refused before anything is sent.
func TestDirectOptions(t *testing.T) {
	env := map[string]string{"TRAILGATE_GATEWAY": "http://127.0.0.1:8470", "CLOUDSDK_CORE_PROJECT": "demo-project"}
	getenv := func(name string) string { return env[name] }
	for _, o := range []directOptions{
		{upstreams: []string{"bigquery.googleapis.com"}},
		{upstreams: []string{"ftp://bigquery.googleapis.com"}},
		{upstreams: []string{"https://a:b@bigquery.googleapis.com"}},
		{upstreams: []string{"http://127.0.0.1:8470/"}},
		{projects: []string{"../x"}},
		{projects: []string{"$(reboot)"}},
	} {
		if err := o.prepare(getenv); exitCode(err) != exitUsage {
			t.Errorf("%+v: %v", o, err)
		}
	}
	var o directOptions
	if err := o.prepare(getenv); err != nil || len(o.projects) != 1 || o.projects[0] != "demo-project" || len(o.upstreams) != 2 {
		t.Errorf("%+v, %v", o, err)
	}
}
