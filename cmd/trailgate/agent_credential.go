package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/identity"
)

// Paths of the gateway's listener that credential files name.
const (
	exchangePath   = "/v1/token"
	introspectPath = "/v1/introspect"
)

// externalAccount is a credential configuration as Google's clients read it
// (AIP-4117): where the agent's own credential lies, and where it is exchanged.
// The audience is no workload identity pool's on purpose: with one, Google's
// Python library asks Google for the pool's project.
type externalAccount struct {
	Type             string `json:"type"`
	Audience         string `json:"audience"`
	SubjectTokenType string `json:"subject_token_type"`
	TokenURL         string `json:"token_url"`
	TokenInfoURL     string `json:"token_info_url"`
	Source           struct {
		File   string `json:"file"`
		Format struct {
			Type string `json:"type"`
		} `json:"format"`
	} `json:"credential_source"`
}

// subjectTypes are the words of --subject-type.
var subjectTypes = map[string]string{
	"jwt":   identity.TypeJWT,
	"token": identity.TypeAccessToken,
}

// credentialFile writes a credential configuration. Gateway is a root URL
// without a slash at the end, subject the absolute path of what is exchanged.
func credentialFile(gateway, subject, subjectType string) (string, error) {
	a := externalAccount{
		Type: "external_account", Audience: gateway, SubjectTokenType: subjectType,
		TokenURL: gateway + exchangePath, TokenInfoURL: gateway + introspectPath,
	}
	a.Source.File, a.Source.Format.Type = subject, "text"
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(a)
	return b.String(), err
}

// credentialVariables is what clients have to be told beside the file.
func credentialVariables(gateway, agent, project, caFile, file string, getenv func(string) string) []variable {
	set := func(name, value string) variable { return variable{name: name, value: value} }
	vars := []variable{
		set("TRAILGATE_GATEWAY", gateway),
		set("TRAILGATE_AGENT", agent),
		// bq and gcloud; they take the file only where introspection tells whose it is.
		set("CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE", file),
		set("CLOUDSDK_AUTH_TOKEN_INTROSPECTION_ENDPOINT", gateway+introspectPath),
		set("CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERY", gateway+"/"),
		// Google's libraries.
		set("GOOGLE_APPLICATION_CREDENTIALS", file),
		set("BIGQUERY_EMULATOR_HOST", gateway+"/bigquery/v2"),
	}
	if project != "" {
		vars = append(vars, set("CLOUDSDK_CORE_PROJECT", project), set("GOOGLE_CLOUD_PROJECT", project))
	}
	if caFile != "" {
		vars = append(vars,
			set("TRAILGATE_CA_FILE", caFile),
			set("CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", caFile),
			set("NODE_EXTRA_CA_CERTS", caFile))
	}
	if u, err := url.Parse(gateway); err == nil && proxied(getenv) {
		for _, name := range []string{"NO_PROXY", "no_proxy"} {
			vars = append(vars, set(name, strings.TrimPrefix(getenv(name)+","+u.Hostname(), ",")))
		}
	}
	// What would win over the file, or is not for agents.
	for _, name := range append(slices.Clone(ownCredentials), "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE") {
		if !slices.ContainsFunc(vars, func(v variable) bool { return v.name == name }) {
			vars = append(vars, variable{name: name, unset: true})
		}
	}
	return vars
}

// credentialRequest is what "agent credential" was asked for.
type credentialRequest struct {
	agent, connection    string
	out                  string // the credential configuration
	tokenFile            string // where a new gateway token goes
	subject, subjectType string // an own credential in place of one
	shell                string
	token                tokenFlags
}

func newAgentCredential(c *cli) *cobra.Command {
	var req credentialRequest
	var subjectType string
	cmd := &cobra.Command{
		Use:   "credential NAME --out FILE",
		Short: "Write a credential file for Google's clients",
		Long: `Credential writes a file of type external_account with which bq, gcloud and
BigQuery's libraries for Go, Node and Python get a token for each session from
the gateway (RFC 8693, POST /v1/token) by themselves. The file is no secret. It
names another one that holds what is exchanged:

  --subject-file PATH  the agent's own credential, as a platform keeps it fresh in
                       a file: a Kubernetes projected token, a SPIFFE JWT-SVID, an
                       ID token. The gateway takes it if the configuration's
                       "identity" does; the name it then maps to is the agent's.
                       The path is the one that the agent sees; --connection only
                       says whose project is the default.
  without it           a new gateway token for the agent, in FILE.token (0600) or
                       where --token-file says. "agent rotate --out" renews it.

The environment that clients need is printed for a shell to read, on stdout, and
told in words on stderr.`,
		Example: `  eval "$(trailgate agent credential etl-bot --out etl-bot.json)"
  bq ls

  # A Kubernetes pod with a projected service account token
  trailgate agent credential etl-bot --out etl-bot.json --subject-file /var/run/secrets/trailgate/token

  # A token for a month, for one connection
  trailgate agent credential etl-bot --out etl-bot.json --ttl 30d --connection staging`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			req.agent = args[0]
			switch {
			case req.out == "":
				return usagef("credential: name the file with --out")
			case req.subject != "" && req.tokenFile != "":
				return usagef("credential: --token-file is for a new token, --subject-file for a credential that is there; name one")
			}
			if req.subject != "" {
				for _, name := range tokenFlagNames {
					if name != "connection" && cmd.Flags().Changed(name) {
						return usagef("credential: --%s is for a new token; what --subject-file holds has limits of its own", name)
					}
				}
			} else if cmd.Flags().Changed("subject-type") {
				return usagef("credential: --subject-type goes with --subject-file")
			}
			kind, ok := subjectTypes[subjectType]
			if !ok {
				return usagef("--subject-type %q: want one of jwt, token", subjectType)
			}
			req.subjectType = kind
			if _, err := shellLines(req.shell, nil); err != nil {
				return err
			}
			if len(req.token.connections) > 0 {
				req.connection = req.token.connections[0]
			}
			return c.withIndex(cmd.Context(), false, func(r *remote) error {
				return c.writeCredential(cmd.Context(), r, req)
			})
		},
	}
	cmd.Flags().StringVar(&req.out, "out", "", "`FILE` to write")
	cmd.Flags().StringVar(&req.subject, "subject-file", "", "`PATH` of the agent's own credential, instead of a new token")
	cmd.Flags().StringVar(&subjectType, "subject-type", "jwt", "`TYPE` of what --subject-file holds: jwt, token (of this gateway)")
	cmd.Flags().StringVar(&req.tokenFile, "token-file", "", "`FILE` for the new token (default: --out with .token behind it)")
	cmd.Flags().StringVar(&req.shell, "shell", "bash", "`SHELL`: bash, zsh, fish, powershell")
	req.token.register(cmd, c)
	must(cmd.RegisterFlagCompletionFunc("subject-type", cobra.FixedCompletions([]cobra.Completion{"jwt", "token"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("shell", cobra.FixedCompletions(shellNames(), cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func (c *cli) writeCredential(ctx context.Context, r *remote, req credentialRequest) error {
	info, err := r.Gateway(ctx)
	if err != nil {
		return err
	}
	gateway := info.PublicURL
	if gateway == "" && r.cfg != nil {
		gateway = r.cfg.Gateway.PublicURL // known without a gateway that runs
	}
	if gateway = strings.TrimSuffix(gateway, "/"); gateway == "" {
		return hinted(errors.New("no gateway is running, and no gateway.public_url is set, so there is no address to write down"), "start it: trailgate serve")
	}
	project, ca, err := r.defaults(info, req.connection)
	if err != nil {
		return err
	}
	if req.out, err = writablePath(req.out); err != nil {
		return fmt.Errorf("credential: %w", err)
	}
	var told string
	if req.subject == "" {
		req.subjectType = identity.TypeAccessToken
		if req.subject, told, err = c.newSubject(ctx, r, req); err != nil {
			return err
		}
	} else {
		// The path of a machine that is not this one is absolute already.
		if req.subject, err = filepath.Abs(req.subject); err != nil {
			return fmt.Errorf("credential: %w", err)
		}
		if told, err = r.expected(ctx, req.agent); err != nil {
			return err
		}
	}
	text, err := credentialFile(gateway, req.subject, req.subjectType)
	if err != nil {
		return fmt.Errorf("credential: %w", err)
	}
	if err := replaceFile(req.out, text, 0o644); err != nil {
		return fmt.Errorf("credential: %w", err)
	}
	fmt.Fprintf(c.err, `%s exchanges what is in %s at %s%s
%sbq and gcloud take it where CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE and
CLOUDSDK_AUTH_TOKEN_INTROSPECTION_ENDPOINT are set, Google's libraries where
GOOGLE_APPLICATION_CREDENTIALS is; the endpoint is told apart (docs/cli.md).
`, req.out, req.subject, gateway, exchangePath, told)
	if ca != "" {
		fmt.Fprintf(c.err, "The gateway's certificate is of a private CA: clients need %s. Go and Python programs\nhave no variable that adds one; give it to them, or to the machine's own store.\n", ca)
		for _, name := range []string{"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"} {
			if at := c.getenv(name); at != "" {
				fmt.Fprintf(c.err, "%s is set here (%s), and gcloud and bq exchange tokens by it, whatever else they\nare told: unset it for them, or add the CA to that file.\n", name, visible(at))
				break
			}
		}
	}
	lines, err := shellLines(req.shell, credentialVariables(gateway, req.agent, project, ca, req.out, c.getenv))
	if err != nil {
		return err
	}
	_, err = io.WriteString(c.out, lines)
	return err
}

// newSubject makes a gateway token and its file. No line break ends it: gcloud
// sends what stands there as it is.
func (c *cli) newSubject(ctx context.Context, r *remote, req credentialRequest) (path, told string, err error) {
	o, err := req.token.options()
	if err != nil {
		return "", "", err
	}
	if req.tokenFile == "" {
		req.tokenFile = req.out + ".token"
	}
	if path, err = writablePath(req.tokenFile); err != nil {
		return "", "", fmt.Errorf("credential: %w", err)
	}
	if path == req.out {
		return "", "", usagef("credential: --out and --token-file are one file; a secret does not belong into the other")
	}
	if o.Note == "" {
		o.Note = "trailgate agent credential"
	}
	t, err := r.IssueToken(ctx, req.agent, o)
	if err != nil {
		return "", "", err
	}
	if err := replaceFile(path, t.Secret, 0o600); err != nil {
		return "", "", r.revokeAfter(ctx, t.ID, fmt.Errorf("write the token: %w", err))
	}
	return path, fmt.Sprintf("There is token %s, good until %s.\nRenew it in time: trailgate agent rotate %s --token %s --out %s\n",
		visible(t.ID), moment(t.Expires), visible(req.agent), visible(t.ID), posixQuote(path)), nil
}

// expected tells what is missing for an agent that comes with a credential of its own.
func (r *remote) expected(ctx context.Context, agent string) (told string, err error) {
	agents, err := r.Agents(ctx)
	if err != nil {
		return "", err
	}
	for _, a := range agents {
		if a.Name != agent {
			continue
		}
		if a.Revoked != nil {
			return "", fmt.Errorf("agent %s was revoked; no credential of its works", agent)
		}
		return r.issuersMissing(), nil
	}
	if r.cfg != nil && slices.ContainsFunc(r.cfg.Identity.Issuers, func(i config.Issuer) bool { return i.UnknownAgents == config.UnknownProvision }) {
		return fmt.Sprintf("Agent %s is not known yet; an issuer that may provision agents makes it.\n", agent), nil
	}
	return fmt.Sprintf("Agent %s is not known yet, and is refused until it is: trailgate agent add %s\n%s", visible(agent), visible(agent), r.issuersMissing()), nil
}

func (r *remote) issuersMissing() string {
	if r.cfg == nil || len(r.cfg.Identity.Issuers) > 0 {
		return ""
	}
	return fmt.Sprintf("No issuer is configured whose JWTs count: identity.issuers in %s (docs/identity.md).\n", r.cfg.Path)
}
