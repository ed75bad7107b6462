package connector_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/connector"
)

// TestForward: a call goes through, and the receipt about it is what happened.
func TestForward(t *testing.T) {
	r := newRig(t)
	id := r.enroll("lake-1", "lake")
	r.start(r.config(id, "lake"))
	for _, c := range []struct{ verb, path, body string }{
		{"GET", "/bigquery/v2/projects/p/jobs/j1?location=EU", ""},
		{"POST", "/bigquery/v2/projects/p/jobs", `{"configuration":{}}`},
		{"GET", "/a%2Fb/c%20d?x=%2F", ""},
		{"POST", "/bytes/3000000", strings.Repeat("x", 2_000_000)},
	} {
		entry, a := r.call("lake", c.verb, c.path, c.body)
		if a.err != nil || a.status != 200 || a.used.Connector.Verdict != trailgate.ReceiptGood {
			t.Fatalf("%s %s: %d %v, %+v", c.verb, c.path, a.status, a.err, a.used)
		}
		u := a.used.Connector
		rc, err := trailgate.VerifyReceipt(u.Receipt, u.Signature, publicKey(t, id))
		if err != nil {
			t.Fatal(err)
		}
		if rc.Entry != entry || rc.Connector != "lake-1" || rc.ResponseBytes != int64(len(a.body)) || rc.RequestBytes != int64(len(c.body)) || !rc.Whole {
			t.Errorf("receipt %+v", rc)
		}
		if strings.HasPrefix(c.path, "/bigquery") && (rc.Job != "p:EU.j1" || a.header.Get("X-Authorization") != "Bearer of-the-gateway") {
			t.Errorf("job %q, credential %q", rc.Job, a.header.Get("X-Authorization"))
		}
		if r.backend.count(entry) != 1 {
			t.Errorf("%s: sent %d times", c.path, r.backend.count(entry))
		}
		for name := range a.header {
			if strings.HasPrefix(name, "Trailgate-") {
				t.Errorf("header %s came out of the tunnel", name)
			}
		}
	}
	// The key stands in the trail.
	enrolled := r.events.of(connector.ActionEnroll, "lake-1")
	if len(enrolled) != 1 || enrolled[0].Detail["public_key"] != base64.StdEncoding.EncodeToString(publicKey(t, id)) {
		t.Errorf("enrolment: %+v", enrolled)
	}
	if len(r.events.of(connector.ActionConnect, "lake-1")) != 1 {
		t.Error("no entry about the connection")
	}
}

// TestManyCalls: one tunnel carries ten thousand calls, each once, each with a receipt.
func TestManyCalls(t *testing.T) {
	r := newRig(t)
	r.start(r.config(r.enroll("lake-1", "lake"), "lake"))
	total := 10_000
	if testing.Short() {
		total = 2000
	}
	const workers = 64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < total; i += workers {
				entry, a := r.call("lake", "POST", "/bigquery/v2/projects/p/queries", `{"query":"SELECT 1"}`)
				if a.err != nil || a.status != 200 || a.used.Connector.Verdict != trailgate.ReceiptGood || r.backend.count(entry) != 1 {
					t.Errorf("call %d: %d %v %+v, %d times", i, a.status, a.err, a.used.Connector, r.backend.count(entry))
					return
				}
			}
		})
	}
	wg.Wait()
	s := r.hub.Status()
	if len(s) != 1 || s[0].Calls != int64(total) || s[0].Streams != 0 {
		t.Errorf("status %+v", s)
	}
}

// TestConnectorKilled: of calls that were on a connector that dies, each was sent once, and
// the gateway knows that it may have been; all others go on.
func TestConnectorKilled(t *testing.T) {
	r := newRig(t)
	one := r.start(r.config(r.enroll("lake-1", "lake"), "lake"))
	r.start(r.config(r.enroll("lake-2", "lake"), "lake"))
	const workers, each = 64, 30
	release := make(chan struct{})
	var held sync.WaitGroup
	held.Add(workers)
	r.backend.hold = func(string) {
		r.backend.mu.Lock()
		first := r.backend.all <= workers
		r.backend.mu.Unlock()
		if first { // those that are under way when it dies
			held.Done()
			<-release
		}
	}
	var mu sync.Mutex
	lost, good := 0, 0
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				entry, a := r.call("lake", "POST", "/bigquery/v2/projects/p/jobs", `{}`)
				mu.Lock()
				switch {
				case a.err == nil && a.status == 200 && a.used.Connector.Verdict == trailgate.ReceiptGood:
					good++
				case kindOf(a.err) == connector.FailLost && a.used.Connector.Name == "lake-1":
					lost++
				default:
					t.Errorf("%d %v %+v", a.status, a.err, a.used)
				}
				mu.Unlock()
				if n := r.backend.count(entry); n != 1 {
					t.Errorf("sent %d times", n)
				}
			}
		})
	}
	held.Wait() // half of them on each
	one.kill()
	waitFor(t, "the connector is gone", func() bool { return r.hub.Serving("lake") == 1 })
	close(release)
	wg.Wait()
	if lost != workers/2 || good != workers*each-lost {
		t.Errorf("%d lost, %d good", lost, good)
	}
	if len(r.events.of(connector.ActionDisconnect, "lake-1")) != 1 {
		t.Error("no entry about the end of the connection")
	}
}

// TestDrain: a connector that is told to stop finishes what it has, takes no more, and
// fails none.
func TestDrain(t *testing.T) {
	r := newRig(t)
	one := r.start(r.config(r.enroll("lake-1", "lake"), "lake"))
	r.start(r.config(r.enroll("lake-2", "lake"), "lake"))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, a := r.call("lake", "POST", "/bytes/20000", "{}"); a.err != nil || a.used.Connector.Verdict != trailgate.ReceiptGood {
					t.Errorf("%v %+v", a.err, a.used)
					return
				}
			}
		})
	}
	waitFor(t, "there is load", func() bool { return one.State().Calls > 100 })
	one.Drain()
	select {
	case err := <-one.done:
		if err != nil {
			t.Errorf("run: %v", err)
		}
	case <-time.After(deadline):
		t.Error("it does not end")
	}
	close(stop)
	wg.Wait()
	if s := one.State(); s.InFlight != 0 || s.Failed != 0 {
		t.Errorf("state %+v", s)
	}
}

// TestDrainIdle: without a call under way it ends at once.
func TestDrainIdle(t *testing.T) {
	r := newRig(t)
	one := r.start(r.config(r.enroll("lake-1", "lake"), "lake"))
	one.Drain()
	select {
	case <-one.done:
	case <-time.After(deadline):
		t.Error("it does not end")
	}
	waitFor(t, "it is gone", func() bool { return r.hub.Serving("lake") == 0 })
	if _, a := r.call("lake", "GET", "/x", ""); kindOf(a.err) != connector.FailNoConnector {
		t.Error(a.err)
	}
}

// link is a network between a connector and the gateway, which can be cut.
type link struct {
	net.Listener
	to string

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func newLink(t *testing.T, to string) *link {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &link{Listener: l, to: to}
	t.Cleanup(func() { l.Close(); x.set(true, true) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go x.pipe(c)
		}
	}()
	return x
}

// pipe passes bytes on while the link is whole; while it is cut they are swallowed, as by
// a network that drops packets.
func (x *link) pipe(c net.Conn) {
	d, err := net.Dial("tcp", x.to)
	if err != nil {
		c.Close()
		return
	}
	x.mu.Lock()
	x.conns = append(x.conns, c, d)
	x.mu.Unlock()
	one := func(to, from net.Conn) {
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			x.mu.Lock()
			cut := x.cut
			x.mu.Unlock()
			if !cut && n > 0 {
				if _, werr := to.Write(buf[:n]); werr != nil {
					err = werr
				}
			}
			if err != nil {
				to.Close()
				return
			}
		}
	}
	go one(c, d)
	one(d, c)
}

func (x *link) set(cut, drop bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cut = cut
	if drop {
		for _, c := range x.conns {
			c.Close()
		}
		x.conns = nil
	}
}

// TestPartition: both ends notice that nothing comes any more, calls fail as lost, and
// when the network heals the connector is back by itself.
func TestPartition(t *testing.T) {
	r := newRig(t, func(c *connector.HubConfig) { c.Beat = time.Second })
	x := newLink(t, r.address)
	cfg := r.config(r.enroll("lake-1", "lake"), "lake")
	cfg.Gateway.Address = x.Addr().String()
	c := r.start(cfg)
	reached := make(chan struct{})
	heal := make(chan struct{})
	r.backend.hold = func(string) { close(reached); <-heal }
	done := make(chan answer, 1)
	go func() {
		_, a := r.call("lake", "POST", "/jobs", "{}")
		done <- a
	}()
	<-reached
	x.set(true, false)
	if a := <-done; kindOf(a.err) != connector.FailLost {
		t.Errorf("%v", a.err)
	}
	waitFor(t, "the connector notices", func() bool { return !c.State().Connected })
	r.backend.mu.Lock()
	r.backend.hold = nil
	r.backend.mu.Unlock()
	close(heal)
	x.set(false, false)
	waitFor(t, "it is back", func() bool { // and it is not the old tunnel that is meant
		return len(r.events.of(connector.ActionDisconnect, "lake-1")) == 1 && r.hub.Serving("lake") == 1
	})
	if _, a := r.call("lake", "GET", "/x", ""); a.err != nil {
		t.Error(a.err)
	}
}

// TestMint: the connector makes the credential, the gateway's goes no further, and the
// receipt says as whom.
func TestMint(t *testing.T) {
	r := newRig(t)
	cfg := r.config(r.enroll("pond-1", "pond"))
	var asked connector.Call
	cfg.Connections["pond"] = connector.Served{Mint: func(_ context.Context, call connector.Call) (string, connector.Minted, func(), error) {
		asked = call
		if call.Principal.Agent != "etl-bot" {
			return "", connector.Minted{}, nil, fmt.Errorf("who is %q", call.Principal.Agent)
		}
		return "minted-here", connector.Minted{Mode: "impersonation", Principal: "agent-etl-bot@p.iam.gserviceaccount.com"}, func() {}, nil
	}}
	r.start(cfg)
	entry, a := r.call("pond", "GET", "/x", "")
	if a.err != nil || a.header.Get("X-Authorization") != "Bearer minted-here" || asked.Entry != entry {
		t.Fatalf("%v %q %+v", a.err, a.header.Get("X-Authorization"), asked)
	}
	if m := a.used.Minted; m == nil || m.Mode != "impersonation" || m.Principal != "agent-etl-bot@p.iam.gserviceaccount.com" {
		t.Errorf("minted %+v", m)
	}
	if u := a.used.Connector; u.Verdict != trailgate.ReceiptGood || u.Credential != trailgate.CredentialConnector || !strings.Contains(u.Receipt, "principal agent-etl-bot@p.iam.gserviceaccount.com\n") {
		t.Errorf("%+v", u)
	}
}

// TestMintFails: without a credential nothing goes to BigQuery, and the gateway hears why.
func TestMintFails(t *testing.T) {
	r := newRig(t)
	cfg := r.config(r.enroll("pond-1", "pond"))
	cfg.Connections["pond"] = connector.Served{Mint: func(context.Context, connector.Call) (string, connector.Minted, func(), error) {
		return "", connector.Minted{}, nil, &connector.Failure{Kind: connector.FailCredential, Message: "no grant", Fix: "gcloud …"}
	}}
	r.start(cfg)
	entry, a := r.call("pond", "GET", "/x", "")
	if kindOf(a.err) != connector.FailCredential || !strings.Contains(a.err.Error(), "gcloud") || r.backend.count(entry) != 0 {
		t.Errorf("%v, %d times", a.err, r.backend.count(entry))
	}
	if a.used.Connector.Verdict != trailgate.ReceiptGood || !strings.Contains(a.used.Connector.Receipt, "status 0\n") {
		t.Errorf("receipt %+v", a.used.Connector)
	}
}

// TestUnreachable: BigQuery that cannot be dialled has got nothing.
func TestUnreachable(t *testing.T) {
	r := newRig(t)
	r.start(r.config(r.enroll("lake-1", "lake"), "lake"))
	r.backend.Close()
	_, a := r.call("lake", "POST", "/x", "{}")
	if kindOf(a.err) != connector.FailUnreachable {
		t.Error(a.err)
	}
}

// TestNoSecondSend: net/http sends a request again, by itself, that has no body and whose
// kept connection broke. A connector's does not.
func TestNoSecondSend(t *testing.T) {
	r := newRig(t)
	var mu sync.Mutex
	arrived := map[string]int{}
	r.backend.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		arrived[q.URL.Path]++
		mu.Unlock()
		if q.URL.Path == "/breaks" {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				conn.Close()
			}
		}
	})
	r.start(r.config(r.enroll("lake-1", "lake"), "lake"))
	if _, a := r.call("lake", "GET", "/warm", ""); a.err != nil {
		t.Fatal(a.err)
	}
	_, a := r.call("lake", "GET", "/breaks", "")
	if kindOf(a.err) != connector.FailBroken {
		t.Error(a.err)
	}
	mu.Lock()
	defer mu.Unlock()
	if arrived["/breaks"] != 1 {
		t.Errorf("sent %d times", arrived["/breaks"])
	}
}

// TestCutAnswer: an answer of BigQuery's that breaks off does not pass for whole.
func TestCutAnswer(t *testing.T) {
	r := newRig(t)
	r.backend.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = w.Write(make([]byte, 100_000)) // chunked: its length is not known
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	r.start(r.config(r.enroll("lake-1", "lake"), "lake"))
	_, a := r.call("lake", "GET", "/x", "")
	if a.err == nil || a.used.Connector.Verdict != trailgate.ReceiptGood || !strings.Contains(a.used.Connector.Receipt, "whole false\n") {
		t.Errorf("%v %+v", a.err, a.used)
	}
}

// TestAgentGone: a call that the gateway gives up is given up by the connector, too.
func TestAgentGone(t *testing.T) {
	r := newRig(t)
	c := r.start(r.config(r.enroll("lake-1", "lake"), "lake"))
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	r.backend.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		cancel()
		<-q.Context().Done()
		close(gone)
	})
	if a := r.send(ctx, "e", "lake", "GET", r.backend.URL+"/x", ""); a.err == nil {
		t.Error("an answer")
	}
	select {
	case <-gone:
	case <-time.After(deadline):
		t.Error("BigQuery is still asked")
	}
	waitFor(t, "nothing is in flight", func() bool { return c.State().InFlight == 0 && r.hub.Status()[0].Streams == 0 })
}
