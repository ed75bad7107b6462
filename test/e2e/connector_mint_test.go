package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/idptest"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/sandbox"
)

// Accounts in the project: the connector's own, and one that may list all jobs.
const (
	connectorSA = "connector@demo-project.iam.gserviceaccount.com"
	auditorSA   = "auditor@demo-project.iam.gserviceaccount.com"
)

// minting is a gateway without any credential of Google's, and a connector that makes
// them, before a BigQuery that looks at whose tokens come.
type minting struct {
	*rig
	google *idptest.Google
	held   *held
	bq     string // where BigQuery is
	door   string // for connectors
	side   string // the connector's directory
}

func newMinting(t *testing.T) *minting {
	t.Helper()
	endToEnd(t)
	m := &minting{
		rig: &rig{t: t, dir: t.TempDir(), addr: freeAddr(t), out: &output{}}, google: idptest.NewGoogle(t), door: freeAddr(t), side: t.TempDir(),
	}
	box, err := sandbox.New(sandbox.Config{Projects: []string{"demo-project"}, Principal: m.google.Principal})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close() })
	m.held = &held{upstream: &upstream{box: box}}
	m.box = m.held.upstream
	srv := httptest.NewServer(m.held)
	t.Cleanup(srv.Close)
	m.bq = srv.URL

	m.google.AddServiceAccount(connectorSA)
	for _, agent := range agents {
		m.google.AllowImpersonation(connectorSA, serviceAccount(agent, "demo-project"))
	}
	m.google.AllowImpersonation(connectorSA, auditorSA)
	m.must("init", "--dir", m.dir)
	write(t, m.config(), fmt.Sprintf(`id: e2e
data_dir: data
gateway: {listen: %q}
admin: {listen: "off"}
connectors: {listen: %q}
policy: {record_only: true}
reconcile: {every: 0s, grace: 0s}
connections:
  - name: main
    projects: [demo-project]
    connectors: true
    upstream: %s
    credential: {mode: connector}
    reconcile: {credential: {mode: connector}}
`, m.addr, m.door, m.bq))
	m.start()
	for _, agent := range agents {
		m.must("agent", "add", agent)
		write(t, m.tokenFile(agent), m.must("agent", "token", agent))
	}
	write(t, filepath.Join(m.side, "connector-sa.json"), string(m.google.ServiceAccountKey(connectorSA)))
	m.serveMain(true)
	write(t, filepath.Join(m.side, "token"), m.must("connector", "enroll-token", "--connection", "main", "--name", "main-1"))
	if _, errs, code := command(t, binary, "connector", "enroll", "--config", m.connectorFile(), "--token-file", filepath.Join(m.side, "token")); code != 0 {
		t.Fatalf("enroll: exit %d\n%s", code, errs)
	}
	return m
}

func (m *minting) connectorFile() string { return filepath.Join(m.side, "connector.yaml") }

// serveMain configures the connector, with an auditor or without.
func (m *minting) serveMain(withAuditor bool) {
	m.t.Helper()
	auditor := ""
	if withAuditor {
		auditor = "    auditor: {mode: impersonation, credential_file: connector-sa.json, service_account: " + auditorSA + "}\n"
	}
	write(m.t, m.connectorFile(), fmt.Sprintf(`gateway: %s
state_dir: state
allow: [%q]
endpoints: {sts: %[3]s, iam_credentials: %[3]s, oauth_token: %[4]s}
connections:
  - name: main
    credential:
      mode: impersonation
      credential_file: connector-sa.json
      service_account: "{agent}@{project}.iam.gserviceaccount.com"
%[5]s`, m.door, m.bq, m.google.URL(), m.google.TokenURL(), auditor))
}

func (m *minting) connect() *process {
	m.t.Helper()
	p := &process{t: m.t, cmd: exec.Command(binary, "connector", "--config", m.connectorFile()), out: &output{}}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = p.out, p.out, cleanEnv(m.side)
	p.begin("msg=connected")
	return p
}

// insert begins a job as an agent.
func (m *minting) insert(agent, sql string) (status int, entry, body string) {
	raw, err := json.Marshal(map[string]any{"configuration": map[string]any{"query": map[string]any{"query": sql, "useLegacySql": false}}})
	if err != nil {
		m.t.Error(err)
		return 0, "", ""
	}
	req, err := http.NewRequest(http.MethodPost, m.url()+"/bigquery/v2/projects/demo-project/jobs", strings.NewReader(string(raw)))
	if err != nil {
		m.t.Error(err)
		return 0, "", ""
	}
	req.Header.Set("Authorization", "Bearer "+m.token(agent))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Error(err)
		return 0, "", ""
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Error(err)
	}
	return resp.StatusCode, resp.Header.Get("X-Trailgate-Entry"), string(said)
}

// whose tells as whom a request reached BigQuery.
func (m *minting) whose(a arrival) string {
	token, _ := strings.CutPrefix(a.authorization, "Bearer ")
	principal, _ := m.google.Principal(token)
	return principal
}

// TestConnectorMints: the connector makes the credential of each call, by its own, for an
// account of the agent's. Two agents at once are never mixed up; the trail has who Google
// saw, and through which connector; a call that was lost is settled as its agent; what the
// gateway asks for itself goes on as the auditor, or not at all; and nothing of Google's
// is at the gateway.
func TestConnectorMints(t *testing.T) {
	m := newMinting(t)
	connector := m.connect()

	const each = 20
	var mu sync.Mutex
	by := map[string]string{} // entry → agent
	var wg sync.WaitGroup
	for range 2 {
		for _, agent := range agents {
			wg.Go(func() {
				for range each {
					status, entry, body := m.insert(agent, "SELECT 1")
					if status != 200 {
						t.Errorf("%s: %d %s", agent, status, body)
						return
					}
					mu.Lock()
					by[entry] = agent
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	if len(by) != 2*each*len(agents) {
		t.Fatalf("%d calls", len(by))
	}
	for _, a := range m.box.arrivals() {
		if agent := by[a.reason]; agent == "" || m.whose(a) != serviceAccount(agent, "demo-project") {
			t.Errorf("%s of %q reached BigQuery as %q", a.path, agent, m.whose(a))
		}
	}
	rows := m.calls()
	seen := 0
	for _, w := range rows {
		agent := by[w.Entry.ID]
		if agent == "" {
			continue
		}
		seen++
		want := serviceAccount(agent, "demo-project")
		if w.Entry.Principal.Agent != agent || w.Entry.Upstream.Principal != want || w.Entry.Upstream.Mode != "impersonation" || w.Entry.Upstream.Shared {
			t.Errorf("%s: %+v %+v", agent, w.Entry.Principal, w.Entry.Upstream)
		}
		use := w.Entry.Upstream.Connector
		if use == nil || use.Name != "main-1" || use.Credential != trailgate.CredentialConnector || use.Verdict != trailgate.ReceiptGood || !strings.Contains(use.Receipt, "\nprincipal "+want+"\n") {
			t.Errorf("%s: %+v", agent, use)
		}
	}
	if seen != len(by) {
		t.Errorf("the trail has %d of %d calls", seen, len(by))
	}

	t.Run("refused by IAM", func(t *testing.T) {
		m.must("agent", "add", "nobody")
		write(t, m.tokenFile("nobody"), m.must("agent", "token", "nobody"))
		before := len(m.box.arrivals())
		if status, _, body := m.insert("nobody", "SELECT 1"); status != http.StatusForbidden || !strings.Contains(body, "no Google credential") {
			t.Errorf("%d %s", status, body)
		}
		if len(m.box.arrivals()) != before {
			t.Error("it went on as somebody else")
		}
	})
	t.Run("settled", func(t *testing.T) { connector = m.settledAsAgent(t, connector) })
	t.Run("reconcile", func(t *testing.T) {
		before := len(m.box.arrivals())
		// Each job has its entry; the settled one, too.
		if c := m.reconcile(0).Connections[0]; c.Counts.Both != int64(len(by))+1 || c.Percent != 100 {
			t.Errorf("%+v", c)
		}
		asked := m.box.arrivals()[before:]
		for _, a := range asked {
			if m.whose(a) != auditorSA || a.verb != http.MethodGet {
				t.Errorf("%s %s as %q", a.verb, a.path, m.whose(a))
			}
		}
		if len(asked) == 0 {
			t.Error("BigQuery was not asked")
		}
		connector.stop()
		m.serveMain(false)
		connector = m.connect()
		before = len(m.box.arrivals())
		if _, errs, code := m.run("reconcile"); code == 0 || code == 3 || !strings.Contains(errs, "no auditor's credential for connection main") {
			t.Errorf("without an auditor: exit %d\n%s", code, errs)
		}
		if n := len(m.box.arrivals()); n != before {
			t.Errorf("without an auditor BigQuery was asked %d times", n-before)
		}
	})
	if code := connector.stop(); code != 0 {
		t.Errorf("the connector ended with %d\n%s", code, connector.out)
	}
	m.nothingOfGoogles(t)
	m.must("verify")
	m.stop()
	if _, errs, code := m.run("reconcile"); code == 0 || code == 3 || !strings.Contains(errs, "goes through connectors") {
		t.Errorf("where no gateway runs: exit %d\n%s", code, errs)
	}
}

// settledAsAgent loses a call's tunnel, and has its end asked for as the agent.
func (m *minting) settledAsAgent(t *testing.T, connector *process) *process {
	m.held.mu.Lock()
	gate := make(chan struct{})
	m.held.gate = gate
	m.held.mu.Unlock()
	answered := make(chan string, 1)
	go func() {
		_, entry, _ := m.insert("etl-bot", "SELECT 7")
		answered <- entry
	}()
	waitFor(t, readyTimeout, func() bool {
		m.held.mu.Lock()
		defer m.held.mu.Unlock()
		return m.held.waiting == 1
	}, func() string { return "the call does not arrive" })
	connector.kill()
	lost := <-answered
	m.held.mu.Lock()
	m.held.gate = nil
	m.held.mu.Unlock()
	close(gate)
	before := len(m.box.arrivals())
	connector = m.connect()
	waitFor(t, readyTimeout, func() bool {
		for _, w := range m.search(`state = "settled"`) {
			if w.Entry.ID == lost && w.State == index.StateSettled {
				return true
			}
		}
		return false
	}, func() string { return "it is not settled\n" + m.out.String() })
	asked := m.box.arrivals()[before:]
	for _, a := range asked {
		if m.whose(a) != serviceAccount("etl-bot", "demo-project") {
			t.Errorf("settling asks %s as %q", a.path, m.whose(a))
		}
	}
	if len(asked) == 0 {
		t.Error("BigQuery was not asked")
	}
	return connector
}

// nothingOfGoogles looks through all that the gateway has on disk, and through what it
// said, for any token that Google gave out and for the connector's key.
func (m *minting) nothingOfGoogles(t *testing.T) {
	t.Helper()
	var key struct {
		PrivateKeyID string `json:"private_key_id"`
	}
	if err := json.Unmarshal([]byte(read(t, filepath.Join(m.side, "connector-sa.json"))), &key); err != nil || key.PrivateKeyID == "" {
		t.Fatal(err)
	}
	secrets := []string{key.PrivateKeyID}
	for _, x := range m.google.Issued() {
		secrets = append(secrets, x.Token)
	}
	if len(secrets) < 4 {
		t.Errorf("%d secrets are looked for", len(secrets))
	}
	look := func(where, text string) {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("%s has a credential of Google's", where)
			}
		}
	}
	look("the gateway's log", m.out.String())
	err := filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		look(path, string(raw))
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
