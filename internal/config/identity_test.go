package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/config"
)

const federated = `
data_dir: /d
gateway: {public_url: "https://gw.example", listen: "0.0.0.0:8470", tls: {cert_file: c.pem, key_file: k.pem}}
identity:
  issuers:
    - name: cluster
      issuer: https://kubernetes.default.svc
      jwks_file: jwks.json
      map: {agent: 'claims.sub.split(":")[3]'}
      unknown_agents: provision
  certificates:
    - {name: mesh, trust_domain: example.org, bundle_file: mesh.pem, map: {agent: cert.path}}
admin:
  login: {issuer: "https://idp.example", client_id: tg, client_secret_file: s, roles: {admin: "true"}}
connections:
  - name: a
    projects: [a-project]
    credential:
      mode: impersonation
      service_account: agent-{agent}@{project}.iam.gserviceaccount.com
      service_accounts: {etl-bot: etl@a-project.iam.gserviceaccount.com}
  - name: b
    projects: [b-project]
    credential: {mode: workload, audience: //iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q}
  - name: c
    projects: [c-project]
    credential: {mode: oauth, client_id: x, client_secret_file: secret}
`

func TestFederated(t *testing.T) {
	c, err := config.Parse("/etc/t.yaml", []byte(federated))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Issuer{
		Name: "cluster", Issuer: "https://kubernetes.default.svc", JWKSFile: "/etc/jwks.json", Algorithms: []string{"RS256", "ES256"},
		ClockSkew: time.Minute, MaxLifetime: 24 * time.Hour, Map: config.Map{Agent: `claims.sub.split(":")[3]`}, UnknownAgents: "provision",
	}
	if diff := cmp.Diff(want, c.Identity.Issuers[0]); diff != "" {
		t.Error(diff)
	}
	if got := c.Connections[0].Credential.ServiceAccounts["etl-bot"]; got != "etl@a-project.iam.gserviceaccount.com" || !c.Connections[0].Credential.Minted() {
		t.Errorf("service account %q", got)
	}
	if c.Federation.ConsentKeyFile != "/d/consent.key" || c.Identity.Certificates[0].BundleFile != "/etc/mesh.pem" || !c.Admin.Login.On() {
		t.Errorf("%+v", c)
	}
}

// TestFederatedMistakes: each is found, at its line.
func TestFederatedMistakes(t *testing.T) {
	for name, edit := range map[string]struct{ old, new, want string }{
		"algorithm none":       {"jwks_file: jwks.json", "algorithms: [none]", `t.yaml:8: identity.issuers[0].algorithms: "none"`},
		"shared-key algorithm": {"jwks_file: jwks.json", "algorithms: [HS256]", "never taken"},
		"plain http issuer":    {"https://kubernetes.default.svc\n      jwks_file: jwks.json", "http://idp.example", "plain http is for this machine alone"},
		"two sources of keys":  {"jwks_file: jwks.json", "jwks_file: j\n      jwks_url: https://x.example/j", "name one of"},
		"wide skew":            {"jwks_file: jwks.json", "clock_skew: 10m", "clock_skew: 10m0s: want 0s to 5m0s"},
		"no map":               {"map: {agent: 'claims.sub.split(\":\")[3]'}", "map: {}", "map.agent: missing"},
		"misspelt":             {"unknown_agents: provision", "unknown_agents: yes", `"yes": want one of refuse, provision`},
		"name twice":           {"{name: mesh", "{name: cluster", `"cluster" stands twice`},
		"certificates, no TLS": {", tls: {cert_file: c.pem, key_file: k.pem}", ", plaintext: true", "client certificates come over TLS"},
		"no roles":             {`, roles: {admin: "true"}`, "", "admin.login.roles: missing"},
		"oauth without login":  {`login: {issuer: "https://idp.example", client_id: tg, client_secret_file: s, roles: {admin: "true"}}`, "plaintext: false", "set admin.login"},
		"placeholder":          {"agent-{agent}@", "agent-{name}@", "{name} is no placeholder"},
		"account":              {"etl@a-project.iam.gserviceaccount.com}", "etl}", "want a service account"},
		"account twice":        {"service_accounts: {etl-bot: etl@a-project.iam.gserviceaccount.com}", "service_accounts: {a: e@x, a: f@x}", "given twice"},
		"audience":             {"//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q", "https://x", "want the provider of a workload identity pool"},
		"other mode's key":     {"{mode: oauth, client_id: x,", "{mode: oauth, assertion: agent, client_id: x,", "only mode workload reads it"},
		"no secret":            {"client_id: x, client_secret_file: secret", "client_id: x", "needs client_id and client_secret_file"},
		"login, no listener":   {"admin:", "admin:\n  listen: \"off\"", "admin.listen is off"},
	} {
		t.Run(name, func(t *testing.T) {
			raw := strings.Replace(federated, edit.old, edit.new, 1)
			if raw == federated {
				t.Fatal("the edit changes nothing")
			}
			_, err := config.Parse("t.yaml", []byte(raw))
			if err == nil || !strings.Contains(err.Error(), edit.want) {
				t.Errorf("got %v\nwant %s", err, edit.want)
			}
		})
	}
}

// TestAudienceDefault: without a public URL there is no audience to check.
func TestAudienceDefault(t *testing.T) {
	_, err := config.Parse("t.yaml", []byte("identity: {issuers: [{name: a, issuer: https://x.example, map: {agent: claims.sub}}]}"))
	if err == nil || !strings.Contains(err.Error(), "audiences: missing") {
		t.Errorf("got %v", err)
	}
}
