package federation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// Bounds of generateAccessToken
// (https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken).
const (
	defaultLifetime = time.Hour
	maxLifetime     = 12 * time.Hour // above 1 h only where the organisation allows it
	minLifetime     = time.Minute
	maxDelegates    = 10
)

var (
	// accountForm is a service account's e-mail: of a user-managed one, whose name
	// has 6 to 30 letters, digits and dashes, or one of Google's own.
	accountForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}@[a-z0-9-]+(\.[a-z0-9-]+)*\.gserviceaccount\.com$`)
	// userManaged are those of a project's own, whose form is narrower.
	userManaged = regexp.MustCompile(`^([^@]+)@([^@]+)\.iam\.gserviceaccount\.com$`)
	shortName   = regexp.MustCompile(`^[a-z]([a-z0-9-]{4,28}[a-z0-9])$`)
	placeholder = regexp.MustCompile(`\{[^{}]*\}`)
)

// accounts says which service account an agent is to be.
type accounts struct {
	connection string
	template   string            // empty: only those in the map
	byAgent    map[string]string // wins over the template
	perProject bool
}

func newAccounts(connection, template string, byAgent map[string]string) (*accounts, error) {
	for _, name := range placeholder.FindAllString(template, -1) {
		if !slices.Contains([]string{"{agent}", "{project}", "{connection}"}, name) {
			return nil, fmt.Errorf("service_account %q: %s is not known; there are {agent}, {project} and {connection}", template, name)
		}
	}
	if template != "" {
		if try := expand(template, "agent-a", "project-a", "connection"); !accountForm.MatchString(try) {
			return nil, fmt.Errorf("service_account %q does not give a service account's e-mail, such as agent-{agent}@my-project.iam.gserviceaccount.com", template)
		}
	}
	for agent, account := range byAgent {
		if err := checkAccount(account); err != nil {
			return nil, fmt.Errorf("service_accounts: %s: %w", agent, err)
		}
	}
	return &accounts{connection: connection, template: template, byAgent: maps.Clone(byAgent), perProject: strings.Contains(template, "{project}")}, nil
}

// on reports whether there is any.
func (a *accounts) on() bool { return a.template != "" || len(a.byAgent) > 0 }

// plain reports whether the template gives all agents the same account, so that
// Google cannot tell them apart.
func (a *accounts) plain() bool { return a.template != "" && !strings.Contains(a.template, "{agent}") }

// shared reports whether an agent's account is another's too.
func (a *accounts) shared(agent, account string) bool {
	if _, mapped := a.byAgent[agent]; !mapped && a.plain() {
		return true
	}
	for other, its := range a.byAgent {
		if other != agent && its == account {
			return true
		}
	}
	return false
}

// target is what the account depends on beside agent and connection.
func (a *accounts) target(r Request) string {
	if a.perProject {
		return r.Project
	}
	return ""
}

func expand(template, agent, project, connection string) string {
	if domain, name, ok := strings.Cut(project, ":"); ok { // a project of a domain, "example.com:name"
		project = name + "." + domain
	}
	// In one pass: what is put in is not looked at again.
	return strings.NewReplacer("{agent}", agent, "{project}", project, "{connection}", connection).Replace(template)
}

// of returns the e-mail of the account for a call, which depends on the agent and
// on target. Two agents never get one account
// by accident: a name is put in as it is, or refused.
func (a *accounts) of(r Request) (string, error) {
	agent := r.principal().Agent
	fail := func(message, fix string) (string, error) {
		return "", &Error{Connection: a.connection, Step: StepImpersonation, Message: message, Fix: fix}
	}
	account, mapped := a.byAgent[agent]
	if !mapped {
		if a.template == "" {
			return fail("no service account is set for agent "+agent,
				fmt.Sprintf("add %q to service_accounts of connection %s", agent, a.connection))
		}
		for name, value := range map[string]string{"{agent}": agent, "{project}": r.Project, "{connection}": a.connection} {
			if strings.Contains(a.template, name) && value == "" {
				return fail("the service account's name needs "+name+", which this call does not have", "")
			}
		}
		account = expand(a.template, agent, r.Project, a.connection)
	}
	if err := checkAccount(account); err != nil {
		return fail(err.Error(), fmt.Sprintf("name the account of agent %q in service_accounts of connection %s, or shorten service_account there", agent, a.connection))
	}
	return account, nil
}

func checkAccount(account string) error {
	if len(account) > 200 || !accountForm.MatchString(account) {
		return fmt.Errorf("%.200q is not a service account's e-mail: letters, digits and dashes alone, no '_', then @PROJECT.iam.gserviceaccount.com", account)
	}
	if m := userManaged.FindStringSubmatch(account); m != nil && !shortName.MatchString(m[1]) {
		return fmt.Errorf("%q cannot be a service account: %q has %d characters, or does not begin with a letter; its name has 6 to 30 and ends in a letter or digit", account, m[1], len(m[1]))
	}
	return nil
}

// become mints the access token of a service account. Google's library does this
// too (credentials/impersonate), but takes no endpoint and keeps a cache of its own
// for each account, which would hold tokens by less than we promise.
func (e Endpoints) become(ctx context.Context, token, account string, delegates, scopes []string, lifetime time.Duration) (string, time.Time, error) {
	chain := make([]string, 0, len(delegates))
	for _, d := range delegates {
		chain = append(chain, "projects/-/serviceAccounts/"+d)
	}
	body, err := json.Marshal(map[string]any{
		"delegates": chain, "scope": scopes, "lifetime": fmt.Sprintf("%ds", int64(lifetime/time.Second)),
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("encode request: %w", err)
	}
	var answer struct {
		Token   string    `json:"accessToken"`
		Expires time.Time `json:"expireTime"`
	}
	at := e.IAMCredentials + "/v1/projects/-/serviceAccounts/" + url.PathEscape(account) + ":generateAccessToken"
	if err := e.do(ctx, http.MethodPost, at, "application/json", token, body, &answer, nil); err != nil {
		return "", time.Time{}, err
	}
	return answer.Token, answer.Expires.UTC(), nil
}

// refused tells why an account could not be become, and which commands let member do so.
func (a *accounts) refused(r Request, member, account string, delegates []string, role string, err error) *Error {
	e := &Error{Connection: a.connection, Step: StepImpersonation, Temporary: temporary(err)}
	e.Message = fmt.Sprintf("impersonating %s did not work: %s", account, clean(err, nil))
	no, ok := errors.AsType[*refusal](err)
	if !ok {
		return e
	}
	switch {
	case no.Status == http.StatusNotFound:
		e.Fix = makeAccount(account, r.principal().Agent)
	case no.Status == http.StatusForbidden && strings.Contains(no.Text, "API has not been used"):
		e.Fix = "gcloud services enable iamcredentials.googleapis.com (in the project of the gateway's own credential)"
	case no.Status == http.StatusForbidden || no.Status == http.StatusUnauthorized:
		e.Fix = grants(member, account, delegates, role)
	case no.Status == http.StatusBadRequest && strings.Contains(strings.ToLower(no.Text), "lifetime"):
		e.Fix = "set lifetime of connection " + a.connection + " to 1h, or allow the account in the organisation policy iam.allowServiceAccountCredentialLifetimeExtension"
	}
	return e
}

func makeAccount(account, agent string) string {
	name, rest, _ := strings.Cut(account, "@")
	project, _, _ := strings.Cut(rest, ".")
	return fmt.Sprintf("gcloud iam service-accounts create %s --project=%s --display-name=%s", name, project, quote("Trailgate agent "+agent))
}

// grants are the commands that let member become account over the delegates:
// each party needs the role on the next.
func grants(member, account string, delegates []string, role string) string {
	var all []string
	for _, next := range append(slices.Clone(delegates), account) {
		all = append(all, fmt.Sprintf("gcloud iam service-accounts add-iam-policy-binding %s --member=%s --role=%s", next, member, role))
		member, role = "serviceAccount:"+next, roleTokenCreator
	}
	return strings.Join(all, " && ")
}

// The roles that let one become a service account.
const (
	roleTokenCreator = "roles/iam.serviceAccountTokenCreator"
	roleWorkload     = "roles/iam.workloadIdentityUser" // for identities of a pool
)

// quote makes a word of s for a shell.
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
