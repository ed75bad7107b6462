package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/approval"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/recording"
	"github.com/trailgate/trailgate/internal/suspend"
	"github.com/trailgate/trailgate/internal/trail"
)

// powerConfig has the gateway keep rows and ask a human, so that those stores
// are written as well.
const powerConfig = `id: chaos
data_dir: data
gateway: {listen: %q}
admin: {listen: "off"}
policy: {files: [policy.yaml]}
approval: {wait: 1ms}
connections:
  - name: main
    projects: ["*"]
    upstream: %s
    credential: {mode: static, token_file: upstream.token}
    recording: {level: results}
trail:
  segment_bytes: 1MiB
  checkpoint_interval: 100ms
`

const powerPolicy = `version: 1
rules:
  - name: asks
    when: class == "write" && statement.contains("DELETE")
    require_approval: {from: ["role:approver"], expires: 1h}
  - name: rest
    when: "true"
    allow: {}
`

// told is something that somebody outside was told, or that was begun outside,
// at a position of the trace.
type told struct {
	at     int
	entry  string
	whole  bool   // the agent had the whole answer: its outcome must be there
	status string // of the answer
}

// fact must hold in every state after the entry's call was answered.
type fact struct {
	after string // an entry's id
	what  string
	check func(data string) error
}

// TestPowerLoss cuts the power at hundreds of points of a gateway's life, from
// init to stop. The gateway runs once, under strace; its system calls are played
// into a model of a disk that loses what POSIX lets it lose; and each state that
// the disk may be left in is opened, recovered and verified. All that somebody
// had been told by then must be there: what agents had answers to, intents of
// what was on its way to BigQuery, and what administrators had been told is done.
//
// The trace knows when somebody was told: it has the bytes on their way through
// the sockets, in order with the bytes on their way to the disk.
//
// TRAILGATE_POWERCUTS asks for more states than the usual 240.
func TestPowerLoss(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	states := envInt(t, "TRAILGATE_POWERCUTS", 240)
	base := t.TempDir()
	root := filepath.Join(base, "disk")
	must(t, os.Mkdir(root, 0o700))
	var traces []string
	command := func(args ...string) *exec.Cmd {
		switch {
		case args[0] == "init", args[0] == "agent", args[0] == "serve": // those that write files themselves
			traces = append(traces, filepath.Join(base, fmt.Sprintf("trace-%d", len(traces))))
			return trace(t, traces[len(traces)-1], recordingOptions, args...)
		}
		return exec.Command(binary, args...)
	}
	r := newRigWith(t, options{dir: filepath.Join(root, "gw"), command: command, config: powerConfig})
	must(t, os.WriteFile(filepath.Join(r.dir, "policy.yaml"), []byte(powerPolicy), 0o600))
	offline := len(traces) // commands that ended before the gateway began
	r.start()
	facts := r.live(t)
	must(t, interruptChild(r.cmd))
	if err := r.cmd.Wait(); err != nil {
		t.Fatalf("graceful stop: %v\n%s", err, r.output)
	}

	var calls []*syscall
	at, made := 0, 0
	for i, name := range traces {
		f, err := os.Open(name)
		must(t, err)
		var more []*syscall
		more, at, err = readTrace(f, at)
		must(t, err)
		must(t, f.Close())
		calls = append(calls, more...)
		if i < offline {
			made = at // from here on the gateway and its agents exist
		}
	}
	p := &powerLoss{t: t, disk: newDisk(root), facts: facts, made: made}
	must(t, p.listen(calls))
	must(t, p.play(calls, states))
	t.Logf("%d system calls, of them %v", len(calls), p.disk.steps)
	t.Logf("%d states after a power cut, %d entries acknowledged, %d requests sent, none lost", p.states, p.answered, p.sent)
	if p.answered < 60 || p.sent < 50 || p.disk.steps["fdatasync"] < 60 || p.disk.steps["fsync of a directory"] < 60 {
		t.Error("the gateway did too little for this to say much")
	}

	// Would it be noticed? A disk that takes one kind of sync for done and does nothing
	// must be caught losing.
	for _, skipped := range []string{"fdatasync", "fsync"} {
		liar := &powerLoss{t: t, disk: newDisk(root), facts: facts, made: made}
		honest := slices.DeleteFunc(slices.Clone(calls), func(c *syscall) bool { return c.name == skipped && c.enter >= made })
		must(t, liar.listen(honest))
		if err := liar.play(honest, 24); err == nil {
			t.Errorf("%d states of a disk on which %s does nothing are all good", liar.states, skipped)
		} else {
			t.Logf("where %s does nothing: %v", skipped, err)
		}
	}
}

func envInt(t *testing.T, name string, n int) int {
	t.Helper()
	if v := os.Getenv(name); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil || n < 1 {
			t.Fatalf("%s=%q: want a number", name, v)
		}
	}
	return n
}

// interruptChild stops the process that strace runs.
func interruptChild(cmd *exec.Cmd) error {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return fmt.Errorf("what strace %d runs: %w", cmd.Process.Pid, err)
	}
	child, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return child.Signal(os.Interrupt)
}

// live is a short life of a gateway: changes, queries whose rows are kept, long
// statements, a call that asks a human, agents let in and shut out.
func (r *rig) live(t *testing.T) []fact {
	t.Helper()
	call := func(agent int, sql string) (entry string, answer map[string]any) {
		t.Helper()
		raw, err := json.Marshal(map[string]any{"query": sql, "useLegacySql": false})
		must(t, err)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.addr+"/bigquery/v2/projects/demo-project/queries", strings.NewReader(string(raw)))
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+r.tokens[agent])
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Fatalf("%s: %v: %s", sql, err, body)
		}
		return resp.Header.Get("X-Trailgate-Entry"), answer
	}
	call(0, "CREATE TABLE staging.power (n INT64, s STRING)")
	var facts []fact
	n := 0
	work := func(rounds int) (last string) {
		for range rounds {
			n++
			last, _ = call(n%2, fmt.Sprintf("INSERT INTO staging.power (n, s) VALUES (%d, '%s')", n, strings.Repeat("x", n%7*1000)))
			if n%5 == 0 {
				last, _ = call(n%2, fmt.Sprintf("SELECT n, s FROM staging.power WHERE n = %d", n))
			}
			if n%9 == 0 {
				last, _ = call(n%2, fmt.Sprintf("SELECT %d /* %s */", n, strings.Repeat("long ", 8000)))
			}
		}
		return last
	}
	holds := func(what string, check func(data string) error) {
		facts = append(facts, fact{after: work(4), what: what, check: check})
	}
	agentIs := func(name string, revoked bool) func(string) error {
		return func(data string) error {
			s, err := identity.Open(filepath.Join(data, "agents.json"))
			if err != nil {
				return err
			}
			a, err := s.Agent(name)
			if err == nil && (a.Revoked != nil) != revoked {
				err = fmt.Errorf("revoked: %v", a.Revoked)
			}
			return err
		}
	}
	work(25)
	r.run2("agent", "add", "late-bot")
	holds("late-bot was let in", func(data string) error {
		s, err := identity.Open(filepath.Join(data, "agents.json"))
		if err != nil {
			return err
		}
		_, err = s.Agent("late-bot")
		return err
	})
	secret := strings.TrimSpace(r.run2("agent", "token", "late-bot"))
	r.run2("agent", "suspend", "late-bot", "--reason", "for a test")
	holds("late-bot is suspended", func(data string) error {
		s, err := suspend.Open(filepath.Join(data, "suspended.json"))
		if err != nil {
			return err
		}
		if _, ok := s.Check("late-bot", "main"); !ok {
			return fmt.Errorf("it may make calls")
		}
		return nil
	})
	r.run2("agent", "revoke", "late-bot")
	holds("late-bot is revoked", agentIs("late-bot", true))
	facts = append(facts, fact{after: facts[len(facts)-1].after, what: "its token is good for nothing", check: func(data string) error {
		s, err := identity.Open(filepath.Join(data, "agents.json"))
		if err != nil {
			return err
		}
		if _, err := s.Authenticate(secret); err == nil {
			return fmt.Errorf("it is")
		}
		return nil
	}})

	call(0, "DELETE FROM staging.power WHERE n = 1")
	var list []struct {
		ID string `json:"id"`
	}
	must(t, json.Unmarshal([]byte(r.run2("approval", "list", "-o", "json")), &list))
	if len(list) != 1 {
		t.Fatalf("%d calls wait for a human", len(list))
	}
	id := list[0].ID
	asked := func(data string) (approval.Request, error) {
		s, err := approval.Open(context.Background(), filepath.Join(data, "approvals"), approval.Options{
			Consumed: func(context.Context, string) (bool, error) { return false, nil },
		})
		if err != nil {
			return approval.Request{}, err
		}
		return s.Get(id)
	}
	holds("a human was asked", func(data string) error {
		_, err := asked(data)
		return err
	})
	r.run2("approval", "deny", id, "--reason", "no")
	holds("the human's denial", func(data string) error {
		a, err := asked(data)
		if err == nil && a.State != approval.StateDenied {
			err = fmt.Errorf("it is %s", a.State)
		}
		return err
	})
	work(25)
	return facts
}

// run2 is a command that asks the running gateway, and so needs no trace.
func (r *rig) run2(args ...string) string {
	r.t.Helper()
	traced := r.command
	r.command = func(args ...string) *exec.Cmd { return exec.Command(binary, args...) }
	defer func() { r.command = traced }()
	return r.run(args...)
}

type powerLoss struct {
	t     *testing.T
	disk  *disk // has the gateway in "gw"
	facts []fact
	made  int
	told  []told
	known map[string]int // when an entry's call was answered

	states, answered, sent int
}

var (
	answerEntry  = regexp.MustCompile(`(?i)\r\nX-Trailgate-Entry: ([0-9A-Z]{26})\r\n`)
	answerStatus = regexp.MustCompile(`^HTTP/1\.1 (\d{3}) `)
	requestEntry = regexp.MustCompile(`(?i)\r\nX-Goog-Request-Reason: [^\r]*?([0-9A-Z]{26})`)
)

// listen finds what was said through sockets: to agents, and to BigQuery.
func (p *powerLoss) listen(calls []*syscall) error {
	p.known = map[string]int{}
	answers := map[string]*told{} // by connection: the answer that is being written
	end := func(conn string) {
		if a := answers[conn]; a != nil {
			p.told = append(p.told, *a)
			p.known[a.entry] = a.at
			p.answered++
			delete(answers, conn)
		}
	}
	for _, c := range calls {
		if c.name != "write" && c.name != "writev" {
			continue
		}
		_, conn := descriptor(c.args[0])
		if !strings.HasPrefix(conn, "TCP:") {
			continue
		}
		data, err := text(c.args[1])
		if err != nil {
			return err
		}
		if m := answerStatus.FindSubmatch(data); m != nil {
			end(conn)
			if e := answerEntry.FindSubmatch(data); e != nil {
				answers[conn] = &told{entry: string(e[1]), whole: true, status: string(m[1])}
			}
		}
		if a := answers[conn]; a != nil {
			a.at = c.enter // once more of it is on its way, it was not whole before
		}
		if m := requestEntry.FindSubmatch(data); m != nil {
			p.told = append(p.told, told{at: c.enter, entry: string(m[1])})
			p.sent++
		}
	}
	for conn := range answers {
		end(conn)
	}
	slices.SortFunc(p.told, func(a, b told) int { return a.at - b.at })
	for _, f := range p.facts {
		if p.known[f.after] == 0 {
			return fmt.Errorf("%s: the answer of entry %q is not in the trace", f.what, f.after)
		}
	}
	return nil
}

// play has all calls done, and cuts the power at points between them: before
// and after steps that matter for durability more often than elsewhere.
func (p *powerLoss) play(calls []*syscall, states int) error {
	p.t.Helper()
	var matter, rest []int
	for i, c := range calls {
		if c.enter < p.made {
			continue
		}
		switch c.name {
		case "fsync", "fdatasync", "rename", "renameat", "renameat2", "linkat", "unlinkat", "mkdirat":
			matter = append(matter, i)
		default:
			rest = append(rest, i)
		}
	}
	rnd := rand.New(rand.NewPCG(uint64(envInt(p.t, "TRAILGATE_SEED", 1)), 2))
	cuts := map[int]int{len(calls): len(losses)} // how many states to look at, by point
	for i := range states - len(losses) {
		from := matter
		if i%4 == 3 {
			from = rest
		}
		cuts[from[rnd.IntN(len(from))]]++
	}
	shared := "/dev/shm"
	if _, err := os.Stat(shared); err != nil {
		shared = ""
	}
	for i := range len(calls) + 1 {
		at := never
		if i < len(calls) {
			at = calls[i].enter
		}
		p.disk.advance(at)
		for range cuts[i] {
			l := losses[p.states%len(losses)]
			p.states++
			if err := p.cut(shared, l, rnd, at); err != nil {
				where := "the end"
				if i < len(calls) {
					where = calls[i].String()
				}
				return fmt.Errorf("power cut before call %d, %s; lost: %s; state %d: %w", i, where, l.name, p.states, err)
			}
		}
		if i < len(calls) {
			if err := p.disk.take(calls[i]); err != nil {
				return fmt.Errorf("call %d: %w", i, err)
			}
		}
	}
	return nil
}

// cut makes one state and checks it.
func (p *powerLoss) cut(parent string, l loss, rnd *rand.Rand, at int) error {
	dir, err := os.MkdirTemp(parent, "trailgate-power")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := p.disk.cut(dir, l, rnd, func(rel string) bool {
		return rel == "gw/data/index" // made from the log; its own tests break it
	}); err != nil {
		return err
	}
	return p.check(filepath.Join(dir, "gw", "data"), at, p.states%8 == 0)
}

// check recovers what the disk was left with, and looks for all that was told
// before position at. Deep has the built binary verify it as well.
func (p *powerLoss) check(data string, at int, deep bool) error {
	for _, f := range p.facts {
		if p.known[f.after] < at {
			if err := f.check(data); err != nil {
				return fmt.Errorf("%s: %w", f.what, err)
			}
		}
	}
	if _, err := identity.Open(filepath.Join(data, "agents.json")); err != nil {
		return err
	}
	tr, err := trail.Open(context.Background(), data, trail.Options{SegmentBytes: 1 << 20})
	if err != nil {
		return err
	}
	have, ended := map[string]trailgate.Kind{}, map[string]bool{}
	err = tr.Scan(context.Background(), 0, func(_ uint64, raw []byte) error {
		e, err := trailgate.Decode(raw)
		if err != nil {
			return err
		}
		if _, twice := have[e.ID]; twice {
			return fmt.Errorf("entry %s is there twice", e.ID)
		}
		have[e.ID] = e.Kind
		if e.Kind == trailgate.KindOutcome {
			if ended[e.IntentID] {
				return fmt.Errorf("intent %s has two outcomes", e.IntentID)
			}
			ended[e.IntentID] = true
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if cerr := tr.Close(ctx); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	for _, s := range p.told {
		if s.at >= at {
			break
		}
		kind, ok := have[s.entry]
		switch {
		case !ok:
			return fmt.Errorf("entry %s (told as %+v) is lost, of %d", s.entry, s, len(have))
		case s.whole && kind == trailgate.KindIntent && !ended[s.entry]:
			return fmt.Errorf("the outcome of entry %s, which was answered with %s, is lost", s.entry, s.status)
		}
	}
	rows := recording.Existing(recording.Options{Dir: filepath.Join(data, "recordings"), KeyDir: filepath.Join(data, "recording-keys")})
	if _, err := trail.Verify(ctx, trail.VerifyOptions{Dir: data, Recording: rows.Check}); err != nil {
		return err
	}
	if deep {
		cmd := exec.Command(binary, "verify", "--log", data)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("trailgate verify: %w: %s", err, out)
		}
	}
	return nil
}
