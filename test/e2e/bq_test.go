package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
)

// side is where bq is pointed at: the gateway, or a sandbox of its own.
type side struct {
	dir string              // where commands run
	env map[string][]string // by agent
}

// direct points both agents at a sandbox, with the credential that the gateway
// would have.
func direct(t *testing.T, u *upstream) side {
	t.Helper()
	home := t.TempDir()
	token := filepath.Join(home, "upstream.token")
	write(t, token, upstreamToken+"\n")
	write(t, filepath.Join(home, "bigqueryrc"), "")
	s := side{dir: workDir(t), env: map[string][]string{}}
	for _, agent := range agents {
		s.env[agent] = append(cleanEnv(home), "CLOUDSDK_CONFIG="+filepath.Join(home, "gcloud"), "BIGQUERYRC="+filepath.Join(home, "bigqueryrc"),
			"CLOUDSDK_CORE_PROJECT=demo-project", "CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERY="+u.url+"/", "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE="+token)
	}
	return s
}

// gated points each agent at the gateway, by what "trailgate env" prints.
func gated(t *testing.T, r *rig) side {
	t.Helper()
	home := t.TempDir()
	s := side{dir: workDir(t), env: map[string][]string{}}
	for _, agent := range agents {
		lines := r.must("env", "--agent", agent, "--dir", filepath.Join(home, agent))
		cmd := exec.Command("bash", "--noprofile", "--norc", "-c", `eval "$1"; env -0`, "bash", lines)
		cmd.Env = cleanEnv(home)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("evaluate what trailgate env prints: %v\n%s", err, lines)
		}
		s.env[agent] = strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	}
	return s
}

// workDir holds the files that commands load.
func workDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "rows.csv"), "a,b\n1,one\n2,two\n")
	write(t, filepath.Join(dir, "rows.json"), `{"a":1,"b":"one"}`+"\n"+`{"a":2,"b":"two"}`+"\n")
	return dir
}

// said is what a command printed, and its code.
type said struct {
	Stdout, Stderr string
	Code           int
}

func (s side) bq(t *testing.T, agent string, args []string) (out said) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bq", args...)
	cmd.Dir, cmd.Env = s.dir, s.env[agent]
	var stdout, stderr output
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Errorf("bq %s: %v", strings.Join(args, " "), err)
		return said{Code: -1}
	}
	return said{normal(stdout.String()), normal(stderr.String()), cmd.ProcessState.ExitCode()}
}

// volatile is what differs between two runs of anything: ids, times, hosts, and
// how long something took.
var volatile = []struct {
	re *regexp.Regexp
	by string
}{
	{regexp.MustCompile(`(?m)^.*\r`), ""}, // a wait's line is rewritten in place
	{regexp.MustCompile(`bqjob_r[0-9a-f]+_[0-9a-f]+_\d+`), "JOB"},
	{regexp.MustCompile(`\b(script_)?(trailgate|job|dry)_[0-9a-z]{20,}`), "JOB"},
	{regexp.MustCompile(`\b\d{2} [A-Z][a-z]{2} \d{2}:\d{2}:\d{2}\b`), "TIME"},
	{regexp.MustCompile(`\b\d:\d{2}:\d{2}(\.\d+)?\b`), "SPAN"},
	{regexp.MustCompile(`"(etag|creationTime|lastModifiedTime|startTime|endTime|totalSlotMs|finalExecutionDurationMs)": ?"[^"]*"`), `"$1": "…"`},
	{regexp.MustCompile(`http://127\.0\.0\.1:\d+`), "HOST"},
	{regexp.MustCompile(`\(\d+s\)`), "(SPAN)"},
	// The gateway's marks on jobs are the one thing that an agent sees of it.
	{regexp.MustCompile(`trailgate_(entry|agent|session):\S+`), ""},
	{regexp.MustCompile(`,?"trailgate_(entry|agent|session)":"[^"]*"`), ""},
	{regexp.MustCompile(`"labels":\{\},?`), ""},
	// Columns are as wide as what was in them.
	{regexp.MustCompile(`-{3,}`), "-"},
	{regexp.MustCompile(`[ \t]+`), " "},
	{regexp.MustCompile(`(?m) $`), ""},
	{regexp.MustCompile(`\n{2,}`), "\n"},
}

func normal(s string) string {
	for _, v := range volatile {
		s = v.re.ReplaceAllString(s, v.by)
	}
	return strings.TrimSpace(s)
}

// TestBQ runs every command against a sandbox, and through the gateway in front
// of another one that is alike. What bq prints and how it ends must be the
// same, and the trail must hold each call that the second sandbox saw, and no
// other, in order, as what it was and whose.
func TestBQ(t *testing.T) {
	needBQ(t)
	r := newRig(t)
	alone := newUpstream(t)
	plain, through := direct(t, alone), gated(t, r)

	ends := make([]int, len(cases)) // how many requests BigQuery had seen after each case
	asked := 0                      // the same, where there is no gateway
	for i, c := range cases {
		var want, got said
		var wg sync.WaitGroup
		wg.Go(func() { want = plain.bq(t, c.agent, c.args) })
		wg.Go(func() { got = through.bq(t, c.agent, c.args) })
		wg.Wait()
		ends[i] = len(r.box.arrivals())
		if want.Code != c.code {
			t.Errorf("%s: without a gateway bq ends with %d:\n%s%s", c.name, want.Code, want.Stdout, want.Stderr)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: bq does not end (-) without a gateway as it does (+) through it:\n%s", c.name, diff)
		}
		begun := 0
		if i > 0 {
			begun = ends[i-1]
		}
		if diff := cmp.Diff(requests(alone.arrivals()[asked:]), requests(r.box.arrivals()[begun:])); diff != "" {
			t.Errorf("%s: what reaches BigQuery without a gateway (-) and through it (+):\n%s", c.name, diff)
		}
		asked = len(alone.arrivals())
	}

	rows := r.calls()
	r.checkArrivals(rows)
	r.checkLabels(rows)
	r.checkDiscoveries(rows)
	up := forwarded(rows)
	for i, from := 0, 0; i < len(cases); i++ {
		checkCalls(t, cases[i], up[min(from, len(up)):min(ends[i], len(up))])
		from = ends[i]
	}
	t.Run("claims", func(t *testing.T) { checkClaims(t, r, up) })
	t.Run("foreign job", func(t *testing.T) { checkForeign(t, r) })
	t.Run("show", func(t *testing.T) { checkShow(t, r, up) })
	t.Run("secrets", func(t *testing.T) { checkSecrets(t, r) })
	t.Run("verify", func(t *testing.T) {
		if out := r.must("verify"); !strings.HasPrefix(out, "good: ") {
			t.Errorf("verify says %s", out)
		}
	})
}

// requests are the lines of what arrived, without those for the discovery
// document, and a question that is asked again and again but once.
func requests(arrived []arrival) []string {
	var lines []string
	for _, a := range arrived {
		line := normal(a.verb + " " + uploadID.ReplaceAllString(a.path, "upload_id=ID"))
		if !strings.HasPrefix(a.path, "/$discovery/") && (len(lines) == 0 || lines[len(lines)-1] != line) {
			lines = append(lines, line)
		}
	}
	return lines
}

var uploadID = regexp.MustCompile(`upload_id=[^&]+`)

// checkDiscoveries: each command asks for the document first, token in hand;
// the IAM commands alone bring their own along.
func (r *rig) checkDiscoveries(rows []index.Row) {
	r.t.Helper()
	want, got := map[string]int{}, map[string]int{}
	for _, c := range cases {
		if !strings.Contains(c.args[0], "-iam-policy") {
			want[c.agent]++
		}
	}
	for _, w := range rows {
		if w.Entry.Method == "discovery.apis.getRest" && w.State == index.StateDone && w.Entry.Class == trailgate.ClassMetadataRead {
			got[w.Entry.Principal.Agent]++
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("discovery documents read, by agent: want (-), in the trail (+):\n%s", diff)
	}
}

// checkCalls holds what the trail says of one command against what it did.
func checkCalls(t *testing.T, c bqCase, rows []index.Row) {
	t.Helper()
	var got []call
	for _, w := range rows {
		e := w.Entry
		if e.Principal.Agent != c.agent || e.Principal.AuthMode != "gateway_token" || e.Principal.TokenID == "" || e.Session == "" {
			t.Errorf("%s: %s is put down to %+v in session %q, it was %s", c.name, e.Method, e.Principal, e.Session, c.agent)
		}
		x := call{method: strings.TrimPrefix(e.Method, "bigquery."), class: string(e.Class), status: e.Outcome.Status}
		for _, s := range e.Statements {
			x.sql = append(x.sql, s.Text)
		}
		if e.Tables != nil {
			x.read, x.written = strings.Join(e.Tables.Read, " "), strings.Join(e.Tables.Written, " ")
		}
		x.rows, x.affected, x.reason = e.Outcome.Rows, e.Outcome.RowsAffected, e.Outcome.ErrorReason
		if failed := w.State == index.StateFailed; failed != (x.reason != "") || e.Outcome.End != trailgate.EndComplete {
			t.Errorf("%s: %s is %s, with the outcome %+v", c.name, e.Method, w.State, e.Outcome)
		}
		if len(got) > 0 && c.polls && cmp.Equal(got[len(got)-1], x, cmp.AllowUnexported(call{})) {
			continue // the same question again
		}
		got = append(got, x)
	}
	var want []call
	for _, x := range c.calls {
		if x.status == 0 {
			x.status = 200
		}
		x.read, x.written = qualified(x.read), qualified(x.written)
		want = append(want, x)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(call{})); diff != "" {
		t.Errorf("%s: the calls of \"bq %s\": want (-), in the trail (+):\n%s", c.name, strings.Join(c.args, " "), diff)
	}
}

// qualified puts the project before each "dataset.table".
func qualified(tables string) string {
	names := strings.Fields(tables)
	for i := range names {
		names[i] = "demo-project." + names[i]
	}
	return strings.Join(names, " ")
}

// checkClaims: what agents say of themselves is on record as their word.
func checkClaims(t *testing.T, r *rig, up []index.Row) {
	forged := r.search(`flag = "dropped_labels"`)
	if len(forged) != 1 || !cmp.Equal(forged[0].Entry.Claims.DroppedLabels, map[string]string{"trailgate_agent": "somebody-else"}) ||
		!cmp.Equal(forged[0].Entry.Claims.Labels, map[string]string{"team": "ops"}) || forged[0].Entry.Principal.Agent != "analyst-bot" {
		t.Errorf("the forged label is not on record as such: %+v", forged)
	}
	reasons := 0
	for _, w := range up {
		if w.Entry.Claims.Reason == "because" {
			reasons++
		}
		if ua := w.Entry.Claims.UserAgent; !strings.HasPrefix(ua, "google-cloud-sdk") && !strings.HasPrefix(ua, "Python-httplib2") {
			t.Errorf("%s came from %q", w.Entry.Method, w.Entry.Claims.UserAgent)
		}
	}
	if reasons != 2 { // jobs.insert and getQueryResults
		t.Errorf("%d calls have the claimed reason", reasons)
	}
	for _, text := range []string{named, question} {
		i := slices.IndexFunc(up, func(w index.Row) bool { return len(w.Entry.Statements) == 1 && w.Entry.Statements[0].Text == text })
		if i < 0 || !strings.Contains(up[i].Entry.Statements[0].Parameters, `"43"`) {
			t.Errorf("the parameter of %q is not on record", text)
		}
	}
}

// checkForeign: one agent's look at another's job shows as such.
func checkForeign(t *testing.T, r *rig) {
	made := r.search(`job = "nosync-1" AND method = "bigquery.jobs.insert"`)
	if len(made) != 1 || made[0].Entry.Principal.Agent != "etl-bot" || slices.Contains(made[0].Entry.Flags, "foreign_job") {
		t.Fatalf("the job was made by %+v", made)
	}
	foreign := r.search(`flag = "foreign_job"`)
	if len(foreign) != len(foreignLooks) {
		t.Fatalf("%d calls are flagged foreign_job, want %d: %+v", len(foreign), len(foreignLooks), foreign)
	}
	for i, w := range foreign {
		e := w.Entry
		if e.Principal.Agent != "analyst-bot" || e.Method != foreignLooks[i] || e.Job.ID != "nosync-1" || e.Job.OwnerAgent != "etl-bot" || e.Job.OwnerEntry != made[0].Entry.ID {
			t.Errorf("a look at another agent's job: %s by %+v of %+v", e.Method, e.Principal, e.Job)
		}
	}
}

// checkShow looks at one write closely: every stage, and its proof.
func checkShow(t *testing.T, r *rig, up []index.Row) {
	i := slices.IndexFunc(up, func(w index.Row) bool {
		return len(w.Entry.Statements) == 1 && w.Entry.Statements[0].Text == hidden
	})
	if i < 0 {
		t.Fatal("there is no DELETE")
	}
	e := up[i].Entry
	out := normal(r.must("show", e.ID[:16], "--proof"))
	for _, want := range []string{
		e.ID + " done", " agent etl-bot\n", " class write\n", " rows affected 250\n", e.Statements[0].SHA256,
		strings.ReplaceAll(hidden, "\n", "\n ") + "\n",
		fmt.Sprintf(" intent entry %d %s\n", e.Seq, e.ID), fmt.Sprintf(" outcome entry %d %s\n", up[i].Closing.Seq, up[i].Closing.ID),
		"proven: all 2 stages are in the log of ", r.data("log.pub"),
	} {
		if !strings.Contains(out, want) {
			t.Errorf("show --proof lacks %q:\n%s", want, out)
		}
	}
	if up[i].Closing.Seq <= e.Seq {
		t.Errorf("the outcome, %d, does not follow the intent, %d", up[i].Closing.Seq, e.Seq)
	}
}

// checkSecrets: no agent's token, and not the upstream one, is at rest with the
// gateway, or in what it printed.
func checkSecrets(t *testing.T, r *rig) {
	secrets := []string{upstreamToken}
	for _, agent := range agents {
		secrets = append(secrets, r.token(agent))
	}
	err := filepath.WalkDir(r.data(), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text := read(t, path)
		for _, s := range append(secrets, "Bearer tgt_") {
			if strings.Contains(text, s) {
				t.Errorf("a token is at rest in %s", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range secrets {
		if strings.Contains(r.out.String(), s) {
			t.Error("a token is in the operational log")
		}
	}
}

// TestRun: one command with the whole environment, nothing exported by hand,
// and a session of its own.
func TestRun(t *testing.T) {
	needBQ(t)
	r := newRig(t)
	out, errs, code := r.run("run", "--agent", "etl-bot", "--title", "nightly", "--", "bq", "--format=csv", "query", "--use_legacy_sql=false", "SELECT COUNT(*) AS n FROM staging.imports")
	if code != 0 || !strings.Contains(out, "n\n1250") {
		t.Fatalf("exit %d\n%s\n%s", code, out, errs)
	}
	rows := forwarded(r.calls())
	if len(rows) != 2 || rows[0].Entry.Session == "" || rows[0].Entry.Session != rows[1].Entry.Session || rows[0].Entry.Principal.Agent != "etl-bot" {
		t.Fatalf("the calls of one bq query: %+v", rows)
	}
	opened := r.search(fmt.Sprintf(`kind = "session" AND session = %q`, rows[0].Entry.Session))
	if len(opened) == 0 || opened[0].Entry.Event.Action != "session.open" {
		t.Errorf("the session's own entries: %+v", opened)
	}
	revoked := r.search(`action = "token.revoke"`)
	if len(revoked) != 1 || revoked[0].Entry.Event.Target != rows[0].Entry.Principal.TokenID {
		t.Errorf("the session's token was not revoked: %+v", revoked)
	}
	if _, _, code := r.run("run", "--agent", "etl-bot", "--", "sh", "-c", "exit 7"); code != 7 {
		t.Errorf("the command's exit code 7 became %d", code)
	}
	if _, errs, code := r.run("run", "--agent", "nobody", "--", "true"); code == 0 || !strings.Contains(errs, "nobody") {
		t.Errorf("an unknown agent: exit %d, %s", code, errs)
	}
}
