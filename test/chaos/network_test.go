package chaos

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/trail"
)

// TestNetworkFaults harms connections on both legs, between agents and the
// gateway and between the gateway and BigQuery, under load: each statement that
// ran has its intent, none ran twice, and what an agent was told, or was not, is
// on record or settled.
//
// TRAILGATE_NETWORK is how many calls are made; default 1000.
func TestNetworkFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	calls := int64(envInt(t, "TRAILGATE_NETWORK", 1000))
	seed := uint64(envInt(t, "TRAILGATE_SEED", 1))
	var upstream *proxy
	r := newRigWith(t, options{config: faultyConfig, before: func(address string) string {
		upstream = newProxy(t, address, 0, 4000, seed)
		return upstream.addr()
	}})
	r.start()
	r.query("CREATE TABLE staging.kills (n INT64)")
	upstream.mu.Lock()
	upstream.share = 100
	for c := range upstream.open { // that of the query above
		c.Close()
	}
	upstream.mu.Unlock()
	client := newProxy(t, r.addr, 30, 1200, seed+1)
	r.door, r.patience, r.mixed = client.addr(), 3*time.Second, true

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var number int64
	var numbers sync.Mutex
	wg := r.load(ctx, 8, &number, &numbers)
	for deadline := time.Now().Add(10 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		numbers.Lock()
		n := number
		numbers.Unlock()
		if n >= calls {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d calls in ten minutes", n)
		}
	}
	cancel()
	wg.Wait()
	client.settle()
	upstream.settle()
	must(t, r.cmd.Process.Signal(os.Interrupt))
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("graceful stop: %v\n%s", err, r.output)
	}
	if _, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: r.data}); err != nil {
		t.Fatal(err)
	}
	sum := r.settleAndCheck("staging.kills")
	n1, what1 := client.report()
	n2, what2 := upstream.report()
	t.Logf("%d calls, %d failed; %d connections of agents harmed: %s; %d connections to BigQuery harmed: %s; %s", number, r.failed.Load(), n1, what1, n2, what2, sum)
	if n1 < 50 || n2 < 50 {
		t.Error("too little was harmed for this to say much")
	}
}

// descriptors is how many the gateway has open.
func (r *rig) descriptors() int {
	r.t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.cmd.Process.Pid))
	must(r.t, err)
	return len(list)
}

func (r *rig) waitFor(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("timed out waiting until %s\n%s", what, r.output)
		}
	}
}

// TestIdleAndSlow: 2,000 connections that are idle, or say their headers or their
// body as slowly as they can, while 64 agents go on calling: none of those fails,
// headers that do not come are given up, and every descriptor comes back.
func TestIdleAndSlow(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	r := newRigWith(t, options{config: killsConfig})
	r.start()
	r.query("CREATE TABLE staging.kills (n INT64)")
	http.DefaultClient.CloseIdleConnections()
	baseline := r.descriptors()

	const idle, headers, bodies, good = 1000, 500, 500, 64
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	head := "POST /bigquery/v2/projects/demo-project/queries HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + r.tokens[0] + "\r\nContent-Type: application/json\r\n"
	for i := range idle + headers + bodies {
		c, err := net.Dial("tcp", r.addr)
		must(t, err)
		conns = append(conns, c)
		switch {
		case i < idle: // one request, and then nothing
			_, err = io.WriteString(c, "GET /bigquery/v2/projects/demo-project/datasets HTTP/1.1\r\nHost: x\r\n\r\n")
			must(t, err)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			must(t, err)
			resp.Body.Close()
		case i < idle+headers:
			_, err = io.WriteString(c, head+"X-Slow: ")
		default:
			_, err = io.WriteString(c, head+"Content-Length: 1000\r\n\r\n{")
		}
		must(t, err)
	}
	r.waitFor("all are connected", func() bool { return r.descriptors() >= baseline+bodies })
	ctx, cancel := context.WithCancel(t.Context())
	var number int64
	var numbers sync.Mutex
	wg := r.load(ctx, good, &number, &numbers)
	most := 0
	r.waitFor("the good ones got their answers", func() bool {
		most = max(most, r.descriptors())
		for _, c := range conns[idle:] { // one byte more
			_, _ = c.Write([]byte("x")) // those whose headers were given up fail
		}
		return r.answeredSoFar() >= 20*good
	})
	if n := r.failed.Load(); n > 0 {
		t.Errorf("%d calls of the good ones failed", n)
	}
	cancel()
	wg.Wait()
	// A connection to each agent, to the sandbox, and what the gateway has open itself.
	if most > baseline+idle+headers+bodies+3*good+200 {
		t.Errorf("%d descriptors are open for %d connections", most, len(conns)+good)
	}
	for _, c := range conns[idle : idle+headers] {
		must(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
		if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Fatal("headers that do not come are waited for without end")
		}
	}
	for _, c := range conns {
		c.Close()
	}
	r.waitFor("the descriptors are free again", func() bool { return r.descriptors() <= baseline+80 })
	t.Logf("%d connections beside %d agents that made %d calls, none of which failed; at most %d descriptors, %d before and %d after", len(conns), good, r.answeredSoFar(), most, baseline, r.descriptors())
	r.kill()
	r.settleAndCheck("staging.kills")
}
