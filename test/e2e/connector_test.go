package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
)

// tunnels is a gateway in one network, BigQuery in another, and connectors between.
type tunnels struct {
	*network
	r      *rig
	gw     *process
	agents *http.Client
	dir    string
}

func newTunnels(t *testing.T) *tunnels {
	x := &tunnels{network: newNetwork(t), r: &rig{t: t, dir: t.TempDir(), addr: gwAgents, out: &output{}}, dir: t.TempDir()}
	x.helper("bq", "sandbox "+bqAddress+" "+filepath.Join(x.network.dir, controlBQ))
	r := x.r
	r.must("init", "--dir", r.dir)
	write(t, filepath.Join(r.dir, "upstream.token"), upstreamToken+"\n")
	write(t, r.config(), fmt.Sprintf(`id: e2e
data_dir: data
gateway: {listen: %q}
admin: {listen: "off"}
connectors: {listen: %q}
policy: {record_only: true}
connections:
  - name: main
    projects: [demo-project]
    connectors: true
    upstream: http://%s
    credential: {mode: static, token_file: upstream.token}
`, gwAgents, gwTunnels, bqAddress))
	x.gw = x.start("gw", readyMark, binary, "serve", "--config", r.config())
	for _, agent := range agents {
		r.must("agent", "add", agent)
		write(t, r.tokenFile(agent), r.must("agent", "token", agent))
	}
	x.helper("gw", "relay "+filepath.Join(x.network.dir, agentsSock)+" "+gwAgents)
	x.agents = unixClient(filepath.Join(x.network.dir, agentsSock))
	return x
}

func (x *tunnels) file(name string) string { return filepath.Join(x.dir, name+".yaml") }

// enroll makes a connector, as somebody would.
func (x *tunnels) enroll(ns, name string) {
	x.t.Helper()
	write(x.t, x.file(name), fmt.Sprintf(`gateway: %s
state_dir: %s
connections:
  - name: main
allow: ["http://%s"]
`, gwTunnels, name, bqAddress))
	token := filepath.Join(x.dir, name+".token")
	write(x.t, token, x.r.must("connector", "enroll-token", "--connection", "main", "--name", name))
	if out, err := x.command(ns, binary, "connector", "enroll", "--config", x.file(name), "--token-file", token).CombinedOutput(); err != nil {
		x.t.Fatalf("enroll: %v\n%s", err, out)
	}
	// A second use is refused, and says so.
	out, err := x.command(ns, binary, "connector", "enroll", "--config", x.file(name), "--token-file", token).CombinedOutput()
	if err == nil {
		x.t.Errorf("a second enrolment: %s", out)
	}
}

func (x *tunnels) connect(ns, name string) *process {
	return x.start(ns, "msg=connected", binary, "connector", "--config", x.file(name))
}

// insert begins a job as an agent.
func (x *tunnels) insert(sql string) (status int, entry, body string) {
	raw, err := json.Marshal(map[string]any{"configuration": map[string]any{"query": map[string]any{"query": sql, "useLegacySql": false}}})
	if err != nil {
		x.t.Error(err)
		return 0, "", ""
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+gwAgents+"/bigquery/v2/projects/demo-project/jobs", strings.NewReader(string(raw)))
	if err != nil {
		x.t.Error(err)
		return 0, "", ""
	}
	req.Header.Set("Authorization", "Bearer "+x.r.token("etl-bot"))
	req.Header.Set("Content-Type", "application/json")
	resp, err := x.agents.Do(req)
	if err != nil {
		x.t.Error(err)
		return 0, "", ""
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		x.t.Error(err)
	}
	return resp.StatusCode, resp.Header.Get("X-Trailgate-Entry"), string(said)
}

// state is how a connector stands, as "connector list" has it.
func (x *tunnels) state(name string) string {
	x.t.Helper()
	var list []struct{ Name, State string }
	if err := json.Unmarshal([]byte(x.r.must("connector", "list", "-o", "json")), &list); err != nil {
		x.t.Fatal(err)
	}
	for _, c := range list {
		if c.Name == name {
			return c.State
		}
	}
	return "none"
}

func (x *tunnels) becomes(name, state string) {
	x.t.Helper()
	waitFor(x.t, readyTimeout, func() bool { return x.state(name) == state }, func() string { return name + " is " + x.state(name) + ", want " + state + "\n" + x.gw.out.String() })
}

// TestConnector: a gateway that has no route to BigQuery, and two connectors that have.
// The real bq works; receipts are good and can be checked; a connector that is killed
// under load loses no call and doubles none; a partition heals; a revoked connector is
// out; one that is stopped drains.
func TestConnector(t *testing.T) {
	needBQ(t)
	x := newTunnels(t)
	if x.reaches("gw", insideBQ) {
		t.Fatal("the gateway has a route to BigQuery, so this test would show nothing")
	}
	if status, _, body := x.insert("SELECT 1"); status != http.StatusServiceUnavailable || !strings.Contains(body, "no connector of connection main") {
		t.Errorf("without a connector: %d %s", status, body)
	}
	x.enroll("c1", "main-1")
	x.enroll("c2", "main-2")
	one := x.connect("c1", "main-1")
	two := x.connect("c2", "main-2")
	x.becomes("main-1", "connected")
	x.becomes("main-2", "connected")
	x.r.must("connector", "status")
	if out, err := x.command("gw", binary, "--config", x.r.config(), "doctor").CombinedOutput(); err != nil || !strings.Contains(string(out), "through connectors main-1") {
		t.Errorf("doctor: %v %s", err, out)
	}

	t.Run("bq", func(t *testing.T) {
		lines := x.r.must("env", "--agent", "etl-bot", "--dir", filepath.Join(x.dir, "home"))
		cmd := x.command("gw", "bash", "--noprofile", "--norc", "-c", `eval "$1"; exec bq query --use_legacy_sql=false --format=csv 'SELECT 6*7 AS answer'`, "bash", lines)
		cmd.Env = cleanEnv(x.dir)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "answer\n42") {
			t.Fatalf("bq: %v\n%s\n%s", err, out, x.gw.out)
		}
	})
	t.Run("receipts", func(t *testing.T) { x.receipts(t) })
	t.Run("killed", func(t *testing.T) {
		one = x.killed(t, one)
	})
	t.Run("partition", func(t *testing.T) {
		x.in("sw", "link", "set", "c2-outside", "down")
		x.becomes("main-2", "away")
		if status, _, body := x.insert("SELECT 1"); status != 200 {
			t.Errorf("by the other connector: %d %s", status, body)
		}
		x.in("sw", "link", "set", "c2-outside", "up")
		x.becomes("main-2", "connected")
	})
	t.Run("revoked", func(t *testing.T) {
		x.r.must("connector", "revoke", "main-2")
		if state := x.state("main-2"); state != "revoked" {
			t.Errorf("main-2 is %s", state)
		}
		if err := two.cmd.Wait(); err == nil || two.cmd.ProcessState.ExitCode() != 4 {
			t.Errorf("a revoked connector ended with %v\n%s", err, two.out)
		}
		if status, _, body := x.insert("SELECT 1"); status != 200 {
			t.Errorf("by the other connector: %d %s", status, body)
		}
	})
	t.Run("drained", func(t *testing.T) {
		x.ask("hold")
		answered := make(chan int, 1)
		go func() {
			status, _, _ := x.insert("SELECT 2")
			answered <- status
		}()
		waitFor(t, readyTimeout, func() bool { return x.ask("waiting")["waiting"] > 0 }, func() string { return "no call arrives" })
		ended := make(chan int, 1)
		go func() { ended <- one.stop() }()
		x.becomes("main-1", "draining")
		if status, _, body := x.insert("SELECT 3"); status != http.StatusServiceUnavailable {
			t.Errorf("a call for who drains: %d %s", status, body)
		}
		x.ask("release")
		if status := <-answered; status != 200 {
			t.Errorf("the call that was under way: %d", status)
		}
		if code := <-ended; code != 0 {
			t.Errorf("it ended with %d\n%s", code, one.out)
		}
	})
	if code := x.gw.stop(); code != 0 {
		t.Errorf("the gateway ended with %d\n%s", code, x.gw.out)
	}
	x.r.must("verify")
}

// receipts checks every one with nothing but the trail: the key stands in the entry about
// the enrolment.
func (x *tunnels) receipts(t *testing.T) {
	keys := map[string][]byte{}
	for _, w := range x.r.search(`action = "connector.enroll"`) {
		key, err := base64.StdEncoding.DecodeString(w.Entry.Event.Detail["public_key"])
		if err != nil {
			t.Fatal(err)
		}
		keys[w.Entry.Event.Detail["key_sha256"]] = key
	}
	checked := 0
	for _, w := range x.r.calls() {
		if w.Closing == nil || w.Entry.Upstream == nil || w.Entry.Upstream.Mode == "local" || w.Entry.Outcome.End == trailgate.EndNotForwarded {
			continue
		}
		for _, e := range x.stages(t, w.Entry.ID) {
			if e.Kind != trailgate.KindOutcome {
				continue
			}
			if e.Upstream == nil || e.Upstream.Connector == nil {
				t.Errorf("%s went through no connector: %+v", w.Entry.Method, e.Upstream)
				continue
			}
			use := e.Upstream.Connector
			if err := trailgate.CheckReceipt(e, keys[use.KeySHA256]); err != nil || use.Verdict != trailgate.ReceiptGood || use.Credential != trailgate.CredentialGateway {
				t.Errorf("%s: %v %+v", w.Entry.Method, err, use)
			}
			checked++
			// A change to what the entry says is found out by it.
			e.Outcome.Bytes++
			if trailgate.CheckReceipt(e, keys[use.KeySHA256]) == nil {
				t.Error("an entry that was changed passes")
			}
		}
	}
	if checked < 2 {
		t.Errorf("%d receipts were checked", checked)
	}
}

// stages are all entries of a call.
func (x *tunnels) stages(t *testing.T, id string) []*trailgate.Entry {
	t.Helper()
	var said struct {
		Stages []*trailgate.Entry `json:"stages"`
	}
	out := x.r.must("show", id, "-o", "json")
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return said.Stages
}

// killed ends a connector under load, as a crash would, and returns it running again.
func (x *tunnels) killed(t *testing.T, one *process) *process {
	const connections, after = 64, 5
	var mu sync.Mutex
	answered, lost := map[string]bool{}, map[string]bool{}
	var wg sync.WaitGroup
	x.ask("hold")
	for range connections {
		wg.Go(func() {
			for range after {
				status, entry, body := x.insert("SELECT 1")
				mu.Lock()
				switch {
				case status == 200:
					answered[entry] = true
				case status == http.StatusBadGateway && strings.Contains(body, "being asked of BigQuery"):
					lost[entry] = true
				default:
					t.Errorf("%d %s", status, body)
				}
				mu.Unlock()
			}
		})
	}
	waitFor(t, readyTimeout, func() bool { return x.ask("waiting")["waiting"] == connections }, func() string {
		return fmt.Sprintf("%d calls of %d arrive", x.ask("waiting")["waiting"], connections)
	})
	one.kill()
	x.becomes("main-1", "away")
	x.ask("release")
	wg.Wait()
	if len(lost) == 0 || len(answered)+len(lost) != connections*after {
		t.Errorf("%d answered, %d lost of %d", len(answered), len(lost), connections*after)
	}
	one = x.connect("c1", "main-1")
	x.becomes("main-1", "connected")

	// Each arrived once, and made one job, the lost ones too, which are settled by that.
	arrived, jobs := x.ask("arrivals"), x.ask("jobs")
	for _, group := range []map[string]bool{answered, lost} {
		for entry := range group {
			if arrived[entry] != 1 || jobs[entry] != 1 {
				t.Errorf("%s arrived %d times and made %d jobs", entry, arrived[entry], jobs[entry])
			}
		}
	}
	waitFor(t, readyTimeout, func() bool {
		settled := 0
		for _, w := range x.r.search(`state = "settled"`) {
			if lost[w.Entry.ID] {
				settled++
			}
		}
		return settled == len(lost)
	}, func() string { return "not all lost calls are settled\n" + x.gw.out.String() })
	for _, w := range x.r.search(`state = "settled"`) {
		if lost[w.Entry.ID] && (w.State != index.StateSettled || w.Entry.Outcome.End != "job_found") {
			t.Errorf("%s: %s %+v", w.Entry.ID, w.State, w.Entry.Outcome)
		}
	}
	return one
}
