package connector_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/connector"
)

// TestRenewWhileConnected: a connector looks now and then at its certificate, and renews it
// once two thirds of its time are over, no sooner. Its tunnel stays up meanwhile, with the
// old key's receipts; the next one has the new.
func TestRenewWhileConnected(t *testing.T) {
	r := newRig(t)
	id := r.enroll("lake-1", "lake")
	first, err := id.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	leaf := first.Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	var mu sync.Mutex
	now := leaf.NotBefore
	id.SetClock(func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	})
	looked := make(chan error, 8)
	cfg := r.config(id, "lake")
	cfg.Renew = func(ctx context.Context) error {
		err := id.Renew(ctx, r.remote())
		looked <- err
		return err
	}
	ticks := make(chan time.Time)
	c, err := connector.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.SetTicks(ticks)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	waitFor(t, "it is connected", func() bool { return r.hub.Serving("lake") == 1 })
	if err := <-looked; err != nil { // before it connects
		t.Fatal(err)
	}
	at := func(when time.Time) {
		t.Helper()
		mu.Lock()
		now = when
		mu.Unlock()
		ticks <- when
		if err := <-looked; err != nil {
			t.Fatal(err)
		}
	}
	renewed := func() int { return len(r.events.of(connector.ActionRenew, "lake-1")) }

	at(leaf.NotBefore.Add(life*2/3 - time.Minute))
	if n := renewed(); n != 0 {
		t.Errorf("renewed %d times too early", n)
	}
	at(leaf.NotBefore.Add(life*2/3 + time.Minute))
	second, err := id.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	if n := renewed(); n != 1 || second.Leaf.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
		t.Errorf("renewed %d times", n)
	}
	_, a := r.call("lake", "GET", "/x", "")
	if a.err != nil || a.used.Connector.Verdict != trailgate.ReceiptGood {
		t.Errorf("in the tunnel that stands: %v %+v", a.err, a.used)
	}
	old := a.used.Connector.KeySHA256
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	waitFor(t, "it is gone", func() bool { return r.hub.Serving("lake") == 0 })
	id.SetClock(time.Now)
	r.start(r.config(id, "lake"))
	if _, a = r.call("lake", "GET", "/x", ""); a.err != nil || a.used.Connector.Verdict != trailgate.ReceiptGood || a.used.Connector.KeySHA256 == old {
		t.Errorf("in the next tunnel: %v %+v", a.err, a.used)
	}
}
