package idptest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// maxBody bounds what a request may carry.
const maxBody = 1 << 20

// Option changes how a server is made.
type Option func(*httptest.Server, *bool)

// TLS makes a server speak https, with a certificate of its own that CA returns.
func TLS() Option { return func(_ *httptest.Server, tls *bool) { *tls = true } }

// server is what both kinds share: a listener, its faults, and what it counted.
type server struct {
	tb   testing.TB
	http *httptest.Server

	mu     sync.Mutex // guards what follows
	faults map[string]int
	delays map[string]time.Duration
	hits   map[string]int
	now    func() time.Time
}

// start serves mux; it ends with the test.
func start(tb testing.TB, mux http.Handler, shape func(w http.ResponseWriter, r *http.Request, status int), opts []Option) *server {
	tb.Helper()
	s := &server{tb: tb, faults: map[string]int{}, delays: map[string]time.Duration{}, hits: map[string]int{}, now: time.Now}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, delay := s.arrived(r.URL.Path)
		if delay > 0 {
			select {
			case <-time.After(delay):
			case <-r.Context().Done():
				return
			}
		}
		if status != 0 {
			shape(w, r, status)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		mux.ServeHTTP(w, r)
	}))
	secure := false
	for _, o := range opts {
		o(s.http, &secure)
	}
	if secure {
		s.http.StartTLS()
	} else {
		s.http.Start()
	}
	tb.Cleanup(s.http.Close)
	return s
}

// arrived counts a request and says what is to go wrong with it.
func (s *server) arrived(path string) (status int, delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hits[path]++
	for pattern, st := range s.faults {
		if match(pattern, path) {
			status = st
		}
	}
	for pattern, d := range s.delays {
		if match(pattern, path) {
			delay = max(delay, d)
		}
	}
	return status, delay
}

// match compares a path with a pattern: equal, or by its end where the pattern
// begins with '*', or by its beginning where the pattern ends with one.
func match(pattern, path string) bool {
	if end, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(path, end)
	}
	if begin, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, begin)
	}
	return pattern == path
}

// URL is where the server is, without a slash at the end.
func (s *server) URL() string { return s.http.URL }

// Client is an HTTP client that trusts the server's certificate.
func (s *server) Client() *http.Client { return s.http.Client() }

// CA is the certificate to trust, as PEM; nil without [TLS].
func (s *server) CA() []byte {
	cert := s.http.Certificate()
	if cert == nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// Fail answers requests for a path with an error status, until it is called with
// status 0. A pattern may begin or end with '*', as in [PathIAM].
func (s *server) Fail(path string, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if status == 0 {
		delete(s.faults, path)
		return
	}
	s.faults[path] = status
}

// Delay lets requests for a path wait, until it is called with 0.
func (s *server) Delay(path string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delays[path] = d
}

// Calls is how many requests came for a path, those that failed too.
func (s *server) Calls(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for p, hits := range s.hits {
		if match(path, p) {
			n += hits
		}
	}
	return n
}

// SetClock replaces the clock by which tokens are made and judged. Default: time.Now.
func (s *server) SetClock(now func() time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

func (s *server) time() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now()
}

// reply writes JSON as Google does: indented, and never to be kept.
func reply(w http.ResponseWriter, status int, body any) {
	raw := bytes.NewBuffer(nil)
	enc := json.NewEncoder(raw)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(body); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.Header().Set("Cache-Control", "no-cache, no-store, max-age=0, must-revalidate")
	w.Header().Set("Pragma", "no-cache")
	w.WriteHeader(status)
	_, _ = w.Write(raw.Bytes()) // the client may have gone
}

// oauthError is RFC 6749 section 5.2.
func oauthError(w http.ResponseWriter, status int, code, description string) {
	body := map[string]string{"error": code}
	if description != "" {
		body["error_description"] = description
	}
	reply(w, status, body)
}

// form reads a urlencoded form as RFC 6749 has it: POST, in the body, each
// parameter once. It answers itself where that is not so.
func form(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		oauthError(w, http.StatusMethodNotAllowed, "invalid_request", "Method not allowed.")
		return false
	}
	if media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(media) != "application/x-www-form-urlencoded" {
		oauthError(w, http.StatusBadRequest, "invalid_request", "The request's Content-Type is not application/x-www-form-urlencoded.")
		return false
	}
	if err := r.ParseForm(); err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", "The request is malformed.")
		return false
	}
	for name, values := range r.PostForm {
		if len(values) > 1 {
			oauthError(w, http.StatusBadRequest, "invalid_request", "OAuth 2 parameters can only have a single value: "+name)
			return false
		}
	}
	return true
}

// bearer returns the token of the Authorization header, or "".
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// random returns text that nobody guesses.
func random(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}
