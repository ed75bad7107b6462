package sandbox_test

import (
	"log/slog"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/sandbox"
)

// TestServe is no test: with SANDBOX_LISTEN set to an address it serves a seeded
// sandbox there for SANDBOX_FOR (a duration, default 10m), to be driven by hand
// with a real client.
func TestServe(t *testing.T) {
	addr := os.Getenv("SANDBOX_LISTEN")
	if addr == "" {
		t.Skip("SANDBOX_LISTEN is not set")
	}
	d, err := time.ParseDuration(os.Getenv("SANDBOX_FOR"))
	if err != nil {
		d = 10 * time.Minute
	}
	s, err := sandbox.New(sandbox.Config{
		Projects: []string{"demo-project", "other-project"}, Principals: map[string]string{"tok": "etl-bot@demo.invalid"},
		Log: slog.Default(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-time.After(d)
		srv.Close()
	}()
	t.Logf("serving at %s for %v", l.Addr(), d)
	srv.Serve(l)
	for _, c := range s.Calls() {
		t.Log(c.Verb, c.Path)
	}
}
