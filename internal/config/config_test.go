package config_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/config"
)

const whole = `
id: gw-1
data_dir: /var/lib/trailgate
gateway:
  listen: 0.0.0.0:8470
  public_url: https://gw.example:8470
  tls: {cert_file: tls/cert.pem, key_file: tls/key.pem, ca_file: /etc/ca.pem}
admin:
  listen: "off"
connections:
  - name: analytics
    projects: [my-project, "example.com:old"]
  - name: local
    projects: [demo, "*"]
    upstream: http://127.0.0.1:9050
    credential: {mode: static, token_file: secrets/token}
    recording: {level: results, max_bytes: 1MiB}
    reconcile:
      source: information-schema
      region: us
      projects: [demo]
      principals: [old@demo.iam.gserviceaccount.com]
      ignore: [ada@example.com]
      credential: {mode: static, token_file: secrets/auditor}
reconcile: {every: 30m, window: 48h, grace: 5m, late: 2h}
recording:
  key_dir: keys
  redact:
    - {tables: ["hr.*"], columns: ["*"], action: drop}
  retention: {results: 90d}
demo: true
sessions: {idle_timeout: 5m}
shutdown: {drain_timeout: 0s}
trail: {segment_bytes: 8MiB, min_free_bytes: 0, max_journal_bytes: 1073741824, checkpoint_interval: 500ms}
log: {level: debug, format: json}
`

func TestParseWhole(t *testing.T) {
	got, err := config.Parse("/etc/trailgate/trailgate.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(whole))
	defaults := config.Default()
	federation := defaults.Federation
	federation.ConsentKeyFile, federation.Issuer.KeyFile = "/var/lib/trailgate/consent.key", "/var/lib/trailgate/issuer.key"
	want := &config.Config{
		Identity: defaults.Identity, Federation: federation, Approval: defaults.Approval,
		Path: "/etc/trailgate/trailgate.yaml", Dir: "/etc/trailgate", Digest: hex.EncodeToString(sum[:]),
		ID: "gw-1", DataDir: "/var/lib/trailgate",
		Gateway: config.Gateway{
			Listen: "0.0.0.0:8470", PublicURL: "https://gw.example:8470",
			TLS: config.TLS{CertFile: "/etc/trailgate/tls/cert.pem", KeyFile: "/etc/trailgate/tls/key.pem", CAFile: "/etc/ca.pem"},
		},
		Admin: config.Admin{Listen: "off", Login: defaults.Admin.Login},
		Connections: []config.Connection{
			{
				Name: "analytics", Projects: []string{"my-project", "example.com:old"},
				Upstream: "https://bigquery.googleapis.com", Credential: config.Credential{Mode: "adc"},
				Recording: config.ConnectionRecording{Level: "request", MaxBytes: 32 << 20},
				Reconcile: config.ConnectionReconcile{Source: "jobs"},
			},
			{
				Name: "local", Projects: []string{"demo", "*"}, Upstream: "http://127.0.0.1:9050",
				Credential: config.Credential{Mode: "static", TokenFile: "/etc/trailgate/secrets/token"},
				Recording:  config.ConnectionRecording{Level: "results", MaxBytes: 1 << 20},
				Reconcile: config.ConnectionReconcile{
					Source: "information-schema", Region: "us", Projects: []string{"demo"},
					Principals: []string{"old@demo.iam.gserviceaccount.com"}, Ignore: []string{"ada@example.com"},
					Credential: config.Auditor{Mode: "static", TokenFile: "/etc/trailgate/secrets/auditor"},
				},
			},
		},
		Recording: config.Recording{
			KeyDir:    "/etc/trailgate/keys",
			Redact:    []config.Redact{{Tables: []string{"hr.*"}, Columns: []string{"*"}, Action: "drop"}},
			Retention: config.Retention{Results: 90 * 24 * time.Hour},
		},
		Reconcile: config.Reconcile{Every: 30 * time.Minute, Window: 48 * time.Hour, Grace: 5 * time.Minute, Late: 2 * time.Hour},

		Demo:       true,
		Connectors: config.Connectors{Listen: "off", CertificateTTL: 168 * time.Hour},
		Sessions:   config.Sessions{IdleTimeout: 5 * time.Minute},
		Trail:      config.Trail{SegmentBytes: 8 << 20, MaxJournalBytes: 1 << 30, CheckpointInterval: 500 * time.Millisecond, Witnesses: defaults.Trail.Witnesses, Checkpoints: defaults.Trail.Checkpoints},
		Log:        config.Log{Level: "debug", Format: "json"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if conn, ok := got.Connection("local"); !ok || conn.UpstreamURL().Host != "127.0.0.1:9050" {
		t.Errorf("Connection(local) = %+v, %v", conn, ok)
	}
	if _, ok := got.Connection("none"); ok {
		t.Error("Connection(none) was found")
	}
}

func TestEmptyIsDefault(t *testing.T) {
	for _, raw := range []string{"", "# nothing\n", "gateway:\nlog:\n  level:\n", "\ufeffid: trailgate\n"} {
		got, err := config.Parse("/x/trailgate.yaml", []byte(raw))
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		want := config.Default()
		want.Path, want.Dir, want.Digest, want.DataDir = got.Path, got.Dir, got.Digest, "/x/data"
		want.Federation.ConsentKeyFile, want.Federation.Issuer.KeyFile = "/x/data/consent.key", "/x/data/issuer.key"
		want.Recording.KeyDir = "/x/data/recording-keys"
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", raw, diff)
		}
	}
}

// TestMistakes holds the messages: each line of want is one, in order.
func TestMistakes(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"unknown key", "gatway:\n  listen: x\n", `f.yaml:1: gatway: unknown key; did you mean "gateway"?`},
		{"unknown nested", "gateway:\n  lisen: x\n", `f.yaml:2: gateway.lisen: unknown key; did you mean "listen"?`},
		{"unknown, nothing near", "policy_file: x\n", `f.yaml:1: policy_file: unknown key`},
		{"other casing", "ID: x\n", `f.yaml:1: ID: unknown key; did you mean "id"?`},
		{"inside a list", "connections:\n- name: a\n  projects: [p]\n  credentials: {}\n", `f.yaml:4: connections[0].credentials: unknown key; did you mean "credential"?`},
		{"key twice", "id: a\nid: b\n", `f.yaml:2: id: given twice, first on line 1`},
		{"tab", "gateway:\n\tlisten: x\n", `f.yaml:2: not valid YAML: found character that cannot start any token`},
		{"list for a map", "gateway: [1]\n", `f.yaml:1: gateway: want keys and values, not a list`},
		{"map for text", "id: {a: 1}\n", `f.yaml:1: id: want text, not keys and values`},
		{"text for a list", "connections: x\n", `f.yaml:1: connections: want a list, not "x"`},
		{"alias", "gateway: &a\n  listen: 127.0.0.1:1\nadmin: *a\n", "f.yaml:1: gateway: anchors and aliases are not supported; write the value out\n" +
			"f.yaml:3: admin: anchors and aliases are not supported; write the value out"},
		{"merge", "gateway:\n  <<: {listen: x}\n", `f.yaml:2: gateway: want a plain key, not "<<"`},
		{"documents", "id: a\n---\nid: b\n", `f.yaml:2: a second YAML document; put everything in one`},
		{"scalar document", "hello\n", `f.yaml:1: want keys and values, not "hello"`},
		{"bool", "gateway:\n  plaintext: maybe\n", `f.yaml:2: gateway.plaintext: want true or false, not "maybe"`},
		{"duration", "sessions:\n  idle_timeout: 30\n", `f.yaml:2: sessions.idle_timeout: "30": want a duration such as 500ms, 30s, 15m, 2h or 90d`},
		{"duration range", "sessions:\n  idle_timeout: 1ms\n", `f.yaml:2: sessions.idle_timeout: 1ms: want 1s to 168h0m0s`},
		{"recording level", "connections:\n- name: a\n  projects: [p]\n  recording: {level: all}\n", `f.yaml:4: connections[0].recording.level: "all": want one of metadata, request, results`},
		{"reconcile often", "reconcile:\n  every: 1s\n", `f.yaml:2: reconcile.every: 1s: want 1m0s to 168h0m0s`},
		{"reconcile mode", "connections:\n- name: a\n  projects: [p]\n  reconcile:\n    credential: {mode: oauth}\n", `f.yaml:5: connections[0].reconcile.credential.mode: "oauth": want one of impersonation, static, adc, none`},
		{"reconcile no mode", "connections:\n- name: a\n  projects: [p]\n  reconcile:\n    principals: [x@y]\n", `f.yaml:4: connections[0].reconcile.credential.mode: missing; want one of impersonation, static, adc, none, connector`},
		{"reconcile file", "connections:\n- name: a\n  projects: [p]\n  reconcile:\n    credential: {mode: static}\n", `f.yaml:5: connections[0].reconcile.credential.token_file: belongs to mode static, which needs it`},
		{"reconcile region", "connections:\n- name: a\n  projects: [p]\n  reconcile:\n    source: information-schema\n    credential: {mode: adc}\n", `f.yaml:4: connections[0].reconcile.region: "": want the region of the data in lower case, such as us or europe-west1`},
		{"reconcile projects", "connections:\n- name: a\n  projects: [\"*\"]\n  reconcile:\n    credential: {mode: adc}\n", `f.yaml:4: connections[0].reconcile.projects: missing; the connection serves "*", so name the projects whose jobs are looked at`},
		{"redact action", "recording:\n  redact:\n  - {columns: [a]}\n", `f.yaml:3: recording.redact[0].action: "": want one of drop, hash, keep`},
		{"redact columns", "recording:\n  redact:\n  - {action: drop}\n", `f.yaml:3: recording.redact[0].columns: missing; name the columns, or "*" for all`},
		{"redact pattern", "recording:\n  redact:\n  - {action: drop, columns: [\"[\"]}\n", `f.yaml:3: recording.redact[0].columns[0]: "[": want a name, with * for any characters`},
		{"size", "trail:\n  segment_bytes: lots\n", `f.yaml:2: trail.segment_bytes: "lots": want a size such as 512KiB, 16MiB or 1GiB`},
		{"size overflow", "trail:\n  segment_bytes: 9000000000GiB\n", `f.yaml:2: trail.segment_bytes: "9000000000GiB": want a size such as 512KiB, 16MiB or 1GiB`},
		{"size range", "trail:\n  max_journal_bytes: 1MiB\n", `f.yaml:2: trail.max_journal_bytes: 1MiB: want 64MiB to 1024TiB`},
		{"binary", "id: !!binary aGk=\n", `f.yaml:1: id: want text, not binary data`},
		{"id", "id: \"a b\"\n", `f.yaml:1: id: "a b": want letters, digits, '.', '_', '/' and '-', at most 100`},
		{"no port", "gateway:\n  listen: localhost\n", `f.yaml:2: gateway.listen: "localhost": want host:port, such as 127.0.0.1:8470`},
		{"bad port", "gateway:\n  listen: localhost:http\n", `f.yaml:2: gateway.listen: "localhost:http": the port must be a number from 0 to 65535`},
		{"beyond loopback", "gateway:\n  listen: 10.0.0.1:8470\n", `f.yaml:2: gateway.listen: "10.0.0.1:8470" is reachable from other machines, and tokens would travel in the clear; ` +
			`set gateway.tls, or gateway.plaintext: true where something in front terminates TLS`},
		{"wildcard", "gateway:\n  listen: :8470\n  plaintext: true\n", `f.yaml:2: gateway.listen: ":8470" names no host that agents could use; set gateway.public_url too`},
		{"shared listener", "admin:\n  listen: 127.0.0.1:8470\n", `f.yaml:2: admin.listen: the same as gateway.listen; agents and humans must not share a listener`},
		{"half of tls", "gateway:\n  tls: {cert_file: a}\n", `f.yaml:2: gateway.tls: name both cert_file and key_file, or neither`},
		{"public url", "gateway:\n  public_url: gw.example\n", `f.yaml:2: gateway.public_url: want http://host:port or https://host:port`},
		{"password not repeated", "gateway:\n  public_url: https://u:hunter2@gw/\n", `f.yaml:2: gateway.public_url: must not hold a user or password; secrets belong in files`},
		{"connection incomplete", "connections:\n- upstream: https://x/\n", "f.yaml:2: connections[0].name: missing; every connection needs a name\n" +
			"f.yaml:2: connections[0].projects: missing; list the Google Cloud projects that calls may name"},
		{"connection name", "connections:\n- {name: A, projects: [p]}\n", `f.yaml:2: connections[0].name: "A": want a lower-case letter, then lower-case letters, digits, '_' and '-', at most 63`},
		{
			"names and projects twice", "connections:\n- {name: a, projects: [p]}\n- name: a\n  projects:\n  - q\n  - p\n",
			"f.yaml:3: connections[1].name: \"a\" is the name of an earlier connection\nf.yaml:6: connections[1].projects[1]: \"p\" belongs to connection \"a\" already",
		},
		{"project", "connections:\n- {name: a, projects: [a/b]}\n", `f.yaml:2: connections[0].projects[0]: "a/b" is not a project id; use "*" for all`},
		{"upstream path", "connections:\n- {name: a, projects: [p], upstream: \"https://h/x\"}\n", `f.yaml:2: connections[0].upstream: must not have a path, query or fragment`},
		{"upstream http", "connections:\n- {name: a, projects: [p], upstream: \"http://h\"}\n", `f.yaml:2: connections[0].upstream: "http://h": plain http is for this machine alone; use https`},
		{"mode", "connections:\n- {name: a, projects: [p], credential: {mode: magic}}\n", `f.yaml:2: connections[0].credential.mode: "magic": want one of adc, static, none, impersonation, oauth, workload, connector`},
		{"static without file", "connections:\n- {name: a, projects: [p], credential: {mode: static}}\n", `f.yaml:2: connections[0].credential.token_file: missing; mode static needs a file that holds the token`},
		{"file without static", "connections:\n- {name: a, projects: [p], credential: {token_file: t}}\n", `f.yaml:2: connections[0].credential.token_file: only mode static reads it; the mode is "adc"`},
		{"level", "log:\n  level: loud\n", `f.yaml:2: log.level: "loud": want one of debug, info, warn, error`},
		{"empty data_dir", "data_dir: \"\"\n", `f.yaml:1: data_dir: must not be empty`},
		{"too large", strings.Repeat("#", config.MaxBytes+1), `f.yaml: larger than 1 MiB`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.Parse("f.yaml", []byte(tt.in))
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if _, ok := errors.AsType[config.Errors](err); !ok {
				t.Errorf("%T is not Errors", err)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, config.DefaultName)
	if _, err := config.Load(path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "trailgate init") {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("id: here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.ID != "here" || c.DataDir != config.Path(filepath.Join(dir, "data")) {
		t.Errorf("loaded %+v", c)
	}
	if _, err := config.Load(dir); err == nil {
		t.Error("a directory was read")
	}
}

// TestTemplate holds three promises of the file that init writes: it is valid,
// it is valid with the comment signs gone, and what it shows as the default is.
func TestTemplate(t *testing.T) {
	c, err := config.Parse("t.yaml", []byte(config.Template("gw-7")))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.ID, want.Path, want.Dir, want.Digest, want.DataDir = "gw-7", c.Path, c.Dir, c.Digest, c.DataDir
	want.Federation.ConsentKeyFile, want.Federation.Issuer.KeyFile = c.Federation.ConsentKeyFile, c.Federation.Issuer.KeyFile
	want.Recording.KeyDir = c.Recording.KeyDir
	if diff := cmp.Diff(&want, c); diff != "" {
		t.Errorf("template (-default +got):\n%s", diff)
	}

	var lines []string
	for line := range strings.Lines(config.Template("gw-7")) {
		switch {
		case strings.HasPrefix(line, "# ") && !strings.HasPrefix(line, "#  "):
		default:
			lines = append(lines, strings.TrimPrefix(line, "#"))
		}
	}
	full, err := config.Parse("t.yaml", []byte(strings.Join(lines, "")))
	if err != nil {
		t.Fatalf("uncommented: %v", err)
	}
	if len(full.Connections) != 6 || full.Connections[0].Upstream != "https://bigquery.googleapis.com" || full.Connections[3].Credential.Mode != "adc" {
		t.Errorf("connections: %+v", full.Connections)
	}
	d := config.Default()
	// These show what others' places may look like; that there are none is the default.
	if w := full.Trail.Witnesses; !w.On() || w.CAFile == "" || len(full.Trail.Checkpoints.SendTo) != 3 {
		t.Errorf("witnesses and checkpoints: %+v", full.Trail)
	}
	full.Trail.Witnesses.PolicyFile, full.Trail.Witnesses.CAFile, full.Trail.Checkpoints.SendTo = "", "", nil
	for name, pair := range map[string][2]any{
		"reconcile": {d.Reconcile, full.Reconcile},
		"sessions":  {d.Sessions, full.Sessions}, "shutdown": {d.Shutdown, full.Shutdown},
		"trail": {d.Trail, full.Trail}, "log": {d.Log, full.Log},
		"identity.exchange_ttl":   {d.Identity.ExchangeTTL, full.Identity.ExchangeTTL},
		"federation.endpoints":    {d.Federation.Endpoints.STS + d.Federation.Endpoints.UserInfo, full.Federation.Endpoints.STS + full.Federation.Endpoints.UserInfo},
		"federation.issuer.ttl":   {d.Federation.Issuer.TTL, full.Federation.Issuer.TTL},
		"admin.login.scopes":      {d.Admin.Login.Scopes, full.Admin.Login.Scopes},
		"admin.login.session_ttl": {d.Admin.Login.SessionTTL, full.Admin.Login.SessionTTL},
	} {
		if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
			t.Errorf("%s is shown with another default (-default +shown):\n%s", name, diff)
		}
	}
	for _, key := range keys(reflect.TypeFor[config.Config]()) {
		if !strings.Contains(config.Template(""), key+":") {
			t.Errorf("the template does not show %q", key)
		}
	}
}

func keys(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		out = append(out, name)
		inner := f.Type
		if inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct {
			out = append(out, keys(inner)...)
		}
	}
	return out
}

func TestBytesString(t *testing.T) {
	for in, want := range map[config.Bytes]string{0: "0", 1000: "1000", 1024: "1KiB", 16 << 20: "16MiB", 3 << 30: "3GiB", 1 << 40: "1TiB"} {
		if got := in.String(); got != want {
			t.Errorf("%d: %q, want %q", int64(in), got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(config.Template("x")))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("? {a: b}\n: c\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := config.Parse("f.yaml", raw)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", c, err)
		}
		if c == nil {
			return
		}
		for _, conn := range c.Connections {
			if u := conn.UpstreamURL(); u.Host == "" {
				t.Errorf("accepted upstream %q", conn.Upstream)
			}
		}
	})
}

// TestRulesInline: rules in the configuration are kept as they stand, at their lines.
func TestRulesInline(t *testing.T) {
	c, err := config.Parse("t.yaml", []byte(`id: a
policy:
  # ours
  rules:
    - name: one   # said so
      when: |
        class == "read" &&
          true
      allow: {}

    - name: two
      when: 'true'
      deny: "no"
  files: [more.yaml]
budgets:
- {name: b, limit: 5TB}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := `version: 1


rules:
    - name: one   # said so
      when: |
        class == "read" &&
          true
      allow: {}

    - name: two
      when: 'true'
      deny: "no"
`
	if string(c.Policy.Rules) != want {
		t.Errorf("%q\nwant %q", c.Policy.Rules, want)
	}
	if len(c.Policy.Files) != 1 || len(c.Budgets) != 1 || c.Budgets[0].Limit != 5e12 || c.Budgets[0].Per != "agent" || c.Budgets[0].WarnShare() != 0.8 {
		t.Errorf("%+v", c)
	}
	for name, bad := range map[string]string{
		"in one line":        "policy: {rules: [{name: a}]}\n",
		"no list":            "policy:\n  rules:\n    name: a\n",
		"beside all allowed": "policy:\n  record_only: true\n  rules:\n  - name: a\n",
		"no limit":           "budgets:\n- {name: b}\n",
		"no such zone":       "budgets:\n- {name: b, limit: 1TB, zone: Europe/Atlantis}\n",
		"no percentage":      "budgets:\n- {name: b, limit: 1TB, warn: 0.8}\n",
		"plain http":         "approval: {webhooks: [{name: a, url: 'http://hooks.example.com/x', secret_file: s}]}\n",
		"no secret":          "approval: {webhooks: [{name: a, url: 'https://hooks.example.com/x'}]}\n",
		"a password":         "approval: {webhooks: [{name: a, url: 'https://u:p@hooks.example.com/x', secret_file: s}]}\n",
		"no such format":     "approval: {webhooks: [{name: a, url: 'https://hooks.example.com/x', secret_file: s, format: irc}]}\n",
		"waits for a day":    "approval: {wait: 24h}\n",
	} {
		if _, err := config.Parse("t.yaml", []byte(bad)); err == nil || strings.Contains(err.Error(), "u:p@") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
