package federation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/federation"
)

func TestStaticFollowsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(s string, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := federation.Static(path); err == nil {
		t.Fatal("a missing file was accepted")
	}
	for _, bad := range []string{"", "  \n", "two words", "line\nline", strings.Repeat("x", 20<<10)} {
		write(bad, 0)
		if _, err := federation.Static(path); err == nil {
			t.Errorf("token file %.20q was accepted", bad)
		}
	}
	write("first\n", 2*time.Hour)
	src, err := federation.Static(path)
	if err != nil {
		t.Fatal(err)
	}
	write("second\n", time.Hour)
	c, err := src.Credential(t.Context(), federation.Request{})
	if err != nil || c.Token != "second" || !c.Shared || c.Mode != "static" {
		t.Errorf("got %v, %v", c, err)
	}
	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "c", c)
	if strings.Contains(out.String(), "second") {
		t.Errorf("the token is in the log: %s", out.String())
	}
}

// TestADC mints a token through Google's own library against a loopback token endpoint.
func TestADC(t *testing.T) {
	fail := false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fail {
			http.Error(w, `{"error":"invalid_grant","error_description":"`+strings.Repeat("long ", 500)+`"}`, http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"minted","token_type":"Bearer","expires_in":3600}`)
	}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "adc.json")
	subject := filepath.Join(t.TempDir(), "subject")
	if err := os.WriteFile(subject, []byte("a.b.c"), 0o600); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]any{
		"type": "external_account", "audience": "//trailgate.test/aud",
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": srv.URL,
		"credential_source": map[string]string{"file": subject},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	src, err := federation.ADC(federation.Base{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := src.Credential(t.Context(), federation.Request{Connection: "main"})
	if err != nil || c.Token != "minted" || c.Mode != "adc" || !c.Shared {
		t.Fatalf("got %v, %v", c, err)
	}
	fail = true
	src, err = federation.ADC(federation.Base{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := src.Credential(t.Context(), federation.Request{Connection: "main"}); err == nil || len(err.Error()) > 700 || !strings.Contains(err.Error(), "invalid_grant") {
		t.Errorf("a failing endpoint gave %v", err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(t.TempDir(), "missing"))
	if _, err := federation.ADC(federation.Base{}); err == nil || !strings.Contains(err.Error(), "gcloud auth") {
		t.Errorf("missing file gave %v", err)
	}
}

// TestADCWaitsNoLongerThanItsCaller: a token endpoint that hangs holds up nobody who
// has given up, and is asked once for all.
func TestADCWaitsNoLongerThanItsCaller(t *testing.T) {
	g := newGoogle(t)
	release := make(chan struct{})
	g.on(pathBase, func(call) (int, string) {
		<-release
		return 200, `{"access_token":"late","token_type":"Bearer","expires_in":3600}`
	})
	src := closing[federation.Source](t)(federation.ADC(g.base()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 {
		if _, err := src.Credential(ctx, federation.Request{Connection: "main"}); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	}
	close(release)
	for _, agent := range []string{"a", "b"} {
		if c, err := src.Credential(t.Context(), request(agent)); err != nil || c.Token != "late" || !c.Shared {
			t.Errorf("got %+v, %v", c, err)
		}
	}
	if n := len(g.to(pathBase)); n != 1 {
		t.Errorf("asked %d times", n)
	}
	if checks := federation.Diagnose(t.Context(), src, request("a")); len(checks) != 1 || !checks[0].OK || !strings.Contains(checks[0].Detail, "share") {
		t.Errorf("checks: %+v", checks)
	}
}

func TestNone(t *testing.T) {
	c, err := federation.None().Credential(t.Context(), federation.Request{})
	if err != nil || c.Token != "" || c.Shared {
		t.Errorf("got %v, %v", c, err)
	}
}
