package connector

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// Remote is the gateway as a connector reaches it.
type Remote struct {
	// Address is host:port of the gateway's door for connectors.
	Address string
	// Roots are the authority that the gateway's certificate must be of. Pin is its
	// SHA-256 instead, for who does not have it yet.
	Roots *x509.CertPool
	Pin   []byte
	// Proxy names the HTTP proxy to go through; nil, or a nil URL: none.
	Proxy func(*http.Request) (*url.URL, error)
	// Build is this version of Trailgate.
	Build string

	versions []int // for tests: the versions to offer
}

// dial reaches the gateway, checks that it is the right one, and says hello.
func (r *Remote) dial(ctx context.Context, cert *tls.Certificate, hello Hello) (*tls.Conn, Welcome, *x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*helloWait)
	defer cancel()
	raw, err := r.connect(ctx)
	if err != nil {
		return nil, Welcome{}, nil, fmt.Errorf("reach the gateway: %w", err)
	}
	var ca *x509.Certificate
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, ServerName: ServerName, RootCAs: r.Roots,
	}
	if cert != nil {
		// Given whatever authorities the gateway names: it says in words what is wrong with it.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	if r.Roots == nil {
		// No certificate to check with is at hand yet; the hash of one is. What Go would
		// check is checked here, with the one authority of that hash.
		cfg.InsecureSkipVerify = true
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			i := slices.IndexFunc(s.PeerCertificates, func(c *x509.Certificate) bool { return bytes.Equal(Pin(c), r.Pin) })
			if i < 1 || !s.PeerCertificates[i].IsCA {
				return errors.New("it is not the gateway that made the enrolment token, or something stands in between")
			}
			ca = s.PeerCertificates[i]
			roots := x509.NewCertPool()
			roots.AddCert(ca)
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: ServerName})
			return err
		}
	}
	conn := tls.Client(raw, cfg)
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	fail := func(err error) (*tls.Conn, Welcome, *x509.Certificate, error) {
		_ = raw.Close()
		return nil, Welcome{}, nil, err
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		return fail(fmt.Errorf("check the gateway at %s: %w", r.Address, err))
	}
	if conn.ConnectionState().NegotiatedProtocol != alpn {
		return fail(fmt.Errorf("at %s something else than a gateway's door for connectors answers", r.Address))
	}
	hello.Versions, hello.Build = versions, r.Build
	if r.versions != nil {
		hello.Versions = r.versions
	}
	var w Welcome
	if err := writeFrame(conn, hello); err != nil {
		return fail(fmt.Errorf("say hello to the gateway: %w", err))
	}
	if err := readFrame(conn, &w); err != nil {
		return fail(fmt.Errorf("hear from the gateway: %w", err))
	}
	if w.Code != "" || w.Error != "" {
		return fail(&Refusal{w.Code, w.Error})
	}
	if !slices.Contains(hello.Versions, w.Version) {
		return fail(fmt.Errorf("the gateway chose version %d of the protocol, which this connector does not speak", w.Version))
	}
	if !stop() {
		return fail(ctx.Err())
	}
	_ = conn.SetDeadline(time.Time{})
	return conn, w, ca, nil
}

// connect opens the TCP connection, through a proxy where one is to be used (CONNECT, RFC
// 9110, section 9.3.6).
func (r *Remote) connect(ctx context.Context) (net.Conn, error) {
	d := &net.Dialer{Timeout: helloWait, KeepAlive: 30 * time.Second}
	var proxy *url.URL
	if r.Proxy != nil {
		var err error
		if proxy, err = r.Proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: r.Address}}); err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
	}
	if proxy == nil {
		return d.DialContext(ctx, "tcp", r.Address)
	}
	port := map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
	if port == "" {
		return nil, fmt.Errorf("a proxy of scheme %.20q cannot be used; http and https can", proxy.Scheme)
	}
	if proxy.Port() != "" {
		port = proxy.Port()
	}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(proxy.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if proxy.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12})
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: r.Address}, Host: r.Address, Header: http.Header{"User-Agent": {"trailgate"}}}
	if proxy.User != nil {
		password, _ := proxy.User.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(proxy.User.Username()+":"+password)))
	}
	err = req.Write(conn)
	var resp *http.Response
	in := bufio.NewReader(conn)
	if err == nil {
		resp, err = http.ReadResponse(in, req)
	}
	switch {
	case err != nil:
		_ = conn.Close()
		return nil, fmt.Errorf("proxy %s: %w", proxy.Host, err)
	case resp.StatusCode/100 != 2:
		_ = conn.Close()
		return nil, fmt.Errorf("proxy %s answers %s", proxy.Host, resp.Status)
	case in.Buffered() > 0: // the gateway speaks second
		_ = conn.Close()
		return nil, fmt.Errorf("proxy %s sends what nobody asked for", proxy.Host)
	}
	return conn, nil
}
