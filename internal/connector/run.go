package connector

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trailgate/trailgate"
)

// Config is what a Connector is made of. Fields without "Optional" must be set.
type Config struct {
	Gateway     Remote
	Connections map[string]Served
	Allowed     *Allowed
	// Certificate is what it proves itself with now; its key signs receipts. Renew is
	// called before it connects, and now and then while it is connected: it renews the
	// certificate where that is due. Optional.
	Certificate func() (*tls.Certificate, error)
	Renew       func(ctx context.Context) error
	// Token is a JWT that says who it is, for one that has no certificate of anybody's.
	// Optional.
	Token func(ctx context.Context) (string, error)
	// UpstreamRoots are what BigQuery's certificate is checked with. Optional: the system's.
	UpstreamRoots *x509.CertPool
	Log           *slog.Logger

	AnswerTimeout time.Duration // until the head of BigQuery's answer. Optional: 10 minutes.
	MinWait       time.Duration // before the first attempt to connect again. Optional: 250 ms.
	MaxWait       time.Duration // at most. Optional: 30 s.
}

// Connector is the end beside the project.
type Connector struct {
	cfg      Config
	instance string
	upstream *http.Transport
	ticks    func(time.Duration) (c <-chan time.Time, stop func()) // a ticker; a test has its own

	calls, failed, inFlight, bytes atomic.Int64

	work sync.WaitGroup // sessions

	mu       sync.Mutex // guards what follows
	sessions map[*session]bool
	state    State
	drains   bool
}

// State is how a connector stands, for its health.
type State struct {
	Connected bool      `json:"connected"`
	Name      string    `json:"name,omitempty"`
	Gateway   string    `json:"gateway,omitempty"` // its id
	Since     time.Time `json:"since,omitzero"`
	LastBeat  time.Time `json:"last_beat,omitzero"`
	Error     string    `json:"error,omitempty"` // why it is not connected
	Calls     int64     `json:"calls"`
	Failed    int64     `json:"failed"`
	InFlight  int64     `json:"in_flight"`
	Bytes     int64     `json:"bytes"`
}

// New makes a Connector; Run connects it.
func New(cfg Config) (*Connector, error) {
	if cfg.Gateway.Address == "" || cfg.Gateway.Roots == nil || len(cfg.Connections) == 0 || cfg.Allowed == nil || cfg.Certificate == nil || cfg.Log == nil {
		return nil, errors.New("connector: Gateway, Connections, Allowed, Certificate and Log are required")
	}
	cfg.AnswerTimeout = cmp.Or(cfg.AnswerTimeout, 10*time.Minute)
	cfg.MinWait = cmp.Or(cfg.MinWait, 250*time.Millisecond)
	cfg.MaxWait = cmp.Or(cfg.MaxWait, 30*time.Second)
	var id [12]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("make an instance's id: %w", err)
	}
	return &Connector{cfg: cfg, instance: hex.EncodeToString(id[:]), upstream: newUpstream(cfg.Allowed, cfg.UpstreamRoots, cfg.AnswerTimeout), ticks: ticker, sessions: map[*session]bool{}}, nil
}

// State tells how it stands.
func (c *Connector) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	s.Calls, s.Failed, s.InFlight, s.Bytes = c.calls.Load(), c.failed.Load(), c.inFlight.Load(), c.bytes.Load()
	return s
}

func (c *Connector) touched() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.LastBeat = time.Now().UTC()
}

// Run stays connected until ctx ends, or until Drain has let the last call go. A refusal
// that waiting does not mend ends it, too.
func (c *Connector) Run(ctx context.Context) error {
	defer c.upstream.CloseIdleConnections()
	defer c.work.Wait()
	wait := c.cfg.MinWait
	for {
		began := time.Now()
		err := c.connected(ctx)
		c.mu.Lock()
		serving := len(c.sessions) > 0
		c.state.Connected, c.state.Error = serving, ""
		if err != nil && !serving {
			c.state.Error = err.Error()
		}
		drains := c.drains
		c.mu.Unlock()
		refusal, refused := errors.AsType[*Refusal](err)
		switch {
		case ctx.Err() != nil, drains:
			return nil
		case errors.Is(err, errTurn):
			wait = c.cfg.MinWait
			continue
		case refused && !refusal.Temporary() && !serving: // while an older connection serves, its end is not anticipated
			return err
		}
		if time.Since(began) > c.cfg.MaxWait {
			wait = c.cfg.MinWait // it was connected for a while
		}
		// Full jitter: connectors that a gateway's restart cut off do not come back all at once.
		pause := c.cfg.MinWait/2 + mathrand.N(wait)
		c.cfg.Log.WarnContext(ctx, "not connected to the gateway", "gateway", c.cfg.Gateway.Address, "err", err, "again_in", pause.Round(time.Millisecond).String())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		wait = min(2*wait, c.cfg.MaxWait)
	}
}

func ticker(every time.Duration) (c <-chan time.Time, stop func()) {
	t := time.NewTicker(every)
	return t.C, t.Stop
}

// renewEvery is how often it is looked whether the certificate is to be renewed: often
// enough that one of an hour does not end before anybody looked.
const renewEvery = 5 * time.Minute

// errTurn is no error: it is time for a connection with a newer identity.
var errTurn = errors.New("what this connector proved itself with ends soon")

// connected connects, and serves until the tunnel ends; or until what it was opened with
// is soon to end. Then a new one takes the calls, and this one finishes what it has.
func (c *Connector) connected(ctx context.Context) error {
	if c.cfg.Renew != nil {
		if err := c.cfg.Renew(ctx); err != nil {
			c.cfg.Log.WarnContext(ctx, "renew the certificate", "err", err)
		}
	}
	cert, err := c.cfg.Certificate()
	if err != nil {
		return err
	}
	hello := Hello{Op: opServe, Instance: c.instance, Connections: map[string]string{}}
	for name, s := range c.cfg.Connections {
		hello.Connections[name] = trailgate.CredentialGateway
		if s.Mint != nil {
			hello.Connections[name] = trailgate.CredentialConnector
		}
	}
	if c.cfg.Token != nil {
		if hello.Token, err = c.cfg.Token(ctx); err != nil {
			return fmt.Errorf("get a token: %w", err)
		}
	}
	c.mu.Lock()
	hello.Beside = len(c.sessions) > 0
	c.mu.Unlock()
	conn, welcome, _, err := c.cfg.Gateway.dial(ctx, cert, hello)
	if err != nil {
		return err
	}
	life, end := context.WithCancel(ctx)
	// What is left is cut: the gateway settles it.
	stop := context.AfterFunc(life, func() { _ = conn.NetConn().Close() })
	s := &session{
		c: c, conn: conn, name: welcome.Name, key: cert, end: end,
		beat: max(time.Duration(welcome.BeatMillis)*time.Millisecond, 100*time.Millisecond), draining: make(chan struct{}),
	}
	c.mu.Lock()
	c.sessions[s] = true
	c.state = State{Connected: true, Name: welcome.Name, Gateway: welcome.Gateway, Since: time.Now().UTC()}
	if c.drains {
		close(s.draining)
	}
	c.mu.Unlock()
	c.cfg.Log.InfoContext(ctx, "connected", "gateway", welcome.Gateway, "address", c.cfg.Gateway.Address, "connector", welcome.Name)
	ended := make(chan struct{})
	c.work.Go(func() {
		defer close(ended)
		if c.cfg.Renew != nil {
			var renewing sync.WaitGroup
			renewing.Go(func() { c.renewing(life) })
			defer renewing.Wait()
		}
		serveConn(life, conn, s, c.cfg.Log)
		c.mu.Lock()
		delete(c.sessions, s)
		c.mu.Unlock()
		end()
		stop()
		_ = conn.Close()
	})
	var turn <-chan time.Time
	if left := time.Duration(welcome.EndsMillis) * time.Millisecond; left > 0 {
		timer := time.NewTimer(left*2/3 + mathrand.N(left/10+1)) // not all of them at once
		defer timer.Stop()
		turn = timer.C
	}
	select {
	case <-ended:
	case <-turn:
		return errTurn
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.New("the connection to the gateway ended")
}

// serveConn serves HTTP/2 on one connection, until it is closed.
func serveConn(ctx context.Context, conn net.Conn, handler http.Handler, log *slog.Logger) {
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true) // see newClient
	server := &http.Server{
		Handler: handler, Protocols: protocols, MaxHeaderBytes: 1 << 20, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
		HTTP2: &http.HTTP2Config{
			// Bodies that BigQuery does not take hold what they filled of the connection's
			// buffer: it is that of a few hundred, or four would keep all others waiting.
			MaxConcurrentStreams: 4096, MaxReadFrameSize: 256 << 10, MaxReceiveBufferPerConnection: 1 << 30, MaxReceiveBufferPerStream: 4 << 20,
		},
	}
	closed := make(chan struct{})
	only := &oneConn{conn: &ended{Conn: conn, closed: closed}, closed: closed, addr: conn.LocalAddr()}
	_ = server.Serve(only) // ends with the connection, which says why on its other end
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn   net.Conn
	taken  atomic.Bool
	closed chan struct{}
	addr   net.Addr
}

func (l *oneConn) Accept() (net.Conn, error) {
	if l.taken.CompareAndSwap(false, true) {
		return l.conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.addr }

// ended tells when a connection is closed.
type ended struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (e *ended) Close() error {
	defer e.once.Do(func() { close(e.closed) })
	return e.Conn.Close()
}

func (c *Connector) renewing(ctx context.Context) {
	tick, stop := c.ticks(renewEvery)
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
			if err := c.cfg.Renew(ctx); err != nil {
				c.cfg.Log.WarnContext(ctx, "renew the certificate", "err", err)
			}
		}
	}
}

// Drain has the gateway send no more calls; Run returns when those under way are done.
func (c *Connector) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drains {
		return
	}
	c.drains = true
	for s := range c.sessions {
		close(s.draining)
	}
}
