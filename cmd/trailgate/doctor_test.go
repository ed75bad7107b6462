package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/config"
)

// TestDoctorForms: what a gateway or Google said reaches no terminal as it is,
// and JSON is what the documentation says.
func TestDoctorForms(t *testing.T) {
	d := &doctor{checks: []finding{
		{Name: "trail", OK: true, Detail: "3 entries"},
		{Name: "connection a", OK: true, Detail: "shared", Fix: "see the docs"},
		{Name: "a as \x1b[31mbot", Detail: "line\nbreak \u202e", Fix: "gcloud one\ngcloud two\n"},
	}}
	var out bytes.Buffer
	if err := d.print(&out, "table"); err != nil {
		t.Fatal(err)
	}
	const want = `ok    trail: 3 entries
note  connection a: shared
        see the docs
FAIL  a as \x1b[31mbot: line break \u202e
        gcloud one
        gcloud two
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	out.Reset()
	d.checks = d.checks[:2]
	if err := d.print(&out, "json"); err != nil {
		t.Fatal(err)
	}
	const wantJSON = `{
  "checks": [
    {
      "name": "trail",
      "ok": true,
      "detail": "3 entries"
    },
    {
      "name": "connection a",
      "ok": true,
      "detail": "shared",
      "fix": "see the docs"
    }
  ]
}
`
	if diff := cmp.Diff(wantJSON, out.String()); diff != "" {
		t.Errorf("json (-want +got):\n%s", diff)
	}
}

// examineTLS runs the certificates' checks at a time.
func examineTLS(cfg *config.Config, now time.Time) []finding {
	d := &doctor{c: &cli{configPath: config.DefaultName}, cfg: cfg, now: func() time.Time { return now }}
	d.certificates()
	return d.checks
}

func TestDoctorCertificates(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, cfg *config.Config, dir string)
		when   time.Time
		ok     bool
		detail string
		fix    string
	}{
		{name: "good", ok: true, detail: "for localhost, gw.example.com, 127.0.0.1, ::1 until "},
		{name: "soon", when: now.Add(leafLifetime - 24*time.Hour), detail: "cert.pem ends on ", fix: "trailgate tls renew\nkill -HUP"},
		{name: "ended", when: now.Add(leafLifetime + 24*time.Hour), detail: "cert.pem ended on ", fix: "trailgate tls renew\nkill -HUP"},
		{name: "not yet", when: now.Add(-time.Hour), detail: "which is in the future", fix: "trailgate tls renew"},
		{
			name:   "another host",
			change: func(_ *testing.T, cfg *config.Config, _ string) { cfg.Gateway.PublicURL = "https://new.example.com" },
			detail: "is not for the host that clients use: new.example.com", fix: "trailgate tls renew --host gw.example.com --host new.example.com",
		},
		{
			name: "another CA",
			change: func(t *testing.T, cfg *config.Config, _ string) {
				_, other := newTLSFiles(t, now)
				cfg.Gateway.TLS.CAFile = config.Path(filepath.Join(other, caCertName))
			},
			detail: "does not come from the CA that clients are given", fix: "tls.ca_file",
		},
		{
			name: "no key",
			change: func(t *testing.T, _ *config.Config, dir string) {
				if err := os.Remove(filepath.Join(dir, leafKeyName)); err != nil {
					t.Fatal(err)
				}
			},
			detail: "no such file", fix: "trailgate tls renew",
		},
		{
			name: "open key",
			change: func(t *testing.T, _ *config.Config, dir string) {
				if err := os.Chmod(filepath.Join(dir, leafKeyName), 0o644); err != nil {
					t.Fatal(err)
				}
			},
			detail: "can be read by everybody (mode 0644)", fix: "chmod 600 ",
		},
		{
			name: "a key that does not fit",
			change: func(t *testing.T, _ *config.Config, dir string) {
				raw, err := os.ReadFile(filepath.Join(dir, caKeyName))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, leafKeyName), raw, 0o600); err != nil {
					t.Fatal(err)
				}
			},
			detail: "private key does not match", fix: "trailgate tls renew",
		},
		{
			name: "not ours to renew",
			change: func(t *testing.T, _ *config.Config, dir string) {
				if err := os.Remove(filepath.Join(dir, caKeyName)); err != nil {
					t.Fatal(err)
				}
			},
			when: now.Add(leafLifetime - 24*time.Hour), detail: "ends on", fix: "put a renewed certificate into",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, dir := newTLSFiles(t, now, "gw.example.com")
			if tt.change != nil {
				tt.change(t, cfg, dir)
			}
			when := tt.when
			if when.IsZero() {
				when = now
			}
			found := examineTLS(cfg, when)
			if len(found) != 2 {
				t.Fatalf("%d findings: %+v", len(found), found)
			}
			got := found[0]
			if got.OK != tt.ok || !strings.Contains(got.Detail, tt.detail) || !strings.Contains(got.Fix, tt.fix) || got.OK == (got.Fix != "") {
				t.Errorf("got %+v, want ok %v, %q, %q", got, tt.ok, tt.detail, tt.fix)
			}
		})
	}
}

func TestDoctorSecrets(t *testing.T) {
	cfg, _ := newTLSFiles(t, time.Now())
	data := cfg.DataDir.String()
	examine := func() []finding {
		d := &doctor{c: &cli{configPath: "x.yaml"}, cfg: cfg, now: time.Now}
		d.dataDirectory()
		d.secrets()
		return d.checks
	}
	if got := examine(); got[0].OK || !strings.Contains(got[0].Fix, "trailgate verify --config x.yaml") {
		t.Errorf("without a data directory: %+v", got)
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	put := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	put(filepath.Join(data, adminTokenName), newAdminToken(), 0o600)
	for _, f := range examine() {
		if !f.OK {
			t.Errorf("a good one: %+v", f)
		}
	}
	put(filepath.Join(data, agentsName), "{}", 0o644)
	put(filepath.Join(data, "empty"), "", 0o600)
	cfg.Connections = []config.Connection{
		{Name: "a", Credential: config.Credential{TokenFile: config.Path(filepath.Join(data, "none"))}},
		{Name: "b", Credential: config.Credential{ClientSecretFile: config.Path(filepath.Join(data, "empty"))}},
	}
	if err := os.Chmod(data, 0o755); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range examine() {
		if f.OK || f.Fix == "" {
			t.Errorf("%+v", f)
		}
		got = append(got, strings.ReplaceAll(f.Detail, data, "DATA"))
	}
	want := []string{
		"DATA is open to others (mode 0755); it holds the key that signs the log",
		"connection a: token_file: stat DATA/none: no such file or directory",
		"connection b: client_secret_file: DATA/empty is empty",
		"agents.json: DATA/agents.json can be used by everybody (mode 0644)",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

// TestSkew: an answer that took its time, and a clock of whole seconds, are no
// difference.
func TestSkew(t *testing.T) {
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ asked, answered, told, want time.Duration }{
		{0, time.Second / 2, 0, 0},
		{900 * time.Millisecond, 950 * time.Millisecond, 0, 0},
		{0, 9 * time.Second, 5 * time.Second, 0},
		{0, time.Second, 61 * time.Second, -60 * time.Second},
		{62 * time.Second, 63 * time.Second, 0, 61 * time.Second},
	} {
		if got := skew(at.Add(tt.asked), at.Add(tt.answered), at.Add(tt.told)); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}
