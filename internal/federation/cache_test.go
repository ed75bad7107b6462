package federation_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/federation"
)

// counted mints tokens t1, t2, … that live for an hour, and takes a second.
type counted struct {
	n    atomic.Int64
	life time.Duration
	fail atomic.Pointer[error]
}

func (m *counted) mint(ctx context.Context, _ federation.Request) (federation.Credential, error) {
	n := m.n.Add(1)
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return federation.Credential{}, ctx.Err()
	}
	if err := m.fail.Load(); err != nil {
		return federation.Credential{}, *err
	}
	return federation.Credential{Token: fmt.Sprint("t", n), Expires: time.Now().Add(m.life)}, nil
}

func newCounted() *counted { return &counted{life: time.Hour} }

func TestOneMintForManyWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newCounted()
		c := federation.NewCache(m.mint)
		defer c.Close()
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() {
				if cred, err := c.Get(t.Context(), "a"); err != nil || cred.Token != "t1" {
					t.Errorf("got %v, %v", cred, err)
				}
			})
		}
		wg.Wait()
		if n := m.n.Load(); n != 1 {
			t.Errorf("%d mints for 500 waiters", n)
		}
	})
}

// TestLeavingWaiter: who gives up waiting neither waits longer nor takes the mint along.
func TestLeavingWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newCounted()
		c := federation.NewCache(m.mint)
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			begin := time.Now()
			if _, err := c.Get(ctx, "a"); !errors.Is(err, context.Canceled) || time.Since(begin) != 100*time.Millisecond {
				t.Errorf("the first waiter got %v after %s", err, time.Since(begin))
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if cred, err := c.Get(t.Context(), "a"); err != nil || cred.Token != "t1" {
				t.Errorf("the second waiter got %v, %v", cred, err)
			}
		})
		time.Sleep(100 * time.Millisecond)
		cancel()
		wg.Wait()
	})
}

func TestRefreshAheadInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newCounted()
		c := federation.NewCache(m.mint)
		defer c.Close()
		at := func(want string, mints int64) {
			t.Helper()
			begin := time.Now()
			cred, err := c.Get(t.Context(), "a")
			if err != nil || cred.Token != want || time.Since(begin) != 0 {
				t.Fatalf("got %q, %v after %s; want %q at once", cred.Token, err, time.Since(begin), want)
			}
			synctest.Wait()
			if m.n.Load() != mints {
				t.Fatalf("%d mints began, want %d", m.n.Load(), mints)
			}
		}
		if _, err := c.Get(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(47 * time.Minute)
		at("t1", 1)
		time.Sleep(2 * time.Minute)
		for range 10 {
			at("t1", 2) // the old one is good, and one refresh is enough
		}
		time.Sleep(2 * time.Second)
		at("t2", 2)

		// Refreshes that fail leave the token in place, come less and less
		// often, and it is not handed out in its last half minute.
		err := errors.New("away")
		m.fail.Store(&err)
		time.Sleep(50 * time.Minute)
		for range 9 * 60 {
			if cred, err := c.Get(t.Context(), "a"); err != nil || cred.Token != "t2" {
				t.Fatalf("got %v, %v", cred, err)
			}
			time.Sleep(time.Second)
		}
		if n := m.n.Load(); n < 10 || n > 30 {
			t.Errorf("%d mints in nine minutes of failure", n)
		}
		time.Sleep(40 * time.Second)
		if cred, got := c.Get(t.Context(), "a"); !errors.Is(got, err) {
			t.Errorf("an ending token was handed out: %v, %v", cred, got)
		}
		m.fail.Store(nil)
		time.Sleep(3 * time.Second)
		if cred, err := c.Get(t.Context(), "a"); err != nil || cred.Token == "t2" {
			t.Errorf("got %v, %v", cred, err)
		}
	})
}

func TestShortTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newCounted()
		m.life = 2 * time.Minute
		c := federation.NewCache(m.mint)
		defer c.Close()
		for range 600 {
			if _, err := c.Get(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := m.n.Load(); n > 12 {
			t.Errorf("%d mints of two minutes in ten minutes", n)
		}
		m.life = 20 * time.Second
		if _, err := c.Get(t.Context(), "b"); err == nil {
			t.Error("a token that ends at once was taken")
		}
	})
}

// TestFailuresAreNotStorms: while Google fails, calls of one principal ask every two
// seconds at most.
func TestFailuresAreNotStorms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newCounted()
		err := errors.New("no")
		m.fail.Store(&err)
		c := federation.NewCache(m.mint)
		defer c.Close()
		for range 1000 {
			if _, got := c.Get(t.Context(), "a"); !errors.Is(got, err) {
				t.Fatal(got)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := m.n.Load(); n > 6 {
			t.Errorf("%d mints in ten seconds of failure", n)
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	var n atomic.Int64
	c := federation.NewCache(func(_ context.Context, r federation.Request) (federation.Credential, error) {
		n.Add(1)
		return federation.Credential{Token: "of-" + r.Session, Expires: time.Now().Add(time.Hour)}, nil
	})
	defer c.Close()
	get := func(i int) {
		t.Helper()
		name := fmt.Sprint("k", i)
		if cred, err := c.Get(t.Context(), name); err != nil || cred.Token != "of-"+name {
			t.Fatalf("got %v, %v for %s", cred, err, name)
		}
	}
	for i := range federation.MaxCached + 500 {
		get(i)
		get(0) // stays, being in use
	}
	if c.Len() != federation.MaxCached {
		t.Errorf("%d are kept", c.Len())
	}
	before := n.Load()
	get(0)
	get(federation.MaxCached)
	if n.Load() != before {
		t.Error("what was used last was forgotten")
	}
	get(1)
	if n.Load() != before+1 {
		t.Error("what was used first was kept")
	}
}

func TestRejectedTokenIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newCounted()
		c := federation.NewCache(m.mint)
		defer c.Close()
		get := func(want string) {
			t.Helper()
			if cred, err := c.Get(t.Context(), "a"); err != nil || cred.Token != want {
				t.Fatalf("got %v, %v; want %s", cred.Token, err, want)
			}
		}
		get("t1")
		c.Reject("a", "another")
		c.Reject("b", "t1")
		get("t1")
		c.Reject("a", "t1") // however young it is
		get("t2")
		c.Reject("a", "t2") // the second in a moment: minting another would not help
		get("t2")
		time.Sleep(time.Minute)
		c.Reject("a", "t2")
		get("t3")
	})
}

func TestCloseEndsMints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newCounted()
		c := federation.NewCache(m.mint)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Get(t.Context(), "a"); err == nil {
				t.Error("a mint outlived its gateway")
			}
		})
		synctest.Wait()
		c.Close()
		wg.Wait()
		if _, err := c.Get(t.Context(), "b"); err == nil {
			t.Error("a mint began after the end")
		}
	})
}

// TestKeys: principals that differ in anything have different keys, however their
// parts are cut.
func TestKeys(t *testing.T) {
	type args struct {
		connection, audience, target, session, jwt string
		p                                          trailgate.Principal
	}
	all := []args{
		{},
		{connection: "c"},
		{audience: "c"},
		{target: "c"},
		{session: "c"},
		{jwt: "c"},
		{p: trailgate.Principal{Issuer: "c"}},
		{p: trailgate.Principal{Subject: "c"}},
		{p: trailgate.Principal{Agent: "c"}},
		{p: trailgate.Principal{Human: "c"}},
		{p: trailgate.Principal{Human: "c", HumanBy: "admin"}},
		{p: trailgate.Principal{Human: "c", HumanBy: "issuer"}},
		{p: trailgate.Principal{Actors: []string{"c"}}},
		{p: trailgate.Principal{Actors: []string{""}}},
		{p: trailgate.Principal{Actors: []string{"", ""}}},
		{p: trailgate.Principal{Actors: []string{"a", "b"}}},
		{p: trailgate.Principal{Actors: []string{"b", "a"}}},
		{p: trailgate.Principal{Actors: []string{"ab"}}},
		{p: trailgate.Principal{Actors: []string{"a\x01b"}}},
		{p: trailgate.Principal{Issuer: "ab", Subject: "c"}},
		{p: trailgate.Principal{Issuer: "a", Subject: "bc"}},
		{p: trailgate.Principal{Issuer: "a|b"}},
		{p: trailgate.Principal{Issuer: "a", Subject: "|b"}},
		{p: trailgate.Principal{Human: strings.Repeat("h", 2000)}},
		{p: trailgate.Principal{Human: strings.Repeat("h", 2001)}},
		{session: "s", jwt: "j"},
		{session: "sj"},
		{jwt: "sj"},
	}
	seen := map[[32]byte]int{}
	for i, a := range all {
		k := federation.KeyOf(a.connection, &a.p, a.audience, a.target, a.session, a.jwt)
		if j, ok := seen[k]; ok {
			t.Errorf("%+v and %+v have one key", all[j], a)
		}
		seen[k] = i
	}
}
