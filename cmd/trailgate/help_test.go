package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// execute runs the program in this process.
func execute(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	c := &cli{in: strings.NewReader(""), out: &out, err: &errOut, getenv: func(string) string { return "" }, release: func() {}}
	root := newRoot(c)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	if err != nil {
		report(&errOut, err)
	}
	return out.String(), errOut.String(), exitCode(err)
}

// commands lists every command that a user can see.
func commands(t *testing.T) []*cobra.Command {
	t.Helper()
	var all []*cobra.Command
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
			return
		}
		all = append(all, cmd)
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(&cli{out: &bytes.Buffer{}, err: &bytes.Buffer{}, getenv: os.Getenv, release: func() {}}))
	return all
}

// TestHelp compares every help text with testdata/help; -update writes them.
func TestHelp(t *testing.T) {
	for _, cmd := range commands(t) {
		path := strings.Fields(cmd.CommandPath())
		t.Run(strings.Join(path, "_"), func(t *testing.T) {
			got, stderr, code := execute(t, append(path[1:], "--help")...)
			if code != 0 || stderr != "" {
				t.Fatalf("exit code %d, stderr %q", code, stderr)
			}
			if !strings.Contains(got, "Examples:\n  ") {
				t.Error("no examples")
			}
			for line := range strings.Lines(got) {
				if n := len([]rune(strings.TrimRight(line, "\n"))); n > 120 {
					t.Errorf("a line of %d characters: %s", n, line)
				}
			}
			golden := filepath.Join("testdata", "help", strings.Join(path, "_")+".txt")
			if *update {
				if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("%v (go test -run TestHelp -update)", err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("help (-want +got):\n%s", diff)
			}
		})
	}
}

// TestUsageErrors: every complaint about flags and arguments is exit code 2, is
// told on stderr, and says where help is.
func TestUsageErrors(t *testing.T) {
	for _, cmd := range commands(t) {
		args := append(strings.Fields(cmd.CommandPath())[1:], "--no-such-flag")
		stdout, stderr, code := execute(t, args...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, "--no-such-flag") || !strings.Contains(stderr, "--help") {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
	for _, args := range [][]string{
		{"serach"},
		{"agent", "ad"},
		{"index", "x"},
		{"show"},
		{"show", "a", "b"},
		{"agent", "add"},
		{"agent", "token"},
		{"agent", "revoke"},
		{"agent", "revoke", "a", "--token", "tok_x", "--session", "ses_x"},
		{"agent", "rotate"},
		{"agent", "rotate", "a", "--overlap", "soon"},
		{"agent", "rotate", "a", "--ttl", "0s"},
		{"agent", "credential", "a"},
		{"agent", "credential", "a", "--out", "f", "--subject-file", "s", "--token-file", "t"},
		{"agent", "credential", "a", "--out", "f", "--subject-file", "s", "--ttl", "1h"},
		{"agent", "credential", "a", "--out", "f", "--subject-type", "jwt"},
		{"agent", "credential", "a", "--out", "f", "--subject-file", "s", "--subject-type", "saml"},
		{"agent", "credential", "a", "--out", "f", "--shell", "tcsh"},
		{"doctor", "x"},
		{"doctor", "--connection", "c"},
		{"doctor", "-o", "csv"},
		{"tls", "new"},
		{"tls", "renew", "x"},
		{"tls", "renew", "--server", "http://127.0.0.1:1"},
		{"init", "--host", "gw.example.com"},
		{"init", "--tls", "--host", "https://gw.example.com"},
		{"agent", "list", "a", "b"},
		{"init", "x"},
		{"serve", "x"},
		{"demo", "x"},
		{"verify", "x"},
		{"run"},
		{"run", "--agent", "a"},
		{"run", "--", "true"},
		{"env"},
		{"env", "--agent", "a", "--shell", "tcsh"},
		{"env", "x"},
		{"version", "x"},
		{"stats"},
		{"stats", "--by", "moon"},
		{"search", "--limit", "-1"},
		{"search", "--limit", "many"},
		{"search", "--since", "soon"},
		{"search", "-o", "xml"},
		{"show", "x", "-o", "csv"},
		{"agent", "token", "a", "--ttl", "0s"},
		{"agent", "token", "a", "--ttl", "ever"},
		{"search", "--server", "ftp://x"},
		{"search", "--server", "http://10.0.0.1:8471"},
		{"search", "--server", "http://127.0.0.1:1"},
		{"verify", "--log", t.TempDir()},
		{"search", "--config", filepath.Join(t.TempDir(), "none.yaml")},
	} {
		stdout, stderr, code := execute(t, args...)
		if code != exitUsage || stdout != "" || !strings.HasPrefix(stderr, "trailgate: ") {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}

// TestParents: a command that only holds others shows its help.
func TestParents(t *testing.T) {
	for _, args := range [][]string{{}, {"agent"}, {"index"}, {"tls"}, {"help"}, {"help", "agent", "add"}} {
		stdout, stderr, code := execute(t, args...)
		if code != 0 || stderr != "" || !strings.Contains(stdout, "Usage:") {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"sea"}, "search\t"},
		{[]string{"search", "--class", "exp"}, "export\n"},
		{[]string{"search", "-o", "j"}, "json\njsonl\n"},
		{[]string{"search", "stat"}, "state\t"},
		{[]string{"search", "agent = x AND (bytes_b"}, "agent = x AND (bytes_billed\t"},
		{[]string{"stats", "--by", "agent,da"}, "agent,day\n"},
		{[]string{"env", "--shell", "f"}, "fish\n"},
	} {
		stdout, _, code := execute(t, append([]string{"__complete"}, tt.args...)...)
		if code != 0 || !strings.Contains(stdout, tt.want) {
			t.Errorf("%q: exit code %d\n%s", tt.args, code, stdout)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if stdout, _, code := execute(t, "completion", shell); code != 0 || !strings.Contains(stdout, "trailgate") {
			t.Errorf("completion %s: exit code %d", shell, code)
		}
	}
}
