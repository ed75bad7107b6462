// Package client talks to the admin API of a gateway: over the network with the
// admin token, over the socket in the data directory, or over any
// http.RoundTripper. It knows the root package's formats and nothing of the
// gateway's insides, as any other client would.
//
// What is asked through it is recorded in the trail by the gateway.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Options tune a client. The zero value is good for a socket.
type Options struct {
	// Token is the admin token. Needed over the network.
	Token string
	// Transport carries requests. Optional; default: one of the client's own,
	// which uses no proxy.
	Transport http.RoundTripper
	// RootCAs are trusted by that transport of the client's own. Optional; default:
	// this machine's.
	RootCAs *x509.CertPool
	// UserAgent is how the client calls itself in the trail. Optional.
	UserAgent string
}

// Client is safe for concurrent use.
type Client struct {
	base string // URL without a slash at the end
	opt  Options
	http *http.Client
}

// Bounds on what is waited for and read.
const (
	headerTimeout = 2 * time.Minute
	maxErrorBytes = 1 << 20
	// maxAnswerBytes bounds an answer that is read whole: a page of 1000 rows of
	// two entries each.
	maxAnswerBytes = 256 << 20
)

// New makes a client for an address: "http://host:port", "https://host:port",
// or "unix:PATH" for a socket. A token is not sent over plain http to another
// machine: that is an error.
func New(address string, o Options) (*Client, error) {
	c := &Client{opt: o}
	transport := &http.Transport{
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: headerTimeout,
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 4, IdleConnTimeout: 90 * time.Second,
	}
	if o.RootCAs != nil {
		transport.TLSClientConfig = &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12}
	}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		c.base = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
	} else {
		u, err := url.Parse(address)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("admin address %q: want http://host:port, https://host:port or unix:PATH", address)
		}
		if u.Scheme == "http" && o.Token != "" && !loopback(u.Hostname()) {
			return nil, fmt.Errorf("admin address %q: plain http would show the admin token to the network; use https", address)
		}
		c.base = strings.TrimSuffix(u.String(), "/")
	}
	if o.Transport == nil {
		c.opt.Transport = transport
	}
	c.http = &http.Client{
		Transport: c.opt.Transport,
		// A redirect would take the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// Close gives back idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Error is what the gateway said in place of an answer.
type Error struct {
	Code    int    // HTTP status
	Status  string // google.rpc.Code, such as "NOT_FOUND"
	Message string
	// Column is where in the filter the mistake is, in characters from 1; 0:
	// nowhere in particular.
	Column int
}

func (e *Error) Error() string { return e.Message }

// UnmarshalJSON reads the object under "error".
func (e *Error) UnmarshalJSON(raw []byte) error {
	var in struct {
		Code    int    `json:"code"`
		Status  string `json:"status"`
		Message string `json:"message"`
		Details struct {
			Column int `json:"column"`
		} `json:"details"`
	}
	err := json.Unmarshal(raw, &in)
	*e = Error{in.Code, in.Status, in.Message, in.Details.Column}
	return err
}

// ErrNotTrailgate means that the address leads to something else.
var ErrNotTrailgate = errors.New("the answer is not that of a Trailgate admin API; is this the address of the admin listener?")

// do sends a request and reads the whole answer into out, which may be nil.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	raw, err := c.read(ctx, method, path, query, in)
	if err != nil || out == nil {
		return err
	}
	// A long answer may begin before its end is known, and end in an error.
	if err := endsInError(raw); err != nil {
		return err
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%w (%w)", ErrNotTrailgate, err)
	}
	return nil
}

func endsInError(raw []byte) error {
	if !bytes.HasPrefix(bytes.TrimLeft(raw, "\n"), []byte(`{"error":`)) {
		return nil
	}
	var answer struct {
		Error *Error `json:"error"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || answer.Error == nil {
		return nil //nolint:nilerr // it is something else, which the caller reads
	}
	return answer.Error
}

// read sends a request and reads the whole answer.
func (c *Client) read(ctx context.Context, method, path string, query url.Values, in any) ([]byte, error) {
	resp, err := c.send(ctx, method, path, query, in)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the gateway's answer: %w", err)
	}
	if len(raw) > maxAnswerBytes {
		return nil, fmt.Errorf("read the gateway's answer: larger than %d bytes; ask for smaller pages", maxAnswerBytes)
	}
	return raw, nil
}

// send sends a request. An answer that is an error becomes an [*Error].
func (c *Client) send(ctx context.Context, method, path string, query url.Values, in any) (*http.Response, error) {
	var body io.Reader
	kind := ""
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("ask the gateway: %w", err)
		}
		body, kind = bytes.NewReader(raw), "application/json"
	}
	return c.sendBody(ctx, method, path, query, body, kind)
}

// sendStream posts a body that is not held in memory; nil: none.
func (c *Client) sendStream(ctx context.Context, path string, query url.Values, body io.Reader) (*http.Response, error) {
	kind := ""
	if body != nil {
		kind = "application/x-ndjson"
	}
	return c.sendBody(ctx, http.MethodPost, path, query, body, kind)
}

func (c *Client) sendBody(ctx context.Context, method, path string, query url.Values, body io.Reader, kind string) (*http.Response, error) {
	address := c.base + "/api/v1/" + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, fmt.Errorf("ask the gateway: %w", err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if c.opt.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.opt.Token)
	}
	if c.opt.UserAgent != "" {
		req.Header.Set("User-Agent", c.opt.UserAgent)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the address, which holds the filter
		}
		return nil, fmt.Errorf("ask the gateway: %w", err)
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusCreated {
		return resp, nil
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes))
	if err != nil {
		return nil, fmt.Errorf("read the gateway's answer: %w", err)
	}
	var answer struct {
		Error *Error `json:"error"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || answer.Error == nil || answer.Error.Message == "" {
		return nil, fmt.Errorf("%w (%s)", ErrNotTrailgate, resp.Status)
	}
	answer.Error.Code = resp.StatusCode
	return nil, answer.Error
}
