package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"cloud.google.com/go/auth/credentials"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
)

// cmdExchange is "exchange [-ca CA] FILE OUT": Google's own library reads the
// credential file, and OUT becomes the token that it gets by it. With "!" the
// exchange must be refused, and OUT becomes the error.
func cmdExchange(ts *testscript.TestScript, neg bool, args []string) {
	client := &http.Client{}
	if len(args) == 4 && args[0] == "-ca" {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(ts.ReadFile(args[1])))
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
		args = args[2:]
	}
	if len(args) != 2 {
		ts.Fatalf("usage: exchange [-ca CA] FILE OUT")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	creds, err := credentials.NewCredentialsFromFile(credentials.ExternalAccount, ts.MkAbs(args[0]), &credentials.DetectOptions{
		Scopes: []string{"https://www.googleapis.com/auth/bigquery"}, Client: client,
	})
	ts.Check(err)
	token, err := creds.Token(ctx)
	switch {
	case neg && err == nil:
		ts.Fatalf("there is a token")
	case neg:
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(err.Error()), 0o600))
	default:
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(token.Value), 0o600))
	}
}

func TestCredentialFile(t *testing.T) {
	const subject = `/var/run/a "quoted" <path>/token`
	text, err := credentialFile("https://gw.example.com:8470", subject, subjectTypes["jwt"])
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"type":               "external_account",
		"audience":           "https://gw.example.com:8470",
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
		"token_url":          "https://gw.example.com:8470/v1/token",
		"token_info_url":     "https://gw.example.com:8470/v1/introspect",
		"credential_source":  map[string]any{"file": subject, "format": map[string]any{"type": "text"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("file (-want +got):\n%s", diff)
	}
}

// TestCredentialVariables: no variable is both set and taken out, what would win
// over the file is taken out, and nothing that is printed is a secret.
func TestCredentialVariables(t *testing.T) {
	vars := credentialVariables("https://gw:8470", "etl-bot", "p", "/ca.pem", "/etl.json", func(name string) string {
		return map[string]string{"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "internal"}[name]
	})
	set := map[string]string{}
	for _, v := range vars {
		if _, twice := set[v.name]; twice {
			t.Errorf("%s stands twice", v.name)
		}
		set[v.name] = v.value
	}
	for name, want := range map[string]string{
		"CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE":     "/etl.json",
		"GOOGLE_APPLICATION_CREDENTIALS":             "/etl.json",
		"CLOUDSDK_AUTH_TOKEN_INTROSPECTION_ENDPOINT": "https://gw:8470/v1/introspect",
		"CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERY":   "https://gw:8470/",
		"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE":         "/ca.pem",
		"NO_PROXY":                                   "internal,gw",
		"CLOUDSDK_AUTH_ACCESS_TOKEN_FILE":            "",
		"CLOUDSDK_AUTH_ACCESS_TOKEN":                 "",
		"CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT":  "",
		"TRAILGATE_ADMIN_TOKEN":                      "",
	} {
		if got, ok := set[name]; !ok || got != want {
			t.Errorf("%s: %q, %v; want %q", name, got, ok, want)
		}
	}
	raw, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range set {
		if !strings.Contains(string(raw), "`"+name) {
			t.Errorf("docs/cli.md does not tell of the variable %s", name)
		}
	}
}
