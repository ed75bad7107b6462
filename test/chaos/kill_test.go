// Package chaos kills the built gateway at random moments under load and holds
// what is left against what BigQuery (the sandbox) did and what agents were told.
package chaos

import (
	"bytes"
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
	t       *testing.T
	dir     string
	data    string
	addr    string
	box     *sandbox.Sandbox
	tokens  []string
	cmd     *exec.Cmd
	output  *output
	answers []answered
	mu      sync.Mutex // guards answers
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

func newRig(t *testing.T) *rig { return newRigWith(t, t.TempDir(), nil, killsConfig) }

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

// newRigWith makes a gateway in dir, with commands made by command.
func newRigWith(t *testing.T, dir string, command func(args ...string) *exec.Cmd, config string) *rig {
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
	r := &rig{t: t, dir: dir, box: box, command: command}
	if command == nil {
		r.command = func(args ...string) *exec.Cmd { return exec.Command(binary, args...) }
	}
	r.addr = freeAddr(t)
	r.run("init", "--dir", r.dir)
	token := filepath.Join(r.dir, "upstream.token")
	must(t, os.WriteFile(token, []byte("upstream-token\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(r.dir, "trailgate.yaml"), fmt.Appendf(nil, config, r.addr, up.URL), 0o600))
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

func (r *rig) kill() {
	r.cmd.Process.Kill()
	r.cmd.Wait()
}

// load calls until ctx ends, from n agents' connections at once. Every
// statement carries a number of its own.
func (r *rig) load(ctx context.Context, n int, number *int64, numbers *sync.Mutex) *sync.WaitGroup {
	var wg sync.WaitGroup
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n}}
	for i := range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				numbers.Lock()
				*number++
				mine := *number
				numbers.Unlock()
				sql := fmt.Sprintf("INSERT INTO staging.kills (n) VALUES (%d)", mine)
				path, body := "jobs", map[string]any{"configuration": map[string]any{"query": map[string]any{"query": sql, "useLegacySql": false}}}
				if mine%3 == 0 {
					path, body = "queries", map[string]any{"query": sql, "useLegacySql": false}
				}
				raw, _ := json.Marshal(body)
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.addr+"/bigquery/v2/projects/demo-project/"+path, bytes.NewReader(raw))
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Authorization", "Bearer "+r.tokens[i%len(r.tokens)])
				resp, err := hc.Do(req)
				if err != nil {
					continue
				}
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
				if err == nil && resp.StatusCode == http.StatusOK {
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
	// The table that the load fills, through the gateway like everything else.
	req, _ := http.NewRequest(http.MethodPost, "http://"+r.addr+"/bigquery/v2/projects/demo-project/queries", strings.NewReader(`{"query":"CREATE TABLE staging.kills (n INT64)","useLegacySql":false}`))
	req.Header.Set("Authorization", "Bearer "+r.tokens[0])
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Fatalf("create: %d", resp.StatusCode)
	}
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

	intents, outcomes := r.entries()
	executed := 0
	ran := map[string]bool{}
	for _, job := range r.box.Jobs() {
		if !strings.Contains(job.Statement, "staging.kills") || job.DryRun || !job.Executed {
			continue
		}
		executed++
		id := job.Labels["trailgate_entry"]
		ran[id] = true
		e := intents[id]
		if e == nil {
			t.Errorf("seed %d: the sandbox ran %q of entry %q, and the trail has no such intent", seed, job.Statement, id)
			continue
		}
		if e.Statements[0].Text != job.Statement || e.Principal.Agent != job.Labels["trailgate_agent"] {
			t.Errorf("entry %s says %q by %s, the sandbox ran %q", id, e.Statements[0].Text, e.Principal.Agent, job.Statement)
		}
	}
	for _, a := range r.answers {
		if o := outcomes[a.entry]; o == nil || o.Kind != trailgate.KindOutcome {
			t.Errorf("seed %d: the call of entry %s was answered and has no outcome", seed, a.entry)
		}
		if e := intents[a.entry]; e == nil || e.Statements[0].Text != a.statement {
			t.Errorf("seed %d: answered entry %s has no fitting intent", seed, a.entry)
		}
	}

	// One more start settles what the kills left open, by asking the sandbox.
	open := 0
	for id := range intents {
		if outcomes[id] == nil {
			open++
		}
	}
	r.start()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(300 * time.Millisecond) {
		out := r.run("search", `state = "indeterminate"`, "-o", "jsonl", "--limit", "1")
		if strings.TrimSpace(out) == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still indeterminate: %s\n%s", out, r.output)
		}
	}
	r.cmd.Process.Signal(os.Interrupt)
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("graceful stop: %v\n%s", err, r.output)
	}
	intents, outcomes = r.entries()
	absent := 0
	for id, e := range intents {
		o := outcomes[id]
		if o == nil {
			t.Errorf("intent %s was not settled", id)
			continue
		}
		if o.Kind != trailgate.KindSettled || len(e.Statements) == 0 || !strings.Contains(e.Statements[0].Text, "staging.kills") {
			continue
		}
		switch o.Outcome.End {
		case "job_absent":
			absent++
			if ran[id] {
				t.Errorf("intent %s was settled as absent, but the sandbox ran it", id)
			}
		case "job_found":
			if !ran[id] {
				t.Errorf("intent %s was settled as found, but the sandbox did not run it", id)
			}
		}
	}
	t.Logf("seed %d: %d kills, %d statements executed, %d answered, %d intents left open and settled (%d of them had never reached the sandbox)", seed, n, executed, len(r.answers), open, absent)
	if executed == 0 || len(r.answers) == 0 {
		t.Error("the load did nothing")
	}
}
