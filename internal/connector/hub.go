package connector

import (
	"cmp"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Event is something about connectors that the trail is to have.
type Event struct {
	Action string // one of the Action constants
	Name   string // of the connector, where one is known
	Client string // its address
	Detail map[string]string
}

// What an [Event] is about.
const (
	ActionEnroll     = "connector.enroll"     // a certificate is issued for an enrolment token
	ActionRenew      = "connector.renew"      // a certificate is issued for one that is about to end
	ActionConnect    = "connector.connect"    // a connector is admitted and takes calls from now on
	ActionDisconnect = "connector.disconnect" // its tunnel ended
	ActionRefused    = "connector.refused"    // it was not admitted
)

// Peer is a connector that somebody else than the registry vouches for.
type Peer struct {
	Name        string
	Connections []string
	By          string // such as "spiffe://…", for the trail
	// Until is when that ends, and with it the tunnel. Zero: with the certificate.
	Until time.Time
}

// HubConfig is what a Hub is made of. Fields without "Optional" must be set.
type HubConfig struct {
	Gateway, Build string
	// CA issues the certificates of connectors, and the one that the gateway shows them.
	CA       *x509.Certificate
	Key      crypto.Signer
	Registry *Registry
	// Connections are those that calls take to connectors, and who mints their
	// credentials: trailgate.CredentialGateway or CredentialConnector.
	Connections map[string]string
	// Record makes an event durable, before it takes effect.
	Record func(ctx context.Context, e Event) error
	Log    *slog.Logger
	// Certificate and Token tell of connectors that have an identity from elsewhere:
	// an X.509-SVID, a JWT. Optional.
	Certificate func(chain []*x509.Certificate) (Peer, error)
	Token       func(ctx context.Context, token string) (Peer, error)

	Now            func() time.Time // Optional: time.Now.
	Beat           time.Duration    // between signs of life. Optional: 5 s; three are missed before a tunnel is given up.
	CertificateTTL time.Duration    // Optional: 7 days.
	AnswerTimeout  time.Duration    // until the head of an answer. Optional: 10 minutes.
}

// Hub is the gateway's end. It is safe for concurrent use.
type Hub struct {
	cfg  HubConfig
	life context.Context
	end  context.CancelFunc
	work sync.WaitGroup
	pool *x509.CertPool

	admitting chan struct{} // connections that did not say yet who they are

	mu      sync.Mutex // guards what follows, and the fields of tunnels that say so
	tunnels map[*tunnel]bool
	cert    *tls.Certificate // the gateway's own
	refused map[string]*refusals

	counters counters
}

type counters struct {
	calls, lost, badReceipts, missingReceipts, refused atomic.Int64
}

const (
	maxAdmitting = 64
	maxTunnels   = 1000
	serverTTL    = 30 * 24 * time.Hour
	backdated    = 5 * time.Minute
)

// NewHub makes a hub; Close ends it.
func NewHub(cfg HubConfig) (*Hub, error) {
	if cfg.CA == nil || cfg.Key == nil || cfg.Registry == nil || cfg.Record == nil || cfg.Log == nil || len(cfg.Connections) == 0 {
		return nil, errors.New("connector: CA, Key, Registry, Record, Log and Connections are required")
	}
	cfg.Now = orElse(cfg.Now, time.Now)
	cfg.Beat = cmp.Or(cfg.Beat, 5*time.Second)
	cfg.CertificateTTL = cmp.Or(cfg.CertificateTTL, 7*24*time.Hour)
	cfg.AnswerTimeout = cmp.Or(cfg.AnswerTimeout, 10*time.Minute)
	h := &Hub{cfg: cfg, tunnels: map[*tunnel]bool{}, refused: map[string]*refusals{}, admitting: make(chan struct{}, maxAdmitting), pool: x509.NewCertPool()}
	h.pool.AddCert(cfg.CA)
	h.life, h.end = context.WithCancel(context.Background())
	if _, err := h.serverCertificate(nil); err != nil {
		return nil, err
	}
	return h, nil
}

func orElse[F any](f, d func() F) func() F {
	if f == nil {
		return d
	}
	return f
}

// Pin is what enrolment tokens name the authority by.
func (h *Hub) Pin() []byte { return Pin(h.cfg.CA) }

// Pin is what enrolment tokens name an authority by: the SHA-256 of its certificate.
func Pin(ca *x509.Certificate) []byte {
	s := sha256.Sum256(ca.Raw)
	return s[:]
}

// Serve admits connectors until the listener is closed. It closes the listener when the
// hub is closed.
func (h *Hub) Serve(l net.Listener) error {
	stop := context.AfterFunc(h.life, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err != nil {
			if h.life.Err() != nil {
				return nil
			}
			var temporary interface{ Temporary() bool }
			if errors.As(err, &temporary) && temporary.Temporary() { // such as: too many open files
				select {
				case <-time.After(100 * time.Millisecond):
					continue
				case <-h.life.Done():
					return nil
				}
			}
			return fmt.Errorf("accept connectors: %w", err)
		}
		select {
		case h.admitting <- struct{}{}:
			h.work.Go(func() { h.admit(conn) })
		default:
			_ = conn.Close() // too many strangers at a time; connectors come again
		}
	}
}

// Close ends all tunnels and waits for what they do.
func (h *Hub) Close() {
	h.end()
	h.mu.Lock()
	for t := range h.tunnels {
		t.fail(errors.New("the gateway stops"))
	}
	h.mu.Unlock()
	h.work.Wait()
}

// Revoked cuts the tunnels of a connector that was revoked. It returns how many.
func (h *Hub) Revoked(name string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for t := range h.tunnels {
		if t.name == name && t.enrolled {
			t.fail(errors.New("the connector was revoked"))
			n++
		}
	}
	return n
}
