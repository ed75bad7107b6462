package webhook_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trailgate/trailgate/internal/webhook"
)

type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// told keeps what became of notices, in the order that was told.
type told struct {
	mu   sync.Mutex
	all  []webhook.Delivery
	more chan struct{}
}

func newTold() *told { return &told{more: make(chan struct{}, 100_000)} }

func (o *told) hear(_ context.Context, d webhook.Delivery) {
	o.mu.Lock()
	o.all = append(o.all, d)
	o.mu.Unlock()
	o.more <- struct{}{}
}

func (o *told) list() []webhook.Delivery {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]webhook.Delivery(nil), o.all...)
}

func (o *told) wait(n int) []webhook.Delivery {
	for range n {
		<-o.more
	}
	return o.list()
}

func one(name string) webhook.Endpoint {
	return webhook.Endpoint{Name: name, URL: "https://hooks.example.com/T0/secret-of-" + name, Secret: secret, Format: webhook.JSON}
}

func sender(t *testing.T, o *told, rt http.RoundTripper, edit func(*webhook.Config)) *webhook.Sender {
	t.Helper()
	cfg := webhook.Config{Endpoints: []webhook.Endpoint{one("ops")}, HTTP: &http.Client{Transport: rt}, Delivered: o.hear}
	if edit != nil {
		edit(&cfg)
	}
	s, err := webhook.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs a sender; what it returns ends it and waits.
func start(t *testing.T, s *webhook.Sender) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	return func() { cancel(); <-done }
}

// TestNeverBlocks: whoever has something to tell waits neither for who is told, nor
// for the trail, and what found no place is told all the same.
func TestNeverBlocks(t *testing.T) {
	o := newTold()
	held := make(chan struct{})
	s := sender(t, o, trip(away), func(c *webhook.Config) {
		c.Endpoints = append(c.Endpoints, webhook.Endpoint{Name: "picky", URL: "https://b.example", Secret: secret, Format: webhook.JSON, Events: []string{"approval.denied"}})
		c.Delivered = func(ctx context.Context, d webhook.Delivery) { <-held; o.hear(ctx, d) }
	})
	for i := range 1500 { // nobody delivers: Run is not called yet; nothing can be told, either
		s.Send(t.Context(), notice(i))
	}
	close(held)
	stop := start(t, s)
	stop()
	all := o.list()
	full := 0
	for _, d := range all {
		if d.Endpoint != "ops" || d.Error == "" {
			t.Errorf("%+v", d)
		}
		if strings.Contains(d.Error, "too many") {
			full++
			if d.Attempts != 0 || d.Notice.Subject != "apr_1" || d.Notice.Statement != "" {
				t.Errorf("%+v", d)
			}
		}
	}
	if len(all) != 1500 || full != 500 {
		t.Errorf("the end of %d notices was told, want 1500; %d found the queue full, want 500", len(all), full)
	}
}

// TestNobodyHoldsUpOthers: a notice that the endpoint chokes on keeps no other from
// arriving, except those about the same thing, which arrive in order.
func TestNobodyHoldsUpOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		o := newTold()
		var mu sync.Mutex
		at := map[string]time.Duration{}
		s := sender(t, o, trip(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			id := r.Header.Get("Webhook-Id")
			if id == "ntc_0" && time.Since(began) < time.Minute {
				return status(500)(r)
			}
			at[id] = time.Since(began)
			return status(204)(r)
		}), nil)
		stop := start(t, s)
		defer stop()
		for i := range 20 {
			n := notice(i)
			n.Subject = fmt.Sprint("apr_", i%10) // 0 and 10 are about the same
			s.Send(t.Context(), n)
		}
		o.wait(20)
		for i := range 20 {
			d := at[fmt.Sprint("ntc_", i)]
			if late := i%10 == 0; late != (d >= time.Minute) || d > 10*time.Minute {
				t.Errorf("notice %d arrived after %v", i, d)
			}
		}
		if at["ntc_10"] < at["ntc_0"] {
			t.Error("a later notice of the same subject came first")
		}
	})
}

// TestStale: no notice is sent more than an hour after it was news, however many
// wait with it.
func TestStale(t *testing.T) {
	for name, answer := range map[string]func(*http.Request) (*http.Response, error){
		"failing": status(500),
		"silent":  func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				o := newTold()
				var last time.Duration
				s := sender(t, o, trip(func(r *http.Request) (*http.Response, error) {
					last = time.Since(began)
					return answer(r)
				}), nil)
				stop := start(t, s)
				defer stop()
				for i := range 600 {
					n := notice(i)
					n.Subject = fmt.Sprint("apr_", i)
					s.Send(t.Context(), n)
				}
				for _, d := range o.wait(600) {
					if d.Error == "" || d.Attempts > 10 || d.Duration > time.Hour+15*time.Second {
						t.Fatalf("%+v", d)
					}
				}
				if last > time.Hour {
					t.Errorf("the last try was after %v", last)
				}
			})
		})
	}
}

// TestQuiet: an endpoint that asks for a pause gets one, from all that is sent.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answers: []func(*http.Request) (*http.Response, error){status(429, "Retry-After", "120"), status(200)}}
		o := newTold()
		s := sender(t, o, r, nil)
		stop := start(t, s)
		defer stop()
		for i := range 5 {
			n := notice(i)
			n.Subject = fmt.Sprint("apr_", i)
			s.Send(t.Context(), n)
		}
		o.wait(5)
		if pause := r.at[1].Sub(r.at[0]); pause < 2*time.Minute || len(r.at) != 6 {
			t.Errorf("%d requests, the second after %v", len(r.at), pause)
		}
	})
}

// TestStop: what waits when the gateway stops is tried once; no longer than the grace;
// and nothing ends without being told.
func TestStop(t *testing.T) {
	for name, tc := range map[string]struct {
		answer    func(*http.Request) (*http.Response, error)
		delivered int
		tries     int
		reason    string
	}{
		"there":  {status(200), 50, 50, ""},
		"away":   {away, 0, 1, "the gateway stopped"}, // once is enough to know
		"broken": {status(500), 0, 50, "the gateway stopped; before that: it answers 500"},
		"busy":   {status(429, "Retry-After", "60"), 0, 1, "the gateway stopped"},
		"silent": {func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() }, 0, 1, "the gateway stopped"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newTold()
				s := sender(t, o, trip(tc.answer), func(c *webhook.Config) { c.Grace = 2 * time.Second })
				for i := range 50 {
					s.Send(t.Context(), notice(i))
				}
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				began := time.Now()
				s.Run(ctx)
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("it took %v to stop", took)
				}
				good, tries := 0, 0
				for _, d := range o.list() {
					tries += d.Attempts
					if d.Error == "" {
						good++
					} else if !strings.Contains(d.Error, tc.reason) || d.Attempts > 1 {
						t.Errorf("%+v", d)
					}
				}
				if len(o.list()) != 50 || good != tc.delivered || tries != tc.tries {
					t.Errorf("%d told, %d delivered, %d tries", len(o.list()), good, tries)
				}
			})
		})
	}
}

// TestAfterTheEnd: a notice that comes when nobody takes any is not lost in silence.
func TestAfterTheEnd(t *testing.T) {
	var log bytes.Buffer
	o := newTold()
	s := sender(t, o, trip(status(200)), func(c *webhook.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	start(t, s)()
	s.Send(t.Context(), notice(7))
	if !strings.Contains(log.String(), "ntc_7") || strings.Contains(log.String(), "DELETE") {
		t.Errorf("log: %s", log.String())
	}
}

// TestManyEndpoints: 10,000 notices to eight endpoints that are of all kinds; the end of
// each is told once for each.
func TestManyEndpoints(t *testing.T) {
	const notices, endpoints = 10_000, 8
	synctest.Test(t, func(t *testing.T) {
		o := newTold()
		s := sender(t, o, trip(func(r *http.Request) (*http.Response, error) {
			switch r.URL.Path[len(r.URL.Path)-1] {
			case '0':
				return away(r)
			case '1':
				return status(400)(r)
			case '2':
				return status(503, "Retry-After", "1")(r)
			}
			return status(200)(r)
		}), func(c *webhook.Config) {
			c.Endpoints = nil
			for i := range endpoints {
				e := one(fmt.Sprint("e", i))
				e.Format = []string{webhook.JSON, webhook.Slack}[i%2]
				c.Endpoints = append(c.Endpoints, e)
			}
		})
		stop := start(t, s)
		var wg sync.WaitGroup
		for w := range 10 {
			wg.Go(func() {
				for i := range notices / 10 {
					n := notice(w*notices/10 + i)
					n.Subject = n.ID
					s.Send(t.Context(), n)
				}
			})
		}
		wg.Wait()
		seen := map[string]int{}
		for _, d := range o.wait(notices * endpoints) {
			seen[d.Endpoint+" "+d.Notice.ID]++
			if sick := d.Endpoint <= "e2"; sick && d.Error == "" || d.Error == "" && d.Status != 200 {
				t.Fatalf("%+v", d)
			}
		}
		stop()
		if len(seen) != notices*endpoints {
			t.Errorf("%d ends of %d", len(seen), notices*endpoints)
		}
	})
}

// TestRealServer: over real connections, what follows, floods, or never ends does no harm.
func TestRealServer(t *testing.T) {
	var elsewhere int
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer other.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		case "/flood":
			w.WriteHeader(http.StatusOK)
			for range 4 << 10 {
				if _, err := w.Write(make([]byte, 16<<10)); err != nil {
					return
				}
			}
		case "/code":
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, "invalid_blocks\n")
		case "/echo": // tells what it was sent
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.Copy(w, r.Body)
		case "/cut":
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	var log bytes.Buffer
	cfg := webhook.Config{Log: slog.New(slog.NewTextHandler(&log, nil)), Gateway: "gw"}
	for _, name := range []string{"redirect", "flood", "code", "echo", "cut"} {
		cfg.Endpoints = append(cfg.Endpoints, webhook.Endpoint{Name: name, URL: server.URL + "/" + name, Secret: secret, Format: webhook.JSON})
	}
	s, err := webhook.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		status int
		text   string
	}{
		"redirect": {307, "it answers 307, a redirect, which is not followed"},
		"flood":    {200, ""},
		"code":     {400, "it answers 400, invalid_blocks"},
		"echo":     {400, "it answers 400"},
		"cut":      {0, "EOF"},
	} {
		d, err := s.Test(t.Context(), name)
		if err != nil || d.Status != want.status || d.Error != want.text || d.Attempts != 1 || d.Notice.Type != webhook.TypeTest || d.Duration <= 0 {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	if elsewhere != 0 {
		t.Error("a redirect was followed")
	}
	if _, err := s.Test(t.Context(), "nobody"); err == nil {
		t.Error("an unknown name is taken")
	}
}

// TestSlow: an endpoint has ten seconds, for its answer too.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTold()
		s := sender(t, o, trip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}), nil)
		began := time.Now()
		d, err := s.Test(t.Context(), "ops")
		if err != nil || d.Error != "no answer within 10s" || time.Since(began) != 10*time.Second {
			t.Errorf("%+v %v after %v", d, err, time.Since(began))
		}
	})
}

// TestNoSecrets: neither the key nor the URL, in whatever way somebody prints them, and
// whatever the transport says.
func TestNoSecrets(t *testing.T) {
	const token = "xoxb-a-long-token"
	e := webhook.Endpoint{Name: "ops", URL: "https://hooks.example.com/services/" + token + "?key=" + token, Secret: secret, Format: webhook.JSON}
	var log bytes.Buffer
	handler := slog.New(slog.NewJSONHandler(&log, nil))
	o := newTold()
	calls := 0
	s := sender(t, o, trip(func(r *http.Request) (*http.Response, error) {
		calls++
		return nil, []error{
			fmt.Errorf("proxy says no to %s", r.URL),
			fmt.Errorf("dial %s: %w", r.URL.Path, errors.New("bad \x1b[31m answer for "+r.URL.RequestURI()+strings.Repeat("x", 5000))),
			fmt.Errorf("never heard of %s", token),
		}[calls-1]
	}), func(c *webhook.Config) { c.Endpoints = []webhook.Endpoint{e}; c.Log = handler })
	out := fmt.Sprintf("%v %+v %#v %s %x %d %q %v", e, e, e, e.Secret, e.Secret, e.Secret, []webhook.Secret{e.Secret}, &e)
	raw, err := json.Marshal(e.Secret)
	if err != nil {
		t.Fatal(err)
	}
	out += string(raw)
	handler.Info("x", "endpoint", e, "secret", e.Secret, "nested", slog.GroupValue(slog.Any("e", e)))
	for range 3 {
		d, err := s.Test(t.Context(), "ops")
		if err != nil || d.Error == "" || len(d.Error) > 250 || strings.ContainsRune(d.Error, '\x1b') {
			t.Errorf("%+v %v", d, err)
		}
		out += d.Error
	}
	_, err = webhook.New(webhook.Config{Endpoints: []webhook.Endpoint{{Name: "a", URL: "http://user:" + token + "@h\x00/", Secret: secret, Format: webhook.JSON}}})
	out += fmt.Sprint(err) + log.String()
	for _, bad := range []string{token, string(secret), fmt.Sprintf("%x", []byte(secret)), "48 49 50", base64.StdEncoding.EncodeToString(secret)} {
		if strings.Contains(out, bad) {
			t.Errorf("%q is in %s", bad, out)
		}
	}
}

// TestNew: what cannot be safe is refused at the start.
func TestNew(t *testing.T) {
	for name, edit := range map[string]func(*webhook.Config){
		"plain http":     func(c *webhook.Config) { c.Endpoints[0].URL = "http://hooks.example.com/" },
		"another scheme": func(c *webhook.Config) { c.Endpoints[0].URL = "file:///etc/passwd" },
		"no host":        func(c *webhook.Config) { c.Endpoints[0].URL = "https:///x" },
		"a password":     func(c *webhook.Config) { c.Endpoints[0].URL = "https://a:b@hooks.example.com/" },
		"looks loopback": func(c *webhook.Config) { c.Endpoints[0].URL = "http://127.0.0.1.example.com/" },
		"no name":        func(c *webhook.Config) { c.Endpoints[0].Name = "" },
		"a short key":    func(c *webhook.Config) { c.Endpoints[0].Secret = secret[:23] },
		"a long key":     func(c *webhook.Config) { c.Endpoints[0].Secret = bytes.Repeat(secret, 3) },
		"no format":      func(c *webhook.Config) { c.Endpoints[0].Format = "" },
		"two of a name":  func(c *webhook.Config) { c.Endpoints = append(c.Endpoints, c.Endpoints[0]) },
	} {
		cfg := webhook.Config{Endpoints: []webhook.Endpoint{one("ops")}}
		edit(&cfg)
		if _, err := webhook.New(cfg); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for _, at := range []string{"http://localhost:8080/x", "http://127.0.0.1/", "http://[::1]:99/", "https://hooks.example.com"} {
		if _, err := webhook.New(webhook.Config{Endpoints: []webhook.Endpoint{{Name: "a", URL: at, Secret: secret, Format: webhook.JSON}}}); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
	cfg := webhook.Config{AllowInsecure: true, Endpoints: []webhook.Endpoint{{Name: "a", URL: "http://hooks.internal/", Secret: secret, Format: webhook.JSON}}}
	if _, err := webhook.New(cfg); err != nil {
		t.Error(err)
	}
}

// TestOddIDs: what cannot stand in a header is told as not delivered, and not tried.
func TestOddIDs(t *testing.T) {
	o := newTold()
	s := sender(t, o, trip(func(*http.Request) (*http.Response, error) { t.Error("sent"); return nil, io.EOF }), nil)
	stop := start(t, s)
	for _, id := range []string{"", "a\r\nX-Evil: 1", "a b", "é", strings.Repeat("a", 256)} {
		n := notice(1)
		n.ID = id
		s.Send(t.Context(), n)
	}
	for _, d := range o.wait(5) {
		if !strings.Contains(d.Error, "id") || d.Attempts != 0 {
			t.Errorf("%+v", d)
		}
	}
	stop()
}
