package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/connector"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/gateway"
	"github.com/trailgate/trailgate/internal/identity/assertion"
	"github.com/trailgate/trailgate/internal/reconcile"
)

// Names in the data directory.
const (
	connectorsDirName  = "connectors"      // the authority of connectors
	connectorsFileName = "connectors.json" // who was enrolled, and enrolment tokens
)

// doorConnectors is where connectors dial in.
const doorConnectors = "connectors"

// openConnectors opens the list of connectors and their authority, which is made where
// there is none. Nothing to do where connectors cannot connect.
func (p *parts) openConnectors() (err error) {
	if !p.cfg.Connectors.On() {
		return nil
	}
	dir := filepath.Join(p.cfg.DataDir.String(), connectorsDirName)
	if p.connectorCA, err = connectorAuthority(dir, p.cfg.ID, p.now()); err != nil {
		return err
	}
	p.connectors, err = connector.OpenRegistry(filepath.Join(p.cfg.DataDir.String(), connectorsFileName), p.now)
	return err
}

// connectorAuthority is an authority of its own: what it issues is good at the gateway's
// door for connectors and nowhere else.
func connectorAuthority(dir, gateway string, now time.Time) (*authority, error) {
	path := filepath.Join(dir, caCertName)
	ca, err := openAuthority(path)
	if !errors.Is(err, errNoAuthority) {
		return ca, err
	}
	if ca, err = newAuthority(gateway+" connectors", now); err != nil {
		return nil, err
	}
	key, err := marshalKey(ca.key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// The key first: a crash between the two leaves a key that the next start makes anew.
	if err := os.Remove(filepath.Join(dir, caKeyName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := writeNew(filepath.Join(dir, caKeyName), string(key), 0o600); err != nil {
		return nil, err
	}
	if err := writeNew(path, string(pemBlock("CERTIFICATE", ca.cert.Raw)), 0o644); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("%s is there without its key; restore the key, or remove it to begin anew: every connector must enrol again then", path)
		}
		return nil, err
	}
	return ca, syncDir(dir)
}

// listenConnectors binds the port. TLS is the hub's.
func listenConnectors(cfg *config.Config) (*door, error) {
	l, err := net.Listen("tcp", cfg.Connectors.Listen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, hinted(fmt.Errorf("listen for connectors: %w", err), "stop what uses the port, or set connectors.listen to another")
	case err != nil:
		return nil, fmt.Errorf("listen for connectors: %w", err)
	}
	return &door{name: doorConnectors, listener: l}, nil
}

// newHub makes the gateway's end of tunnels, and has the connections that want it go
// through them.
func (p *parts) newHub(out *outbound, publicURL string) error {
	if p.connectors == nil {
		return nil
	}
	cfg := connector.HubConfig{
		Gateway: p.self.ID, Build: p.self.Version, CA: p.connectorCA.cert, Key: p.connectorCA.key, Registry: p.connectors,
		Connections: map[string]string{}, Record: p.recordConnector, Log: p.log, Now: p.now, CertificateTTL: p.cfg.Connectors.CertificateTTL,
	}
	for _, c := range p.cfg.Connections {
		if c.Connectors {
			cfg.Connections[c.Name] = trailgate.CredentialGateway
			if c.Credential.Mode == config.CredentialConnector {
				cfg.Connections[c.Name] = trailgate.CredentialConnector
			}
		}
	}
	if len(cfg.Connections) == 0 {
		return hinted(errors.New("connectors.listen is set, and no connection goes through connectors"), "set connectors: true in the connection, or connectors.listen: off")
	}
	if err := connectorIdentities(p.cfg, publicURL, p.log, &cfg); err != nil {
		return err
	}
	hub, err := connector.NewHub(cfg)
	if err != nil {
		return err
	}
	p.hub = hub
	for i := range out.connections {
		if c := &out.connections[i]; cfg.Connections[c.Name] != "" {
			c.Forward = p.forward
		}
	}
	return p.registry.Register(&hubMetrics{hub})
}

// connectorIdentities lets connectors in that have an identity from elsewhere.
func connectorIdentities(cfg *config.Config, publicURL string, log *slog.Logger, hub *connector.HubConfig) error {
	x := cfg.Connectors
	if len(x.Issuers)+len(x.Certificates) == 0 {
		return nil
	}
	known := *cfg
	known.Identity = config.Identity{Issuers: x.Issuers, Certificates: x.Certificates}
	v, err := newVerifier(&known, publicURL, log, nil) // no entry names a connector's credential
	if err != nil {
		return fmt.Errorf("connectors: %w", err)
	}
	peer := func(a assertion.Assertion, err error) (connector.Peer, error) {
		return connector.Peer{Name: a.Agent, Connections: a.Connections, By: a.Issuer + "|" + a.Subject, Until: a.Expires}, err
	}
	if len(x.Certificates) > 0 {
		hub.Certificate = func(chain []*x509.Certificate) (connector.Peer, error) { return peer(v.Certificate(chain)) }
	}
	if len(x.Issuers) > 0 {
		hub.Token = func(ctx context.Context, token string) (connector.Peer, error) { return peer(v.JWT(ctx, token)) }
	}
	return nil
}

// recordConnector writes an entry about a connector, before what it tells of.
func (p *parts) recordConnector(ctx context.Context, e connector.Event) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendTimeout)
	defer cancel()
	for name, value := range e.Detail {
		if value == "" {
			delete(e.Detail, name)
		}
	}
	return p.trail.Append(ctx, &trailgate.Entry{
		ID: strings.ToLower(ulid.MustNew(ulid.Timestamp(p.now()), rand.Reader).String()), Kind: trailgate.KindGateway, Gateway: p.self, Client: e.Client,
		Event: &trailgate.Event{Action: e.Action, Target: e.Name, Detail: e.Detail},
	})
}

// forward takes a call of the gateway's through the hub.
func (p *parts) forward(req *http.Request, hop gateway.Hop) (*http.Response, func() gateway.Passed, error) {
	resp, used, err := p.hub.Forward(req, connector.Call{
		Entry: hop.Entry, Connection: hop.Connection, Project: hop.Project, Session: hop.Session, Principal: hop.Principal,
	})
	var passed func() gateway.Passed
	if used != nil {
		passed = func() gateway.Passed {
			u := used()
			out := gateway.Passed{Connector: u.Connector}
			if u.Minted != nil {
				out.Mode, out.Principal, out.Shared = u.Minted.Mode, u.Minted.Principal, u.Minted.Shared
			}
			return out
		}
	}
	if f, ok := errors.AsType[*connector.Failure](err); ok {
		err = &gateway.HopError{
			Message: f.Error(), Sent: f.Sent(), Lost: f.Kind == connector.FailLost, Timeout: f.Kind == connector.FailTimeout,
			NoneThere: f.Kind == connector.FailNoConnector, Forbidden: f.Kind == connector.FailNotAllowed,
			Credential: f.Kind == connector.FailCredential, Temporary: f.Temporary,
		}
	}
	return resp, passed, err
}

// hubTransport takes what the gateway asks for its own sake through a connection's
// connectors. Where they make the credential, it is that of their auditor that goes along.
type hubTransport struct {
	hub        *connector.Hub
	connection string
}

// RoundTrip implements [http.RoundTripper].
func (t hubTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, _, err := t.hub.Forward(req, connector.Call{Connection: t.connection, Purpose: connector.PurposeAudit})
	if f, ok := errors.AsType[*connector.Failure](err); ok && !f.Sent() && !f.Temporary {
		err = fmt.Errorf("%w; %w", err, reconcile.ErrInVain)
	}
	return resp, err
}

// connectorCredential is the credential of a connection whose connectors make it.
type connectorCredential struct{}

func (connectorCredential) Describe() federation.Credential {
	return federation.Credential{Mode: config.CredentialConnector}
}

func (c connectorCredential) Credential(context.Context, federation.Request) (federation.Credential, error) {
	return c.Describe(), nil
}

// connectorAdmin is the list of connectors as the admin API has it.
type connectorAdmin struct{ p *parts }

func (c connectorAdmin) NewToken(name string, connections []string, ttl time.Duration, record func(connector.Token) error) (string, connector.Token, error) {
	return c.p.connectors.NewToken(name, connections, ttl, connector.Pin(c.p.connectorCA.cert), record)
}

func (c connectorAdmin) Revoke(name string, record func(connector.Enrolled) error) (int, error) {
	if _, err := c.p.connectors.Revoke(name, record); err != nil || c.p.hub == nil {
		return 0, err
	}
	return c.p.hub.Revoked(name), nil
}

func (c connectorAdmin) Status() []connector.Status {
	if c.p.hub != nil {
		return c.p.hub.Status()
	}
	return c.p.connectors.Status()
}

// hubMetrics are the figures of connectors, looked at when they are asked for.
type hubMetrics struct{ hub *connector.Hub }

var (
	descConnected = prometheus.NewDesc("trailgate_connectors", "Connectors that take calls, by connection.", []string{"connection"}, nil)
	descStreams   = prometheus.NewDesc("trailgate_connector_streams", "Calls under way, by connector.", []string{"connector"}, nil)
	descHubCalls  = prometheus.NewDesc("trailgate_connector_calls_total", "Calls that went through connectors and came back with all of an answer.", nil, nil)
	descHubLost   = prometheus.NewDesc("trailgate_connector_lost_total", "Calls whose tunnel broke under them.", nil, nil)
	descRefused   = prometheus.NewDesc("trailgate_connector_refused_total", "Connectors that were not admitted.", nil, nil)
	descCertEnds  = prometheus.NewDesc("trailgate_connector_certificate_expires_seconds", "When a connected connector's certificate ends, in Unix time.", []string{"connector"}, nil)
)

func (m *hubMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descConnected, descStreams, descHubCalls, descHubLost, descRefused, descCertEnds} {
		ch <- d
	}
}

func (m *hubMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, name := range m.hub.Connections() {
		gauge(descConnected, float64(m.hub.Serving(name)), name)
	}
	seen := map[string]bool{}
	for _, s := range m.hub.Status() {
		if s.Since != nil && !seen[s.Name] {
			seen[s.Name] = true // a connector that takes its own place is there twice for a moment
			gauge(descStreams, float64(s.Streams), s.Name)
			gauge(descCertEnds, float64(s.CertExpires.Unix()), s.Name)
		}
	}
	c := m.hub.Counts()
	for d, v := range map[*prometheus.Desc]int64{descHubCalls: c.Calls, descHubLost: c.Lost, descRefused: c.Refused} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
}
