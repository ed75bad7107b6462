// Package webhook tells other systems what waits for a human: it posts signed
// notices to configured endpoints, tries again where one is away, and says of each
// notice what became of it.
//
// Notices are signed as Standard Webhooks has it (https://www.standardwebhooks.com):
// an HMAC-SHA-256 over id, time and body, so that a receiver knows who sent what when.
//
// What waits to be sent is in memory alone. A crash loses it, and nothing says so:
// after a restart the owner sends again what still matters, under the same ids, by
// which receivers tell.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// Bounds.
const (
	maxQueue    = 1_000 // notices that wait for one endpoint
	maxLost     = 10_000
	maxAttempts = 10
	maxAge      = time.Hour // of a notice that could not be delivered
	maxAnswer   = 64 << 10  // bytes
	timeout     = 10 * time.Second
	firstRetry  = 5 * time.Second
	lastRetry   = 10 * time.Minute
	stopGrace   = 3 * time.Second
	recorders   = 32 // of what was lost at once
)

// The formats of a notice.
const (
	Slack = "slack" // Slack's Block Kit, which others take too
	JSON  = "json"  // docs/spec/webhooks.md
)

// TypeTest is the type of the notice that [Sender.Test] sends.
const TypeTest = "webhook.test"

// Endpoint is who is told. Printed or logged it shows its name: the URLs of many
// services are as good as passwords.
type Endpoint struct {
	Name, URL string
	Secret    Secret   // signs; see [ParseSecret]
	Format    string   // Slack or JSON
	Events    []string // the types of notice; none: all
}

// String is the endpoint's name and format.
func (e Endpoint) String() string { return e.Name + " (" + e.Format + ")" }

// GoString is String, so that %#v tells no more.
func (e Endpoint) GoString() string { return e.String() }

// LogValue is String, for slog.
func (e Endpoint) LogValue() slog.Value { return slog.StringValue(e.String()) }

// wants reports whether an endpoint is told of a type of notice.
func (e *Endpoint) wants(kind string) bool {
	for _, t := range e.Events {
		if t == kind {
			return true
		}
	}
	return len(e.Events) == 0
}

// Field is a line of a notice.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Notice is what is told. Whatever is in it may have been written by an agent, except
// for ID, Type, Gateway and Link. It is not changed once it was sent.
type Notice struct {
	ID           string // the same for each try: visible ASCII, at most 255
	Type         string // such as "approval.held"
	Time         time.Time
	Gateway      string
	Title        string
	Fields       []Field
	Statement    string
	StatementCut bool   // Statement is not the whole; so too after its 64 KiB were exceeded here
	Link         string // where a human decides; "" where there is no such page
	Subject      string // what it is about, such as an approval's id
}

// Delivery is what became of a notice at an endpoint.
type Delivery struct {
	Endpoint string
	Notice   Notice // without Fields and Statement where it found the queue full
	Attempts int
	Status   int           // HTTP, of the last try; 0: there was no answer
	Error    string        // "": delivered. Without secrets, the URL or the statement
	Duration time.Duration // from [Sender.Send] to its end
}

// Config of a [Sender].
type Config struct {
	Endpoints []Endpoint
	// HTTP makes the requests. Optional. Redirects are not followed in any case: they
	// could lead a statement elsewhere.
	HTTP *http.Client
	Log  *slog.Logger // Optional.
	// Delivered hears of the end of each notice at each endpoint. It may block, which
	// holds up that endpoint alone, and must be safe for concurrent use.
	Delivered func(ctx context.Context, d Delivery)
	Now       func() time.Time // the time that is signed; optional
	// Gateway is who sends the notices of [Sender.Test].
	Gateway string
	// Grace is how long Run goes on trying after its context ended. Default 3s.
	Grace time.Duration
	// AllowInsecure lets URLs be http elsewhere than on loopback. What is sent can then be read on the way.
	AllowInsecure bool
}

// Sender delivers notices. It is safe for concurrent use.
type Sender struct {
	cfg   Config
	lines []*line
}

// New checks the endpoints. Its errors name them, and repeat no URL.
func New(cfg Config) (*Sender, error) {
	cfg.HTTP = bounded(cfg.HTTP)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Delivered == nil {
		cfg.Delivered = func(context.Context, Delivery) {}
	}
	if cfg.Grace <= 0 {
		cfg.Grace = stopGrace
	}
	s := &Sender{cfg: cfg}
	names := map[string]bool{}
	for _, e := range cfg.Endpoints {
		if err := check(&e, cfg.AllowInsecure); err != nil {
			return nil, fmt.Errorf("webhook %q: %w", e.Name, err)
		}
		if names[e.Name] {
			return nil, fmt.Errorf("webhook %q: there are two of that name", e.Name)
		}
		names[e.Name] = true
		s.lines = append(s.lines, newLine(e, &s.cfg))
	}
	return s, nil
}

func check(e *Endpoint, insecure bool) error {
	u, err := url.Parse(e.URL)
	switch {
	case e.Name == "":
		return errors.New("it has no name")
	case err != nil, u.Hostname() == "", u.Scheme != "https" && u.Scheme != "http", u.User != nil, u.Fragment != "":
		return errors.New("want an https URL without a password")
	case u.Scheme == "http" && !insecure && !loopback(u.Hostname()):
		return errors.New("want https: what is sent holds statements")
	case len(e.Secret) < minSecret, len(e.Secret) > maxSecret:
		return fmt.Errorf("want a secret of %d to %d bytes", minSecret, maxSecret)
	case e.Format != Slack && e.Format != JSON:
		return fmt.Errorf("format %q is not known; there are %s and %s", e.Format, Slack, JSON)
	}
	return nil
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// bounded is a client that follows nothing and keeps nothing.
func bounded(given *http.Client) *http.Client {
	client := http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: timeout}).DialContext,
		TLSHandshakeTimeout: timeout, IdleConnTimeout: time.Minute,
		MaxResponseHeaderBytes: maxAnswer, MaxIdleConnsPerHost: 2, ForceAttemptHTTP2: true,
	}}
	if given != nil {
		client.Transport, client.Timeout = given.Transport, given.Timeout
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client // each request has a deadline of its own, too
}
