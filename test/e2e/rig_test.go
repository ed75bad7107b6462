// Package e2e drives the built binary with the real clients: Google's bq, the
// official Go client, and npm's @google-cloud/bigquery. What each sees through
// the gateway is held against what it sees without, and the trail against what
// the sandbox BigQuery says arrived.
package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/sandbox"
)

const (
	upstreamToken = "upstream-token"
	gatewaySA     = "gateway@demo-project.iam.gserviceaccount.com"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "trailgate-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "trailgate")
	build := exec.Command("go", "build", "-o", binary, "../../cmd/trailgate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// need fails the test where a tool is missing; nothing is skipped silently.
func need(t *testing.T, tool, how string) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no real clients")
	}
	if _, err := exec.LookPath(tool); err != nil {
		t.Fatalf("this test drives %s, which is not installed: %s", tool, how)
	}
}

func needBQ(t *testing.T) {
	t.Helper()
	need(t, "bq", "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install), or run 'go test -short ./...'")
}

// newSandbox is a BigQuery with the demo's data, and its address.
func newSandbox(t *testing.T) (*sandbox.Sandbox, string) {
	t.Helper()
	box, err := sandbox.New(sandbox.Config{Principals: map[string]string{upstreamToken: gatewaySA}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close() })
	if err := box.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(box)
	t.Cleanup(srv.Close)
	return box, srv.URL
}

// rig is a gateway of its own in front of a sandbox of its own.
type rig struct {
	t    *testing.T
	dir  string
	data string
	addr string
	box  *sandbox.Sandbox
	out  *lockedBuffer
	cmd  *exec.Cmd
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	box, up := newSandbox(t)
	r := &rig{t: t, dir: t.TempDir(), addr: freeAddr(t), box: box, out: &lockedBuffer{}}
	r.data = filepath.Join(r.dir, "data")
	r.must("init", "--dir", r.dir)
	write(t, filepath.Join(r.dir, "upstream.token"), upstreamToken+"\n", 0o600)
	write(t, r.config(), fmt.Sprintf(`id: e2e
data_dir: data
gateway: {listen: %q}
admin: {listen: "off"}
connections:
  - name: main
    projects: [demo-project]
    upstream: %s
    credential: {mode: static, token_file: upstream.token}
`, r.addr, up), 0o600)
	r.start()
	for _, agent := range []string{"etl-bot", "analyst-bot"} {
		r.must("agent", "add", agent)
		write(t, r.tokenFile(agent), r.must("agent", "token", agent), 0o600)
	}
	return r
}

func (r *rig) config() string                { return filepath.Join(r.dir, "trailgate.yaml") }
func (r *rig) tokenFile(agent string) string { return filepath.Join(r.dir, agent+".token") }

func (r *rig) token(agent string) string {
	raw, err := os.ReadFile(r.tokenFile(agent))
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// start brings the gateway up and stops it with the test, gracefully.
func (r *rig) start() {
	r.t.Helper()
	r.cmd = exec.Command(binary, "serve", "--config", r.config())
	r.cmd.Stderr, r.cmd.Stdout = r.out, r.out
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(r.stop)
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(r.out.String(), "trailgate: ready"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("the gateway does not come up:\n%s", r.out)
		}
	}
}

// stop ends the gateway as an operator would; it must end well.
func (r *rig) stop() {
	if r.cmd == nil {
		return
	}
	r.cmd.Process.Signal(syscall.SIGTERM)
	if err := r.cmd.Wait(); err != nil {
		r.t.Errorf("the gateway ended with %v:\n%s", err, r.out)
	}
	r.cmd = nil
}

// run is one trailgate command: what it printed and its exit code.
func (r *rig) run(args ...string) (stdout, stderr string, code int) {
	r.t.Helper()
	if args[0] != "init" {
		args = append([]string{"--config", r.config()}, args...)
	}
	cmd := exec.Command(binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (r *rig) must(args ...string) string {
	r.t.Helper()
	out, errs, code := r.run(args...)
	if code != 0 {
		r.t.Fatalf("trailgate %s: exit %d\n%s", strings.Join(args, " "), code, errs)
	}
	return out
}

// row is what search prints of a call, as far as tests look at it.
type row struct {
	Seq       uint64
	ID        string
	Kind      string
	State     string
	Method    string
	Class     string
	Principal struct{ Agent string }
	Claims    struct {
		Reason        string
		DroppedLabels map[string]string `json:"dropped_labels"`
	}
	Session    string
	Request    struct{ Verb, Path string }
	Statements []struct{ Where, Text string }
	Tables     struct{ Read, Written []string }
	Job        struct {
		ID         string
		OwnerAgent string `json:"owner_agent"`
	}
	Outcome struct {
		Status       int
		End          string
		Rows         int64
		RowsAffected int64  `json:"rows_affected"`
		ErrorReason  string `json:"error_reason"`
	}
	Aggregate struct{ Count int64 }
	Flags     []string
	Event     struct{ Action string }
}

// search returns what a filter finds, oldest first. The index may be a moment
// behind; it is waited for.
func (r *rig) search(filter string) []row {
	r.t.Helper()
	out := r.must("search", filter, "-o", "jsonl", "--limit", "100000")
	var rows []row
	for line := range strings.Lines(out) {
		var w row
		if err := json.Unmarshal([]byte(line), &w); err != nil {
			r.t.Fatalf("search printed %q: %v", line, err)
		}
		rows = append([]row{w}, rows...)
	}
	return rows
}

// settled waits until no call of the trail is open any more, and returns all
// calls, oldest first.
func (r *rig) settled() []row {
	r.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		rows := r.search(`kind = "intent" OR kind = "refused" OR kind = "denied"`)
		open := 0
		for _, w := range rows {
			if w.State == "open" {
				open++
			}
		}
		if open == 0 {
			return rows
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%d calls are still open", open)
		}
	}
}
