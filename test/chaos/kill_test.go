// Package chaos kills the built gateway at random moments under load and holds
// what is left against what BigQuery (the sandbox) did and what agents were told.
package chaos

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/sandbox"
	"github.com/trailgate/trailgate/internal/trail"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "trailgate-chaos")
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

// rig is a gateway that is started and killed, and a sandbox that outlives it.
type rig struct {
	t        *testing.T
	dir      string
	data     string
	addr     string
	box      *sandbox.Sandbox
	tokens   []string
	cmd      *exec.Cmd
	output   *output
	answers  []answered
	mu       sync.Mutex    // guards answers
	door     string        // where the load calls; the gateway's own address, if empty
	patience time.Duration // of the load with one call; without end, if 0
	failed   atomic.Int64  // calls of the load that did not end in a whole, good answer
	mixed    bool          // the load is of more than short changes
	// command, if set, makes the commands that start the gateway's binary.
	command func(args ...string) *exec.Cmd
}

// output is what the gateway prints, read while it runs.
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

// answered is a call that an agent was given a whole answer to.
type answered struct{ entry, statement string }

func newRig(t *testing.T) *rig { return newRigWith(t, options{config: killsConfig}) }

// killsConfig is a configuration; %q is the gateway's address, %s the upstream's.
const killsConfig = `id: chaos
data_dir: data
gateway: {listen: %q}
admin: {listen: "off"}
policy: {record_only: true}
connections:
  - name: main
    projects: ["*"]
    upstream: %s
    credential: {mode: static, token_file: upstream.token}
trail:
  segment_bytes: 1MiB
  checkpoint_interval: 100ms
`

// options of a rig.
type options struct {
	config string
	// dir is the gateway's directory. Optional: a temporary one.
	dir string
	// command makes the commands that start the binary. Optional.
	command func(args ...string) *exec.Cmd
	// before stands before the sandbox, whose address it is given. Optional.
	before func(address string) string
}

func newRigWith(t *testing.T, o options) *rig {
	t.Helper()
	box, err := sandbox.New(sandbox.Config{Projects: []string{"demo-project"}, MaxJobs: 10_000_000, Principals: map[string]string{"upstream-token": "gateway@demo-project.iam.gserviceaccount.com"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close() })
	if err := box.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	up := httptest.NewServer(box)
	t.Cleanup(up.Close)
	upstream := up.Listener.Addr().String()
	if o.before != nil {
		upstream = o.before(upstream)
	}
	r := &rig{t: t, dir: o.dir, box: box, command: o.command}
	if o.dir == "" {
		r.dir = t.TempDir()
	}
	if o.command == nil {
		r.command = func(args ...string) *exec.Cmd { return exec.Command(binary, args...) }
	}
	r.addr = freeAddr(t)
	r.run("init", "--dir", r.dir)
	token := filepath.Join(r.dir, "upstream.token")
	must(t, os.WriteFile(token, []byte("upstream-token\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(r.dir, "trailgate.yaml"), fmt.Appendf(nil, o.config, r.addr, "http://"+upstream), 0o600))
	r.data = filepath.Join(r.dir, "data")
	for _, agent := range []string{"etl-bot", "analyst-bot"} {
		r.run("agent", "add", agent)
		r.tokens = append(r.tokens, strings.TrimSpace(r.run("agent", "token", agent)))
	}
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// run is one command to its end.
func (r *rig) run(args ...string) string {
	r.t.Helper()
	if args[0] != "init" {
		args = append(args, "--config", filepath.Join(r.dir, "trailgate.yaml"))
	}
	cmd := r.command(args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("trailgate %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return string(out)
}

// start runs the gateway until it accepts calls.
func (r *rig) start() {
	r.t.Helper()
	r.output = &output{}
	r.cmd = r.command("serve", "--config", filepath.Join(r.dir, "trailgate.yaml"))
	r.cmd.Stderr, r.cmd.Stdout = r.output, r.output
	must(r.t, r.cmd.Start())
	process := r.cmd.Process
	r.t.Cleanup(func() { _ = process.Kill() }) // where the test gives up before it ends
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if strings.Contains(r.output.String(), "trailgate: ready") {
			return
		}
		if time.Now().After(deadline) {
			r.cmd.Process.Kill()
			r.cmd.Wait()
			r.t.Fatalf("the gateway does not come up:\n%s", r.output)
		}
	}
}

// query has the first agent run a statement, which must succeed.
func (r *rig) query(sql string) {
	r.t.Helper()
	if err := r.ask(sql); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

// tryQuery says whether a statement succeeded.
func (r *rig) tryQuery(sql string) bool { return r.ask(sql) == nil }

func (r *rig) ask(sql string) error {
	raw, err := json.Marshal(map[string]any{"query": sql, "useLegacySql": false})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, "http://"+r.addr+"/bigquery/v2/projects/demo-project/queries", bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+r.tokens[0])
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d %s", resp.StatusCode, body)
	}
	return err
}

func (r *rig) kill() {
	r.cmd.Process.Kill()
	r.cmd.Wait()
}

// load calls until ctx ends, from n agents' connections at once. Every
// statement carries a number of its own.
func (r *rig) load(ctx context.Context, n int, number *int64, numbers *sync.Mutex) *sync.WaitGroup {
	var wg sync.WaitGroup
	transport := &http.Transport{MaxIdleConnsPerHost: n, DisableKeepAlives: r.door != ""}
	hc := &http.Client{Transport: transport, Timeout: r.patience}
	for i := range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				numbers.Lock()
				*number++
				mine := *number
				numbers.Unlock()
				sql := fmt.Sprintf("INSERT INTO staging.kills (n) VALUES (%d)", mine)
				switch {
				case r.mixed && mine%7 == 3: // rows are kept
					sql = fmt.Sprintf("SELECT n FROM staging.kills WHERE n < 5 AND n <> %d", -mine)
				case r.mixed && mine%7 == 5: // kept as a stored body
					sql += " -- " + strings.Repeat("long ", 4000)
				}
				path, body := "jobs", map[string]any{"configuration": map[string]any{"query": map[string]any{"query": sql, "useLegacySql": false}}}
				if mine%3 == 0 {
					path, body = "queries", map[string]any{"query": sql, "useLegacySql": false}
				}
				raw, _ := json.Marshal(body)
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+cmp.Or(r.door, r.addr)+"/bigquery/v2/projects/demo-project/"+path, bytes.NewReader(raw))
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Authorization", "Bearer "+r.tokens[i%len(r.tokens)])
				resp, err := hc.Do(req)
				if err != nil {
					r.failed.Add(1)
					continue
				}
				whole, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK || !json.Valid(whole) {
					r.failed.Add(1)
				} else {
					r.mu.Lock()
					r.answers = append(r.answers, answered{resp.Header.Get("X-Trailgate-Entry"), sql})
					r.mu.Unlock()
				}
			}
		})
	}
	return &wg
}

// entries reads the whole trail the way nobody can bend: through the log.
func (r *rig) entries() (intents, outcomes map[string]*trailgate.Entry) {
	r.t.Helper()
	tr, err := trail.Open(r.t.Context(), r.data, trail.Options{})
	must(r.t, err)
	defer tr.Close(context.Background())
	intents, outcomes = map[string]*trailgate.Entry{}, map[string]*trailgate.Entry{}
	must(r.t, tr.Scan(r.t.Context(), 0, func(_ uint64, raw []byte) error {
		e, err := trailgate.Decode(raw)
		if err != nil {
			return err
		}
		switch e.Kind {
		case trailgate.KindIntent:
			intents[e.ID] = e
		case trailgate.KindOutcome, trailgate.KindSettled:
			if old := outcomes[e.IntentID]; old != nil && old.Kind == e.Kind {
				return fmt.Errorf("two %s entries for %s", e.Kind, e.IntentID)
			}
			if e.Kind == trailgate.KindOutcome || outcomes[e.IntentID] == nil {
				outcomes[e.IntentID] = e
			}
		}
		return nil
	}))
	return intents, outcomes
}

func kills(t *testing.T) int {
	n := 50
	if v := os.Getenv("TRAILGATE_KILLS"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil || n < 1 {
			t.Fatalf("TRAILGATE_KILLS=%q: want a number", v)
		}
	} else if testing.Short() {
		n = 3
	}
	return n
}

// TestKill: SIGKILL at random moments under load. Every statement that the
// sandbox ran has its intent entry; every answered call has its outcome; the
// log verifies each time; and in the end everything left open is settled.
// TRAILGATE_KILLS asks for more than the usual 50.
func TestKill(t *testing.T) {
	r := newRig(t)
	r.start()
	r.query("CREATE TABLE staging.kills (n INT64)")
	r.kill()

	var number int64
	var numbers sync.Mutex
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 1))
	n := kills(t)
	for round := range n {
		r.start()
		ctx, cancel := context.WithCancel(t.Context())
		wg := r.load(ctx, 8, &number, &numbers)
		time.Sleep(time.Duration(rnd.IntN(250)) * time.Millisecond)
		r.kill()
		cancel()
		wg.Wait()
		report, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: r.data})
		if err != nil {
			t.Fatalf("seed %d, kill %d: verify: %v", seed, round, err)
		}
		if report.FirstBad != nil {
			t.Fatalf("seed %d, kill %d: %+v", seed, round, report.FirstBad)
		}
	}

	sum := r.settleAndCheck("staging.kills")
	t.Logf("seed %d: %d kills, %s", seed, n, sum)
}
