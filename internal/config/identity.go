package config

import "time"

// Identity says who may call, beside those with a gateway token.
type Identity struct {
	// ExchangeTTL is how long a token lives that an agent got by token exchange
	// (RFC 8693) for another credential, at most. Default 1h.
	ExchangeTTL time.Duration `yaml:"exchange_ttl"`
	// Issuers are the OpenID Connect issuers whose JWTs are taken.
	Issuers []Issuer `yaml:"issuers"`
	// Certificates say which client certificates are taken. They need gateway.tls.
	Certificates []Certificates `yaml:"certificates"`
}

// What happens when a credential is good and names an agent that is not known.
const (
	UnknownRefuse    = "refuse"    // "trailgate agent add" comes first
	UnknownProvision = "provision" // the agent is made, with an entry that says so
)

// Issuer is an OpenID Connect issuer.
type Issuer struct {
	Name   string `yaml:"name"`   // in errors and entries; required
	Issuer string `yaml:"issuer"` // the exact "iss" of its tokens; required
	// Audiences: a token must be for one of them. Default: gateway.public_url.
	Audiences []string `yaml:"audiences"`
	// DiscoveryURL is where its metadata is, if not under Issuer as OpenID
	// Connect Discovery 1.0 has it.
	DiscoveryURL string `yaml:"discovery_url"`
	// JWKSURL or JWKSFile give its keys without discovery. The file is read
	// again when it changes.
	JWKSURL  string `yaml:"jwks_url"`
	JWKSFile Path   `yaml:"jwks_file"`
	CAFile   Path   `yaml:"ca_file"` // PEM; instead of the system's, for its URLs
	// Algorithms are the JWS algorithms taken. Default RS256 and ES256.
	Algorithms []string `yaml:"algorithms"`
	// ClockSkew is how far its clock may be off. Default 1m, at most 5m.
	ClockSkew time.Duration `yaml:"clock_skew"`
	// MaxLifetime refuses tokens that live longer. Default 24h.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
	// Map reads agent, human and connections out of "claims".
	Map Map `yaml:"map"`
	// UnknownAgents is "refuse" (the default) or "provision".
	UnknownAgents string `yaml:"unknown_agents"`
}

// Certificates are the client certificates of one authority.
type Certificates struct {
	Name string `yaml:"name"`
	// TrustDomain makes them X.509-SVIDs of that SPIFFE trust domain. Optional.
	TrustDomain string `yaml:"trust_domain"`
	// BundleFile holds the authority's certificates: PEM, or a SPIFFE bundle as
	// JSON. It is read again when it changes.
	BundleFile    Path   `yaml:"bundle_file"`
	Map           Map    `yaml:"map"` // over "cert"
	UnknownAgents string `yaml:"unknown_agents"`
}

// Map holds CEL expressions over what a credential says.
type Map struct {
	When        string `yaml:"when"`        // bool: take it at all. Default true.
	Agent       string `yaml:"agent"`       // string: the agent's name. Without it the issuer tells of humans alone.
	Human       string `yaml:"human"`       // string: on whose behalf. Optional.
	Connections string `yaml:"connections"` // list of strings: what it may use. Default: all.
}

// Federation is what the connections that mint tokens have in common.
type Federation struct {
	Endpoints Endpoints `yaml:"endpoints"`
	// Issuer is the gateway as an OpenID Connect issuer, for connections whose
	// assertion it signs itself.
	Issuer SelfIssuer `yaml:"issuer"`
	// ConsentKeyFile encrypts the refresh tokens of humans who consented (mode
	// oauth); it is made if it is missing. Default consent.key in data_dir; keep
	// it elsewhere, so that a stolen data directory is not enough.
	ConsentKeyFile Path `yaml:"consent_key_file"`
}

// Endpoints are Google's, unless a private environment has its own.
type Endpoints struct {
	STS            string `yaml:"sts"`             // Default https://sts.googleapis.com
	IAMCredentials string `yaml:"iam_credentials"` // Default https://iamcredentials.googleapis.com
	OAuthAuth      string `yaml:"oauth_auth"`      // Default https://accounts.google.com/o/oauth2/v2/auth
	OAuthToken     string `yaml:"oauth_token"`     // Default https://oauth2.googleapis.com/token
	OAuthRevoke    string `yaml:"oauth_revoke"`    // Default https://oauth2.googleapis.com/revoke
	UserInfo       string `yaml:"userinfo"`        // Default https://openidconnect.googleapis.com/v1/userinfo
	CAFile         Path   `yaml:"ca_file"`         // PEM; instead of the system's
}

// SelfIssuer is the gateway as an OpenID Connect issuer.
type SelfIssuer struct {
	// URL is its "iss". Default: gateway.public_url. Google must be able to
	// reach it over https, or be given the keys when the provider is made.
	URL string `yaml:"url"`
	// KeyFile signs: a private key in PEM (RSA or EC), made if it is missing.
	// Default issuer.key in data_dir.
	KeyFile Path `yaml:"key_file"`
	// MoreKeyFiles are published and do not sign: the next key before a
	// rotation, the last one after it.
	MoreKeyFiles []Path `yaml:"more_key_files"`
	// TTL is how long an assertion lives. Default 10m.
	TTL time.Duration `yaml:"ttl"`
}

// The ways in which a connection authenticates to BigQuery.
const (
	CredentialNone          = "none"          // no Authorization header goes upstream
	CredentialStatic        = "static"        // a bearer token from a file
	CredentialADC           = "adc"           // Google's Application Default Credentials
	CredentialImpersonation = "impersonation" // a service account for each agent
	CredentialOAuth         = "oauth"         // the consent of the human on whose behalf
	CredentialWorkload      = "workload"      // Workload Identity Federation, without a Google key
)

// Whose JWT a connection of mode "workload" exchanges.
const (
	AssertionPrefer  = "prefer_agent" // the agent's own where it has one, else the gateway's
	AssertionAgent   = "agent"        // the agent's own alone
	AssertionGateway = "gateway"      // one that the gateway signs
)

// Credential is as whom calls of a connection reach BigQuery.
type Credential struct {
	// Mode is "adc" (the default), "static", "none", "impersonation", "oauth",
	// "workload", or "connector" (left to the connector). In "adc" and "static" all agents share one credential.
	Mode string `yaml:"mode"`
	// TokenFile holds the token of mode "static"; it is read again when it changes.
	TokenFile Path `yaml:"token_file"`
	// CredentialFile is the gateway's own credential in modes "adc" and
	// "impersonation": a JSON file as Google's tools write it. Default:
	// Application Default Credentials.
	CredentialFile Path `yaml:"credential_file"`

	// ServiceAccount is the account to be, for modes "impersonation" and
	// "workload" (there optional), with {agent}, {project} and {connection} in
	// it; ServiceAccounts names it for single agents.
	ServiceAccount  string            `yaml:"service_account"`
	ServiceAccounts map[string]string `yaml:"service_accounts"`
	// Delegates are the service accounts in between, in order.
	Delegates []string `yaml:"delegates"`
	// Scopes of the token. Default: https://www.googleapis.com/auth/bigquery.
	Scopes []string `yaml:"scopes"`
	// Lifetime of a service account's token. Default 1h, at most 12h (above 1h
	// the organisation must allow it).
	Lifetime time.Duration `yaml:"lifetime"`

	// Audience is the workload identity pool's provider, "//iam.googleapis.com/projects/…/providers/…".
	Audience string `yaml:"audience"`
	// GatewayAudience is the provider for assertions that the gateway signs, where
	// agents' own go to Audience: a provider trusts one issuer. Default: Audience.
	GatewayAudience string `yaml:"gateway_audience"`
	// Assertion is "prefer_agent" (the default), "agent" or "gateway".
	Assertion string `yaml:"assertion"`

	// ClientID and ClientSecretFile are the OAuth client of mode "oauth".
	ClientID         string `yaml:"client_id"`
	ClientSecretFile Path   `yaml:"client_secret_file"`
	// AllowedDomains of the accounts that may consent. Default: any; the account
	// must be the signed-in human's own in any case.
	AllowedDomains []string `yaml:"allowed_domains"`
}

// Minted reports whether tokens are made for each agent.
func (c Credential) Minted() bool {
	return c.Mode == CredentialImpersonation || c.Mode == CredentialOAuth || c.Mode == CredentialWorkload
}

// Login lets humans into the admin listener by OpenID Connect.
type Login struct {
	Issuer           string   `yaml:"issuer"` // off where empty
	ClientID         string   `yaml:"client_id"`
	ClientSecretFile Path     `yaml:"client_secret_file"`
	Scopes           []string `yaml:"scopes"`  // Default: openid, email, profile.
	CAFile           Path     `yaml:"ca_file"` // PEM; instead of the system's
	// Name is a CEL expression over "claims": what entries call the human.
	// Default: the verified e-mail address.
	Name  string `yaml:"name"`
	Roles Roles  `yaml:"roles"`
	// SessionTTL ends a login, IdleTTL one that nothing happens in. Defaults 8h and 1h.
	SessionTTL time.Duration `yaml:"session_ttl"`
	IdleTTL    time.Duration `yaml:"idle_ttl"`
}

// On reports whether humans can sign in.
func (l Login) On() bool { return l.Issuer != "" }

// Roles are CEL expressions over "claims" that say who has a role.
type Roles struct {
	Admin    string `yaml:"admin"`
	Auditor  string `yaml:"auditor"`
	Approver string `yaml:"approver"`
}

func defaultIdentity() Identity { return Identity{ExchangeTTL: time.Hour} }

func defaultFederation() Federation {
	return Federation{
		Endpoints: Endpoints{
			STS:            "https://sts.googleapis.com",
			IAMCredentials: "https://iamcredentials.googleapis.com",
			OAuthAuth:      "https://accounts.google.com/o/oauth2/v2/auth",
			OAuthToken:     "https://oauth2.googleapis.com/token",
			OAuthRevoke:    "https://oauth2.googleapis.com/revoke",
			UserInfo:       "https://openidconnect.googleapis.com/v1/userinfo",
		},
		Issuer: SelfIssuer{TTL: 10 * time.Minute},
	}
}

func defaultIssuer() Issuer {
	return Issuer{Algorithms: []string{"RS256", "ES256"}, ClockSkew: time.Minute, MaxLifetime: 24 * time.Hour, UnknownAgents: UnknownRefuse}
}

func defaultCertificates() Certificates { return Certificates{UnknownAgents: UnknownRefuse} }

func defaultLogin() Login {
	return Login{Scopes: []string{"openid", "email", "profile"}, SessionTTL: 8 * time.Hour, IdleTTL: time.Hour}
}
