package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/sandbox"
)

// The demo begins with a week that somebody made up (demo_week.go), so that there is
// something to search, to replay and to decide. It is not written into the trail: a
// gateway as every other is started, with a sandbox of its own and a clock that shows
// the time of the story, and the story's agents and humans do what they do with it.

// actionHistory is the entry before all of it: what follows is made up.
const actionHistory = "demo.history"

// storyClock is the time in the story. It goes on by itself, and is set forward.
type storyClock struct {
	mu   sync.Mutex // guards both
	base time.Time
	set  time.Time // when it showed base
}

func newStoryClock(at time.Time) *storyClock { return &storyClock{base: at, set: time.Now()} }

func (c *storyClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base.Add(time.Since(c.set))
}

// forward sets the clock to a time, unless it is later already.
func (c *storyClock) forward(to time.Time) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if to.After(now) {
		c.base, c.set = to, time.Now()
	}
}

// story is the telling of it.
type story struct {
	ctx    context.Context
	clock  *storyClock
	g      *gatewayProcess
	http   *http.Client
	tokens map[string]string // of agents, as long as the story goes
	humans map[string]*client.Client
	chance uint32
	jobs   int
	calls  int
}

// history fills a new demo's trail with the week before end. Upstream is the sandbox
// that the demo itself has; the story has another, whose data it may spoil.
func (d *demo) history(ctx context.Context, configPath string, end time.Time) (err error) {
	upstream, stop, err := startSandbox(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := replaceFile(filepath.Join(d.dir, sandboxTokenName), upstream.token+"\n", 0o600); err != nil {
		return err
	}
	told := *d
	told.listen, told.adminListen = "127.0.0.1:0", "off"
	cfg, err := config.Parse(configPath, []byte(told.config(upstream)))
	if err != nil {
		return err
	}
	scenes := week(end)
	s := &story{
		ctx: ctx, clock: newStoryClock(scenes[0].at.Add(-2 * time.Hour)), http: &http.Client{Timeout: time.Minute},
		tokens: map[string]string{}, humans: map[string]*client.Client{}, chance: 20261124,
	}
	defer s.http.CloseIdleConnections()
	if s.g, err = startGatewayAs(ctx, cfg, io.Discard, s.clock.now, false); err != nil {
		return err
	}
	bar := newProgress(d.cli.err, "making up a week of history")
	err = s.tell(scenes, end, bar)
	bar.end()
	return errors.Join(err, s.g.stop(ctx, "the story is told"))
}

func (s *story) tell(scenes []scene, end time.Time, bar *progress) error {
	detail := map[string]string{
		"note": "what follows, up to the next serve.start, was made up by trailgate demo: its agents, humans and times; the calls were made, to a sandbox",
		"from": scenes[0].at.UTC().Format(time.RFC3339), "until": end.UTC().Format(time.RFC3339),
	}
	if _, err := s.g.parts.gatewayEntry(s.ctx, actionHistory, detail); err != nil {
		return err
	}
	for _, a := range storyAgents {
		if _, err := s.as(platformEngineer).AddAgent(s.ctx, a.name, a.note); err != nil {
			return err
		}
		token, err := s.as(platformEngineer).IssueToken(s.ctx, a.name, client.TokenOptions{TTL: 9 * 24 * time.Hour, Note: "of the demo's history"})
		if err != nil {
			return err
		}
		s.tokens[a.name] = token.Secret
	}
	for i, sc := range scenes {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		bar.say("%d calls, %s", s.calls, sc.at.UTC().Format("Monday 15:04"))
		// Who has been idle for long enough until then has ended by then.
		if idle := s.clock.now().Add(s.g.cfg.Sessions.IdleTimeout + time.Second); idle.Before(sc.at) {
			s.clock.forward(idle)
		}
		s.g.parts.proxy.CloseIdle(s.ctx)
		s.clock.forward(sc.at)
		if err := sc.play(s); err != nil {
			return fmt.Errorf("scene %d, at %s: %w", i, sc.at.UTC().Format(time.RFC3339), err)
		}
	}
	return nil
}

// as is the admin API in the hands of one of the story's humans.
func (s *story) as(h human) *client.Client {
	if c := s.humans[h.name]; c != nil {
		return c
	}
	api := s.g.parts.api.Load().As(admin.Viewer{Name: h.name, Via: admin.ViaDemo, Roles: h.roles})
	c, err := client.New("http://gateway", client.Options{Transport: client.InProcess(api)})
	if err != nil {
		panic(err) // the address is good
	}
	s.humans[h.name] = c
	return c
}

// roll is a number below n, the same in every telling.
func (s *story) roll(n int) int {
	s.chance = s.chance*1664525 + 1013904223
	return int(s.chance>>8) % n
}

// think lets some time pass.
func (s *story) think(least, most time.Duration) {
	s.clock.forward(s.clock.now().Add(least + time.Duration(s.roll(int((most-least)/time.Millisecond)+1))*time.Millisecond))
}

// actor is an agent at work, with a token, by a client.
type actor struct {
	s            *story
	token, agent string
	userAgent    string
	trace        string
}

// at is an agent with the token that it has all the time.
func (s *story) at(agent, userAgent string) *actor {
	return &actor{s: s, token: s.tokens[agent], agent: agent, userAgent: userAgent}
}

// begin is a run of an agent with a token of its own, as trailgate run has it, and for
// somebody.
func (s *story) begin(agent, userAgent, forWhom, title, purpose string) (*actor, *client.IssuedToken, error) {
	token, err := s.as(platformEngineer).IssueToken(s.ctx, agent, client.TokenOptions{TTL: 12 * time.Hour, Title: title, Purpose: purpose, Human: forWhom, SessionBound: true, Note: "trailgate run"})
	if err != nil {
		return nil, nil, err
	}
	trace := fmt.Sprintf("00-%016x%016x-%016x-01", s.roll(1<<30), s.roll(1<<30), s.roll(1<<30))
	return &actor{s: s, token: token.Secret, agent: agent, userAgent: userAgent, trace: trace}, token, nil
}

// session is such a run from its beginning to its end.
func (s *story) session(agent, userAgent, forWhom, title, purpose string, do func(a *actor) error) error {
	a, token, err := s.begin(agent, userAgent, forWhom, title, purpose)
	if err != nil {
		return err
	}
	err = errors.Join(do(a), s.as(platformEngineer).RevokeToken(s.ctx, token.ID))
	s.g.parts.proxy.CloseIdle(s.ctx) // as a gateway does by itself, a few seconds later
	return err
}

// call makes one call and gives back the answer's body.
func (a *actor) call(method, path, body string) (int, []byte, error) {
	s := a.s
	s.calls++
	req, err := http.NewRequestWithContext(s.ctx, method, s.g.publicURL+"/bigquery/v2/projects/"+sandbox.DefaultProject+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("User-Agent", a.userAgent)
	if a.trace != "" {
		req.Header.Set("Traceparent", a.trace)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	return resp.StatusCode, raw, err
}

// start has a statement run, as bq does, and returns its job.
func (a *actor) start(sql string) (job string, status int, err error) {
	a.s.jobs++
	job = fmt.Sprintf("bqjob_r%08x%04x_%06d_1", a.s.roll(1<<31-1), a.s.roll(1<<16), a.s.jobs)
	body, err := json.Marshal(map[string]any{
		"jobReference":  map[string]string{"projectId": sandbox.DefaultProject, "jobId": job},
		"configuration": map[string]any{"query": map[string]any{"query": sql, "useLegacySql": false}},
	})
	if err != nil {
		return "", 0, err
	}
	status, _, err = a.call(http.MethodPost, "/jobs?prettyPrint=false", string(body))
	return job, status, err
}

// poll asks for a job's results; it is done once that is answered.
func (a *actor) poll(job, query string) (answer, error) {
	var out answer
	_, raw, err := a.call(http.MethodGet, "/queries/"+job+"?location=US&"+query, "")
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return out, fmt.Errorf("job %s: %w: %s", job, err, bytes.TrimSpace(raw[:min(len(raw), 200)]))
	}
	return out, nil
}

type answer struct {
	Done      bool   `json:"jobComplete"`
	PageToken string `json:"pageToken"`
}

// query runs a statement and reads its result, rows at a time, up to pages of them.
func (a *actor) query(sql string, rows, pages int) error {
	a.s.think(2*time.Second, 40*time.Second)
	job, status, err := a.start(sql)
	if err != nil || status != http.StatusOK {
		return err // what was refused, and what failed, is part of the story
	}
	token := ""
	for range pages {
		a.s.think(200*time.Millisecond, 2*time.Second)
		got, err := a.poll(job, fmt.Sprintf("maxResults=%d&pageToken=%s", rows, token))
		if err != nil {
			return err
		}
		if token = got.PageToken; token == "" {
			break
		}
	}
	return nil
}

// ask is a jobs.query with named parameters, as the client libraries send it.
func (a *actor) ask(sql string, params ...any) error {
	a.s.think(time.Second, 15*time.Second)
	list := []any{}
	for i := 0; i+1 < len(params); i += 2 {
		kind := "STRING"
		if _, ok := params[i+1].(int); ok {
			kind = "INT64"
		}
		list = append(list, map[string]any{
			"name": params[i], "parameterType": map[string]string{"type": kind}, "parameterValue": map[string]string{"value": fmt.Sprint(params[i+1])},
		})
	}
	body, err := json.Marshal(map[string]any{"query": sql, "useLegacySql": false, "parameterMode": "NAMED", "queryParameters": list, "maxResults": 50})
	if err != nil {
		return err
	}
	_, _, err = a.call(http.MethodPost, "/queries?prettyPrint=false", string(body))
	return err
}

// tryOut is a dry run.
func (a *actor) tryOut(sql string) error {
	a.s.think(time.Second, 8*time.Second)
	body, err := json.Marshal(map[string]any{"configuration": map[string]any{"dryRun": true, "query": map[string]any{"query": sql, "useLegacySql": false}}})
	if err != nil {
		return err
	}
	_, _, err = a.call(http.MethodPost, "/jobs?prettyPrint=false", string(body))
	return err
}

// get is a call that only looks.
func (a *actor) get(path string) error {
	a.s.think(300*time.Millisecond, 3*time.Second)
	_, _, err := a.call(http.MethodGet, path, "")
	return err
}

// head is what bq head does.
func (a *actor) head(dataset, table string, rows int) error {
	path := "/datasets/" + dataset + "/tables/" + table
	return errors.Join(a.get(path), a.get(fmt.Sprintf("%s/data?maxResults=%d", path, rows)))
}

// each runs statements one after the other.
func (a *actor) each(statements ...string) error {
	for _, sql := range statements {
		if err := a.query(sql, 100, 2); err != nil {
			return err
		}
	}
	return nil
}

// wait is what a held statement waits for: somebody looks at it, some time later, and
// decides; then the agent, which asks now and then, goes on.
func (a *actor) wait(sql string, who human, after time.Duration, yes bool, reason string) error {
	s := a.s
	s.think(2*time.Second, 30*time.Second)
	job, status, err := a.start(sql)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s: it was to wait, and ended with %d", sql, status)
	}
	began := s.clock.now()
	if err := a.get("/jobs/" + job + "?location=US"); err != nil {
		return err
	}
	s.clock.forward(began.Add(after))
	id, err := s.waiting(who, a.agent)
	if err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	if _, err := s.as(who).Approval(s.ctx, id); err != nil {
		return err
	}
	s.think(20*time.Second, 90*time.Second)
	decide := s.as(who).Deny
	if yes {
		decide = s.as(who).Approve
	}
	if _, err := decide(s.ctx, id, reason); err != nil {
		return err
	}
	s.think(3*time.Second, 20*time.Second)
	_, err = a.poll(job, "maxResults=100")
	return err
}

// leave asks for something that nobody decides.
func (a *actor) leave(sql string) error {
	a.s.think(2*time.Second, 30*time.Second)
	job, _, err := a.start(sql)
	return errors.Join(err, a.get("/jobs/"+job+"?location=US"))
}

// waiting is the newest question of an agent.
func (s *story) waiting(who human, agent string) (string, error) {
	list, err := s.as(who).Approvals(s.ctx, "pending", agent)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "", fmt.Errorf("nothing of %s waits", agent)
	}
	newest := slices.MaxFunc(list, func(a, b client.Approval) int { return a.Created.Compare(b.Created) })
	return newest.ID, nil
}
