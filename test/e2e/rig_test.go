// Package e2e drives the built binary with the real clients: Google's bq, the
// official Go client, npm's @google-cloud/bigquery, and raw sockets. What each
// sees through the gateway is held against what it sees without, and the trail
// against what the sandbox BigQuery says arrived.
package e2e

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/index"
)

// binary is trailgate as it would be shipped, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	if what := os.Getenv(helperVariable); what != "" {
		helper(what)
	}
	flag.Parse()
	if testing.Short() {
		os.Exit(m.Run()) // every test skips itself
	}
	dir, err := os.MkdirTemp("", "trailgate-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "trailgate")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "../../cmd/trailgate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// endToEnd leaves a test of this package out of short runs.
func endToEnd(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: nothing end to end")
	}
}

// need fails the test where a tool is missing; nothing is skipped silently.
func need(t *testing.T, tool, how string) {
	t.Helper()
	endToEnd(t)
	if _, err := exec.LookPath(tool); err != nil {
		t.Fatalf("this test drives %s, which is not installed: %s, or leave such tests out with 'make test-short'", tool, how)
	}
}

func needBQ(t *testing.T) {
	t.Helper()
	need(t, "bq", "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install)")
	need(t, "bash", "install it")
}

// agents are the two that every rig has.
var agents = []string{"analyst-bot", "etl-bot"}

// rig is a gateway of its own in front of a sandbox of its own.
type rig struct {
	t    *testing.T
	dir  string // configuration and data
	addr string // where agents connect
	box  *upstream
	out  *output
	cmd  *exec.Cmd
}

// output is what a process prints, read while it runs.
type output struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// newRig initialises a gateway, starts it, and makes the agents.
func newRig(t *testing.T) *rig {
	t.Helper()
	endToEnd(t)
	r := &rig{t: t, dir: t.TempDir(), addr: freeAddr(t), box: newUpstream(t), out: &output{}}
	r.must("init", "--dir", r.dir)
	r.configure()
	r.start()
	for _, agent := range agents {
		r.must("agent", "add", agent)
		write(t, r.tokenFile(agent), r.must("agent", "token", agent))
	}
	return r
}

// configure writes the configuration in place of the one that init made.
func (r *rig) configure() {
	r.t.Helper()
	write(r.t, filepath.Join(r.dir, "upstream.token"), upstreamToken+"\n")
	write(r.t, r.config(), fmt.Sprintf(`id: e2e
data_dir: data
gateway: {listen: %q}
admin: {listen: "off"}
policy: {record_only: true}
connections:
  - name: main
    projects: [demo-project]
    upstream: %s
    credential: {mode: static, token_file: upstream.token}
`, r.addr, r.box.url))
}

func (r *rig) url() string    { return "http://" + r.addr }
func (r *rig) config() string { return filepath.Join(r.dir, "trailgate.yaml") }
func (r *rig) data(parts ...string) string {
	return filepath.Join(r.dir, "data", filepath.Join(parts...))
}
func (r *rig) tokenFile(agent string) string { return filepath.Join(r.dir, agent+".token") }

func (r *rig) token(agent string) string {
	r.t.Helper()
	return strings.TrimSpace(read(r.t, r.tokenFile(agent)))
}

// readyTimeout is generous: a loaded machine of two cores runs all packages'
// tests at once.
const readyTimeout = 60 * time.Second

// start brings the gateway up; it is stopped with the test.
func (r *rig) start() {
	r.t.Helper()
	r.cmd = exec.Command(binary, "serve", "--config", r.config())
	r.cmd.Stderr, r.cmd.Stdout = r.out, r.out
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(r.stop)
	before := strings.Count(r.out.String(), readyMark)
	waitFor(r.t, readyTimeout, func() bool { return strings.Count(r.out.String(), readyMark) > before }, func() string {
		return "the gateway does not come up:\n" + r.out.String()
	})
}

const readyMark = "trailgate: ready"

// stop ends the gateway as an operator would; it must end well.
func (r *rig) stop() {
	r.t.Helper()
	if r.cmd == nil {
		return
	}
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Errorf("stop the gateway: %v", err)
	}
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
	return command(r.t, binary, args...)
}

// must is a trailgate command that has to succeed.
func (r *rig) must(args ...string) string {
	r.t.Helper()
	out, errs, code := r.run(args...)
	if code != 0 {
		r.t.Fatalf("trailgate %s: exit %d\n%s", strings.Join(args, " "), code, errs)
	}
	return out
}

// search returns what a filter finds, oldest first.
func (r *rig) search(filter string) []index.Row {
	r.t.Helper()
	var rows []index.Row
	for line := range strings.Lines(r.must("search", filter, "-o", "jsonl", "--limit", "0")) {
		var w index.Row
		if err := json.Unmarshal([]byte(line), &w); err != nil {
			r.t.Fatalf("search printed %q: %v", line, err)
		}
		rows = append(rows, w)
	}
	slices.Reverse(rows)
	return rows
}

// calls waits until the index has every call and none is open any more, and
// returns them all, refused ones too, oldest first.
func (r *rig) calls() []index.Row {
	r.t.Helper()
	// The index follows the log in order: what is recorded before this search
	// (which is itself an entry) is found once the search before it is.
	mark := fmt.Sprintf("mark_%d", time.Now().UnixNano())
	r.must("search", mark)
	var rows []index.Row
	waitFor(r.t, 30*time.Second, func() bool {
		marked := slices.ContainsFunc(r.search(`action = "trail.search"`), func(w index.Row) bool { return w.Entry.Event.Detail["filter"] == mark })
		rows = r.search(`kind = ("intent" OR "refused" OR "denied")`)
		return marked && !slices.ContainsFunc(rows, func(w index.Row) bool { return w.State == index.StateOpen })
	}, func() string { return fmt.Sprintf("the index lags, or calls stay open: %d calls", len(rows)) })
	return rows
}

// command runs anything to its end.
func command(t *testing.T, name string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = cleanEnv(t.TempDir())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// cleanEnv is an environment with nothing of this machine's user in it, and no
// Google login.
func cleanEnv(home string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LANG=C.UTF-8"}
}

// waitFor looks until it is so, and fails the test with what why says if it
// never is.
func waitFor(t *testing.T, limit time.Duration, so func() bool, why func() string) {
	t.Helper()
	for deadline := time.Now().Add(limit); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(why())
		}
	}
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

// write makes a file that only this user can read.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
