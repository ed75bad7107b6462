package connector

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Allowed is where a connector may go: scheme, host and port, each exactly. The gateway's
// word widens it by nothing.
type Allowed struct {
	roots map[string]bool // "https://host:port"
	hosts map[string]bool // "host:port"
}

// NewAllowed reads roots such as "https://bigquery.googleapis.com". Plain http is for
// addresses alone: a name would have nothing to prove itself with.
func NewAllowed(roots []string) (*Allowed, error) {
	a := &Allowed{roots: map[string]bool{}, hosts: map[string]bool{}}
	for _, s := range roots {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("%.200q: want https://host or https://host:port", s)
		}
		root, host, err := canonical(u.Scheme, u.Host)
		if err != nil {
			return nil, fmt.Errorf("%.200q: %w", s, err)
		}
		if _, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && err != nil {
			return nil, fmt.Errorf("%.200q: plain http is for addresses alone; use https", s)
		}
		a.roots[root], a.hosts[host] = true, true
	}
	return a, nil
}

var errHost = errors.New("not a host name or address in its usual form")

// canonical is a root in its one spelling. What looks like an address and is written
// otherwise (0x7f.1, 2130706433, 127.1) is refused, as is a trailing dot.
func canonical(scheme, host string) (root, hostport string, err error) {
	u := &url.URL{Scheme: strings.ToLower(scheme), Host: strings.ToLower(host)}
	name, port := u.Hostname(), u.Port()
	if port == "" {
		if port = map[string]string{"https": "443", "http": "80"}[u.Scheme]; port == "" || strings.HasSuffix(u.Host, ":") {
			return "", "", errHost
		}
	}
	if addr, aerr := netip.ParseAddr(name); aerr == nil {
		if addr.Zone() != "" || addr.Is4In6() || addr.String() != name {
			return "", "", errHost
		}
	} else {
		labels := strings.Split(name, ".")
		for _, l := range labels {
			if l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
				return "", "", errHost
			}
		}
		last := labels[len(labels)-1]
		if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
			return "", "", errHost
		}
	}
	hostport = net.JoinHostPort(name, port)
	return u.Scheme + "://" + hostport, hostport, nil
}

// check reads a target that the gateway names.
func (a *Allowed) check(root string) (*url.URL, error) {
	scheme, host, ok := strings.Cut(root, "://")
	if !ok {
		return nil, errHost
	}
	canon, _, err := canonical(scheme, host)
	if err != nil || !a.roots[canon] {
		return nil, fmt.Errorf("this connector's configuration does not let it reach %.200q", root)
	}
	return &url.URL{Scheme: strings.ToLower(scheme), Host: strings.ToLower(host)}, nil
}

// dialer reaches what is allowed. A name is looked up here, once, and only addresses that
// can be a server of it are dialled: names that come to mean this machine, its link (with
// the metadata server) or nothing are what DNS rebinding makes of them.
type dialer struct {
	allowed *Allowed
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

func newDialer(a *Allowed) *dialer {
	return &dialer{
		allowed: a,
		lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
		dial: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
	}
}

func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if !d.allowed.hosts[strings.ToLower(address)] {
		return nil, fmt.Errorf("%.200q is not among what this connector may dial", address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return d.dial(ctx, network, address) // the configuration names this very address
	}
	addrs, err := d.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	err = fmt.Errorf("%s has no address", host)
	for _, addr := range addrs {
		if addr = addr.Unmap(); addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified() || addr.IsMulticast() || addr.IsInterfaceLocalMulticast() {
			err = fmt.Errorf("%s means %s, which no server of that name has; to reach one there, allow the address itself", host, addr)
			continue
		}
		var conn net.Conn
		if conn, err = d.dial(ctx, network, net.JoinHostPort(addr.String(), port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// newUpstream is the transport to BigQuery: no proxy, no redirect, no decompression.
func newUpstream(a *Allowed, roots *x509.CertPool, answerTimeout time.Duration) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	t.DialContext = newDialer(a).DialContext
	t.DisableCompression = true
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 512, 256
	t.ResponseHeaderTimeout = answerTimeout
	t.MaxResponseHeaderBytes = 1 << 20
	t.WriteBufferSize, t.ReadBufferSize = 64<<10, 64<<10
	t.HTTP2 = &http.HTTP2Config{MaxReadFrameSize: 256 << 10}
	return t
}
