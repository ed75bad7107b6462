package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Connectors is the gateway's door for connectors, and who of them is known otherwise
// than by a certificate that the gateway issued.
type Connectors struct {
	// Listen is "host:port", or "off" (the default). It speaks TLS with a certificate of
	// an authority of its own, which is made in data_dir/connectors.
	Listen string `yaml:"listen"`
	// CertificateTTL is how long a connector's certificate is good. It is renewed by
	// itself after two thirds of that. Default 168h.
	CertificateTTL time.Duration `yaml:"certificate_ttl"`
	// Issuers and Certificates let connectors in by a JWT or an X.509-SVID of their own.
	// map.agent gives the connector's name, map.connections what it is for.
	Issuers      []Issuer       `yaml:"issuers"`
	Certificates []Certificates `yaml:"certificates"`
}

// On reports whether connectors can connect.
func (c Connectors) On() bool { return c.Listen != "off" && c.Listen != "" }

func defaultConnectors() Connectors {
	return Connectors{Listen: "off", CertificateTTL: 7 * 24 * time.Hour}
}

// CredentialConnector leaves the credential to the connector, which makes it where it is.
const CredentialConnector = "connector"

func (d *decoder) connectors(c *Config) {
	x := c.Connectors
	const key = "connectors"
	if x.On() {
		if _, _, err := net.SplitHostPort(x.Listen); err != nil {
			d.invalid(key+".listen", "%q: want host:port, such as 0.0.0.0:8472, or off", x.Listen)
		}
		if !strings.HasSuffix(x.Listen, ":0") && (x.Listen == c.Gateway.Listen || x.Listen == c.Admin.Listen) {
			d.invalid(key+".listen", "the same as another listener; connectors have their own")
		}
	}
	d.between(key+".certificate_ttl", x.CertificateTTL, time.Hour, 366*24*time.Hour)
	names, issuers := map[string]bool{}, map[string]bool{}
	scoped := func(key string, m Map) {
		if m.Agent == "" || m.Connections == "" {
			d.invalid(key+".map", "wants agent, which gives the connector's name, and connections, which it is for")
		}
	}
	for i, iss := range x.Issuers {
		key := fmt.Sprintf("%s.issuers[%d]", key, i)
		d.ownName(key, iss.Name, names)
		d.issuer(key, iss, c)
		scoped(key, iss.Map)
		if issuers[iss.Issuer] {
			d.invalid(key+".issuer", "stands twice; one issuer has one map")
		}
		issuers[iss.Issuer] = true
	}
	for i, cert := range x.Certificates {
		key := fmt.Sprintf("%s.certificates[%d]", key, i)
		d.ownName(key, cert.Name, names)
		d.certificates(key, cert)
		scoped(key, cert.Map)
	}
	if !x.On() && len(x.Issuers)+len(x.Certificates) > 0 {
		d.invalid(key+".listen", "missing; connectors cannot connect")
	}
	for i, conn := range c.Connections {
		key := fmt.Sprintf("connections[%d]", i)
		switch {
		case conn.Connectors && !x.On():
			d.invalid(key+".connectors", "connectors cannot connect; set connectors.listen")
		case !conn.Connectors && conn.Credential.Mode == CredentialConnector:
			d.invalid(key+".credential.mode", "mode connector is for connections that go through connectors; set connectors: true")
		}
	}
}

// ConnectorFile is the configuration of a connector: another file than the gateway's, on
// another machine.
type ConnectorFile struct {
	Path string `yaml:"-"`
	Dir  string `yaml:"-"`

	// Gateway is host:port of the gateway's connectors.listen, as it is reached from here.
	Gateway string `yaml:"gateway"`
	// StateDir holds the connector's key and certificate, and nothing else. Default
	// "connector".
	StateDir Path `yaml:"state_dir"`
	// Identity says how it proves who it is. Default: by the certificate of its enrolment.
	Identity ConnectorIdentity `yaml:"identity"`
	// Connections are those that it serves.
	Connections []ServedConnection `yaml:"connections"`
	// Allow names all that it may be asked to reach, "https://host" or "https://host:port",
	// each exactly. Default: https://bigquery.googleapis.com.
	Allow []string `yaml:"allow"`
	// Endpoints are Google's token services, for credentials that are made here.
	Endpoints Endpoints `yaml:"endpoints"`
	// UpstreamCAFile is what BigQuery's certificate is checked with, instead of the
	// system's authorities; for a private endpoint.
	UpstreamCAFile Path `yaml:"upstream_ca_file"`
	// Health is "host:port" of a plain HTTP listener with /healthz, /readyz and /metrics, or
	// "off" (the default): nothing listens.
	Health   string   `yaml:"health"`
	Shutdown Shutdown `yaml:"shutdown"`
	Log      Log      `yaml:"log"`
}

// The ways in which a connector proves who it is.
const (
	IdentityEnrolled    = "enrolled"    // the certificate that the gateway issued
	IdentityCertificate = "certificate" // an X.509-SVID, or another certificate, in files
	IdentityToken       = "token"       // a JWT in a file
	IdentityGCP         = "gcp"         // Google's metadata server vouches for the machine's service account
)

// ConnectorIdentity is how a connector proves who it is.
type ConnectorIdentity struct {
	Mode string `yaml:"mode"` // "enrolled" (default), "certificate", "token", "gcp"
	// CertFile and KeyFile are of mode "certificate"; they are read again when it connects.
	CertFile Path `yaml:"cert_file"`
	KeyFile  Path `yaml:"key_file"`
	// TokenFile is of mode "token", read again when it connects.
	TokenFile Path `yaml:"token_file"`
	// Audience is what the token of mode "gcp" is for: the gateway's issuer names it.
	Audience string `yaml:"audience"`
	// GatewayCAFile is the gateway's authority of connectors (data_dir/connectors/ca.pem
	// there); for all modes but "enrolled", where it came with the certificate.
	GatewayCAFile Path `yaml:"gateway_ca_file"`
}

// ServedConnection is one connection of the gateway's, as a connector serves it.
type ServedConnection struct {
	Name string `yaml:"name"`
	// Credential is as whom calls reach BigQuery. Mode "gateway" (the default): the gateway
	// sends an access token with each call. "impersonation", "adc", "static" and "none": it
	// is made here, and the connection's mode at the gateway is "connector".
	Credential Credential `yaml:"credential"`
	// Auditor is as whom the gateway's own look at BigQuery's records goes on, where
	// credentials are made here and the gateway's reconcile.credential has mode connector.
	Auditor Auditor `yaml:"auditor"`
}

// CredentialGateway, of a connector's connection, is a token that the gateway sends.
const CredentialGateway = "gateway"

func defaultServedConnection() ServedConnection {
	return ServedConnection{Credential: Credential{Mode: CredentialGateway}}
}

// DefaultConnectorFile is what holds where the file says nothing.
func DefaultConnectorFile() ConnectorFile {
	return ConnectorFile{
		StateDir: "connector", Identity: ConnectorIdentity{Mode: IdentityEnrolled}, Allow: []string{"https://bigquery.googleapis.com"},
		Endpoints: defaultFederation().Endpoints, Health: "off",
		Shutdown: Shutdown{DrainTimeout: 30 * time.Second}, Log: Log{Level: "info", Format: "text"},
	}
}

// LoadConnector reads and checks a connector's file, as [Load] does the gateway's.
func LoadConnector(path string) (*ConnectorFile, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	f, err := os.Open(abs)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read config: %w; docs/connector.md has one to copy", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	return ParseConnector(path, raw)
}

// ParseConnector is [LoadConnector] for bytes in hand.
func ParseConnector(path string, raw []byte) (*ConnectorFile, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	if len(raw) > MaxBytes {
		return nil, Errors{{File: path, Message: "larger than 1 MiB"}}
	}
	c := DefaultConnectorFile()
	d := decoder{file: path, lines: map[string]int{}}
	d.decodeInto(bytes.TrimPrefix(raw, []byte("\ufeff")), reflect.ValueOf(&c).Elem())
	if len(d.errs) == 0 {
		d.connectorFile(&c)
	}
	if len(d.errs) > 0 {
		slices.SortStableFunc(d.errs, func(a, b Error) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key)) })
		return nil, d.errs
	}
	c.Path, c.Dir = abs, filepath.Dir(abs)
	eachPath(reflect.ValueOf(&c).Elem(), func(p *Path) {
		if *p != "" && !filepath.IsAbs(string(*p)) {
			*p = Path(filepath.Join(c.Dir, string(*p)))
		}
	})
	return &c, nil
}

func (d *decoder) connectorFile(c *ConnectorFile) {
	if host, port, err := net.SplitHostPort(c.Gateway); err != nil || host == "" || port == "" {
		d.invalid("gateway", "want host:port of the gateway's connectors.listen, as it is reached from here")
	}
	if c.StateDir == "" {
		d.invalid("state_dir", "must not be empty")
	}
	id := c.Identity
	d.oneOf("identity.mode", id.Mode, IdentityEnrolled, IdentityCertificate, IdentityToken, IdentityGCP)
	for _, s := range []setting{
		{"cert_file", id.CertFile != "", []string{IdentityCertificate}},
		{"key_file", id.KeyFile != "", []string{IdentityCertificate}},
		{"token_file", id.TokenFile != "", []string{IdentityToken}},
		{"audience", id.Audience != "", []string{IdentityGCP}},
		{"gateway_ca_file", id.GatewayCAFile != "", []string{IdentityCertificate, IdentityToken, IdentityGCP}},
	} {
		switch wanted := slices.Contains(s.modes, id.Mode); {
		case s.set && !wanted:
			d.invalid("identity."+s.key, "only mode %s reads it; the mode is %q", strings.Join(s.modes, " and "), id.Mode)
		case !s.set && wanted:
			d.invalid("identity."+s.key, "missing; mode %s needs it", id.Mode)
		}
	}
	if len(c.Connections) == 0 {
		d.invalid("connections", "missing; name the connections that it serves")
	}
	names := map[string]bool{}
	for i, conn := range c.Connections {
		key := fmt.Sprintf("connections[%d]", i)
		d.ownName(key, conn.Name, names)
		d.oneOf(key+".credential.mode", conn.Credential.Mode, CredentialGateway, CredentialADC, CredentialStatic, CredentialNone, CredentialImpersonation)
		d.credentialKeys(key+".credential", conn.Credential)
		if conn.Auditor.Mode != "" && conn.Credential.Mode == CredentialGateway {
			d.invalid(key+".auditor", "is for credentials that are made here; with mode gateway the gateway has that one, too")
		}
		if a := conn.Auditor; a.Mode != "" || a.TokenFile != "" || a.CredentialFile != "" || a.ServiceAccount != "" || len(a.Delegates) > 0 {
			d.auditor(key+".auditor", a)
		}
	}
	if len(c.Allow) == 0 || len(c.Allow) > maxList {
		d.invalid("allow", "want 1 to %d roots, such as https://bigquery.googleapis.com", maxList)
	}
	if c.Health != "off" {
		if _, _, err := net.SplitHostPort(c.Health); err != nil {
			d.invalid("health", "%q: want host:port, such as 127.0.0.1:8473, or off", c.Health)
		}
	}
	for name, url := range map[string]string{"sts": c.Endpoints.STS, "iam_credentials": c.Endpoints.IAMCredentials, "oauth_token": c.Endpoints.OAuthToken} {
		d.endpoint("endpoints."+name, url)
	}
	d.between("shutdown.drain_timeout", c.Shutdown.DrainTimeout, 0, time.Hour)
	d.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	d.oneOf("log.format", c.Log.Format, "text", "json")
}

// isAddress reports whether a host is written as an address.
func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}
