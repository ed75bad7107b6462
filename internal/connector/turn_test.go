package connector_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/connector"
)

// vouching is a hub that takes tokens, whose clock the test moves.
type vouching struct {
	*rig
	clock atomic.Int64  // since the beginning
	lasts time.Duration // what a token lets in is good for
	gone  atomic.Bool   // tokens are no good any more
}

func newVouching(t *testing.T, lasts time.Duration) *vouching {
	v := &vouching{lasts: lasts}
	began := time.Now()
	now := func() time.Time { return began.Add(time.Duration(v.clock.Load())) }
	v.rig = newRig(t, func(c *connector.HubConfig) {
		c.Now, c.Beat = now, 2*time.Second // at a sign of life it is looked whether time is over
		c.Token = func(context.Context, string) (connector.Peer, error) {
			if v.gone.Load() {
				return connector.Peer{}, errors.New("nobody knows it")
			}
			return connector.Peer{Name: "lake-gce", Connections: []string{"lake"}, By: "somebody", Until: now().Add(lasts)}, nil
		}
	})
	return v
}

func (v *vouching) config() connector.Config {
	cfg := v.rig.config(v.enroll("lake-1", "lake"), "lake")
	cfg.Token = func(context.Context) (string, error) { return "a.b.c", nil }
	return cfg
}

// held sends a call that is answered when the test says so.
func (v *vouching) held() (release func(), answered <-chan answer) {
	reached, free := make(chan struct{}), make(chan struct{})
	var first sync.Once
	v.backend.mu.Lock()
	v.backend.hold = func(string) {
		held := false
		first.Do(func() { held = true })
		if held {
			close(reached)
			<-free
		}
	}
	v.backend.mu.Unlock()
	done := make(chan answer, 1)
	go func() {
		_, a := v.call("lake", "POST", "/bigquery/v2/projects/p/jobs", "{}")
		done <- a
	}()
	<-reached
	return func() { close(free) }, done
}

// TestIdentityEnds: a tunnel takes no call any more when what let its connector in has
// ended, finishes what it has, and the connector must prove itself anew.
func TestIdentityEnds(t *testing.T) {
	v := newVouching(t, time.Hour)
	c := v.start(v.config())
	release, answered := v.held()
	v.clock.Add(int64(time.Hour))
	waitFor(t, "it takes no more calls", func() bool { return v.hub.Serving("lake") == 0 })
	release()
	if a := <-answered; a.err != nil || a.used.Connector.Verdict != trailgate.ReceiptGood {
		t.Errorf("the call that was under way: %v %+v", a.err, a.used)
	}
	waitFor(t, "it is back", func() bool { return v.hub.Serving("lake") == 1 })
	v.gone.Store(true)
	v.clock.Add(int64(time.Hour))
	select {
	case err := <-c.done:
		if codeOf(err) != connector.CodeToken {
			t.Errorf("%v", err)
		}
	case <-time.After(deadline):
		t.Error("it stays")
	}
}

// TestIdentityEndsUnderCall: no call keeps such a tunnel for ever.
func TestIdentityEndsUnderCall(t *testing.T) {
	v := newVouching(t, time.Hour)
	v.start(v.config())
	release, answered := v.held()
	defer release()
	v.clock.Add(int64(2 * time.Hour))
	if a := <-answered; kindOf(a.err) != connector.FailLost {
		t.Errorf("%v", a.err)
	}
}

// TestTurn: before what let it in ends, a connector connects anew, and only then lets the
// old connection finish: no call is refused in between, none is cut.
func TestTurn(t *testing.T) {
	v := newVouching(t, 300*time.Millisecond) // the gateway's clock stands still, the connector's does not
	c := v.start(v.config())
	release, answered := v.held()
	connected := func() int { return len(v.events.of(connector.ActionConnect, "lake-gce")) }
	for end := time.Now().Add(deadline); connected() < 4; {
		if _, a := v.call("lake", "POST", "/bigquery/v2/projects/p/jobs", "{}"); a.err != nil || a.used.Connector.Verdict != trailgate.ReceiptGood {
			t.Fatalf("%v %+v", a.err, a.used)
		}
		if time.Now().After(end) {
			t.Fatalf("it connected %d times", connected())
		}
	}
	release()
	if a := <-answered; a.err != nil || a.used.Connector.Verdict != trailgate.ReceiptGood {
		t.Errorf("the call on the first connection: %v %+v", a.err, a.used)
	}
	// Those before the last are gone, once they have nothing left.
	waitFor(t, "the older ones are gone", func() bool {
		return len(v.events.of(connector.ActionDisconnect, "lake-gce")) >= 3
	})
	c.Drain()
	select {
	case err := <-c.done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(deadline):
		t.Error("it does not end")
	}
}
