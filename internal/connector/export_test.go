package connector

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Instance has a connector pass for another process, or for the same one.
func (c *Connector) SetInstance(s string) { c.instance = s }

// Offer has a connector offer other versions of the protocol.
func (r *Remote) Offer(v ...int) { r.versions = v }

// RenewNow renews whatever time is left.
func (i *Identity) RenewNow(ctx context.Context, r Remote) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.renewLocked(ctx, r)
}

// SetCertificate is for connectors that pretend.
func (i *Identity) SetCertificate(c *tls.Certificate) { i.cert = c }

// Pretend admits a connector that answers calls by a handler of the test's.
func Pretend(ctx context.Context, r Remote, cert *tls.Certificate, connections map[string]string, handler func(name string, control http.HandlerFunc) http.Handler, c *Connector) error {
	conn, w, _, err := r.dial(ctx, cert, Hello{Op: opServe, Instance: "pretender", Connections: connections})
	if err != nil {
		return err
	}
	life, end := context.WithCancel(ctx)
	s := &session{c: c, conn: conn, name: w.Name, key: cert, end: end, beat: 10 * time.Second, draining: make(chan struct{})}
	go func() {
		defer end()
		serveConn(life, conn, handler(w.Name, s.control), c.cfg.Log)
	}()
	context.AfterFunc(life, func() { _ = conn.NetConn().Close() })
	return nil
}

// Forwarder is what a connector answers calls with, for tests that change a little of it.
func (c *Connector) Forwarder(name string, cert *tls.Certificate) http.Handler {
	return http.HandlerFunc((&session{c: c, name: name, key: cert}).forward)
}

const ControlPath = controlPath

// Dialer is the connector's, with names that mean what the test says.
func Dialer(a *Allowed, lookup func(ctx context.Context, host string) ([]netip.Addr, error), dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return (&dialer{a, lookup, dial}).DialContext
}

var JobIn = jobIn

const RenewEvery = renewEvery

// Say says hello and nothing else.
func Say(ctx context.Context, r Remote, cert *tls.Certificate, hello Hello) error {
	conn, _, _, err := r.dial(ctx, cert, hello)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

var Carry = carry

// SetClock gives an identity another clock.
func (i *Identity) SetClock(now func() time.Time) { i.now = now }

// SetTicks has a connector look at its certificate when the test says.
func (c *Connector) SetTicks(ch <-chan time.Time) {
	c.ticks = func(time.Duration) (<-chan time.Time, func()) { return ch, func() {} }
}
