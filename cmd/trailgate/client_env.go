package main

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// clientEnv is what BigQuery clients need to be told so that they go through
// the gateway as one agent.
type clientEnv struct {
	gateway   string // root URL, no slash at the end
	agent     string
	project   string // may be empty
	caFile    string // for a private CA, may be empty
	token     string // given as a value only where withToken says so
	withToken bool
	dir       string // holds the token and a configuration for gcloud of its own
}

// makeDir writes the files that the environment points at: the token (0600),
// an empty gcloud configuration and an empty bq configuration, so that neither
// the user's own Google login nor their ~/.bigqueryrc takes part.
func (e *clientEnv) makeDir() error {
	if err := os.MkdirAll(filepath.Join(e.dir, "gcloud"), 0o700); err != nil {
		return fmt.Errorf("write the environment's files: %w", err)
	}
	for name, text := range map[string]string{"token": e.token + "\n", "bigqueryrc": ""} {
		if err := os.WriteFile(filepath.Join(e.dir, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write the environment's files: %w", err)
		}
	}
	return nil
}

// variables lists the changes, in the order in which "env" prints them. How
// clients take each is written down in docs/cli.md.
func (e *clientEnv) variables(getenv func(string) string) []variable {
	set := func(name, value string) variable { return variable{name: name, value: value} }
	vars := []variable{
		set("TRAILGATE_GATEWAY", e.gateway),
		set("TRAILGATE_AGENT", e.agent),
		set("TRAILGATE_TOKEN_FILE", filepath.Join(e.dir, "token")),
	}
	if e.withToken {
		vars = append(vars, set("TRAILGATE_TOKEN", e.token))
	}
	// bq and gcloud. The slash at the end is needed: gcloud joins paths to it.
	vars = append(vars,
		set("CLOUDSDK_CONFIG", filepath.Join(e.dir, "gcloud")),
		set("CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERY", e.gateway+"/"),
		set("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", filepath.Join(e.dir, "token")),
		set("BIGQUERYRC", filepath.Join(e.dir, "bigqueryrc")),
		// Node takes this for the whole base, and over what the program says; Python
		// would append /bigquery/v2 itself, but lets the program's api_endpoint win.
		set("BIGQUERY_EMULATOR_HOST", e.gateway+"/bigquery/v2"),
	)
	if e.project != "" {
		vars = append(vars, set("CLOUDSDK_CORE_PROJECT", e.project), set("GOOGLE_CLOUD_PROJECT", e.project))
	}
	if e.caFile != "" {
		// Only what adds a CA. SSL_CERT_FILE (Go) and REQUESTS_CA_BUNDLE (Python)
		// would replace all others, and break everything else that the command calls.
		vars = append(vars,
			set("TRAILGATE_CA_FILE", e.caFile),
			set("CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", e.caFile),
			set("NODE_EXTRA_CA_CERTS", e.caFile))
	}
	if u, err := url.Parse(e.gateway); err == nil && proxied(getenv) {
		for _, name := range []string{"NO_PROXY", "no_proxy"} {
			vars = append(vars, set(name, strings.TrimPrefix(getenv(name)+","+u.Hostname(), ",")))
		}
	}
	for _, name := range ownCredentials {
		vars = append(vars, variable{name: name, unset: true})
	}
	return vars
}

// ownCredentials would let a client use the credentials of the person who runs
// it, or hand an agent the key to the trail.
var ownCredentials = []string{
	"GOOGLE_APPLICATION_CREDENTIALS",
	"CLOUDSDK_AUTH_ACCESS_TOKEN",
	"CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE",
	"CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT",
	"CLOUDSDK_CORE_ACCOUNT",
	"CLOUDSDK_ACTIVE_CONFIG_NAME",
	"TRAILGATE_ADMIN_TOKEN",
}

// proxied reports whether a proxy is configured, which would see the token on
// its way to the gateway.
func proxied(getenv func(string) string) bool {
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		if getenv(name) != "" {
			return true
		}
	}
	return false
}
