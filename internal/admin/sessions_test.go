package admin_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin/client"
)

// TestSessionPages: a filter's pages of sessions are as full as those without one, and
// together they are all that it finds, each once, the newest first.
func TestSessionPages(t *testing.T) {
	h := newHouse(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var want []string // of the agent that comes seldom, the newest first
	for n := range 120 {
		agent := "busy-bot"
		if n%5 == 0 {
			agent = "rare-bot"
		}
		session := id(5000 + n)
		e := &trailgate.Entry{
			ID: id(7000 + n), Kind: trailgate.KindSession, Session: session, Principal: &trailgate.Principal{Agent: agent},
			Event: &trailgate.Event{Action: "session.open", Target: session, Detail: map[string]string{"how": "run"}}, Gateway: trailgate.Gateway{ID: "gw", Version: "v1"},
		}
		if err := h.trail.Append(ctx, e); err != nil {
			t.Fatal(err)
		}
		if agent == "rare-bot" {
			want = append([]string{session}, want...)
		}
	}
	c, err := client.New(h.tcp, client.Options{Token: adminToken})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for found := false; !found; {
		rows, _, err := c.Page(ctx, client.Query{Filter: fmt.Sprintf("session = %q", want[0]), PageSize: 1})
		if err != nil {
			t.Fatal(err)
		}
		found = len(rows) == 1
	}
	var got []string
	var sizes []int
	q := client.Query{Filter: `agent = "rare-bot"`, PageSize: 10}
	for {
		list, next, err := c.Sessions(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			if s.Agent != "rare-bot" || s.How != "run" {
				t.Errorf("%+v", s)
			}
			got = append(got, s.ID)
		}
		if len(list) > 0 { // the last may be there only to say that it is
			sizes = append(sizes, len(list))
		}
		if q.PageToken = next; next == "" {
			break
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	for i, n := range sizes {
		if n > 10 {
			t.Errorf("page %d has %d sessions", i, n)
		}
	}
	if len(sizes) == len(want) {
		t.Errorf("each session has a page of its own: %v", sizes)
	}
}
