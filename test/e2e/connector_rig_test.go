package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/sandbox"
)

// The connector's tests have networks of their own: namespaces of the kernel, joined by
// two bridges. What must not reach something else has no route to it.
//
//	gw ── outside ── c1, c2 ── inside ── bq

// helperVariable has this test's binary be a process of a network: "sandbox ADDR SOCKET"
// is BigQuery, with a control socket; "relay SOCKET ADDR" lets this process reach a port
// of another network.
const helperVariable = "TRAILGATE_E2E_HELPER"

// helper is such a process; it ends when its stdin does.
func helper(what string) {
	words := strings.Fields(what)
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(1)
	}
	switch words[0] {
	case "sandbox":
		if err := sandboxProcess(words[1], words[2]); err != nil {
			fail(err)
		}
	case "relay":
		l, err := net.Listen("unix", words[1])
		if err != nil {
			fail(err)
		}
		go relay(l, words[2])
	}
	fmt.Println("up")
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func relay(l net.Listener, to string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			d, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer d.Close()
			go func() {
				_, _ = io.Copy(d, c)
				_ = d.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(c, d)
		}()
	}
}

// held is a BigQuery that keeps its answers back on request: what it was asked is done.
type held struct {
	*upstream
	mu      sync.Mutex
	gate    chan struct{} // nil: open
	waiting int
}

func (h *held) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := httptest.NewRecorder()
	h.serve(rec, r)
	h.mu.Lock()
	gate := h.gate
	if gate != nil {
		h.waiting++
	}
	h.mu.Unlock()
	if gate != nil {
		<-gate
		h.mu.Lock()
		h.waiting--
		h.mu.Unlock()
	}
	for name, values := range rec.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}

func sandboxProcess(address, socket string) error {
	box, err := sandbox.New(sandbox.Config{Principals: map[string]string{upstreamToken: gatewaySA}})
	if err != nil {
		return err
	}
	if err := box.Seed(context.Background()); err != nil {
		return err
	}
	h := &held{upstream: &upstream{box: box}}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	control, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/arrivals", func(w http.ResponseWriter, _ *http.Request) {
		count := map[string]int{}
		for _, a := range h.arrivals() {
			count[a.reason]++
		}
		_ = json.NewEncoder(w).Encode(count)
	})
	mux.HandleFunc("/jobs", func(w http.ResponseWriter, _ *http.Request) {
		count := map[string]int{}
		for _, j := range box.Jobs() {
			count[j.Labels["trailgate_entry"]]++
		}
		_ = json.NewEncoder(w).Encode(count)
	})
	mux.HandleFunc("/waiting", func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]int{"waiting": h.waiting})
	})
	mux.HandleFunc("/hold", func(http.ResponseWriter, *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.gate = make(chan struct{})
	})
	mux.HandleFunc("/release", func(http.ResponseWriter, *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		close(h.gate)
		h.gate = nil
	})
	go func() { _ = http.Serve(l, h) }()
	go func() { _ = http.Serve(control, mux) }()
	return nil
}

// network is the namespaces of one test.
type network struct {
	t      *testing.T
	prefix string
	dir    string // of sockets
}

const (
	outsideGW  = "10.77.0.1"
	insideBQ   = "10.78.0.1"
	bqAddress  = insideBQ + ":9050"
	gwAgents   = "127.0.0.1:8470"
	gwTunnels  = outsideGW + ":8472"
	controlBQ  = "bq.sock"
	agentsSock = "agents.sock"
)

func newNetwork(t *testing.T) *network {
	t.Helper()
	need(t, "ip", "apt-get install iproute2")
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces, which only root can: run it as root, or leave such tests out with 'make test-short'")
	}
	dir, err := os.MkdirTemp("", "tg") // short: sockets' names are
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &network{t: t, prefix: fmt.Sprintf("tg%d-", os.Getpid()), dir: dir}
	for _, ns := range []string{"sw", "gw", "c1", "c2", "bq"} {
		n.ip("netns", "add", n.prefix+ns)
		t.Cleanup(func() { n.ip("netns", "del", n.prefix+ns) })
		n.in(ns, "link", "set", "lo", "up")
	}
	for _, bridge := range []string{"outside", "inside"} {
		n.in("sw", "link", "add", bridge, "type", "bridge")
		n.in("sw", "link", "set", bridge, "up")
	}
	for _, x := range []struct{ ns, bridge, address string }{
		{"gw", "outside", outsideGW},
		{"c1", "outside", "10.77.0.11"},
		{"c2", "outside", "10.77.0.12"},
		{"c1", "inside", "10.78.0.11"},
		{"c2", "inside", "10.78.0.12"},
		{"bq", "inside", insideBQ},
	} {
		port := x.ns + "-" + x.bridge
		n.in("sw", "link", "add", port, "type", "veth", "peer", "name", x.bridge, "netns", n.prefix+x.ns)
		n.in("sw", "link", "set", port, "master", x.bridge, "up")
		n.in(x.ns, "addr", "add", x.address+"/24", "dev", x.bridge)
		n.in(x.ns, "link", "set", x.bridge, "up")
	}
	return n
}

func (n *network) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// in is ip in a namespace.
func (n *network) in(ns string, args ...string) {
	n.t.Helper()
	n.ip(append([]string{"-n", n.prefix + ns}, args...)...)
}

// reaches reports whether one network has a way to an address of another.
func (n *network) reaches(ns, address string) bool {
	return exec.Command("ip", "-n", n.prefix+ns, "route", "get", address).Run() == nil
}

// command is a command in a network.
func (n *network) command(ns, name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", n.prefix + ns, name}, args...)...)
}

// process is something that runs in a network.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	out *output
}

func (n *network) start(ns, mark, name string, args ...string) *process {
	n.t.Helper()
	p := &process{t: n.t, cmd: n.command(ns, name, args...), out: &output{}}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.Env = cleanEnv(n.dir)
	p.begin(mark)
	return p
}

func (p *process) begin(mark string) {
	p.t.Helper()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(p.kill)
	waitFor(p.t, readyTimeout, func() bool { return strings.Contains(p.out.String(), mark) }, func() string {
		return fmt.Sprintf("%v does not come up:\n%s", p.cmd.Args, p.out)
	})
}

// helper starts this binary as a helper.
func (n *network) helper(ns, what string) {
	n.t.Helper()
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	p := &process{t: n.t, cmd: n.command(ns, self), out: &output{}}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.Env = append(cleanEnv(n.dir), helperVariable+"="+what)
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = stdin.Close() })
	p.begin("up")
}

// kill ends a process as a crash would; one that has ended stays so.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// stop ends a process in good order and returns its exit code.
func (p *process) stop() int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	_ = p.cmd.Wait() // the code says it
	return p.cmd.ProcessState.ExitCode()
}

// unixClient reaches a socket by HTTP.
func unixClient(path string) *http.Client {
	return &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{
		MaxIdleConnsPerHost: 64,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
}

// ask asks the sandbox's control socket.
func (n *network) ask(what string) map[string]int {
	n.t.Helper()
	resp, err := unixClient(filepath.Join(n.dir, controlBQ)).Get("http://bq/" + what)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	out := map[string]int{}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil && !errors.Is(err, io.EOF) {
		n.t.Fatal(err)
	}
	return out
}
