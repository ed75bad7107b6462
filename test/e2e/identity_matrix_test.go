package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/idptest"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/sandbox"
)

// inbound is one way in which an agent says who it is.
type inbound struct {
	name     string
	authMode string
	humanBy  string
	ownJWT   bool // the gateway has a JWT of the agent's own to go on with
	subject  func(agent string) string
	// goEnv and bqEnv set a client up; bqEnv is nil where bq cannot do it.
	goEnv, bqEnv func(r *idRig, agent string) []string
	bqOnce       bool   // with one connection alone
	file         string // what "agent credential" wrote, where that is it: for Node and Python, too
}

func bearerIn(file func(r *idRig, agent string) string) (goEnv, bqEnv func(*idRig, string) []string) {
	return func(r *idRig, agent string) []string { return []string{"TOKEN_FILE=" + file(r, agent)} },
		func(r *idRig, agent string) []string {
			return []string{"CLOUDSDK_AUTH_ACCESS_TOKEN_FILE=" + file(r, agent)}
		}
}

// fileIn is for the file that "agent credential" writes, and the environment that
// it prints.
func fileIn(kind string) (goEnv, bqEnv func(*idRig, string) []string) {
	return func(r *idRig, agent string) []string { return []string{"CREDENTIALS=" + r.file(agent, kind+".json")} },
		func(r *idRig, agent string) []string { return r.printed[r.file(agent, kind+".json")] }
}

// The files that prepare writes for each agent.
func (r *idRig) file(agent, kind string) string { return filepath.Join(r.dir, agent+"."+kind) }

var inbounds = func() []inbound {
	own := func(agent string) string { return agent }
	token := inbound{name: "token", authMode: trailgate.AuthGatewayToken, humanBy: trailgate.HumanByAdmin, subject: own}
	token.goEnv, token.bqEnv = bearerIn(func(r *idRig, agent string) string { return r.file(agent, "token") })
	jwt := inbound{name: "jwt", authMode: trailgate.AuthJWT, humanBy: trailgate.HumanByIssuer, ownJWT: true, subject: subjectOf}
	jwt.goEnv, jwt.bqEnv = bearerIn(func(r *idRig, agent string) string { return r.file(agent, "jwt") })
	exchange := inbound{name: "exchange", authMode: trailgate.AuthTokenExchange, humanBy: trailgate.HumanByIssuer, ownJWT: true, subject: subjectOf}
	exchange.goEnv, exchange.bqEnv = fileIn("external")
	exchange.file = "external"
	traded := inbound{name: "traded-token", authMode: trailgate.AuthTokenExchange, humanBy: trailgate.HumanByAdmin, subject: own}
	traded.goEnv, traded.bqEnv = fileIn("traded")
	traded.file = "traded"
	traded.bqOnce = true
	cert := inbound{name: "certificate", authMode: trailgate.AuthCertificate, humanBy: trailgate.HumanByIssuer, subject: func(agent string) string { return "spiffe://corp.example/agent/" + agent }}
	cert.goEnv = func(r *idRig, agent string) []string {
		return []string{"CLIENT_CERT=" + r.file(agent, "cert.pem"), "CLIENT_KEY=" + r.file(agent, "key.pem")}
	}
	return []inbound{token, jwt, exchange, traded, cert}
}()

// prepare writes every credential of an agent, each as its owner would get it.
func (r *idRig) prepare(agent string) {
	r.t.Helper()
	write(r.t, r.file(agent, "token"), r.must("agent", "token", agent, "--human", humans[agent]))
	write(r.t, r.file(agent, "jwt"), r.jwt(agent, nil)+"\n")
	for kind, subject := range map[string][]string{"external": {"jwt", "jwt"}, "traded": {"token", "token"}} {
		out := r.file(agent, kind+".json")
		r.printed[out] = evaluated(r.t, r.must("agent", "credential", agent, "--out", out, "--subject-file", r.file(agent, subject[0]), "--subject-type", subject[1]))
	}
	cert, key := r.spiffe.issue(r.t, svid("corp.example", agent))
	write(r.t, r.file(agent, "cert.pem"), string(cert))
	write(r.t, r.file(agent, "key.pem"), string(key))
}

// evaluated is the environment that a shell has from lines that were printed for it.
func evaluated(t *testing.T, lines string) []string {
	t.Helper()
	cmd := exec.Command("bash", "--noprofile", "--norc", "-c", `eval "$1"; env -0`, "bash", lines)
	cmd.Env = cleanEnv(t.TempDir())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("evaluate what was printed: %v\n%s", err, lines)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

// outbound is one connection, and as whom it must reach BigQuery.
type outbound struct {
	project   string
	mode      string
	shared    bool
	assertion string // whose JWT is exchanged
	// as is the principal; refused tells why there is none.
	as      func(in inbound, agent string) string
	refused func(in inbound) bool
	goOnly  bool // bq would tell nothing that it does not tell of another
}

func never(inbound) bool { return false }

func withoutOwnJWT(in inbound) bool { return !in.ownJWT }

func federated(in inbound, agent string) string {
	return idptest.SubjectPrincipal(poolOfAgents, in.subject(agent))
}

var outbounds = []outbound{
	{project: pNone, mode: "none", as: func(inbound, string) string { return sandbox.AnonymousPrincipal }, refused: never},
	{project: pStatic, mode: "static", shared: true, as: func(inbound, string) string { return gatewaySA }, refused: never},
	{project: pBecome, mode: "impersonation", as: func(_ inbound, agent string) string { return serviceAccount(agent, pBecome) }, refused: never},
	{project: pHuman, mode: "oauth", as: func(_ inbound, agent string) string { return humans[agent] }, refused: never},
	{project: pOwn, mode: "workload", assertion: "agent", as: federated, refused: withoutOwnJWT},
	{
		project: pSigned, mode: "workload", assertion: "gateway", refused: never,
		as: func(_ inbound, agent string) string { return idptest.SubjectPrincipal(poolOfGateway, "agent:"+agent) },
	},
	{project: pOnward, mode: "workload", assertion: "gateway", as: func(_ inbound, agent string) string { return serviceAccount(agent, pOnward) }, refused: never},
	{
		project: pOwnOnward, mode: "workload", assertion: "agent", refused: withoutOwnJWT, goOnly: true,
		as: func(_ inbound, agent string) string { return serviceAccount(agent, pOwnOnward) },
	},
	// Its provider trusts the agents' issuer, so that Google refuses what the
	// gateway signs, and nothing else is tried.
	{project: pPrefer, mode: "workload", assertion: "agent", as: federated, refused: withoutOwnJWT, goOnly: true},
}

// asked is one question of the matrix and what it gave.
type asked struct {
	in      inbound
	out     outbound
	agent   string
	client  string
	tag     string
	failed  bool
	message string
}

func (a asked) sql() string { return fmt.Sprintf("SELECT '%s' AS tag", a.tag) }

// TestIdentityMatrix: every way in with every way out, by two agents at once, with
// bq and the Go client, and, where it comes by a credential file, npm's client and
// Python's google-auth with the same one. Each gets the answer to its own question; BigQuery sees for
// each job the principal that the trail names, which is the agent's own.
func TestIdentityMatrix(t *testing.T) {
	needBQ(t)
	others := fileClients(t)
	r := newIDRig(t)
	for _, agent := range agents {
		r.prepare(agent)
		r.consent(humans[agent])
	}
	var mu sync.Mutex // guards all
	var all []asked
	each := func(do func(agent string) []asked) {
		var wg sync.WaitGroup
		for _, agent := range agents {
			wg.Go(func() {
				got := do(agent)
				mu.Lock()
				defer mu.Unlock()
				all = append(all, got...)
			})
		}
		wg.Wait()
	}
	for _, in := range inbounds {
		for round := range 2 { // the second time from a warm cache
			each(func(agent string) []asked { return r.askAll(t, in, agent, round) })
		}
		if in.bqEnv != nil {
			each(func(agent string) []asked { return r.bqAll(t, in, agent) })
		}
		if in.file == "" {
			continue
		}
		for _, other := range others {
			each(func(agent string) []asked {
				return r.askWith(t, r.startProgram(t, other.start(r.dir, r.printed[r.file(agent, in.file+".json")])), other.name, in, agent)
			})
		}
	}
	rows := r.calls()
	r.checkPrincipals(t, rows)
	r.checkAsked(t, all, rows)
	r.checkAssertions(t, rows)
	r.checkIDSecrets(t)
	if out := r.must("verify"); !strings.HasPrefix(out, "good: ") {
		t.Errorf("verify says %s", out)
	}
}

// askAll asks through every connection with the Go client, in one process.
func (r *idRig) askAll(t *testing.T, in inbound, agent string, round int) []asked {
	return r.askWith(t, r.startAsking(t, in.goEnv(r, agent)...), fmt.Sprint("go-", round), in, agent)
}

func (r *idRig) askWith(t *testing.T, client *asking, kind string, in inbound, agent string) []asked {
	var all []asked
	for _, out := range outbounds {
		a := asked{in: in, out: out, agent: agent, client: kind, tag: fmt.Sprintf("%s-%s-%s-%s", kind, in.name, out.project, agent)}
		got := client.ask(out.project, a.sql())
		if shared := out.shared || out.mode == "none"; shared && strings.Contains(got.Message, "was used for another query before") {
			// Google's Go client makes each request id from the clock alone, to 10 ns: those of two
			// processes can be the same, which BigQuery minds where they share a principal, and nowhere else.
			got = client.ask(out.project, a.sql())
		}
		a.failed, a.message = got.Failed, got.Message
		if !got.Failed && got.Value != a.tag {
			t.Errorf("%s: the answer is %q", a.tag, got.Value)
		}
		if got.Failed && (got.Code != 403 || got.Reason != "accessDenied") {
			t.Errorf("%s: the refusal is %+v, want a 403 accessDenied", a.tag, got)
		}
		all = append(all, a)
	}
	return all
}

// bqAll does so with bq, a process a question.
func (r *idRig) bqAll(t *testing.T, in inbound, agent string) []asked {
	home := t.TempDir()
	write(t, filepath.Join(home, "bigqueryrc"), "")
	var all []asked
	for _, out := range outbounds {
		s := side{dir: home, env: map[string][]string{agent: append(append(cleanEnv(home), in.bqEnv(r, agent)...),
			"CLOUDSDK_CONFIG="+filepath.Join(home, "gcloud"), "BIGQUERYRC="+filepath.Join(home, "bigqueryrc"), "CLOUDSDK_CORE_PROJECT="+out.project,
			"CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERY="+r.url()+"/", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE="+filepath.Join(r.dir, "ca.pem"))}}
		if out.goOnly || in.bqOnce && out.project != pBecome {
			continue
		}
		a := asked{in: in, out: out, agent: agent, client: "bq", tag: fmt.Sprintf("bq-%s-%s-%s", in.name, out.project, agent)}
		got := s.bq(t, agent, []string{"--format=csv", "query", "--use_legacy_sql=false", a.sql()})
		a.failed, a.message = got.Code != 0, strings.Join(strings.Fields(got.Stdout+" "+got.Stderr), " ")
		if !a.failed && got.Stdout != "tag\n"+a.tag {
			t.Errorf("%s: bq prints %q, %q", a.tag, got.Stdout, got.Stderr)
		}
		if strings.Contains(a.message, "Traceback") {
			t.Errorf("%s: bq falls over: %s", a.tag, a.message)
		}
		all = append(all, a)
	}
	return all
}

// checkPrincipals holds what BigQuery saw against the trail: each request that
// arrived is of one entry, with a token of the principal that the entry names, and
// each job is that principal's.
func (r *idRig) checkPrincipals(t *testing.T, rows []index.Row) {
	t.Helper()
	whose := map[string]string{}
	for _, i := range r.google.Issued() {
		whose[i.Token] = i.Principal
	}
	byID := map[string]index.Row{}
	for _, w := range forwarded(rows) {
		byID[w.Entry.ID] = w
	}
	for _, a := range r.box.arrivals() {
		w, ok := byID[a.reason]
		if !ok {
			t.Errorf("%s %s reached BigQuery, and is none of the trail's", a.verb, a.path)
			continue
		}
		got, issued := whose[strings.TrimPrefix(a.authorization, "Bearer ")]
		if !issued || got != wentAs(w) {
			t.Errorf("%s by %s reached BigQuery as %q, and the trail says %+v", w.Entry.ID, w.Entry.Principal.Agent, got, upstreamOf(w))
		}
	}
	for _, job := range r.box.box.Jobs() {
		w, ok := byID[job.Labels["trailgate_entry"]]
		if !ok || wentAs(w) != job.Principal || w.Entry.Principal.Agent != job.Labels["trailgate_agent"] {
			t.Errorf("job %s of %s is in the trail as %+v", job.ID, job.Principal, w.Entry)
		}
	}
}

// wentAs is the principal that the trail says a call went on as. Of an opaque token
// in a file the gateway knows it only once BigQuery tells, of jobs.
func wentAs(w index.Row) string {
	if up := upstreamOf(w); up.Principal != "" || up.Mode != "static" {
		return up.Principal
	}
	return gatewaySA
}

// upstreamOf is as whom a call went on, as search tells it.
func upstreamOf(w index.Row) trailgate.Upstream {
	if w.Entry.Upstream == nil {
		return trailgate.Upstream{}
	}
	return *w.Entry.Upstream
}

// checkAsked holds every question against its entry and its job.
func (r *idRig) checkAsked(t *testing.T, all []asked, rows []index.Row) {
	t.Helper()
	jobs := map[string][]string{} // principals by statement
	for _, box := range []*sandbox.Sandbox{r.box.box, r.open} {
		for _, job := range box.Jobs() {
			jobs[job.Statement] = append(jobs[job.Statement], job.Principal)
		}
	}
	byText := map[string]index.Row{}
	for _, w := range rows {
		if len(w.Entry.Statements) == 1 {
			byText[w.Entry.Statements[0].Text] = w
		}
	}
	for _, a := range all {
		w, ok := byText[a.sql()]
		if !ok {
			t.Errorf("%s is not in the trail: %s", a.tag, a.message)
			continue
		}
		e, p := w.Entry, w.Entry.Principal
		want := trailgate.Principal{
			Agent: a.agent, AuthMode: a.in.authMode, Human: humans[a.agent], HumanBy: a.in.humanBy, Subject: a.in.subject(a.agent),
			TokenID: p.TokenID, Issuer: p.Issuer, CredentialSHA256: p.CredentialSHA256, Evidence: p.Evidence,
		}
		if diff := cmp.Diff(want, *p); diff != "" {
			t.Errorf("%s: the principal, want (-), in the trail (+):\n%s", a.tag, diff)
		}
		if (p.Evidence != "") != (p.CredentialSHA256 != "") {
			t.Errorf("%s: credential %q, and evidence %q of it", a.tag, p.CredentialSHA256, p.Evidence)
		}
		if a.out.refused(a.in) {
			name := strings.TrimPrefix(a.out.project, "p-")
			if !a.failed || !strings.Contains(a.message, name) || e.Outcome == nil || e.Outcome.End != trailgate.EndNotForwarded || len(jobs[a.sql()]) != 0 {
				t.Errorf("%s: refused must it be, with connection %s named; failed %v with %q, outcome %+v, jobs %v", a.tag, name, a.failed, a.message, e.Outcome, jobs[a.sql()])
			}
			continue
		}
		as := a.out.as(a.in, a.agent)
		if a.failed || !slices.Equal(jobs[a.sql()], []string{as}) {
			t.Errorf("%s: failed %v with %q; BigQuery has jobs of %v, want one of %s", a.tag, a.failed, a.message, jobs[a.sql()], as)
			continue
		}
		up := trailgate.Upstream{Mode: a.out.mode, Principal: as, Shared: a.out.shared, Assertion: a.out.assertion, Host: strings.TrimPrefix(r.box.url, "http://")}
		if a.out.mode == "none" {
			up.Host = upstreamOf(w).Host
		}
		if got := upstreamOf(w); got.Principal == "" && (a.out.mode == "none" || a.out.mode == "static") {
			up.Principal = "" // the answer to jobs.query does not tell
		}
		if diff := cmp.Diff(up, upstreamOf(w)); diff != "" {
			t.Errorf("%s: as whom it went on, want (-), in the trail (+):\n%s", a.tag, diff)
		}
	}
}

// checkAssertions: the JWT that was exchanged for a token said of the call what
// the trail says, so that IAM conditions and audit logs can go by it.
func (r *idRig) checkAssertions(t *testing.T, rows []index.Row) {
	t.Helper()
	byID := map[string]index.Row{}
	for _, w := range rows {
		byID[w.Entry.ID] = w
	}
	signed := 0
	for _, a := range r.box.arrivals() {
		w, ok := byID[a.reason]
		if !ok || upstreamOf(w).Assertion != "gateway" {
			continue
		}
		e := w.Entry
		signed++
		said := r.google.SubjectClaims(strings.TrimPrefix(a.authorization, "Bearer "))
		want := map[string]any{"iss": r.url(), "agent": e.Principal.Agent, "session": e.Session, "human": e.Principal.Human, "connection": e.Connection}
		got := maps.Clone(said)
		maps.DeleteFunc(got, func(name string, _ any) bool { return want[name] == nil })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: what the gateway signed, want (-), got (+):\n%s", e.ID, diff)
		}
	}
	if signed == 0 {
		t.Error("no call went by a JWT of the gateway's")
	}
}

// checkIDSecrets: no credential of an agent reaches BigQuery or is at rest with the
// gateway, and none of Google's tokens is.
func (r *idRig) checkIDSecrets(t *testing.T) {
	t.Helper()
	secrets := []string{"tgt_", "tgs_"}
	for _, agent := range agents {
		secrets = append(secrets, strings.TrimSpace(read(t, r.file(agent, "jwt"))), strings.TrimSpace(read(t, r.file(agent, "token"))))
	}
	for _, a := range r.box.arrivals() {
		for _, s := range secrets {
			if strings.Contains(a.raw, s) {
				t.Errorf("%s %s reached BigQuery with an agent's credential in it", a.verb, a.path)
			}
		}
	}
	tokens := append(secrets[2:], r.google.RefreshTokens()...)
	for _, i := range r.google.Issued() {
		tokens = append(tokens, i.Token)
	}
	files, err := filepath.Glob(r.data("*"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(r.data("*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(files, more...) {
		text, err := readIfFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range append(tokens, "login-secret", "consent-secret") {
			if strings.Contains(text, s) {
				t.Errorf("a credential, %.6s…, is at rest in %s", s, path)
			}
		}
	}
	for _, s := range tokens {
		if strings.Contains(r.out.String(), s) {
			t.Errorf("a credential, %.6s…, is in the operational log", s)
		}
	}
	var file struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal([]byte(read(t, r.file(etl, "external.json"))), &file); err != nil || file.Type != "external_account" {
		t.Errorf("the credential file is %+v, %v", file, err)
	}
}
