package webhook_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trailgate/trailgate/internal/webhook"
)

var secret = []byte("0123456789abcdefghijklmnopqrstuv")

func notice(i int) webhook.Notice {
	return webhook.Notice{
		ID: fmt.Sprintf("ntc_%d", i), Type: "approval.held", Time: time.Unix(1_800_000_000, 0), Gateway: "gw", Subject: "apr_1", Title: "etl-bot asks",
		Fields: []webhook.Field{{Name: "agent", Value: "etl-bot"}}, Statement: "DELETE FROM t", Link: "https://audit.example.com/approvals/apr_1",
	}
}

// receiver answers as it is told, one answer after the other, the last one for ever.
type receiver struct {
	mu      sync.Mutex
	answers []func(*http.Request) (*http.Response, error)
	seen    []*http.Request
	bodies  []string
	at      []time.Time
}

func (r *receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	raw, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	answer := r.answers[0]
	if len(r.answers) > 1 {
		r.answers = r.answers[1:]
	}
	r.seen, r.bodies, r.at = append(r.seen, req), append(r.bodies, string(raw)), append(r.at, time.Now())
	r.mu.Unlock()
	return answer(req)
}

func status(code int, header ...string) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i+1 < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader("x")), Request: req}, nil
	}
}

func away(*http.Request) (*http.Response, error) {
	return nil, fmt.Errorf("dial https://hooks.example.com/T0/secret: %w", fmt.Errorf("connection refused"))
}

// run delivers notices to a receiver within a bubble of fake time, and returns what
// became of them.
func run(t *testing.T, r *receiver, format string, notices ...webhook.Notice) (out []webhook.Delivery, log string) {
	t.Helper()
	var buf bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		done := make(chan struct{}, len(notices))
		s, err := webhook.New(webhook.Config{
			Endpoints: []webhook.Endpoint{{Name: "ops", URL: "https://hooks.example.com/T0/secret", Secret: secret, Format: format}},
			HTTP:      &http.Client{Transport: r, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
			Log:       slog.New(slog.NewTextHandler(&buf, nil)),
			Delivered: func(_ context.Context, d webhook.Delivery) {
				mu.Lock()
				out = append(out, d)
				mu.Unlock()
				done <- struct{}{}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		for _, n := range notices {
			s.Send(ctx, n)
		}
		for range notices {
			<-done
		}
		stop()
		wg.Wait()
	})
	return out, buf.String()
}

// TestSigned: a receiver that knows the key, and nothing of us but the specification,
// can tell that the notice is ours and whole.
func TestSigned(t *testing.T) {
	r := &receiver{answers: []func(*http.Request) (*http.Response, error){status(204)}}
	out, _ := run(t, r, webhook.JSON, notice(1))
	if len(out) != 1 || out[0].Error != "" || out[0].Attempts != 1 || out[0].Status != 204 {
		t.Fatalf("%+v", out)
	}
	h, body := r.seen[0].Header, r.bodies[0]
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("ntc_1." + h.Get("webhook-timestamp") + "." + body))
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); h.Get("webhook-signature") != want || h.Get("webhook-id") != "ntc_1" {
		t.Errorf("%v, want %s", h, want)
	}
	now := r.at[0]
	if err := webhook.Verify(secret, h, []byte(body), now); err != nil {
		t.Error(err)
	}
	other := http.Header{"Webhook-Id": {"ntc_2"}, "Webhook-Timestamp": h["Webhook-Timestamp"], "Webhook-Signature": h["Webhook-Signature"]}
	for name, err := range map[string]error{
		"another body":   webhook.Verify(secret, h, []byte(body+" "), now),
		"another key":    webhook.Verify([]byte(strings.Repeat("k", 32)), h, []byte(body), now),
		"another id":     webhook.Verify(secret, other, []byte(body), now),
		"played again":   webhook.Verify(secret, h, []byte(body), now.Add(6*time.Minute)),
		"no signature":   webhook.Verify(secret, http.Header{"Webhook-Id": {"a"}, "Webhook-Timestamp": {"1"}}, []byte(body), time.Unix(1, 0)),
		"nothing at all": webhook.Verify(secret, http.Header{}, nil, now),
	} {
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	var got struct {
		Type      string
		Timestamp time.Time
		Data      struct{ Subject, Title, Statement, Link, Gateway, ID string }
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || got.Type != "approval.held" || got.Data.Subject != "apr_1" || got.Data.Statement != "DELETE FROM t" {
		t.Errorf("%v %s", err, body)
	}
}

// TestRetries: what is away for a while gets the same notice again, with growing
// pauses; what says no is not asked again.
func TestRetries(t *testing.T) {
	for name, tc := range map[string]struct {
		answers  []func(*http.Request) (*http.Response, error)
		attempts int
		status   int
		failed   string
	}{
		"away, then there":   {[]func(*http.Request) (*http.Response, error){away, status(503), status(200)}, 3, 200, ""},
		"too many":           {[]func(*http.Request) (*http.Response, error){status(429, "Retry-After", "90"), status(200)}, 2, 200, ""},
		"never":              {[]func(*http.Request) (*http.Response, error){status(500)}, 10, 500, "it answers 500"},
		"away for good":      {[]func(*http.Request) (*http.Response, error){away}, 10, 0, "connection refused"},
		"gone":               {[]func(*http.Request) (*http.Response, error){status(410)}, 1, 410, "it answers 410"},
		"leads elsewhere":    {[]func(*http.Request) (*http.Response, error){status(302, "Location", "https://evil.example")}, 1, 302, "a redirect, which is not followed"},
		"wants hours of us":  {[]func(*http.Request) (*http.Response, error){status(503, "Retry-After", "99999"), status(200)}, 2, 200, ""},
		"names a date":       {[]func(*http.Request) (*http.Response, error){status(503, "Retry-After", "Sat, 01 Jan 2000 00:02:00 GMT"), status(200)}, 2, 200, ""},
		"names a past date":  {[]func(*http.Request) (*http.Response, error){status(503, "Retry-After", "Fri, 31 Dec 1999 00:02:00 GMT"), status(200)}, 2, 200, ""},
		"conflict":           {[]func(*http.Request) (*http.Response, error){status(409), status(408), status(425), status(200)}, 4, 200, ""},
		"is not ours":        {[]func(*http.Request) (*http.Response, error){status(404)}, 1, 404, "it answers 404"},
		"mumbles about when": {[]func(*http.Request) (*http.Response, error){status(503, "Retry-After", "soon"), status(200)}, 2, 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := &receiver{answers: tc.answers}
			out, log := run(t, r, webhook.Slack, notice(1))
			if len(out) != 1 || out[0].Attempts != tc.attempts || out[0].Status != tc.status || !strings.Contains(out[0].Error, tc.failed) || (out[0].Error == "") != (tc.failed == "") {
				t.Fatalf("%+v", out)
			}
			for i := 1; i < len(r.at); i++ {
				pause := r.at[i].Sub(r.at[i-1])
				if pause < 4*time.Second || pause > 10*time.Minute+time.Second {
					t.Errorf("try %d comes after %v", i+1, pause)
				}
				if r.bodies[i] != r.bodies[0] || r.seen[i].Header.Get("Webhook-Id") != "ntc_1" {
					t.Errorf("try %d is another notice", i+1)
				}
			}
			// A bubble's clock begins with the year 2000.
			if least := map[string]time.Duration{"too many": 90 * time.Second, "names a date": 119 * time.Second, "wants hours of us": 10 * time.Minute}[name]; least > 0 && r.at[1].Sub(r.at[0]) < least {
				t.Errorf("asked again after %v", r.at[1].Sub(r.at[0]))
			}
			if len(r.at) > 1 && r.at[len(r.at)-1].Sub(r.at[0]) > time.Hour {
				t.Errorf("tried for %v", r.at[len(r.at)-1].Sub(r.at[0]))
			}
			if strings.Contains(log+out[0].Error, "/T0/secret") || strings.Contains(log, string(secret)) {
				t.Errorf("a secret is told: %s %s", log, out[0].Error)
			}
		})
	}
}

func TestSecretForm(t *testing.T) {
	good := "whsec_" + base64.StdEncoding.EncodeToString(secret)
	if key, err := webhook.ParseSecret(good + "\n"); err != nil || !bytes.Equal(key, secret) {
		t.Error(err)
	}
	for _, bad := range []string{"", "whsec_", "whsec_short", strings.TrimPrefix(good, "whsec_"), good + "!"} {
		if _, err := webhook.ParseSecret(bad); err == nil || strings.Contains(err.Error(), "MDEy") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := webhook.New(webhook.Config{Endpoints: []webhook.Endpoint{{Name: "a", URL: "https://a", Secret: []byte("short"), Format: webhook.JSON}}}); err == nil {
		t.Error("a short key is taken")
	}
}
