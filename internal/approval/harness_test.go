package approval_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/approval"
)

var (
	errDisk  = errors.New("injected: no space left on device")
	errTrail = errors.New("injected: the trail cannot be written")
	start    = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

// world is a store, the clock it goes by, and the trail it asks.
type world struct {
	t     testing.TB
	dir   string
	opts  approval.Options
	store *approval.Store

	mu      sync.Mutex
	now     time.Time
	intents map[string]bool // in the trail
	told    []approval.Request
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "approvals"), now: start, intents: map[string]bool{}}
	w.opts = approval.Options{
		Now: w.clock,
		Consumed: func(_ context.Context, intent string) (bool, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.intents[intent], nil
		},
	}
	w.restart()
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// restart opens the store anew, as a new process does after a crash.
func (w *world) restart() {
	w.t.Helper()
	s, err := approval.Open(w.t.Context(), w.dir, w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	w.store = s
}

// trail is a before that succeeds.
func (w *world) trail(r approval.Request) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, r)
	return nil
}

func (w *world) trailVote(r approval.Request, _ approval.Vote) error { return w.trail(r) }

// commit writes an intent to the trail.
func (w *world) commit(intent string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.intents[intent] = true
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// ask is a request by etl-bot for grace, of one approver.
func (w *world) ask(call string) approval.Request {
	return approval.Request{
		Expires:    w.clock().Add(time.Hour),
		Principal:  trailgate.Principal{Agent: "etl-bot", TokenID: "tok_1", Human: "grace@example.com", HumanBy: trailgate.HumanByIssuer},
		Connection: "prod", Project: "acme", Method: "bigquery.jobs.insert", Class: trailgate.ClassWrite,
		Statement: call, StatementSHA256: digest(call), StatementType: "DELETE",
		Tables: trailgate.Tables{Written: []string{"acme.sales.orders"}},
		Rule:   "writes-ask", From: []string{"role:approver"}, Need: 1,
		CallSHA256: digest(call), FactsSHA256: digest("facts"), HeldEntry: "01held",
		Facts: approval.Facts{Ran: true, StatementType: "DELETE", Bytes: 42},
		Call:  approval.Stored{Method: "POST", Target: "/bigquery/v2/projects/acme/jobs", Header: map[string]string{"Content-Type": "application/json"}, Body: []byte(call)},
	}
}

func (w *world) hold(r approval.Request) approval.Request {
	w.t.Helper()
	held, isNew, err := w.store.Hold(w.t.Context(), r, w.trail)
	if err != nil || !isNew {
		w.t.Fatalf("hold: new %t, %v", isNew, err)
	}
	return held
}

func by(human string, roles ...string) approval.Vote {
	return approval.Vote{Human: human, Roles: roles, Verdict: approval.Approve, Via: "login", Entry: "01vote"}
}

func deny(v approval.Vote) approval.Vote {
	v.Verdict, v.Reason = approval.Deny, "not on a Monday"
	return v
}

var ada = by("ada@example.com", "approver")

func (w *world) vote(id string, v approval.Vote) approval.Request {
	w.t.Helper()
	r, err := w.store.Vote(w.t.Context(), id, v, w.trailVote)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) claim(r approval.Request, intent string) (*approval.Claimed, error) {
	return w.store.Claim(w.t.Context(), approval.KeyOf(&r), r.FactsSHA256, intent)
}

// release uses an approval up.
func (w *world) release(r approval.Request, intent string) {
	w.t.Helper()
	c, err := w.claim(r, intent)
	if err != nil {
		w.t.Fatal(err)
	}
	w.commit(intent)
	if err := c.Done(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) state(id string, want approval.State) approval.Request {
	w.t.Helper()
	r, err := w.store.Get(id)
	if err != nil {
		w.t.Fatal(err)
	}
	if r.State != want {
		w.t.Fatalf("approval %s is %s, want %s", id, r.State, want)
	}
	return r
}

// same: what is on the disk is what is in memory.
func (w *world) same() {
	w.t.Helper()
	all := approval.Filter{Limit: 1 << 20}
	again, err := approval.Open(w.t.Context(), w.dir, w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	if d := cmp.Diff(w.store.List(all), again.List(all)); d != "" {
		w.t.Fatalf("memory and disk differ:\n%s", d)
	}
	if a, b := w.store.Usage(), again.Usage(); a != b {
		w.t.Fatalf("it counts\n%s\nand after a start\n%s", a, b)
	}
}

func (w *world) files() []string {
	w.t.Helper()
	list, err := os.ReadDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, f := range list {
		names = append(names, f.Name())
	}
	return names
}

// is checks a refusal and the request that it carries.
func is(t testing.TB, err, want error, id string) {
	t.Helper()
	var no *approval.Refusal
	if !errors.Is(err, want) || !errors.As(err, &no) || no.Request.ID != id {
		t.Fatalf("got %v, want %v about %q", err, want, id)
	}
}

// ids gives request ids that tell their order.
func ids() func() string {
	var mu sync.Mutex
	n := 0
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		n++
		return fmt.Sprintf("apr_%026d", n)
	}
}

func idsOf(all []approval.Request) []string {
	var out []string
	for _, r := range all {
		out = append(out, r.ID)
	}
	slices.Sort(out)
	return out
}
