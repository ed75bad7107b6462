package admin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/index"
)

// stream is an open stream of rows.
type stream struct {
	t     *testing.T
	resp  *http.Response
	lines chan string // closed at the end
	err   error       // how it ended; read after lines is closed
}

// host serves a rig on a TCP port of its own.
func host(t *testing.T, r *rig) (base string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + l.Addr().String() + "/api/v1/", served(t, l, r.api.Socket())
}

func openStream(t *testing.T, address string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	return streamOf(t, req)
}

func streamOf(t *testing.T, req *http.Request) *stream {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{t: t, resp: resp, lines: make(chan string, 10_000)}
	go func() {
		defer close(s.lines)
		in := bufio.NewReader(resp.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				s.err = err
				return
			}
			s.lines <- strings.TrimSuffix(line, "\n")
		}
	}()
	return s
}

// row is the next line that is not a sign of life, as "id state", or how the
// stream ended.
func (s *stream) row() string {
	s.t.Helper()
	limit := time.After(time.Minute)
	for {
		select {
		case line, ok := <-s.lines:
			switch {
			case !ok:
				return "end: " + s.err.Error()
			case line == "":
				continue
			}
			var row struct {
				ID, State string
				Event     struct{ Action string }
				Error     struct{ Status string }
			}
			if err := json.Unmarshal([]byte(line), &row); err != nil {
				s.t.Fatalf("%q: %v", line, err)
			}
			switch {
			case row.Error.Status != "":
				return "error " + row.Error.Status
			case row.Event.Action != "":
				return row.Event.Action
			}
			return row.ID + " " + row.State
		case <-limit:
			s.t.Fatal("no row came")
		}
	}
}

func (s *stream) want(rows ...string) {
	s.t.Helper()
	for _, want := range rows {
		if got := s.row(); got != want {
			s.t.Fatalf("%s, want %s", got, want)
		}
	}
}

// TestFollow: rows come as they are committed: opened, closed, and once where
// both are seen together; those that the filter does not match do not.
func TestFollow(t *testing.T) {
	r := newRig(t)
	base, stop := host(t, r)
	r.intent(1, "etl-bot")
	r.caughtUp()
	s := openStream(t, base+"entries:follow?filter="+url.QueryEscape(`agent = "etl-bot" OR action = "agent.list"`))
	if s.resp.StatusCode != 200 || s.resp.Header.Get("Content-Type") != "application/x-ndjson" || s.resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Fatalf("%d %v", s.resp.StatusCode, s.resp.Header)
	}
	r.intent(2, "etl-bot")
	s.want(id(2) + " open")
	r.intent(3, "analyst-bot")
	r.outcome(1) // opened long before
	s.want(id(1) + " done")
	r.outcome(3)
	r.outcome(2)
	s.want(id(2) + " done")
	r.socket("GET", "/api/v1/agents", "")
	s.want("agent.list")

	// When the server stops, the stream ends as a whole.
	stop()
	if got := s.row(); got != "end: EOF" {
		t.Error(got)
	}
}

// TestFollowFrom: what was committed before is told first, in order, once.
func TestFollowFrom(t *testing.T) {
	r := newRig(t)
	base, _ := host(t, r)
	for i := range 20 {
		r.intent(i, "a")
	}
	r.outcome(3)
	r.outcome(4)
	r.caughtUp()
	s := openStream(t, base+"entries:follow?after_seq=17&filter="+url.QueryEscape(`agent = "a"`))
	s.want(id(18)+" open", id(19)+" open", id(3)+" done", id(4)+" done")
	r.outcome(18)
	s.want(id(18) + " done")

	// From the beginning: a call that was closed since is one row.
	s = openStream(t, base+"entries:follow?after_seq=0&filter="+url.QueryEscape(`agent = "a" AND state = "done"`))
	s.want(id(3)+" done", id(4)+" done", id(18)+" done")
	r.outcome(19)
	s.want(id(19) + " done")
}

// TestFollowAll: over many windows, and while entries are being committed, every
// call is told closed exactly once, in the log's order.
func TestFollowAll(t *testing.T) {
	r := newRig(t)
	base, _ := host(t, r)
	const calls = 2200
	s := openStream(t, base+"entries:follow?after_seq=0&filter="+url.QueryEscape(`method = "bigquery.*"`))
	for i := range calls {
		r.intent(i, "a")
		if i >= 700 {
			r.outcome(i - 700)
		}
	}
	for i := calls - 700; i < calls; i++ {
		r.outcome(i)
	}
	opened, closed := map[string]int{}, map[string]int{}
	for len(closed) < calls {
		name, state, _ := strings.Cut(s.row(), " ")
		switch state {
		case "open":
			opened[name]++
			if closed[name] > 0 {
				t.Fatalf("%s was opened after it was closed", name)
			}
		case "done":
			closed[name]++
		default:
			t.Fatal(name, state)
		}
		if opened[name] > 1 || closed[name] > 1 {
			t.Fatalf("%s was told twice", name)
		}
	}
}

// TestFollowBounds: a quiet stream gives signs of life, a bad filter is told
// with a status, there are only so many streams, and each leaves room.
func TestFollowBounds(t *testing.T) {
	r := newRig(t, func(c *admin.Config) { c.Heartbeat = 5 * time.Millisecond })
	base, stop := host(t, r)
	s := openStream(t, base+"entries:follow?filter="+url.QueryEscape(`agent = "nobody"`))
	for range 5 {
		if line, ok := <-s.lines; !ok || line != "" {
			t.Fatalf("%q %v", line, ok)
		}
	}
	for filter, column := range map[string]any{`agnt = "x"`: 1.0, `agent = "a") OR (agent = "b"`: 12.0} {
		resp, err := http.Get(base + "entries:follow?filter=" + url.QueryEscape(filter))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		a := answer{resp, raw}
		if resp.StatusCode != http.StatusBadRequest || a.json(t, "error", "details", "column") != column {
			t.Errorf("%s: %d %s", filter, resp.StatusCode, raw)
		}
	}
	for range admin.MaxFollowers - 1 {
		openStream(t, base+"entries:follow")
	}
	if a := r.socket("GET", "/api/v1/entries:follow", ""); a.StatusCode != http.StatusTooManyRequests || a.json(t, "error", "status") != "RESOURCE_EXHAUSTED" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	// Somebody leaves, and there is room.
	if err := s.resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		resp, err := http.Get(base + "entries:follow")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no room after a stream ended")
		}
	}
	stop()
}

// TestFollowFails: an error in the middle is the stream's last line.
func TestFollowFails(t *testing.T) {
	r := newRig(t)
	base, _ := host(t, r)
	s := openStream(t, base+"entries:follow?filter="+url.QueryEscape(`agent = "a"`))
	r.intent(1, "a")
	s.want(id(1) + " open")
	broken := &flaky{memory: r.trail}
	r2 := newRig(t, func(c *admin.Config) { c.Trail = broken })
	broken.memory = r2.trail
	base, _ = host(t, r2)
	s = openStream(t, base+"entries:follow")
	s.want("trail.follow")
	broken.fail.Store(true)
	r2.intent(1, "a")
	s.want("error UNAVAILABLE", "end: EOF")
	if !strings.Contains(r2.log.String(), "stream of rows ended early") {
		t.Error(r2.log.String())
	}
}

// flaky is a trail that stops to be readable.
type flaky struct {
	*memory
	fail atomic.Bool
}

func (f *flaky) Scan(ctx context.Context, from uint64, fn func(uint64, []byte) error) error {
	if f.fail.Load() {
		return fmt.Errorf("scan: %w", index.ErrDamaged)
	}
	return f.memory.Scan(ctx, from, fn)
}

// TestFollowRecorded: the stream is recorded before its first row, once.
func TestFollowRecorded(t *testing.T) {
	r := newRig(t)
	base, stop := host(t, r)
	s := openStream(t, base+"entries:follow?filter="+url.QueryEscape(`action = "trail.*"`))
	s.want("trail.follow")
	stop()
	if got := r.trail.actions(t); !slices.Equal(got, []string{"trail.follow"}) {
		t.Errorf("%v", got)
	}
	for _, e := range r.trail.entries(t) {
		if e.Kind != trailgate.KindAdmin {
			t.Errorf("%+v", e)
		}
	}
}
