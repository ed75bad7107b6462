package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/gateway"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/identity/assertion"
)

// outbound is as whom calls go on: the connections, and what they share.
type outbound struct {
	connections []gateway.Connection
	issuer      *federation.Issuer // nil where no connection needs it
	adminURL    string
	oauth       map[string]*federation.OAuthSource
}

// newOutbound makes the connections. A credential that cannot be had is found
// out here, before anything is opened.
func newOutbound(cfg *config.Config, publicURL, adminURL string) (_ *outbound, err error) {
	out := &outbound{adminURL: adminURL, oauth: map[string]*federation.OAuthSource{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.close())
		}
	}()
	e := cfg.Federation.Endpoints
	client, err := httpClient(e.CAFile)
	if err != nil {
		return nil, fmt.Errorf("federation.endpoints.ca_file: %w", err)
	}
	ends := federation.Endpoints{
		STS: e.STS, IAMCredentials: e.IAMCredentials, OAuthAuth: e.OAuthAuth, OAuthToken: e.OAuthToken,
		OAuthRevoke: e.OAuthRevoke, UserInfo: e.UserInfo, HTTP: client,
	}
	var consents *federation.ConsentStore
	for _, c := range cfg.Connections {
		cred := c.Credential
		if cred.Mode == config.CredentialWorkload && cred.Assertion != config.AssertionAgent && out.issuer == nil {
			if out.issuer, err = selfIssuer(cfg, publicURL); err != nil {
				return nil, fmt.Errorf("federation.issuer: %w", err)
			}
		}
		if cred.Mode == config.CredentialOAuth && consents == nil {
			consents, err = federation.OpenConsents(filepath.Join(cfg.DataDir.String(), consentsName), cfg.Federation.ConsentKeyFile.String())
			if err != nil {
				return nil, fmt.Errorf("open consents: %w", err)
			}
		}
		source, err := out.source(c, ends, consents)
		if err != nil {
			return nil, fmt.Errorf("connection %s: %w", c.Name, err)
		}
		out.connections = append(out.connections, gateway.Connection{
			Name: c.Name, Projects: c.Projects, Upstream: c.UpstreamURL(), Credential: source,
			Recording: c.Recording.Level, RecordBytes: int64(c.Recording.MaxBytes),
		})
	}
	return out, nil
}

// close ends what the connections do in the background.
func (out *outbound) close() error {
	var errs []error
	for _, c := range out.connections {
		if closer, ok := c.Credential.(io.Closer); ok {
			errs = append(errs, closer.Close())
		}
	}
	return errors.Join(errs...)
}

func (out *outbound) source(c config.Connection, ends federation.Endpoints, consents *federation.ConsentStore) (federation.Source, error) {
	cred := c.Credential
	switch cred.Mode {
	case config.CredentialNone:
		return federation.None(), nil
	case config.CredentialConnector:
		return connectorCredential{}, nil
	case config.CredentialStatic:
		return federation.Static(cred.TokenFile.String())
	case config.CredentialImpersonation:
		return federation.Impersonation(federation.ImpersonationConfig{
			Connection: c.Name, Base: federation.Base{File: cred.CredentialFile.String()},
			Template: cred.ServiceAccount, Map: cred.ServiceAccounts, Delegates: cred.Delegates,
			Scopes: cred.Scopes, Lifetime: cred.Lifetime, Endpoints: ends,
		})
	case config.CredentialWorkload:
		return federation.Workload(federation.WorkloadConfig{
			Connection: c.Name, Audience: cred.Audience, GatewayAudience: cred.GatewayAudience, Prefer: cred.Assertion, Issuer: out.issuer,
			Template: cred.ServiceAccount, Map: cred.ServiceAccounts,
			Scopes: cred.Scopes, Lifetime: cred.Lifetime, Endpoints: ends,
		})
	case config.CredentialOAuth:
		secret, err := readSecret(cred.ClientSecretFile)
		if err != nil {
			return nil, fmt.Errorf("client_secret_file: %w", err)
		}
		source, err := federation.OAuth(federation.OAuthConfig{
			Connection: c.Name, ClientID: cred.ClientID, ClientSecret: secret,
			Scopes: cred.Scopes, AllowedDomains: cred.AllowedDomains, Store: consents, Endpoints: ends,
			ConsentURL: out.adminURL + "/consent/{connection}",
		})
		if err != nil {
			return nil, err
		}
		out.oauth[c.Name] = source
		return source, nil
	default:
		return federation.ADC(federation.Base{File: cred.CredentialFile.String()})
	}
}

// consentsName is the file of refresh tokens, encrypted, in the data directory.
const consentsName = "consents.json"

func selfIssuer(cfg *config.Config, publicURL string) (*federation.Issuer, error) {
	self := cfg.Federation.Issuer
	url := self.URL
	if url == "" {
		url = publicURL
	}
	if _, err := os.Stat(self.KeyFile.String()); errors.Is(err, os.ErrNotExist) {
		if err := federation.GenerateKey(self.KeyFile.String()); err != nil {
			return nil, fmt.Errorf("make a signing key: %w", err)
		}
	}
	more := make([]string, 0, len(self.MoreKeyFiles))
	for _, path := range self.MoreKeyFiles {
		more = append(more, path.String())
	}
	return federation.NewIssuer(federation.IssuerConfig{
		URL: strings.TrimSuffix(url, "/"), Gateway: cfg.ID, KeyFile: self.KeyFile.String(), MoreKeyFiles: more, TTL: self.TTL,
	})
}

func (out *outbound) consenters() map[string]admin.Consenter {
	consenters := map[string]admin.Consenter{}
	for name, source := range out.oauth {
		consenters[name] = source
	}
	return consenters
}

// newVerifier checks what other parties say about callers. Keep stores what was verified.
func newVerifier(cfg *config.Config, publicURL string, log *slog.Logger, keep func(context.Context, []byte) (string, error)) (*assertion.Verifier, error) {
	c := assertion.Config{Log: log, Keep: keep}
	for _, iss := range cfg.Identity.Issuers {
		client, err := httpClient(iss.CAFile)
		if err != nil {
			return nil, fmt.Errorf("identity: issuer %s: ca_file: %w", iss.Name, err)
		}
		audiences := iss.Audiences
		if len(audiences) == 0 {
			audiences = []string{publicURL}
		}
		c.Issuers = append(c.Issuers, assertion.Issuer{
			Name: iss.Name, Issuer: iss.Issuer, Audiences: audiences,
			DiscoveryURL: iss.DiscoveryURL, JWKSURL: iss.JWKSURL, JWKSFile: iss.JWKSFile.String(), HTTP: client,
			Algorithms: iss.Algorithms, ClockSkew: iss.ClockSkew, MaxLifetime: iss.MaxLifetime,
			Map: assertionMap(iss.Map), Provision: iss.UnknownAgents == config.UnknownProvision,
		})
	}
	for _, cert := range cfg.Identity.Certificates {
		c.Certificates = append(c.Certificates, assertion.Certificates{
			Name: cert.Name, TrustDomain: cert.TrustDomain, BundleFile: cert.BundleFile.String(),
			Map: assertionMap(cert.Map), Provision: cert.UnknownAgents == config.UnknownProvision,
		})
	}
	v, err := assertion.New(c)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return v, nil
}

func assertionMap(m config.Map) assertion.Map {
	return assertion.Map{When: m.When, Agent: m.Agent, Human: m.Human, Connections: m.Connections}
}

// sessionKeyName is the key that session tokens are authenticated with.
const sessionKeyName = "session.key"

// openCallers makes what decides who calls; v is nil in commands, where nobody does.
func (p *parts) openCallers(v identity.Verifier) (err error) {
	p.callers, err = identity.NewAuthenticator(identity.AuthConfig{
		Store: p.agents, Verifier: v,
		SessionKeyFile: filepath.Join(p.cfg.DataDir.String(), sessionKeyName),
		ExchangeTTL:    p.cfg.Identity.ExchangeTTL,
		Provisioned:    p.recordProvision,
	})
	if err != nil {
		return fmt.Errorf("open session tokens: %w", err)
	}
	return nil
}

// actionProvision is written before an agent is made because an issuer that
// may do so named it.
const actionProvision = "agent.provision"

// recordProvision writes that an agent is about to be made. A crash after it
// leaves an entry about an agent that the next call makes.
func (p *parts) recordProvision(ctx context.Context, a identity.Agent, said assertion.Assertion) error {
	id, err := ulid.New(ulid.Timestamp(time.Now()), rand.Reader)
	if err != nil {
		return fmt.Errorf("make an id: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return p.trail.Append(ctx, &trailgate.Entry{
		ID: strings.ToLower(id.String()), Kind: trailgate.KindGateway, Gateway: p.self,
		Principal: &trailgate.Principal{
			Agent: a.Name, Issuer: said.Issuer, Subject: said.Subject, Human: said.Human, Actors: said.Actors, AuthMode: said.Mode, CredentialSHA256: said.SHA256, Evidence: said.Evidence,
		},
		Event: &trailgate.Event{Action: actionProvision, Target: a.Name, Detail: map[string]string{"source": said.Source}},
	})
}

// login says how humans sign in; nil where they cannot.
func login(cfg *config.Config) (*admin.LoginConfig, error) {
	l := cfg.Admin.Login
	switch {
	case cfg.Admin.Off():
		return nil, nil
	case !l.On(): // the admin token and links made with it are the ways in
		return &admin.LoginConfig{SessionTTL: l.SessionTTL, IdleTTL: l.IdleTTL}, nil
	}
	client, err := httpClient(l.CAFile)
	if err != nil {
		return nil, fmt.Errorf("admin.login.ca_file: %w", err)
	}
	secret := ""
	if l.ClientSecretFile != "" { // a public client has none
		if secret, err = readSecret(l.ClientSecretFile); err != nil {
			return nil, fmt.Errorf("admin.login.client_secret_file: %w", err)
		}
	}
	return &admin.LoginConfig{
		Issuer: l.Issuer, ClientID: l.ClientID, ClientSecret: secret, Scopes: l.Scopes, HTTP: client,
		Name: l.Name, Roles: admin.RoleExprs{Admin: l.Roles.Admin, Auditor: l.Roles.Auditor, Approver: l.Roles.Approver},
		SessionTTL: l.SessionTTL, IdleTTL: l.IdleTTL,
	}, nil
}

// checker walks a connection's chain of credentials as an agent, for "doctor".
func (p *parts) checker(out *outbound) func(ctx context.Context, connection, agent, human string) ([]admin.Check, error) {
	return func(ctx context.Context, connection, agent, human string) ([]admin.Check, error) {
		conf, ok := p.cfg.Connection(connection)
		if !ok {
			return nil, fmt.Errorf("%w: connection %s", admin.ErrNotFound, connection)
		}
		a, err := p.agents.Agent(agent)
		switch {
		case err != nil:
			return nil, err
		case a.Revoked != nil: // none of its calls comes so far
			return []admin.Check{{
				Name: "the agent", Detail: agent + " was revoked on " + a.Revoked.UTC().Format(time.RFC3339) + "; none of its credentials is accepted",
				Fix: "trailgate agent add NAME, another name: one in the trail means one agent for ever",
			}}, nil
		}
		var project string // an example of those that are served; "*" is the name of none
		if i := slices.IndexFunc(conf.Projects, func(p string) bool { return p != config.AllProjects }); i >= 0 {
			project = conf.Projects[i]
		} else if strings.Contains(conf.Credential.ServiceAccount, "{project}") && conf.Credential.ServiceAccounts[agent] == "" {
			return []admin.Check{{
				Name: "the agent's service account", OK: true,
				Detail: "not tried: it depends on the project that a call names, and connection " + connection + " serves all that no other does",
				Fix:    "name a project beside \"*\" in projects of connection " + connection + " to have that one tried",
			}}, nil
		}
		req := federation.Request{
			Principal:  &trailgate.Principal{Agent: agent, Issuer: identity.Issuer, Subject: agent, Human: human},
			Connection: connection, Session: "doctor", Project: project,
		}
		var checks []admin.Check
		for _, conn := range out.connections {
			if conn.Name != connection {
				continue
			}
			for _, c := range federation.Diagnose(ctx, conn.Credential, req) {
				checks = append(checks, admin.Check{Name: c.Name, OK: c.OK, Detail: c.Detail, Fix: c.Fix})
			}
		}
		return checks, nil
	}
}

// Bounds on what other parties' servers may do to us.
const (
	outboundTimeout = 30 * time.Second
	maxSecretBytes  = 16 << 10
)

// httpClient reaches identity providers and token endpoints: with the system's
// authorities or those of a file, through a proxy only where the environment names
// one, and with no redirect followed, which could lead a secret elsewhere.
func httpClient(caFile config.Path) (*http.Client, error) {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: outboundTimeout, IdleConnTimeout: time.Minute,
		MaxResponseHeaderBytes: 64 << 10, MaxIdleConnsPerHost: 16, ForceAttemptHTTP2: true,
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile.String())
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", caFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{
		Transport: t, Timeout: outboundTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// readSecret reads a file that holds one secret on one line.
func readSecret(path config.Path) (string, error) {
	info, err := os.Stat(path.String())
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return "", hinted(fmt.Errorf("%s can be read by everybody (mode %04o)", path, info.Mode().Perm()), "chmod 600 %s; if others may have read it, put a new one there", path)
	}
	if info.Size() > maxSecretBytes {
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxSecretBytes)
	}
	raw, err := os.ReadFile(path.String())
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(raw))
	if secret == "" || strings.ContainsAny(secret, "\r\n") {
		return "", fmt.Errorf("%s must hold one secret on one line", path)
	}
	return secret, nil
}
