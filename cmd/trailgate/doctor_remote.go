package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/gateway"
)

// Checks of what answers: the gateway, issuers, BigQuery.

// gateway asks the gateway, or the data directory in its absence.
func (d *doctor) gateway(ctx context.Context, r *remote) error {
	info, err := r.Gateway(ctx)
	if err != nil {
		return err
	}
	d.info = info
	switch {
	case !r.live():
		d.bad("gateway", fmt.Errorf("none runs on %s", d.cfg.DataDir), "trailgate serve"+d.at())
	case d.cfg != nil && info.ConfigDigest != d.cfg.Digest:
		d.advise("gateway", info.ID+" runs, version "+info.Version+", with another configuration than "+d.cfg.Path+" is now",
			"kill -HUP takes in log.level and certificates; everything else needs a restart")
	default:
		d.good("gateway", "%s runs, version %s", info.ID, info.Version)
	}
	switch {
	case !info.Ready:
		d.bad("trail", errors.New("calls are refused: "+info.NotReady), "make room on the disk of the data directory; calls are taken again by themselves then")
	case info.Entries > info.Indexed && r.live() && info.Entries-info.Indexed > indexLag:
		d.advise("trail", fmt.Sprintf("%d entries are recorded, %d of them not searchable yet", info.Entries, info.Entries-info.Indexed), "wait a little; if that grows: trailgate index rebuild"+d.at())
	default:
		d.good("trail", "%d entries of %s, and it takes more", info.Entries, info.Origin)
	}
	return nil
}

// indexLag is how far the index may be behind without a word about it.
const indexLag = 100_000

// listener reaches the gateway as agents do.
func (d *doctor) listener(ctx context.Context) {
	const name = "agents' address"
	at := d.info.PublicURL
	var ca config.Path
	if d.cfg != nil {
		ca = d.cfg.Gateway.TLS.CAFile
	}
	roots, err := rootsWith(ca)
	if err != nil {
		d.bad(name, err, "correct gateway.tls.ca_file in "+d.cfg.Path)
		return
	}
	t := gateway.NewTransport(checkTimeout)
	defer t.CloseIdleConnections()
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	resp, body, err := fetch(ctx, t, http.MethodGet, at+introspectPath)
	if err == nil {
		// The endpoint answers to POST alone, in words that only a gateway has.
		var said struct {
			Error string `json:"error"`
		}
		if resp.StatusCode == http.StatusMethodNotAllowed && json.Unmarshal(body, &said) == nil && said.Error == "invalid_request" {
			d.good(name, "%s", at)
			return
		}
		d.bad(name, fmt.Errorf("at %s something else answers (status %d)", at, resp.StatusCode), "point what stands in front at the gateway, paths unchanged, or correct gateway.public_url")
		return
	}
	fix := "agents use this address: check gateway.public_url, the name's DNS entry, and what stands in between"
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	switch {
	case unknown:
		fix = "name the certificate's CA in gateway.tls.ca_file, and give it to clients"
	case host:
		fix = "get a certificate for the host of gateway.public_url; if the CA is the gateway's own: trailgate tls renew --host HOST" + d.at() + ", then kill -HUP"
	}
	d.bad(name, fmt.Errorf("from this machine: %w", err), fix)
}

// rootsWith is the system's authorities and those of a file.
func rootsWith(caFile config.Path) (*x509.CertPool, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if caFile == "" {
		return roots, nil
	}
	raw, err := os.ReadFile(caFile.String())
	if err != nil {
		return nil, err
	}
	if !roots.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", caFile)
	}
	return roots, nil
}

// maxProbe bounds how much of an answer is looked at.
const maxProbe = 64 << 10

// fetch asks once, without credentials, and follows no redirect.
func fetch(ctx context.Context, t http.RoundTripper, method, at string) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, at, http.NoBody)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("User-Agent", userAgent())
	resp, err := t.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxProbe))
	return resp, raw, errors.Join(err, resp.Body.Close())
}

// maxAtOnce is how many issuers are asked at the same time.
const maxAtOnce = 8

// issuers compiles the maps and fetches the keys.
func (d *doctor) issuers(ctx context.Context) {
	if len(d.cfg.Identity.Issuers)+len(d.cfg.Identity.Certificates) == 0 {
		d.login(ctx)
		return
	}
	public := d.info.PublicURL
	if public == "" {
		public = d.cfg.Gateway.PublicURL
	}
	v, err := newVerifier(d.cfg, strings.TrimSuffix(public, "/"), slog.New(slog.DiscardHandler), nil)
	if err != nil {
		d.bad("identity", errors.New(strings.TrimPrefix(err.Error(), "identity: ")), "correct identity in "+d.cfg.Path+"; docs/identity.md has maps that work")
		d.login(ctx)
		return
	}
	errs := make([]error, len(d.cfg.Identity.Issuers))
	var wait sync.WaitGroup
	room := make(chan struct{}, maxAtOnce)
	for i, iss := range d.cfg.Identity.Issuers {
		room <- struct{}{}
		wait.Go(func() {
			defer func() { <-room }()
			ctx, cancel := context.WithTimeout(ctx, checkTimeout)
			defer cancel()
			errs[i] = v.Check(ctx, iss.Name)
		})
	}
	wait.Wait()
	for i, iss := range d.cfg.Identity.Issuers {
		name := "issuer " + iss.Name
		if errs[i] == nil {
			d.good(name, "the keys of %s can be had", iss.Issuer)
			continue
		}
		fix := fmt.Sprintf("from the gateway's machine this must answer with JSON: curl %s (with a private CA, name it in the issuer's ca_file)", posixQuote(keysAt(iss)))
		if iss.JWKSFile != "" {
			fix = "put the issuer's keys, a JWKS, into " + iss.JWKSFile.String()
		}
		d.bad(name, fmt.Errorf("the keys of %s cannot be had: %w", iss.Issuer, errs[i]), fix)
	}
	for _, cert := range d.cfg.Identity.Certificates {
		d.good("certificates "+cert.Name, "%s is read", cert.BundleFile)
	}
	d.login(ctx)
}

// wellKnown is where an issuer's metadata is (OpenID Connect Discovery 1.0, section 4).
func wellKnown(issuer string) string {
	return strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
}

func keysAt(iss config.Issuer) string {
	switch {
	case iss.JWKSURL != "":
		return iss.JWKSURL
	case iss.DiscoveryURL != "":
		return iss.DiscoveryURL
	}
	return wellKnown(iss.Issuer)
}

// login checks that humans can be sent to sign in.
func (d *doctor) login(ctx context.Context) {
	l := d.cfg.Admin.Login
	if !l.On() {
		return
	}
	const name = "login"
	fix := "from the gateway's machine this must answer with JSON: curl " + posixQuote(wellKnown(l.Issuer)) + " (with a private CA, name it in admin.login.ca_file)"
	h, err := httpClient(l.CAFile)
	if err != nil {
		d.bad(name, err, "correct admin.login.ca_file in "+d.cfg.Path)
		return
	}
	defer h.CloseIdleConnections()
	resp, body, err := fetch(ctx, h.Transport, http.MethodGet, wellKnown(l.Issuer))
	var meta struct {
		Issuer string `json:"issuer"`
	}
	switch {
	case err != nil:
		d.bad(name, err, fix)
	case resp.StatusCode != http.StatusOK || json.Unmarshal(body, &meta) != nil:
		d.bad(name, fmt.Errorf("%s answers %d, without metadata", l.Issuer, resp.StatusCode), fix)
	case meta.Issuer != l.Issuer:
		d.bad(name, fmt.Errorf("the metadata of %s is that of another issuer", l.Issuer), "write admin.login.issuer exactly as the issuer does")
	default:
		d.good(name, "%s answers", l.Issuer)
	}
}

// connections tells of each as whom its calls are made, and whether BigQuery
// can be reached.
func (d *doctor) connections(ctx context.Context, r *remote) {
	if d.cfg == nil {
		for _, c := range d.info.Connections {
			d.good("connection "+c.Name, "%s", strings.Join(c.Projects, ", "))
		}
		return
	}
	t := gateway.NewTransport(checkTimeout)
	defer t.CloseIdleConnections()
	reached := map[string]error{}
	for _, c := range d.cfg.Connections {
		name := "connection " + c.Name
		if c.Connectors {
			d.connectors(ctx, r, c)
			continue
		}
		err, done := reached[c.Upstream]
		if !done {
			_, _, err = fetch(ctx, t, http.MethodHead, c.Upstream)
			reached[c.Upstream] = err
		}
		if err != nil {
			d.bad(name, fmt.Errorf("%s cannot be reached: %w", c.Upstream, err), "let the gateway's machine connect there (firewall, DNS, Private Google Access), or correct the connection's upstream")
			continue
		}
		switch mode := c.Credential.Mode; mode {
		case config.CredentialStatic, config.CredentialADC:
			d.advise(name, c.Upstream+"; mode "+mode+": all agents share one credential, so BigQuery's own log cannot tell them apart",
				"mode impersonation or workload gives each agent a credential of its own: docs/gcp-setup.md")
		case config.CredentialNone:
			d.good(name, "%s; no credential goes there", c.Upstream)
		default:
			d.good(name, "%s; mode %s (\"doctor --connection %s --as AGENT\" tries it)", c.Upstream, mode, c.Name)
		}
	}
}

// certificateSoon is when a connector's certificate should long have been renewed.
const certificateSoon = 24 * time.Hour

// connectors tells who takes a connection's calls.
func (d *doctor) connectors(ctx context.Context, r *remote, c config.Connection) {
	name := "connection " + c.Name
	list, err := r.Connectors(ctx)
	if err != nil {
		d.bad(name, explainAPI(err), "trailgate connector status"+d.at())
		return
	}
	var names, ending []string
	for _, x := range list {
		if x.State != "connected" || !slices.Contains(x.Connections, c.Name) {
			continue
		}
		names = append(names, x.Name+" ("+x.Build+")")
		if x.CertExpires != nil && x.CertExpires.Sub(d.now()) < certificateSoon {
			ending = append(ending, x.Name)
		}
	}
	switch {
	case !r.live():
		d.advise(name, "goes through connectors; no gateway runs, so none is connected", "trailgate serve"+d.at())
	case len(names) == 0:
		d.bad(name, errors.New("no connector is connected, so its calls fail"), "beside the project: trailgate connector --config F; here: trailgate connector list"+d.at())
	case len(ending) > 0:
		d.advise(name, "the certificate of "+strings.Join(ending, ", ")+" ends within a day", "it is renewed by itself when the connector connects: look at its log, or enrol another")
	case len(names) == 1:
		d.advise(name, "through connector "+names[0]+" alone", "a second one lets either stop: trailgate connector enroll-token --connection "+c.Name+d.at())
	default:
		d.good(name, "through connectors %s", strings.Join(names, ", "))
	}
}

// maxSkew is how far the clock may be off: tokens are checked to the minute.
const maxSkew = 30 * time.Second

// clock compares this machine's time with that of others, and with the trail.
func (d *doctor) clock(ctx context.Context, r *remote) {
	const name, fix = "clock", "set this machine's clock and keep it so: timedatectl set-ntp true (or chronyc makestep)"
	rows, _, err := r.Page(ctx, client.Query{PageSize: 1})
	if err == nil && len(rows) == 1 {
		if ahead := rows[0].Entry.Time.Sub(d.now()); ahead > maxSkew {
			d.bad(name, fmt.Errorf("the newest entry is %s in the future: the clock was set back, or is behind now", ahead.Round(time.Second)), fix)
			return
		}
	}
	whose, at := "", ""
	switch {
	case d.cfg == nil:
		whose, at = "the gateway", strings.TrimSuffix(d.c.server, "/")+"/api/v1/healthz"
	case len(d.cfg.Connections) > 0 && !d.cfg.Connections[0].Connectors:
		at = d.cfg.Connections[0].Upstream
		if u, err := url.Parse(at); err == nil {
			whose = u.Host
		}
	default:
		d.good(name, "there is nothing to compare it with")
		return
	}
	t := gateway.NewTransport(checkTimeout)
	defer t.CloseIdleConnections()
	asked := d.now()
	resp, _, err := fetch(ctx, t, http.MethodHead, at)
	answered := d.now()
	var told time.Time
	if err == nil {
		told, err = http.ParseTime(resp.Header.Get("Date"))
	}
	if err != nil {
		d.good(name, "%s does not tell the time, so there is nothing to compare it with", whose)
		return
	}
	if off := skew(asked, answered, told); off.Abs() > maxSkew {
		side := "ahead of"
		if off < 0 {
			side = "behind"
		}
		d.bad(name, fmt.Errorf("this machine is %s %s %s", off.Abs().Round(time.Second), side, whose), fix)
		return
	}
	d.good(name, "agrees with that of %s", whose)
}

// skew is how far this machine's clock is ahead of another's, at the least: the
// other looked at its own, which shows whole seconds, between asked and answered.
func skew(asked, answered, told time.Time) time.Duration {
	switch until := told.Add(time.Second); {
	case asked.After(until):
		return asked.Sub(until)
	case answered.Before(told):
		return answered.Sub(told)
	}
	return 0
}
