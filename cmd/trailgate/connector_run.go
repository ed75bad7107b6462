package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/connector"
	"github.com/trailgate/trailgate/internal/federation"
)

// What runs beside the project.

func newConnectorEnroll(c *cli) *cobra.Command {
	var tokenFile string
	cmd := &cobra.Command{
		Use:   "enroll --config F --token-file T",
		Short: "Get a certificate for this connector, with an enrolment token",
		Long: `Enroll makes a key, has the gateway certify it, and keeps both in state_dir of the
connector's configuration, with the gateway's authority. The token is used up by it.
Run it beside the project, once; the certificate is renewed by itself from then on.
"-" reads the token from stdin.`,
		Example: `  trailgate connector enroll --config connector.yaml --token-file token
  gcloud secrets versions access latest --secret connector-token |
    trailgate connector enroll --config connector.yaml --token-file -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("config") || tokenFile == "" {
				return usagef("enroll: name the connector's configuration with --config and the token's file with --token-file")
			}
			cfg, err := loadConnector(c.configPath)
			if err != nil {
				return err
			}
			var token string
			if tokenFile == "-" {
				raw, err := io.ReadAll(io.LimitReader(c.in, maxSecretBytes))
				if err != nil {
					return fmt.Errorf("read the token: %w", err)
				}
				token = strings.TrimSpace(string(raw))
			} else if token, err = readSecret(config.Path(tokenFile)); err != nil {
				return fmt.Errorf("read the token: %w", err)
			}
			name, connections, err := connector.Enroll(cmd.Context(), remoteGateway(cfg), token, cfg.StateDir.String())
			if err != nil {
				return fmt.Errorf("enroll: %w", connectorExit(err))
			}
			fmt.Fprintf(c.err, "enrolled as %s, for connection %s; its key is in %s\nrun it: trailgate connector --config %s\n",
				visible(name), visible(strings.Join(connections, ", ")), cfg.StateDir, posixQuote(c.configPath))
			return nil
		},
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "`FILE` with the token, or - for stdin")
	must(cmd.MarkFlagFilename("token-file"))
	return cmd
}

// connectorExit gives a gateway's refusal the exit code of one.
func connectorExit(err error) error {
	if refusal, ok := errors.AsType[*connector.Refusal](err); ok {
		return &exitError{code: exitDenied, err: refusal}
	}
	return err
}

func remoteGateway(cfg *config.ConnectorFile) connector.Remote {
	return connector.Remote{Address: cfg.Gateway, Proxy: http.ProxyFromEnvironment, Build: thisBuild().Version}
}

// loadConnector reads a connector's file. One that is not there is a mistake of usage, as
// the gateway's is.
func loadConnector(path string) (*config.ConnectorFile, error) {
	cfg, err := config.LoadConnector(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &exitError{code: exitUsage, err: err}
	}
	return cfg, err
}

// runConnector runs a connector until a signal.
func (c *cli) runConnector(path string) error {
	cfg, err := loadConnector(path)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	c.release()
	log, _ := newLog(c.err, cfg.Log)
	conf, closeSources, err := connectorConfig(cfg, log)
	if err != nil {
		return err
	}
	defer closeSources()
	conn, err := connector.New(conf)
	if err != nil {
		return err
	}
	stopHealth, err := serveHealth(cfg.Health, conn, log)
	if err != nil {
		return err
	}
	defer stopHealth()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- conn.Run(ctx) }()
	select {
	case err := <-done:
		return connectorExit(err)
	case s := <-signals:
		log.InfoContext(ctx, "stopping", "reason", s.String(), "calls", conn.State().InFlight, "drain_timeout", cfg.Shutdown.DrainTimeout.String())
	}
	conn.Drain()
	select {
	case <-done:
		log.InfoContext(ctx, "stopped", "drained", true)
	case <-time.After(cfg.Shutdown.DrainTimeout):
		cancel()
		<-done
		log.WarnContext(ctx, "stopped; calls were cut", "drained", false)
	case <-signals:
		cancel()
		<-done
		log.WarnContext(ctx, "stopped at once; calls were cut", "drained", false)
	}
	return nil
}

// connectorConfig puts a connector together from its file.
func connectorConfig(cfg *config.ConnectorFile, log *slog.Logger) (_ connector.Config, closeAll func(), err error) {
	var closers []io.Closer
	closeAll = func() {
		for _, c := range closers {
			_ = c.Close() // ends what refreshes tokens
		}
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	conf := connector.Config{Gateway: remoteGateway(cfg), Connections: map[string]connector.Served{}, Log: log}
	if conf.Allowed, err = connector.NewAllowed(cfg.Allow); err != nil {
		return conf, closeAll, usagef("%s: allow: %w", cfg.Path, err)
	}
	if cfg.UpstreamCAFile != "" {
		if conf.UpstreamRoots, err = rootsOf(cfg.UpstreamCAFile); err != nil {
			return conf, closeAll, fmt.Errorf("upstream_ca_file: %w", err)
		}
	}
	if err := connectorIdentity(cfg, &conf); err != nil {
		return conf, closeAll, err
	}
	client, err := httpClient(cfg.Endpoints.CAFile)
	if err != nil {
		return conf, closeAll, fmt.Errorf("endpoints.ca_file: %w", err)
	}
	out := &outbound{}
	ends := federation.Endpoints{STS: cfg.Endpoints.STS, IAMCredentials: cfg.Endpoints.IAMCredentials, OAuthToken: cfg.Endpoints.OAuthToken, HTTP: client}
	for _, x := range cfg.Connections {
		if x.Credential.Mode == config.CredentialGateway {
			conf.Connections[x.Name] = connector.Served{}
			continue
		}
		source, err := out.source(config.Connection{Name: x.Name, Credential: x.Credential}, ends, nil)
		if err != nil {
			return conf, closeAll, fmt.Errorf("connection %s: %w", x.Name, err)
		}
		if closer, ok := source.(io.Closer); ok {
			closers = append(closers, closer)
		}
		served := connector.Served{Mint: minter(source)}
		if x.Auditor.Mode != "" {
			auditor, err := auditorSource(x.Name, x.Auditor, ends)
			if err != nil {
				return conf, closeAll, fmt.Errorf("connection %s: auditor: %w", x.Name, err)
			}
			if closer, ok := auditor.(io.Closer); ok {
				closers = append(closers, closer)
			}
			served.Audit = auditing(minter(auditor))
		}
		conf.Connections[x.Name] = served
	}
	return conf, closeAll, nil
}

// minter has a source of credentials make those of a connector's calls.
func minter(source federation.Source) connector.Mint {
	return func(ctx context.Context, call connector.Call) (string, connector.Minted, func(), error) {
		req := federation.Request{Principal: call.Principal, Session: call.Session, Connection: call.Connection, Project: call.Project}
		credential, err := source.Credential(ctx, req)
		if err != nil {
			failure := &connector.Failure{Kind: connector.FailCredential, Message: err.Error(), Temporary: true}
			if known, ok := errors.AsType[*federation.Error](err); ok {
				failure.Message, failure.Fix, failure.Temporary = known.Message, known.Fix, known.Temporary
			}
			return "", connector.Minted{}, nil, failure
		}
		rejected := func() {}
		if r, ok := source.(federation.Rejecter); ok {
			rejected = func() { r.Rejected(req, credential) }
		}
		return credential.Token, connector.Minted{Mode: credential.Mode, Principal: credential.Principal, Shared: credential.Shared}, rejected, nil
	}
}

// auditing makes the credential of calls with no agent behind them.
func auditing(mint connector.Mint) connector.Mint {
	return func(ctx context.Context, call connector.Call) (string, connector.Minted, func(), error) {
		call.Principal = &trailgate.Principal{Agent: "reconcile"}
		return mint(ctx, call)
	}
}

// connectorIdentity says how a connector proves who it is.
func connectorIdentity(cfg *config.ConnectorFile, conf *connector.Config) error {
	id := cfg.Identity
	if id.Mode == config.IdentityEnrolled {
		own, err := connector.OpenIdentity(cfg.StateDir.String())
		if errors.Is(err, connector.ErrNotEnrolled) {
			return hinted(err, "trailgate connector enroll-token at the gateway makes a token; then here: trailgate connector enroll --config %s --token-file T", posixQuote(cfg.Path))
		}
		if err != nil {
			return err
		}
		conf.Gateway.Roots, conf.Certificate = own.Roots(), own.Certificate
		conf.Renew = func(ctx context.Context) error { return own.Renew(ctx, remoteGateway(cfg)) }
		return nil
	}
	roots, err := rootsOf(id.GatewayCAFile)
	if err != nil {
		return fmt.Errorf("identity.gateway_ca_file: %w", err)
	}
	conf.Gateway.Roots = roots
	if id.Mode == config.IdentityCertificate {
		conf.Certificate = func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(id.CertFile.String(), id.KeyFile.String())
			return &cert, err
		}
		_, err := conf.Certificate()
		return err
	}
	// The token says who it is; the key, which lives as long as the process, signs receipts.
	cert, err := passingCertificate()
	if err != nil {
		return err
	}
	conf.Certificate = func() (*tls.Certificate, error) { return cert, nil }
	if id.Mode == config.IdentityGCP {
		conf.Token = func(ctx context.Context) (string, error) { return metadataToken(ctx, metadataHost, id.Audience) }
		return nil
	}
	conf.Token = func(context.Context) (string, error) { return readSecret(id.TokenFile) }
	return nil
}

// passingCertificate is of a key that is not kept.
func passingCertificate() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Trailgate connector"}, NotBefore: time.Now().Add(-certBackdated), NotAfter: time.Now().Add(leafLifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// metadataHost is Google's metadata server, which is at this address on every machine
// (https://cloud.google.com/compute/docs/instances/verifying-instance-identity).
const metadataHost = "http://169.254.169.254"

// metadataToken has Google vouch for the machine's service account.
func metadataToken(ctx context.Context, host, audience string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, outboundTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, host+"/computeMetadata/v1/instance/service-accounts/default/identity", nil)
	if err != nil {
		return "", err
	}
	q := req.URL.Query()
	q.Set("audience", audience)
	q.Set("format", "full")
	req.URL.RawQuery = q.Encode()
	req.Header.Set("Metadata-Flavor", "Google")
	t := &http.Transport{DisableKeepAlives: true}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("ask the metadata server, which is on Google Cloud alone: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxSecretBytes))
	if err != nil {
		return "", fmt.Errorf("ask the metadata server: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the metadata server answers %s; does the machine have a service account?", resp.Status)
	}
	return strings.TrimSpace(string(raw)), nil
}

// rootsOf are the authorities of a file, and no others.
func rootsOf(path config.Path) (*x509.CertPool, error) {
	raw, err := os.ReadFile(path.String())
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", filepath.Base(path.String()))
	}
	return pool, nil
}

// serveHealth tells how the connector stands, where its configuration wants that.
func serveHealth(listen string, c *connector.Connector, log *slog.Logger) (stop func(), err error) {
	if listen == "off" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("listen for health: %w", err)
	}
	mux := http.NewServeMux()
	tell := func(ready bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			s := c.State()
			w.Header().Set("Content-Type", "application/json")
			if ready && !s.Connected {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_ = json.NewEncoder(w).Encode(s) // who asked has gone
		}
	}
	mux.Handle("GET /healthz", tell(false))
	mux.Handle("GET /readyz", tell(true))
	registry := newRegistry()
	for name, f := range map[string]struct {
		help string
		of   func(connector.State) float64
	}{
		"trailgate_connector_connected": {"1 while the gateway can send calls.", func(s connector.State) float64 {
			if s.Connected {
				return 1
			}
			return 0
		}},
		"trailgate_connector_calls_in_flight": {"Calls under way.", func(s connector.State) float64 { return float64(s.InFlight) }},
		"trailgate_connector_calls":           {"Calls that came.", func(s connector.State) float64 { return float64(s.Calls) }},
		"trailgate_connector_calls_failed":    {"Calls without an answer of BigQuery's.", func(s connector.State) float64 { return float64(s.Failed) }},
		"trailgate_connector_response_bytes":  {"Bytes of answers.", func(s connector.State) float64 { return float64(s.Bytes) }},
	} {
		if err := registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: f.help}, func() float64 { return f.of(c.State()) })); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, WriteTimeout: time.Minute, MaxHeaderBytes: maxHeaderBytes}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("health listener", "err", err)
		}
	}()
	log.Info("health", "listen", l.Addr().String())
	return func() {
		_ = server.Close()
		<-done
	}, nil
}
