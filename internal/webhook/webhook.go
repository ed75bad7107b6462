// Package webhook tells other systems what waits for a human: it posts signed
// notices to configured endpoints, tries again where one is away, and says of each
// notice what became of it.
//
// Notices are signed as Standard Webhooks has it (https://www.standardwebhooks.com):
// an HMAC-SHA-256 over id, time and body, so that a receiver knows who sent what when.
//
// What waits to be sent is in memory alone. After a restart the owner sends again what
// still matters; receivers tell by the notice's id.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bounds.
const (
	maxQueue    = 1_000 // notices that wait for one endpoint
	maxAttempts = 10
	maxAge      = time.Hour // of a notice that could not be delivered
	maxAnswer   = 64 << 10  // bytes
	timeout     = 10 * time.Second
	firstRetry  = 5 * time.Second
	lastRetry   = 10 * time.Minute
	minSecret   = 24 // bytes, as Standard Webhooks wants
	maxSecret   = 64
	tolerance   = 5 * time.Minute // of a receiver's clock
)

// The formats of a notice.
const (
	Slack = "slack" // Slack's Block Kit, which others take too
	JSON  = "json"  // docs/spec/webhooks.md
)

// Endpoint is who is told.
type Endpoint struct {
	Name, URL string
	Secret    []byte   // signs; see [ParseSecret]
	Format    string   // Slack or JSON
	Events    []string // the types of notice; none: all
}

// Field is a line of a notice.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Notice is what is told.
type Notice struct {
	ID        string // the same for each try
	Type      string // such as "approval.held"
	Time      time.Time
	Gateway   string
	Title     string
	Fields    []Field
	Statement string
	Link      string // where a human decides; "" where there is no such page
	Subject   string // what it is about, such as an approval's id
}

// Delivery is what became of a notice at an endpoint.
type Delivery struct {
	Endpoint string
	Notice   Notice
	Attempts int
	Status   int    // HTTP, of the last try; 0: there was no answer
	Error    string // "": delivered
}

// Config of a [Sender].
type Config struct {
	Endpoints []Endpoint
	HTTP      *http.Client // Must not follow redirects. Optional.
	Log       *slog.Logger
	// Delivered hears of the end of each notice at each endpoint. It may block, which
	// holds up that endpoint alone.
	Delivered func(ctx context.Context, d Delivery)
	Now       func() time.Time // Optional.
}

// Sender delivers notices. It is safe for concurrent use.
type Sender struct {
	cfg    Config
	queues []chan Notice
}

// New checks the endpoints.
func New(cfg Config) (*Sender, error) {
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Delivered == nil {
		cfg.Delivered = func(context.Context, Delivery) {}
	}
	s := &Sender{cfg: cfg}
	for _, e := range cfg.Endpoints {
		if e.Name == "" || e.URL == "" || len(e.Secret) < minSecret || e.Format != Slack && e.Format != JSON {
			return nil, fmt.Errorf("webhook %q needs a name, a URL, a secret of %d bytes or more, and a format", e.Name, minSecret)
		}
		s.queues = append(s.queues, make(chan Notice, maxQueue))
	}
	return s, nil
}

// ParseSecret reads a key as Standard Webhooks writes it: "whsec_" and base64.
func ParseSecret(text string) ([]byte, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), "whsec_")
	key, err := base64.StdEncoding.DecodeString(rest)
	if !ok || err != nil || len(key) < minSecret || len(key) > maxSecret {
		return nil, fmt.Errorf("want \"whsec_\" and %d to %d random bytes in base64 (printf 'whsec_%%s\\n' \"$(openssl rand -base64 32)\")", minSecret, maxSecret)
	}
	return key, nil
}

// Send queues a notice for every endpoint that wants its type. It never blocks: what
// finds a queue full is told as not delivered.
func (s *Sender) Send(ctx context.Context, n Notice) {
	for i, e := range s.cfg.Endpoints {
		if len(e.Events) > 0 && !slices.Contains(e.Events, n.Type) {
			continue
		}
		select {
		case s.queues[i] <- n:
		default:
			s.cfg.Delivered(ctx, Delivery{Endpoint: e.Name, Notice: n, Error: "too many notices wait for this endpoint"})
		}
	}
}

// Run delivers until ctx ends; what then waits is told as not delivered.
func (s *Sender) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range s.cfg.Endpoints {
		wg.Go(func() { s.serve(ctx, s.cfg.Endpoints[i], s.queues[i]) })
	}
	wg.Wait()
}

func (s *Sender) serve(ctx context.Context, e Endpoint, queue chan Notice) {
	for {
		select {
		case n := <-queue:
			s.cfg.Delivered(context.WithoutCancel(ctx), s.deliver(ctx, e, n))
		case <-ctx.Done():
			for {
				select {
				case n := <-queue:
					s.cfg.Delivered(context.WithoutCancel(ctx), Delivery{Endpoint: e.Name, Notice: n, Error: "the gateway stopped before it could be sent"})
				default:
					return
				}
			}
		}
	}
}

// deliver tries until the endpoint takes the notice, or it makes no sense any more.
func (s *Sender) deliver(ctx context.Context, e Endpoint, n Notice) Delivery {
	d := Delivery{Endpoint: e.Name, Notice: n}
	body, err := render(e.Format, &n)
	if err != nil {
		d.Error = "encode: " + err.Error()
		return d
	}
	began := s.cfg.Now()
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		d.Attempts++
		again, after, err := s.post(ctx, e, n, body, &d.Status)
		if err == nil {
			d.Error = ""
			return d
		}
		d.Error = err.Error()
		// A little apart, so that endpoints that were away together are not asked together.
		pause := max(wait/2+rand.N(wait/2+1), min(after, lastRetry))
		if !again || d.Attempts >= maxAttempts || s.cfg.Now().Sub(began)+pause > maxAge {
			return d
		}
		s.cfg.Log.WarnContext(ctx, "a webhook did not take a notice; trying again", "webhook", e.Name, "notice", n.Type, "attempt", d.Attempts, "err", err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			d.Error = "the gateway stopped; before that: " + d.Error
			return d
		}
	}
}

// post sends once. again says whether to try later, after how soon at the earliest.
func (s *Sender) post(ctx context.Context, e Endpoint, n Notice, body []byte, status *int) (again bool, after time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.URL, bytes.NewReader(body))
	if err != nil {
		return false, 0, errors.New("its URL cannot be read") // which may hold a secret
	}
	at := s.cfg.Now()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "trailgate-webhook")
	req.Header.Set("Webhook-Id", n.ID)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	req.Header.Set("Webhook-Signature", Sign(e.Secret, n.ID, at, body))
	resp, err := s.cfg.HTTP.Do(req)
	if err != nil {
		*status = 0
		return true, 0, unnamed(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // so that the connection can be used again
	*status = resp.StatusCode
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return false, 0, nil
	case resp.StatusCode == http.StatusRequestTimeout, resp.StatusCode == http.StatusConflict, resp.StatusCode == http.StatusTooEarly,
		resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode >= 500:
		return true, retryAfter(resp.Header.Get("Retry-After")), fmt.Errorf("it answers %d", resp.StatusCode)
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return false, 0, fmt.Errorf("it answers %d, a redirect, which is not followed", resp.StatusCode)
	}
	return false, 0, fmt.Errorf("it answers %d", resp.StatusCode)
}

// retryAfter reads the header's number of seconds; a date is as good as none.
func retryAfter(value string) time.Duration {
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(n) * time.Second
}

// unnamed takes the URL out of an error of net/http: it may hold a secret.
func unnamed(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// Sign is the signature of a notice: "v1," and base64.
func Sign(secret []byte, id string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%d.", id, at.Unix())
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Verify reports whether headers and body are a notice that was signed with secret,
// no more than five minutes from now. It is what a receiver does.
func Verify(secret []byte, h http.Header, body []byte, now time.Time) error {
	unix, err := strconv.ParseInt(h.Get("Webhook-Timestamp"), 10, 64)
	if err != nil || h.Get("Webhook-Id") == "" {
		return errors.New("webhook: no id, or no time")
	}
	at := time.Unix(unix, 0)
	if now.Sub(at).Abs() > tolerance {
		return errors.New("webhook: too old, or from the future")
	}
	want := []byte(Sign(secret, h.Get("Webhook-Id"), at, body))
	for got := range strings.FieldsSeq(h.Get("Webhook-Signature")) {
		if subtle.ConstantTimeCompare([]byte(got), want) == 1 {
			return nil
		}
	}
	return errors.New("webhook: the signature is not the sender's")
}
