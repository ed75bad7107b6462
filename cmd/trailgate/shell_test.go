package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// nasty holds what each shell might act on.
const nasty = "a'b\"c$HOME`id`\\d !x; rm -rf * ‘q’ \n newline"

func TestShellLines(t *testing.T) {
	vars := []variable{{name: "PLAIN", value: "http://127.0.0.1:8470/"}, {name: "NASTY", value: nasty}, {name: "EMPTY"}, {name: "GONE", unset: true}}
	tests := map[string]string{
		"bash": "export PLAIN=http://127.0.0.1:8470/\nexport NASTY='a'\\''b\"c$HOME`id`\\d !x; rm -rf * ‘q’ \n newline'\nexport EMPTY=''\nunset GONE\n",
		"zsh":  "export PLAIN=http://127.0.0.1:8470/\nexport NASTY='a'\\''b\"c$HOME`id`\\d !x; rm -rf * ‘q’ \n newline'\nexport EMPTY=''\nunset GONE\n",
		"fish": "set -gx PLAIN 'http://127.0.0.1:8470/'\nset -gx NASTY 'a\\'b\"c$HOME`id`\\\\d !x; rm -rf * ‘q’ \n newline'\nset -gx EMPTY ''\nset -e GONE; or true\n",
		"powershell": "$env:PLAIN = 'http://127.0.0.1:8470/'\n$env:NASTY = 'a''b\"c$HOME`id`\\d !x; rm -rf * ‘‘q’’ \n newline'\n" +
			"$env:EMPTY = ''\nRemove-Item Env:GONE -ErrorAction SilentlyContinue\n",
	}
	for shell, want := range tests {
		got, err := shellLines(shell, vars)
		if err != nil {
			t.Errorf("%s: %v", shell, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", shell, diff)
		}
	}
	if _, err := shellLines("tcsh", vars); exitCode(err) != exitUsage {
		t.Errorf("tcsh: %v", err)
	}
	if _, err := shellLines("bash", []variable{{name: "A", value: "x\x00y"}}); err == nil {
		t.Error("a NUL byte went through")
	}
}

// TestShellsRead has each shell that is here read what was written for it.
func TestShellsRead(t *testing.T) {
	for shell, print := range map[string]string{
		"bash": `printf %s "$NASTY"`, "zsh": `printf %s "$NASTY"`, "fish": `printf %s $NASTY`,
	} {
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("no %s here", shell)
			continue
		}
		lines, err := shellLines(shell, []variable{{name: "NASTY", value: nasty}, {name: "HOME_IS_GONE", unset: true}})
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(path, "-c", lines+print).Output()
		if err != nil {
			t.Errorf("%s: %v", shell, err)
		}
		if string(out) != nasty {
			t.Errorf("%s read %q", shell, out)
		}
	}
}

func TestApply(t *testing.T) {
	got := apply([]string{"A=1", "B=2", "C=3", "=odd"}, []variable{{name: "B", value: "x"}, {name: "C", unset: true}, {name: "D", value: ""}})
	slices.Sort(got)
	if diff := cmp.Diff([]string{"=odd", "A=1", "B=x", "D="}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestClientEnv(t *testing.T) {
	dir := t.TempDir()
	e := &clientEnv{
		gateway: "https://gw:8470", agent: "etl-bot", project: "p", caFile: "/ca.pem",
		token: "tgt_secret", dir: dir,
	}
	if err := e.makeDir(); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"token": 0o600, "bigqueryrc": 0o600, "gcloud": 0o700} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o, want %o", name, info.Mode().Perm(), mode)
		}
	}
	env := map[string]string{"https_proxy": "http://proxy", "NO_PROXY": "localhost"}
	lines, err := shellLines("bash", e.variables(func(name string) string { return env[name] }))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll(`export TRAILGATE_GATEWAY=https://gw:8470
export TRAILGATE_AGENT=etl-bot
export TRAILGATE_TOKEN_FILE=DIR/token
export CLOUDSDK_CONFIG=DIR/gcloud
export CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERY=https://gw:8470/
export CLOUDSDK_AUTH_ACCESS_TOKEN_FILE=DIR/token
export BIGQUERYRC=DIR/bigqueryrc
export BIGQUERY_EMULATOR_HOST=https://gw:8470/bigquery/v2
export CLOUDSDK_CORE_PROJECT=p
export GOOGLE_CLOUD_PROJECT=p
export TRAILGATE_CA_FILE=/ca.pem
export CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE=/ca.pem
export NODE_EXTRA_CA_CERTS=/ca.pem
export NO_PROXY=localhost,gw
export no_proxy=gw
unset GOOGLE_APPLICATION_CREDENTIALS
unset CLOUDSDK_AUTH_ACCESS_TOKEN
unset CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE
unset CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT
unset CLOUDSDK_CORE_ACCOUNT
unset CLOUDSDK_ACTIVE_CONFIG_NAME
unset TRAILGATE_ADMIN_TOKEN
`, "DIR", dir)
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if strings.Contains(lines, "tgt_secret") {
		t.Error("the token was printed")
	}
}
