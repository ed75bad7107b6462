package config

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Bounds on lists in the file; each is far above what anybody needs.
const (
	maxIssuers    = 100
	maxList       = 100
	maxMapEntries = 10_000
	maxExpression = 4 << 10 // bytes of CEL
)

var (
	algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	// accountPattern takes a service account's address, and its placeholders.
	accountPattern = regexp.MustCompile(`^[a-z0-9{}._-]{1,100}@[a-z0-9{}.:-]{1,200}$`)
	placeholder    = regexp.MustCompile(`\{[^}]*\}?`)
	trustDomain    = regexp.MustCompile(`^[a-z0-9._-]{1,255}$`)
	audience       = regexp.MustCompile(`^(https:)?//iam\.googleapis\.com/projects/[^/]+/locations/global/workloadIdentityPools/[^/]+/providers/[^/]+$`)
)

func (d *decoder) identity(c *Config) {
	id := c.Identity
	d.between("identity.exchange_ttl", id.ExchangeTTL, time.Minute, 12*time.Hour)
	if len(id.Issuers) > maxIssuers || len(id.Certificates) > maxIssuers {
		d.invalid("identity", "more than %d issuers or certificate authorities", maxIssuers)
	}
	names, issuers := map[string]bool{}, map[string]bool{}
	for i, iss := range id.Issuers {
		key := fmt.Sprintf("identity.issuers[%d]", i)
		d.ownName(key, iss.Name, names)
		d.issuer(key, iss, c)
		if issuers[iss.Issuer] {
			d.invalid(key+".issuer", "stands twice; one issuer has one map")
		}
		issuers[iss.Issuer] = true
	}
	for i, cert := range id.Certificates {
		key := fmt.Sprintf("identity.certificates[%d]", i)
		d.ownName(key, cert.Name, names)
		d.certificates(key, cert)
	}
	if len(id.Certificates) > 0 && !c.Gateway.TLS.On() {
		d.invalid("identity.certificates", "client certificates come over TLS; set gateway.tls (a proxy in front that terminates TLS cannot pass them on)")
	}
}

func (d *decoder) certificates(key string, cert Certificates) {
	if cert.BundleFile == "" {
		d.invalid(key+".bundle_file", "missing; it names the authority's certificates")
	}
	if cert.TrustDomain != "" && !trustDomain.MatchString(cert.TrustDomain) {
		d.invalid(key+".trust_domain", "%q: want a SPIFFE trust domain, such as example.org", cert.TrustDomain)
	}
	if cert.Map.Agent == "" {
		d.invalid(key+".map.agent", "missing; a CEL expression over cert that gives the agent's name")
	}
	d.expressions(key+".map", cert.Map)
	d.oneOf(key+".unknown_agents", cert.UnknownAgents, UnknownRefuse, UnknownProvision)
}

func (d *decoder) ownName(key, name string, taken map[string]bool) {
	switch {
	case !namePattern.MatchString(name):
		d.invalid(key+".name", "%q: want a lower-case letter, then lower-case letters, digits, '_' and '-', at most 63", name)
	case taken[name]:
		d.invalid(key+".name", "%q stands twice", name)
	}
	taken[name] = true
}

func (d *decoder) issuer(key string, iss Issuer, c *Config) {
	if iss.Issuer == "" {
		d.invalid(key+".issuer", "missing; it is the exact \"iss\" of the issuer's tokens")
	} else if iss.JWKSFile == "" && iss.JWKSURL == "" && iss.DiscoveryURL == "" {
		d.endpoint(key+".issuer", iss.Issuer)
	}
	ways := 0
	for _, way := range []string{iss.DiscoveryURL, iss.JWKSURL, iss.JWKSFile.String()} {
		if way != "" {
			ways++
		}
	}
	if ways > 1 {
		d.invalid(key, "name one of discovery_url, jwks_url and jwks_file")
	}
	for name, url := range map[string]string{".discovery_url": iss.DiscoveryURL, ".jwks_url": iss.JWKSURL} {
		if url != "" {
			d.endpoint(key+name, url)
		}
	}
	if len(iss.Audiences) == 0 && c.Gateway.PublicURL == "" {
		d.invalid(key+".audiences", "missing; name the audience that its tokens have for this gateway, or set gateway.public_url, which is the default")
	}
	if slices.Contains(iss.Audiences, "") || len(iss.Audiences) > maxList {
		d.invalid(key+".audiences", "want 1 to %d audiences, none empty", maxList)
	}
	if len(iss.Algorithms) == 0 {
		d.invalid(key+".algorithms", "must not be empty")
	}
	for _, alg := range iss.Algorithms {
		if !slices.Contains(algorithms, alg) {
			d.invalid(key+".algorithms", "%q: want some of %s; \"none\" and shared-key (HS…) algorithms are never taken", alg, strings.Join(algorithms, ", "))
		}
	}
	d.between(key+".clock_skew", iss.ClockSkew, 0, 5*time.Minute)
	d.between(key+".max_lifetime", iss.MaxLifetime, time.Minute, 366*24*time.Hour)
	if iss.Map.Agent == "" && iss.Map.Human == "" {
		d.invalid(key+".map.agent", "missing; a CEL expression over claims that gives the agent's name (or set human alone, for an issuer of humans)")
	}
	d.expressions(key+".map", iss.Map)
	d.oneOf(key+".unknown_agents", iss.UnknownAgents, UnknownRefuse, UnknownProvision)
}

// expressions checks the size of CEL; it is compiled where it is used, which
// the start of the gateway and "doctor" do.
func (d *decoder) expressions(key string, m Map) {
	for name, expr := range map[string]string{".when": m.When, ".agent": m.Agent, ".human": m.Human, ".connections": m.Connections} {
		d.expression(key+name, expr)
	}
}

func (d *decoder) expression(key, expr string) {
	if len(expr) > maxExpression {
		d.invalid(key, "longer than %d bytes", maxExpression)
	}
}

// endpoint checks the URL of something that secrets are sent to or trust comes from.
func (d *decoder) endpoint(key, s string) {
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		d.invalid(key, "want https://host/…")
	case u.User != nil, u.Fragment != "":
		d.invalid(key, "must not have a user, password or fragment")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		d.invalid(key, "plain http is for this machine alone; use https")
	}
}

func (d *decoder) federation(c *Config) {
	f := c.Federation
	for name, url := range map[string]string{
		"sts": f.Endpoints.STS, "iam_credentials": f.Endpoints.IAMCredentials, "oauth_auth": f.Endpoints.OAuthAuth,
		"oauth_token": f.Endpoints.OAuthToken, "oauth_revoke": f.Endpoints.OAuthRevoke, "userinfo": f.Endpoints.UserInfo,
	} {
		d.endpoint("federation.endpoints."+name, url)
	}
	if f.Issuer.URL != "" {
		d.endpoint("federation.issuer.url", f.Issuer.URL)
	}
	d.between("federation.issuer.ttl", f.Issuer.TTL, time.Minute, time.Hour)
	if len(f.Issuer.MoreKeyFiles) > 10 {
		d.invalid("federation.issuer.more_key_files", "more than 10")
	}
	for i, conn := range c.Connections {
		d.credential(fmt.Sprintf("connections[%d].credential", i), conn, c)
	}
}

// setting is a key of a credential, whether it is set, and who reads it.
type setting struct {
	key   string
	set   bool
	modes []string
}

func (d *decoder) credential(key string, conn Connection, c *Config) {
	cred := conn.Credential
	d.oneOf(key+".mode", cred.Mode, CredentialADC, CredentialStatic, CredentialNone, CredentialImpersonation, CredentialOAuth, CredentialWorkload, CredentialConnector)
	d.credentialKeys(key, cred)
	if cred.Mode == CredentialOAuth && !c.Admin.Login.On() {
		d.invalid(key+".mode", "in mode oauth humans consent after they signed in; set admin.login")
	}
}

// credentialKeys checks what does not depend on the rest of the file.
func (d *decoder) credentialKeys(key string, cred Credential) {
	for _, s := range []setting{
		{"token_file", cred.TokenFile != "", []string{CredentialStatic}},
		{"credential_file", cred.CredentialFile != "", []string{CredentialADC, CredentialImpersonation}},
		{"service_account", cred.ServiceAccount != "", []string{CredentialImpersonation, CredentialWorkload}},
		{"service_accounts", len(cred.ServiceAccounts) > 0, []string{CredentialImpersonation, CredentialWorkload}},
		{"delegates", len(cred.Delegates) > 0, []string{CredentialImpersonation}},
		{"scopes", len(cred.Scopes) > 0, []string{CredentialImpersonation, CredentialOAuth, CredentialWorkload}},
		{"lifetime", cred.Lifetime != 0, []string{CredentialImpersonation, CredentialWorkload}},
		{"audience", cred.Audience != "", []string{CredentialWorkload}},
		{"gateway_audience", cred.GatewayAudience != "", []string{CredentialWorkload}},
		{"assertion", cred.Assertion != "", []string{CredentialWorkload}},
		{"client_id", cred.ClientID != "", []string{CredentialOAuth}},
		{"client_secret_file", cred.ClientSecretFile != "", []string{CredentialOAuth}},
		{"allowed_domains", len(cred.AllowedDomains) > 0, []string{CredentialOAuth}},
	} {
		if s.set && !slices.Contains(s.modes, cred.Mode) {
			d.invalid(key+"."+s.key, "only mode %s reads it; the mode is %q", strings.Join(s.modes, " and "), cred.Mode)
		}
	}
	switch cred.Mode {
	case CredentialStatic:
		if cred.TokenFile == "" {
			d.invalid(key+".token_file", "missing; mode static needs a file that holds the token")
		}
	case CredentialImpersonation:
		if cred.ServiceAccount == "" && len(cred.ServiceAccounts) == 0 {
			d.invalid(key+".service_account", "missing; name the service account of each agent, such as agent-{agent}@{project}.iam.gserviceaccount.com")
		}
	case CredentialWorkload:
		if !audience.MatchString(cred.Audience) {
			d.invalid(key+".audience", "want the provider of a workload identity pool, //iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER")
		}
		if cred.GatewayAudience != "" && !audience.MatchString(cred.GatewayAudience) {
			d.invalid(key+".gateway_audience", "want the provider of a workload identity pool, as audience is one")
		}
		if cred.Assertion != "" {
			d.oneOf(key+".assertion", cred.Assertion, AssertionPrefer, AssertionAgent, AssertionGateway)
		}
	case CredentialOAuth:
		if cred.ClientID == "" || cred.ClientSecretFile == "" {
			d.invalid(key+".client_id", "mode oauth needs client_id and client_secret_file of an OAuth client")
		}
	}
	if cred.Lifetime != 0 {
		d.between(key+".lifetime", cred.Lifetime, time.Minute, 12*time.Hour)
	}
	d.accounts(key, cred)
	for _, list := range [][]string{cred.Delegates, cred.Scopes, cred.AllowedDomains} {
		if len(list) > maxList || slices.Contains(list, "") {
			d.invalid(key, "a list holds more than %d elements, or an empty one", maxList)
		}
	}
}

func (d *decoder) accounts(key string, cred Credential) {
	if len(cred.ServiceAccounts) > maxMapEntries {
		d.invalid(key+".service_accounts", "more than %d", maxMapEntries)
	}
	check := func(key, account string, template bool) {
		bare := account
		if template {
			for _, p := range placeholder.FindAllString(account, -1) {
				if !slices.Contains([]string{"{agent}", "{project}", "{connection}"}, p) {
					d.invalid(key, "%s is no placeholder; {agent}, {project} and {connection} are", p)
				}
			}
		} else {
			bare = strings.NewReplacer("{", "!", "}", "!").Replace(account)
		}
		if !accountPattern.MatchString(bare) {
			d.invalid(key, "%q: want a service account, such as name@project.iam.gserviceaccount.com", account)
		}
	}
	if cred.ServiceAccount != "" {
		check(key+".service_account", cred.ServiceAccount, true)
	}
	for agent, account := range cred.ServiceAccounts {
		if !namePattern.MatchString(agent) {
			d.invalid(key+".service_accounts", "%q is no agent's name", agent)
		}
		check(key+".service_accounts."+agent, account, false)
	}
	for _, account := range cred.Delegates {
		check(key+".delegates", account, false)
	}
}

func (d *decoder) login(c *Config) {
	l := c.Admin.Login
	const key = "admin.login"
	if !l.On() {
		if l.ClientID != "" || l.ClientSecretFile != "" || l.Roles != (Roles{}) {
			d.invalid(key+".issuer", "missing; without it nobody can sign in")
		}
		return
	}
	d.endpoint(key+".issuer", l.Issuer)
	if c.Admin.Off() {
		d.invalid(key, "humans sign in at the admin listener, and admin.listen is off")
	}
	if l.ClientID == "" {
		d.invalid(key+".client_id", "missing; it is what the issuer calls this gateway")
	}
	if l.Roles == (Roles{}) {
		d.invalid(key+".roles", "missing; name who is admin, auditor or approver, as CEL over claims, or nobody can do anything")
	}
	if !slices.Contains(l.Scopes, "openid") {
		d.invalid(key+".scopes", "must hold openid")
	}
	for name, expr := range map[string]string{".name": l.Name, ".roles.admin": l.Roles.Admin, ".roles.auditor": l.Roles.Auditor, ".roles.approver": l.Roles.Approver} {
		d.expression(key+name, expr)
	}
	d.between(key+".session_ttl", l.SessionTTL, time.Minute, 7*24*time.Hour)
	d.between(key+".idle_ttl", l.IdleTTL, time.Minute, l.SessionTTL)
}
