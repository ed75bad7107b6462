package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/idptest"
	"github.com/trailgate/trailgate/internal/index"
)

// row is what the index has of a call.
type row = index.Row

// asker asks numbered questions with one credential and knows what became of each.
type asker struct {
	*asking
	t    *testing.T
	r    *idRig
	name string
}

// questions numbers them all, so that each is its own in trail and BigQuery.
var questions atomic.Int64

func (r *idRig) asker(t *testing.T, kind, agent string) *asker {
	t.Helper()
	for _, in := range inbounds {
		if in.name == kind {
			return &asker{asking: r.startAsking(t, in.goEnv(r, agent)...), t: t, r: r, name: kind + "-" + agent}
		}
	}
	t.Fatalf("no way in is called %s", kind)
	return nil
}

func (a *asker) next() string { return fmt.Sprintf("%s-%d", a.name, questions.Add(1)) }

// works asks, wants the answer, and returns the question.
func (a *asker) works(project string) string {
	a.t.Helper()
	tag := a.next()
	sql := "SELECT '" + tag + "' AS tag"
	if got := a.ask(project, sql); got.Failed || got.Value != tag {
		a.t.Errorf("%s in %s: %+v", tag, project, got)
	}
	return sql
}

// fails asks, wants a refusal of one of these codes, and no job for it.
func (a *asker) fails(project string, codes ...int) reply {
	a.t.Helper()
	sql := "SELECT '" + a.next() + "' AS tag"
	got := a.ask(project, sql)
	if !got.Failed || !slices.Contains(codes, got.Code) {
		a.t.Errorf("%s in %s: %+v, want one of %v", sql, project, got, codes)
	}
	for _, job := range a.r.box.box.Jobs() {
		if job.Statement == sql {
			a.t.Errorf("%s was refused, and BigQuery has a job for it by %s", sql, job.Principal)
		}
	}
	return got
}

// learns asks until the refusal says what was taken away: the first call still
// carries the token that the gateway had, and is told to try again. Until then
// every call fails too.
func (a *asker) learns(project string) {
	a.t.Helper()
	waitFor(a.t, readyTimeout, func() bool {
		if a.fails(project, 503, 403).Code == 403 {
			return true
		}
		time.Sleep(200 * time.Millisecond)
		return false
	}, func() string { return "the gateway does not learn that its token is of no use" })
}

// says is fails with words that the refusal must have.
func (a *asker) says(project string, code int, words ...string) {
	a.t.Helper()
	got := a.fails(project, code)
	for _, w := range words {
		if !strings.Contains(got.Message, w) {
			a.t.Errorf("%s in %s: the refusal does not say %q: %s", a.name, project, w, got.Message)
		}
	}
}

// TestIdentityRevocation: what is taken away is gone with the next call, for the one
// it was taken from and for nobody else, however warm the caches are.
func TestIdentityRevocation(t *testing.T) {
	r := newIDRig(t)
	for _, agent := range agents {
		r.prepare(agent)
		r.consent(humans[agent])
	}
	t.Run("impersonation grant", func(t *testing.T) { checkRevokedGrant(t, r) })
	t.Run("consent at Google", func(t *testing.T) { checkRevokedConsent(t, r) })
	t.Run("consent at the gateway", func(t *testing.T) { checkWithdrawnConsent(t, r) })
	t.Run("session", func(t *testing.T) { checkRevokedSession(t, r) })
	t.Run("token", func(t *testing.T) { checkRevokedToken(t, r) })
	t.Run("agent", func(t *testing.T) { checkRevokedAgent(t, r) }) // last: an agent does not come back
	r.checkPrincipals(t, r.calls())
	if out := r.must("verify"); !strings.HasPrefix(out, "good: ") {
		t.Errorf("verify says %s", out)
	}
}

// checkRevokedGrant: the first calls after it still carry the token that the gateway
// had, which Google no longer takes; then the gateway knows why.
func checkRevokedGrant(t *testing.T, r *idRig) {
	one, other := r.asker(t, "token", etl), r.asker(t, "token", analyst)
	one.works(pBecome)
	other.works(pBecome)
	r.google.RevokeImpersonation(gatewaySA, serviceAccount(etl, pBecome))
	one.learns(pBecome)
	one.says(pBecome, 403, "connection become", serviceAccount(etl, pBecome), "gcloud iam service-accounts add-iam-policy-binding")
	other.works(pBecome)
	// No other connection's credential steps in, and others are not harmed.
	one.works(pOnward)
	r.google.AllowImpersonation(gatewaySA, serviceAccount(etl, pBecome))
	comesBack(t, func() bool { return !one.ask(pBecome, "SELECT '"+one.next()+"' AS tag").Failed })
}

func checkRevokedConsent(t *testing.T, r *idRig) {
	one, other := r.asker(t, "token", etl), r.asker(t, "jwt", analyst)
	one.works(pHuman)
	other.works(pHuman)
	r.google.RevokeConsent(humans[etl])
	one.learns(pHuman)
	refreshes := r.google.Calls(idptest.PathToken)
	for range 5 {
		one.says(pHuman, 403, "connection human", humans[etl], "/consent/human")
	}
	if asked := r.google.Calls(idptest.PathToken) - refreshes; asked > 1 {
		t.Errorf("Google was asked %d times about a consent that is gone", asked)
	}
	other.works(pHuman)
	r.consent(humans[etl])
	one.works(pHuman)
}

// checkWithdrawnConsent revokes by the admin API.
func checkWithdrawnConsent(t *testing.T, r *idRig) {
	one, other := r.asker(t, "token", etl), r.asker(t, "token", analyst)
	one.works(pHuman)
	other.works(pHuman)
	r.adminPost(t, "/api/v1/consents/human:revoke", `{"human":"`+humans[etl]+`"}`)
	one.says(pHuman, 403, "connection human", "/consent/human")
	other.works(pHuman)
	r.calls() // the index has it all
	if rows := r.search(`action = "consent.revoke"`); len(rows) != 1 {
		t.Errorf("%d entries about the consent that was withdrawn", len(rows))
	}
}

// checkRevokedSession ends one session token; the credential it was got for stays good.
func checkRevokedSession(t *testing.T, r *idRig) {
	one, other := r.asker(t, "exchange", etl), r.asker(t, "exchange", etl)
	sql := one.works(pSigned)
	other.works(pSigned)
	r.must("agent", "revoke", etl, "--session", r.principalOf(t, sql).TokenID)
	one.fails(pSigned, 401)
	other.works(pSigned)
	r.asker(t, "jwt", etl).works(pSigned)
}

// checkRevokedToken: what it was exchanged for goes with it.
func checkRevokedToken(t *testing.T, r *idRig) {
	direct, traded, other := r.asker(t, "token", etl), r.asker(t, "traded-token", etl), r.asker(t, "token", analyst)
	sql := direct.works(pBecome)
	traded.works(pBecome)
	other.works(pBecome)
	r.must("agent", "revoke", etl, "--token", r.principalOf(t, sql).TokenID)
	direct.fails(pBecome, 401)
	traded.fails(pBecome, 401)
	other.works(pBecome)
	r.asker(t, "jwt", etl).works(pBecome)
}

// checkRevokedAgent: every kind of credential ends, also those that others issued.
func checkRevokedAgent(t *testing.T, r *idRig) {
	var all []*asker
	for _, kind := range []string{"jwt", "exchange", "certificate"} {
		all = append(all, r.asker(t, kind, etl))
	}
	other := r.asker(t, "certificate", analyst)
	for _, a := range append(all, other) {
		a.works(pBecome)
	}
	r.must("agent", "revoke", etl)
	for _, a := range all {
		a.fails(pBecome, 401)
	}
	other.works(pBecome)
	// A JWT that was never seen is no way round it.
	write(t, r.file(etl, "jwt"), r.jwt(etl, nil))
	r.asker(t, "jwt", etl).fails(pBecome, 401)
}

// principalOf is whom the trail has a question down to.
func (r *idRig) principalOf(t *testing.T, sql string) *trailgate.Principal {
	t.Helper()
	for _, w := range r.calls() {
		if len(w.Entry.Statements) == 1 && w.Entry.Statements[0].Text == sql {
			return w.Entry.Principal
		}
	}
	t.Fatalf("%s is not in the trail", sql)
	return nil
}

// adminPost changes something by the admin API, as the administrator.
func (r *idRig) adminPost(t *testing.T, path, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.adminURL()+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(read(t, r.data("admin.token"))))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		var text bytes.Buffer
		_, _ = text.ReadFrom(resp.Body) // for the message
		t.Fatalf("%s: %s %s", path, resp.Status, &text)
	}
}

// comesBack waits a little for what was given back: failures are remembered for a moment.
func comesBack(t *testing.T, so func() bool) {
	t.Helper()
	waitFor(t, 10*time.Second, func() bool {
		if so() {
			return true
		}
		time.Sleep(200 * time.Millisecond)
		return false
	}, func() string { return "it was given back, and does not work again" })
}
