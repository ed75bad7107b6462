package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/idptest"
)

// browser is Chromium on the pages, driven by browser/browser.mjs.
type browser struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Scanner
	err *output
}

// answer is what it says of a command; each has some of these.
type seen struct {
	Error, At, Body, Words, Value, End, Text, Filter string
	Status, Wide, Row                                int
	Good                                             bool
	Violations, Options, Facets, Marks, Checked      []string
	Grids, Complaints                                []string
	Rows                                             json.RawMessage
}

func (s seen) rows(t *testing.T) []string {
	t.Helper()
	var list []string
	if err := json.Unmarshal(s.Rows, &list); err != nil {
		t.Fatalf("rows %s: %v", s.Rows, err)
	}
	return list
}

// chromium is the browser's program.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	need(t, "chromium", "install Debian's chromium")
	return ""
}

// openBrowser starts one; screenshots go where TRAILGATE_SHOTS says.
func openBrowser(t *testing.T, base string) *browser {
	t.Helper()
	need(t, "node", "install Node.js 20 or later (https://nodejs.org)")
	need(t, "npm", "install npm")
	path := chromium(t)
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", ".npmrc", "browser.mjs"} {
		write(t, filepath.Join(dir, name), read(t, filepath.Join("browser", name)))
	}
	ci := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--no-update-notifier")
	ci.Dir = dir
	if out, err := ci.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	shots := os.Getenv("TRAILGATE_SHOTS")
	if shots == "" {
		shots = t.TempDir()
	} else if err := os.MkdirAll(shots, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", "browser.mjs", base, shots)
	cmd.Dir, cmd.Env = dir, append(cleanEnv(t.TempDir()), "CHROMIUM="+path)
	b := &browser{t: t, err: &output{}}
	cmd.Stderr = b.err
	var err error
	if b.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.out = bufio.NewScanner(stdout)
	b.out.Buffer(make([]byte, 1<<20), 16<<20)
	t.Cleanup(func() {
		b.in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the browser ended with %v\n%s", err, b.err)
		}
	})
	return b
}

// do has it do something, which must work.
func (b *browser) do(what string, args ...any) seen {
	b.t.Helper()
	m := map[string]any{"do": what}
	for i := 0; i+1 < len(args); i += 2 {
		m[args[i].(string)] = args[i+1]
	}
	raw, err := json.Marshal(m)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.in.Write(append(raw, '\n')); err != nil {
		b.t.Fatalf("%s: %v\n%s", raw, err, b.err)
	}
	if !b.out.Scan() {
		b.t.Fatalf("%s: no answer\n%s", raw, b.err)
	}
	var s seen
	if err := json.Unmarshal(b.out.Bytes(), &s); err != nil {
		b.t.Fatalf("%s: %s: %v", raw, b.out.Bytes(), err)
	}
	if s.Error != "" {
		b.t.Fatalf("%s at %s: %s\n%s", raw, s.At, s.Error, b.err)
	}
	return s
}

// page opens a page, takes its picture in both colours and on a phone, and has its
// accessibility checked.
func (b *browser) page(path, name string) {
	b.t.Helper()
	if s := b.do("go", "path", path); s.Status != http.StatusOK {
		b.t.Fatalf("%s: %d", path, s.Status)
	}
	b.look(name)
}

func (b *browser) look(name string) {
	b.t.Helper()
	for _, v := range b.do("look", "name", name).Violations {
		b.t.Errorf("%s: %s", name, v)
	}
	b.do("dark", "on", true)
	for _, v := range b.do("look", "name", name+"-dark").Violations {
		b.t.Errorf("%s, dark: %s", name, v)
	}
	b.do("dark", "on", false)
	narrow := b.do("narrow", "name", name+"-narrow")
	for _, v := range narrow.Violations {
		b.t.Errorf("%s, narrow: %s", name, v)
	}
	if narrow.Wide > 360 {
		b.t.Errorf("%s is %d pixels wide on a screen of 360", name, narrow.Wide)
	}
}

// TestBrowser is a human's tour with a real browser: signing in, finding, brushing,
// proving, replaying, approving, watching calls come in; and a proof that turns red.
func TestBrowser(t *testing.T) {
	needBQ(t)
	provider := idptest.NewProvider(t)
	r := newRig(t)
	adminAddr := freeAddr(t)
	base := "http://" + adminAddr
	provider.AddClient("trailgate", "hush", base+"/login/callback")
	write(t, filepath.Join(r.dir, "login.secret"), "hush\n")
	r.govern("recording: {retention: {results: 90d}}\n")
	r.stop()
	text := strings.Replace(read(t, r.config()), `admin: {listen: "off"}`, fmt.Sprintf(`admin:
  listen: %q
  login:
    issuer: %q
    client_id: trailgate
    client_secret_file: login.secret
    roles: {admin: 'claims.email == "boss@example.com"', approver: 'claims.email == "boss@example.com"', auditor: 'claims.email == "audit@example.com"'}`, adminAddr, provider.URL()), 1)
	text = strings.Replace(text, "    credential:", "    recording: {level: results}\n    credential:", 1)
	text += "demo: true\n" // its mark is on every page, and looked at with the rest
	write(t, r.config(), text)
	r.start()
	side := gated(t, r)
	query := func(agent, sql string) said {
		t.Helper()
		return side.bq(t, agent, []string{"query", "--use_legacy_sql=false", sql})
	}
	query("analyst-bot", "SELECT batch_id, COUNT(*) AS first_call FROM staging.imports GROUP BY batch_id ORDER BY batch_id")
	query("analyst-bot", "SELECT batch_id, COUNT(*) AS second_call FROM staging.imports WHERE batch_id > 40 GROUP BY batch_id ORDER BY batch_id")
	query("analyst-bot", "SELECT * FROM nothing.there")
	first := r.search(`statement : "first_call"`)
	if len(first) != 1 {
		t.Fatalf("%d calls", len(first))
	}
	id, session := first[0].Entry.ID, first[0].Entry.Session

	b := openBrowser(t, base)
	// The admin token lets in, another does not.
	b.do("go", "path", "/login/token?next=/trail")
	b.look("token")
	if s := b.do("token", "token", "wrong"); !strings.Contains(s.At, "/login/token") {
		t.Errorf("a wrong token leads to %s", s.At)
	}
	if s := b.do("token", "token", strings.TrimSpace(read(t, r.data("admin.token")))); s.At != base+"/" && s.At != base+"/trail" && !strings.HasPrefix(s.At, base+"/trail?") {
		t.Errorf("the admin token leads to %s", s.At)
	}
	if s := b.do("click", "selector", "header form button"); s.At != base+"/account" {
		t.Errorf("signing out leads to %s", s.At)
	}
	b.look("signed-out")
	// An auditor signs in by name, and is offered nothing of an admin's.
	provider.SignIn(idptest.User{Subject: "1", Email: "audit@example.com", EmailVerified: true})
	if s := b.do("go", "path", "/agents/analyst-bot"); s.At != base+"/agents/analyst-bot" {
		t.Errorf("signing in leads to %s", s.At)
	}
	if s := b.do("at"); strings.Contains(s.Body, "Kill switch") || !strings.Contains(s.Body, "audit@example.com") {
		t.Error("an auditor sees the kill switch, or is not who they are")
	}
	b.do("click", "selector", "header form button")
	provider.SignIn(idptest.User{Subject: "2", Email: "boss@example.com", EmailVerified: true})

	// The trail: filter, completion, counts, brushing, keys.
	b.page("/trail", "trail")
	if got := b.do("complete", "value", `agent = "ana`); !slices.Contains(got.Options, "analyst-bot") || got.Value != `agent = "analyst-bot"` {
		t.Errorf("completion: %+v", got)
	}
	if got := b.do("filter", "value", `statement : "first_call"`).rows(t); len(got) != 1 || !strings.Contains(got[0], "first_call") {
		t.Errorf("filter: %q", got)
	}
	b.do("go", "path", "/trail?filter="+url.QueryEscape(`agent = "analyst-bot"`))
	if got := b.do("facets").Facets; !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "read ") }) {
		t.Errorf("counts: %q", got)
	}
	if s := b.do("brush", "from", 0.1, "to", 0.9); !strings.Contains(strings.ReplaceAll(s.At, "+", " "), `agent = "analyst-bot" AND time >= "20`) {
		t.Errorf("brushing leads to %s", s.At)
	}
	b.look("brushed")
	b.do("go", "path", "/trail?filter=agnt+%3D+1")
	b.look("mistake")
	b.do("go", "path", "/trail")
	if s := b.do("keys"); s.Row != 1 || s.Filter != "filter" {
		t.Errorf("keys: %+v", s)
	}

	// An entry, and its proof.
	b.page("/entries/"+id, "entry")
	proof := b.do("proof")
	if !proof.Good || len(proof.Marks) != 2 || len(proof.Checked) != 4 {
		t.Errorf("the proof: %+v", proof)
	}
	b.look("proven")

	// A session, replayed with its rows.
	b.page("/sessions", "sessions")
	b.page("/sessions/"+session, "session")
	if s := b.do("replay"); len(s.Grids) < 2 || !strings.Contains(s.Grids[0], "first_call") || !strings.Contains(s.Grids[0], "250") {
		t.Errorf("replay: %+v", s)
	}
	b.look("replayed")
	b.page("/agents", "agents")
	b.page("/agents/analyst-bot", "agent")
	b.page("/log", "log")
	if s := b.do("verify"); !s.Good {
		t.Errorf("verify now: %+v", s)
	}
	b.page("/help", "help")
	b.page("/account", "account")

	// A change waits, is approved here, and bq goes on with it.
	held := make(chan said, 1)
	go func() { held <- query("etl-bot", deleteBatch) }()
	waiting := r.waiting()
	b.page("/approvals", "approvals")
	b.page("/approvals/"+waiting.ID, "approval")
	b.do("fill", "selector", "#why-yes", "value", "month is closed")
	b.do("click", "selector", "form[action$=approve] button")
	if got := <-held; got.Code != 0 || !strings.Contains(got.Stdout+got.Stderr, "Number of affected rows: 250") {
		t.Errorf("bq: %+v", got)
	}
	if r.deleted() != 1 {
		t.Errorf("%d statements ran", r.deleted())
	}
	approved := r.search(`approval = "` + waiting.ID + `" AND kind = "approved"`)
	if len(approved) != 1 {
		t.Errorf("%d approvals in the trail", len(approved))
	}
	b.page("/approvals/"+waiting.ID, "approved")

	// Calls come in while somebody watches.
	b.do("go", "path", "/trail?filter="+url.QueryEscape(`statement : "live_call"`))
	b.do("live")
	query("analyst-bot", "SELECT 1 AS live_call")
	b.do("arrives", "text", "live_call")
	b.look("live")

	// More entries than a page, so that the first tile is full and rows come as one scrolls.
	fill(t, r, 300)
	b.do("go", "path", "/trail")
	b.do("scroll", "more", 60)

	for _, c := range b.do("complaints").Complaints {
		t.Errorf("the browser complains: %s", c)
	}
	// Somebody edits the log: the proof turns red, and so does the whole of it.
	bundle := r.data("log", "tile", "entries", "000")
	waitFor(t, time.Minute, func() bool { _, err := os.Stat(bundle); return err == nil }, func() string { return "the first tile is not full" })
	raw := []byte(read(t, bundle))
	edited := bytes.ReplaceAll(raw, []byte("first_call"), []byte("other_call"))
	if bytes.Equal(raw, edited) {
		t.Fatal("the statement is not in the first tile")
	}
	if err := os.Chmod(bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, bundle, string(edited))
	b.do("go", "path", "/entries/"+id)
	if s := b.do("proof"); s.Good {
		t.Errorf("the proof of an edited entry: %+v", s)
	}
	b.look("tampered")
	b.do("go", "path", "/log")
	if s := b.do("verify"); s.Good {
		t.Errorf("verify now, of an edited log: %+v", s)
	}
	b.look("tampered-log")
	// Who looked at what is on record, by name.
	for action, least := range map[string]int{"trail.show": 2, "recording.read": 2, "approval.show": 1, "trail.search": 5} {
		n := 0
		for _, w := range r.search(`kind = "admin" AND action = "` + action + `"`) {
			if w.Entry.Event.Actor == "boss@example.com" && w.Entry.Event.Via == "oidc" {
				n++
			}
		}
		if n < least {
			t.Errorf("%d entries of %s", n, action)
		}
	}
}

// fill writes entries, as an auditor's searches do.
func fill(t *testing.T, r *rig, n int) {
	t.Helper()
	for range n {
		r.must("stats", "--by", "agent")
	}
}
