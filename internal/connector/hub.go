package connector

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trailgate/trailgate"
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

// admit takes one connection from its handshake to its end.
func (h *Hub) admit(raw net.Conn) {
	waiting := true
	known := func() {
		if waiting {
			waiting = false
			<-h.admitting
		}
	}
	defer known()
	conn := tls.Server(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, GetCertificate: h.serverCertificate,
		// Whose certificate it is, and whether it counts, is told in words after the handshake.
		ClientAuth: tls.RequestClientCert,
	})
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(helloWait))
	ctx, cancel := context.WithTimeout(h.life, helloWait)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		h.cfg.Log.DebugContext(ctx, "connector handshake", "address", raw.RemoteAddr().String(), "err", err)
		return
	}
	var hello Hello
	if conn.ConnectionState().NegotiatedProtocol != alpn {
		return
	}
	if err := readFrame(conn, &hello); err != nil {
		_ = writeFrame(conn, Welcome{Code: CodeMalformed, Error: "this is the gateway's door for connectors, and that is not their protocol"})
		return
	}
	t, welcome, err := h.consider(ctx, conn, &hello)
	if err != nil {
		h.deny(ctx, conn, t, err)
		return
	}
	welcome.Version, welcome.Gateway, welcome.BeatMillis = versions[0], h.cfg.Gateway, h.cfg.Beat.Milliseconds()
	if err := writeFrame(conn, welcome); err != nil || hello.Op != opServe {
		if hello.Op == opServe {
			h.forget(t, err)
		}
		return
	}
	_ = conn.SetDeadline(time.Time{})
	known()
	t.run(h)
}

// consider decides about what a connector asks. The tunnel names who asked, as far as
// that is known; with opServe and no error it is registered.
func (h *Hub) consider(ctx context.Context, conn *tls.Conn, hello *Hello) (*tunnel, Welcome, error) {
	t := &tunnel{conn: conn, address: conn.RemoteAddr().String(), build: clip(hello.Build, 64), instance: clip(hello.Instance, 128), closed: make(chan struct{})}
	if !slices.Contains(hello.Versions, versions[0]) {
		return t, Welcome{}, refuse(CodeVersion, "this connector (Trailgate %s) speaks version %s of the tunnel's protocol, this gateway (Trailgate %s) version %s; install the gateway's version of trailgate beside the project",
			cmp.Or(t.build, "unknown"), join(hello.Versions), h.cfg.Build, join(versions))
	}
	switch hello.Op {
	case opEnroll:
		welcome, err := h.enroll(ctx, t, hello)
		return t, welcome, err
	case opRenew:
		welcome, err := h.renew(ctx, t, hello)
		return t, welcome, err
	case opServe:
		if err := h.identify(ctx, t, hello); err != nil {
			return t, Welcome{}, err
		}
		if err := h.register(ctx, t, hello); err != nil {
			return t, Welcome{}, err
		}
		return t, Welcome{Name: t.name, Connections: t.connections, EndsMillis: t.until.Sub(h.cfg.Now()).Milliseconds()}, nil
	}
	return t, Welcome{}, refuse(CodeMalformed, "%.40q is nothing that a gateway does for connectors", hello.Op)
}

func join(v []int) string {
	return clip(strings.Trim(strings.ReplaceAll(fmt.Sprint(v), " ", ", "), "[]"), 40)
}

// identify finds out who this is: by a certificate of the gateway's own authority, by
// one of another, or by a token. The key that TLS proved signs its receipts.
func (h *Hub) identify(ctx context.Context, t *tunnel, hello *Hello) error {
	chain := t.conn.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return refuse(CodeCertificate, "no client certificate came; enrol first: trailgate connector enroll")
	}
	leaf := chain[0]
	der, err := x509.MarshalPKIXPublicKey(leaf.PublicKey)
	if err != nil {
		return refuse(CodeCertificate, "the certificate's key cannot be read")
	}
	t.key, t.keySum, t.certEnds, t.until = der, hexSum(der), leaf.NotAfter, leaf.NotAfter
	if hello.Token != "" {
		if h.cfg.Token == nil {
			return refuse(CodeToken, "this gateway takes no tokens of connectors; configure connectors.identities there, or enrol")
		}
		peer, err := h.cfg.Token(ctx, hello.Token)
		if err != nil {
			return refuse(CodeToken, "the token is not accepted: %v", err)
		}
		return h.vouched(t, peer)
	}
	if bytesEqual(leaf.RawIssuer, h.cfg.CA.RawSubject) {
		name, err := h.own(leaf)
		t.name = name
		if err != nil {
			return err
		}
		c, err := h.cfg.Registry.use(name, serialOf(leaf))
		if err != nil {
			return err
		}
		t.connections, t.enrolled = c.Connections, true
		return nil
	}
	if h.cfg.Certificate == nil {
		return refuse(CodeCertificate, "the certificate is not of this gateway's authority (%s)", h.cfg.CA.Subject)
	}
	peer, err := h.cfg.Certificate(chain)
	if err != nil {
		return refuse(CodeCertificate, "the certificate is not accepted: %v", err)
	}
	return h.vouched(t, peer)
}

// vouched takes a connector for whom somebody else says it is. A name of the registry's
// means one connector for ever, also one that was revoked, and nobody else is let in by it.
func (h *Hub) vouched(t *tunnel, p Peer) error {
	if _, taken := h.cfg.Registry.get(p.Name); taken {
		return refuse(CodeConnection, "%.80q is the name of a connector that was enrolled; map the identity to another", p.Name)
	}
	t.name, t.connections, t.by = p.Name, p.Connections, p.By
	if !p.Until.IsZero() {
		t.until = p.Until
	}
	return nil
}

func bytesEqual(a, b []byte) bool { return string(a) == string(b) }

// own checks a certificate of the gateway's authority, and tells whose it says it is.
func (h *Hub) own(leaf *x509.Certificate) (name string, err error) {
	// Whose it is comes first: Verify looks at the time before it looks at the signature,
	// and a name that anybody can write is none to put into the trail.
	if err := leaf.CheckSignatureFrom(h.cfg.CA); err != nil {
		return "", refuse(CodeCertificate, "the certificate is not of this gateway's authority: %v", err)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: h.pool, CurrentTime: h.cfg.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return leaf.Subject.CommonName, refuse(CodeCertificate, "the certificate ended on %s; enrol again, under another name", leaf.NotAfter.UTC().Format(time.RFC3339))
	case err != nil:
		return "", refuse(CodeCertificate, "the certificate is not of this gateway's authority: %v", err)
	}
	return leaf.Subject.CommonName, nil
}

// register admits a tunnel to the connections that it asks for.
func (h *Hub) register(ctx context.Context, t *tunnel, hello *Hello) error {
	if len(hello.Connections) == 0 {
		return refuse(CodeConnection, "the connector's configuration names no connection")
	}
	serves := make([]string, 0, len(hello.Connections))
	for name, credential := range hello.Connections {
		if !slices.Contains(t.connections, name) {
			return refuse(CodeConnection, "connector %s is not for connection %.80q; it was enrolled for %s", t.name, name, strings.Join(t.connections, ", "))
		}
		want, configured := h.cfg.Connections[name]
		switch {
		case !configured:
			return refuse(CodeConnection, "connection %s of this gateway does not go through connectors; set connectors: true there", name)
		case credential != want:
			return refuse(CodeConnection, "the credential of connection %s is minted by the %s as this gateway has it, by the %s as connector %s has it; correct one of the two", name, want, credential, t.name)
		}
		serves = append(serves, name)
	}
	slices.Sort(serves)
	t.serves, t.since, t.lastBeat = serves, h.cfg.Now().UTC(), time.Now()

	h.mu.Lock()
	var replaced []*tunnel
	refusal := func() *Refusal {
		if h.life.Err() != nil || len(h.tunnels) >= maxTunnels {
			return refuse(CodeBusy, "the gateway stops, or has too many connectors")
		}
		for other := range h.tunnels {
			switch {
			case other.name != t.name:
			case other.instance == t.instance && t.instance != "":
				replaced = append(replaced, other) // the same process; its old connection is dead, or it would not come again
			case !other.draining:
				return refuse(CodeInUse, "connector %s is connected already, from %s; each needs an enrolment of its own", t.name, other.address)
			}
		}
		return nil
	}()
	if refusal == nil {
		t.pending = true // taken, and not to be chosen before the trail has it
		h.tunnels[t] = true
	}
	h.mu.Unlock()
	if refusal != nil {
		return refusal
	}
	if hello.Beside { // than this: the older ones finish what they have
		t.follows = replaced
	} else {
		for _, other := range replaced {
			other.fail(errors.New("the connector connected again"))
		}
	}
	detail := map[string]string{
		"connections": strings.Join(serves, ","), "build": t.build, "instance": t.instance, "key_sha256": t.keySum,
	}
	if t.by != "" { // no entry about an enrolment has the key
		detail["by"], detail["public_key"] = t.by, base64.StdEncoding.EncodeToString(t.key)
	}
	if err := h.cfg.Record(ctx, Event{Action: ActionConnect, Name: t.name, Client: t.address, Detail: detail}); err != nil {
		h.forget(t, nil)
		return refuse(CodeBusy, "the trail cannot be written; try again")
	}
	// Revoked meanwhile? From here on Revoked finds the tunnel.
	if t.enrolled {
		if c, ok := h.cfg.Registry.get(t.name); !ok || c.Revoked != nil {
			h.forget(t, errors.New("revoked"))
			return refuse(CodeRevoked, "connector %s was revoked", t.name)
		}
	}
	return nil
}

// forget takes a tunnel out of those that calls may take. A tunnel that was connected as
// the trail has it ends with an entry, too.
func (h *Hub) forget(t *tunnel, why error) {
	h.mu.Lock()
	there := h.tunnels[t]
	delete(h.tunnels, t)
	h.mu.Unlock()
	if there && why != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(h.life), helloWait)
		defer cancel()
		err := h.cfg.Record(ctx, Event{Action: ActionDisconnect, Name: t.name, Client: t.address, Detail: map[string]string{"reason": clip(why.Error(), 300)}})
		if err != nil {
			h.cfg.Log.ErrorContext(ctx, "record that a connector went", "connector", t.name, "err", err)
		}
	}
}

// deny tells a connector why not, and the trail.
func (h *Hub) deny(ctx context.Context, conn *tls.Conn, t *tunnel, err error) {
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok {
		h.cfg.Log.ErrorContext(ctx, "admit a connector", "address", t.address, "err", err)
		refusal = refuse(CodeBusy, "the gateway cannot do it now; its log says why")
	}
	h.counters.refused.Add(1)
	h.cfg.Log.WarnContext(ctx, "connector refused", "connector", t.name, "address", t.address, "code", refusal.Code, "why", refusal.Message)
	h.recordRefusal(ctx, t, refusal)
	_ = writeFrame(conn, Welcome{Code: refusal.Code, Error: refusal.Message, Version: versions[0]})
}

// refusals of one kind are one entry a minute: a flood must not fill the log.
type refusals struct {
	until time.Time
	more  int
}

const (
	refusalEvery = time.Minute
	maxRefusals  = 1000
)

func (h *Hub) recordRefusal(ctx context.Context, t *tunnel, r *Refusal) {
	key, now := r.Code+" "+t.name, time.Now()
	h.mu.Lock()
	x := h.refused[key]
	if x == nil && len(h.refused) >= maxRefusals {
		clear(h.refused)
	}
	if x != nil && now.Before(x.until) {
		x.more++
		h.mu.Unlock()
		return
	}
	detail := map[string]string{"code": r.Code, "why": clip(r.Message, 500), "build": t.build}
	if x != nil && x.more > 0 {
		detail["more_before"] = fmt.Sprint(x.more)
	}
	h.refused[key] = &refusals{until: now.Add(refusalEvery)}
	h.mu.Unlock()
	if err := h.cfg.Record(ctx, Event{Action: ActionRefused, Name: t.name, Client: t.address, Detail: detail}); err != nil {
		h.cfg.Log.ErrorContext(ctx, "record that a connector was refused", "err", err)
	}
}

// enroll gives a certificate for a token.
func (h *Hub) enroll(ctx context.Context, t *tunnel, hello *Hello) (Welcome, error) {
	csr, err := readCSR(hello.CSR)
	if err != nil {
		return Welcome{}, refuse(CodeMalformed, "%v", err)
	}
	var der []byte
	c, err := h.cfg.Registry.enroll(hello.Token, func(token Token) (string, time.Time, error) {
		t.name = token.Name
		cert, err := h.issue(token.Name, csr)
		if err != nil {
			return "", time.Time{}, err
		}
		der = cert.Raw
		return serialOf(cert), cert.NotAfter, h.cfg.Record(ctx, h.issued(ActionEnroll, t, cert, token.Connections, token.ID))
	})
	t.name = c.Name
	return Welcome{Name: c.Name, Connections: c.Connections, Certificate: der}, err
}

// renew gives a certificate for one that is still good.
func (h *Hub) renew(ctx context.Context, t *tunnel, hello *Hello) (Welcome, error) {
	chain := t.conn.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return Welcome{}, refuse(CodeCertificate, "no client certificate came")
	}
	name, err := h.own(chain[0])
	if t.name = name; err != nil {
		return Welcome{}, err
	}
	csr, err := readCSR(hello.CSR)
	if err != nil {
		return Welcome{}, refuse(CodeMalformed, "%v", err)
	}
	var der []byte
	err = h.cfg.Registry.renew(name, serialOf(chain[0]), func(c Enrolled) (string, time.Time, error) {
		cert, err := h.issue(name, csr)
		if err != nil {
			return "", time.Time{}, err
		}
		der = cert.Raw
		return serialOf(cert), cert.NotAfter, h.cfg.Record(ctx, h.issued(ActionRenew, t, cert, c.Connections, ""))
	})
	return Welcome{Name: name, Certificate: der}, err
}

// issued is what the trail has of a certificate: the key that receipts are checked with.
func (h *Hub) issued(action string, t *tunnel, cert *x509.Certificate, connections []string, token string) Event {
	key, _ := x509.MarshalPKIXPublicKey(cert.PublicKey) // it was parsed from a request
	detail := map[string]string{
		"connections": strings.Join(connections, ","), "serial": serialOf(cert), "expires": cert.NotAfter.UTC().Format(time.RFC3339),
		"public_key": base64.StdEncoding.EncodeToString(key), "key_sha256": hexSum(key), "build": t.build,
	}
	if token != "" {
		detail["token_id"] = token
	}
	return Event{Action: action, Name: t.name, Client: t.address, Detail: detail}
}

func readCSR(der []byte) (*x509.CertificateRequest, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("the certificate request cannot be read: %w", err)
	}
	// The kind of key before its signature: strangers ask, and an RSA key that fills the
	// frame takes minutes to check.
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the certificate request is for a key that is not ECDSA P-256")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the certificate request is not signed by its key: %w", err)
	}
	return csr, nil
}

// issue makes a connector's certificate. Of the request only the key counts.
func (h *Hub) issue(name string, csr *x509.CertificateRequest) (*x509.Certificate, error) {
	return h.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, csr.PublicKey, h.cfg.CertificateTTL)
}

func (h *Hub) sign(tmpl *x509.Certificate, key any, ttl time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	now := h.cfg.Now()
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = serial.SetBit(serial, 126, 1), now.Add(-backdated), now.Add(ttl)
	tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, x509.KeyUsageDigitalSignature
	if tmpl.NotAfter.After(h.cfg.CA.NotAfter) {
		tmpl.NotAfter = h.cfg.CA.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, h.cfg.CA, key, h.cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// serverCertificate is what the gateway shows connectors: made here, in memory alone,
// and made anew in good time. The chain has the authority, for whoever knows it by its
// hash alone.
func (h *Hub) serverCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cert != nil && h.cfg.Now().Before(h.cert.Leaf.NotAfter.Add(-serverTTL/2)) {
		return h.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the certificate for connectors: %w", err)
	}
	leaf, err := h.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Trailgate gateway"}, DNSNames: []string{ServerName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &key.PublicKey, serverTTL)
	if err != nil {
		return nil, err
	}
	h.cert = &tls.Certificate{Certificate: [][]byte{leaf.Raw, h.cfg.CA.Raw}, PrivateKey: key, Leaf: leaf}
	return h.cert, nil
}

func serialOf(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

func hexSum(raw []byte) string {
	s := sha256.Sum256(raw)
	return hex.EncodeToString(s[:])
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

// Status is a connector as it stands.
type Status struct {
	Name         string     `json:"name"`
	State        string     `json:"state"` // "connected", "draining", "away", "revoked", "not_enrolled"
	Connections  []string   `json:"connections"`
	Address      string     `json:"address,omitempty"`
	Build        string     `json:"build,omitempty"`
	Since        *time.Time `json:"since,omitempty"`     // connected
	LastBeat     *time.Time `json:"last_beat,omitempty"` // sign of life
	Streams      int        `json:"streams"`             // calls under way
	Calls        int64      `json:"calls"`               // since it connected
	Bytes        int64      `json:"bytes"`               // of answers
	Failed       int64      `json:"failed"`
	KeySHA256    string     `json:"key_sha256,omitempty"`
	CertExpires  *time.Time `json:"certificate_expires,omitempty"`
	TokenExpires *time.Time `json:"token_expires,omitempty"` // of one that is to enrol
	Revoked      *time.Time `json:"revoked,omitempty"`
	By           string     `json:"by,omitempty"` // who vouches for it, where the gateway does not
}

// Status tells of every connector that is connected, enrolled, or to be.
func (h *Hub) Status() []Status {
	h.mu.Lock()
	var out []Status
	live := map[string]bool{}
	for t := range h.tunnels {
		live[t.name] = true
		since, last, ends := t.since, t.lastBeat.UTC(), t.certEnds.UTC()
		s := Status{
			Name: t.name, State: "connected", Connections: t.serves, Address: t.address, Build: t.build, Since: &since, LastBeat: &last,
			Streams: t.inFlight, Calls: t.calls, Bytes: t.bytes.Load(), Failed: t.failures, KeySHA256: t.keySum, CertExpires: &ends, By: t.by,
		}
		if t.draining {
			s.State = "draining"
		}
		out = append(out, s)
	}
	h.mu.Unlock()
	for _, s := range h.cfg.Registry.Status() {
		if !live[s.Name] || s.State == "revoked" {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address)) })
	return out
}

// Status tells of every connector that is enrolled or to be, as if none were connected.
func (r *Registry) Status() (out []Status) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, c := range r.connectors {
		s := Status{Name: c.Name, State: "away", Connections: c.Connections, Revoked: c.Revoked}
		if c.Revoked != nil {
			s.State = "revoked"
		} else {
			s.CertExpires = &c.Expires
		}
		out = append(out, s)
	}
	now := r.now()
	for _, t := range r.tokens {
		if _, there := r.connectors[t.Name]; !there && t.Used == nil && now.Before(t.Expires) {
			out = append(out, Status{Name: t.Name, State: "not_enrolled", Connections: t.Connections, TokenExpires: &t.Expires})
		}
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Serving reports how many connectors take calls of a connection.
func (h *Hub) Serving(connection string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for t := range h.tunnels {
		if t.takes(connection) {
			n++
		}
	}
	return n
}

// Connections are the names of those that go through connectors, sorted.
func (h *Hub) Connections() []string { return slices.Sorted(maps.Keys(h.cfg.Connections)) }

// Counts are sums since the hub was made.
type Counts struct{ Calls, Lost, BadReceipts, MissingReceipts, Refused int64 }

// Counts tells them.
func (h *Hub) Counts() Counts {
	c := &h.counters
	return Counts{c.calls.Load(), c.lost.Load(), c.badReceipts.Load(), c.missingReceipts.Load(), c.refused.Load()}
}

// Credential is who mints the credential of a connection's calls.
func (h *Hub) Credential(connection string) string {
	return cmp.Or(h.cfg.Connections[connection], trailgate.CredentialGateway)
}
