package connector

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// tunnel is one connector's connection, at the gateway.
type tunnel struct {
	conn                 *tls.Conn
	name, address, build string
	instance, by         string
	connections, serves  []string // that it is for; of those, what it serves
	key                  []byte   // public, DER
	keySum               string
	certEnds             time.Time
	until                time.Time // its identity ends then, and the tunnel with it
	enrolled             bool      // its certificate is of the gateway's own
	since                time.Time
	bytes                atomic.Int64
	cc                   *http.ClientConn
	follows              []*tunnel // of the same process, to drain when this one takes calls
	once                 sync.Once
	closed               chan struct{} // closed once it has failed
	cause                error         // of that; set before closed is

	// Guarded by the hub's mu.
	pending  bool // not to be chosen yet
	draining bool
	inFlight int
	calls    int64
	failures int64
	lastBeat time.Time
}

// takes reports whether calls of a connection may go this way. The hub's mu is held.
func (t *tunnel) takes(connection string) bool {
	return !t.pending && !t.draining && t.cc != nil && slices.Contains(t.serves, connection) && !t.failed()
}

// fail ends the tunnel: calls on it fail, and it is chosen no more.
func (t *tunnel) fail(why error) {
	t.once.Do(func() {
		t.cause = why
		close(t.closed)
		_ = t.conn.NetConn().Close() // not TLS's own, which may wait to say goodbye
	})
}

func (t *tunnel) failed() bool {
	select {
	case <-t.closed:
		return true
	default:
		return false
	}
}

// newClient makes the gateway's half of HTTP/2 on a connection that the other end
// dialled. [http.ClientConn] is one connection and sends a request once. Windows are wide
// by default: a large answer does not wait for its acknowledgement.
func newClient(ctx context.Context, conn net.Conn) (*http.ClientConn, error) {
	// What is below is encrypted; that net/http does not know it spares it the question
	// which protocol was agreed on.
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	t := &http.Transport{
		Protocols: protocols, DisableCompression: true, MaxResponseHeaderBytes: 1 << 20,
		HTTP2:       &http.HTTP2Config{MaxReadFrameSize: 256 << 10},
		DialContext: func(context.Context, string, string) (net.Conn, error) { return plain{conn}, nil },
	}
	return t.NewClientConn(ctx, "http", ServerName+":80")
}

// plain hides what a connection is made of.
type plain struct{ net.Conn }

// run serves the tunnel until it ends.
func (t *tunnel) run(h *Hub) {
	cc, err := newClient(h.life, t.conn)
	if err != nil {
		t.fail(fmt.Errorf("begin: %w", err))
	} else {
		h.mu.Lock()
		t.cc, t.pending = cc, false
		var idle []*tunnel
		for _, older := range t.follows { // its last call ends it
			if older.draining = true; older.inFlight == 0 {
				idle = append(idle, older)
			}
		}
		t.follows = nil
		h.mu.Unlock()
		for _, older := range idle {
			older.farewell()
			older.fail(errors.New("drained"))
		}
		h.cfg.Log.InfoContext(h.life, "connector connected", "connector", t.name, "address", t.address, "connections", t.serves)
		t.fail(t.control(h))
	}
	h.forget(t, t.cause)
	h.cfg.Log.InfoContext(h.life, "connector gone", "connector", t.name, "address", t.address, "why", t.cause)
	if cc != nil {
		_ = cc.Close()
	}
}

// control holds the stream on which the connector gives its signs of life and says that
// it drains. It returns why the tunnel is to end.
func (t *tunnel) control(h *Hub) error {
	ctx, cancel := context.WithCancel(h.life)
	defer cancel()
	pr, pw := io.Pipe()
	defer pw.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+ServerName+controlPath, pr)
	if err != nil {
		return err
	}
	// Three beats without a sign, and it is taken for dead.
	patience := 3 * h.cfg.Beat
	overdue := time.AfterFunc(patience, func() {
		t.fail(fmt.Errorf("no sign of life for %v", patience))
		cancel()
	})
	defer overdue.Stop()
	stop := context.AfterFunc(ctx, func() { _ = pw.CloseWithError(context.Canceled) })
	defer stop()
	resp, err := t.cc.RoundTrip(req)
	if err != nil {
		return t.why(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the connector answers the control stream with %d", resp.StatusCode)
	}
	in, out := beats(resp.Body), json.NewEncoder(pw)
	for {
		b, err := in()
		if err != nil {
			return t.why(err)
		}
		overdue.Reset(patience)
		h.mu.Lock()
		t.lastBeat = time.Now()
		t.failures = b.Failed
		over := h.cfg.Now().Sub(t.until)
		if (b.Draining || over >= 0) && !t.draining {
			t.draining = true
			h.cfg.Log.InfoContext(ctx, "connector drains", "connector", t.name, "identity_ended", over >= 0)
		}
		done := t.draining && t.inFlight == 0
		h.mu.Unlock()
		switch {
		case done:
			t.farewell()
			return errors.New("drained")
		case over >= h.cfg.AnswerTimeout:
			return errors.New("what it proved itself with has ended")
		}
		if err := out.Encode(beat{}); err != nil {
			return t.why(err)
		}
	}
}

// farewell lets the connector know that no call is under way and none will come: the
// connection ends in order.
func (t *tunnel) farewell() {
	_ = t.conn.Close()
}

func (t *tunnel) why(err error) error {
	if t.failed() && t.cause != nil {
		return t.cause
	}
	return fmt.Errorf("the connection broke: %w", err)
}

// choose takes the connector with the fewest calls under way, none of those tried; nil:
// there is none. done gives it back.
func (h *Hub) choose(connection string, tried []*tunnel) *tunnel {
	h.mu.Lock()
	defer h.mu.Unlock()
	var best *tunnel
	for t := range h.tunnels {
		if !t.takes(connection) || slices.Contains(tried, t) {
			continue
		}
		if best == nil || t.inFlight < best.inFlight || t.inFlight == best.inFlight && t.calls < best.calls {
			best = t
		}
	}
	if best != nil {
		best.inFlight++
		best.calls++
	}
	return best
}

// done ends a call. The last call of a connector that drains ends its tunnel.
func (h *Hub) done(t *tunnel) {
	h.mu.Lock()
	t.inFlight--
	last := t.draining && t.inFlight == 0
	h.mu.Unlock()
	if last {
		t.farewell()
		t.fail(errors.New("drained"))
	}
}
