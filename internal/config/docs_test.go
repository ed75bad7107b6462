package config_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/mapping"
)

// documents are those whose configurations and commands people copy.
var documents = []string{"gcp-setup.md", "identity.md", "decisions.md", "completeness.md", "connector.md", "deploy.md", "witnesses.md"}

func readDocument(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// fenced are the blocks of one language. What is YAML and no configuration of
// ours is marked "yml".
func fenced(text, language string) []string {
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// configurations parses every one of a document.
func configurations(t *testing.T, name string) []*config.Config {
	t.Helper()
	var all []*config.Config
	for _, block := range fenced(readDocument(t, name), "yaml") {
		c, err := config.Parse(name, []byte(block))
		if err != nil {
			t.Errorf("%v\n%s", err, block)
			continue
		}
		all = append(all, c)
	}
	return all
}

// TestDocs: every configuration in the documents can be copied and used, and every
// command is one that a shell can read.
func TestDocs(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		bash = ""
	}
	found := map[string]int{"gcp-setup.md": 5, "identity.md": 10, "decisions.md": 2, "connector.md": 2} // at least
	for _, name := range documents {
		if n := len(configurations(t, name)); n < found[name] {
			t.Errorf("%s has %d configurations, want %d or more", name, n, found[name])
		}
		text := readDocument(t, name)
		if strings.Count(text, "\n```")%2 != 0 {
			t.Errorf("%s has a block that does not end", name)
		}
		for _, word := range []string{"TODO", "FIXME"} {
			if strings.Contains(text, word) {
				t.Errorf("%s has a %s in it", name, word)
			}
		}
		for _, block := range fenced(text, "sh") {
			if bash == "" {
				break
			}
			cmd := exec.Command(bash, "--noprofile", "--norc", "-n")
			cmd.Stdin = strings.NewReader(block)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s\n%s", name, err, out, block)
			}
		}
	}
}

// TestDocsLinks: what the documents refer to in each other is there.
func TestDocsLinks(t *testing.T) {
	places := map[string]bool{}
	heading := regexp.MustCompile(`(?m)^#+ (.+)$`)
	fence := regexp.MustCompile("(?ms)^```.*?^```$")
	for _, name := range append([]string{"cli.md", "recording.md", "evidence.md", "reliability.md", "threat-model.md", "benchmarks.md"}, documents...) {
		places[name] = true
		for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(readDocument(t, name), ""), -1) {
			// As GitHub makes anchors: lower case, no punctuation, dashes for spaces.
			anchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
			places[name+"#"+strings.ReplaceAll(anchor, " ", "-")] = true
		}
	}
	link := regexp.MustCompile(`\]\(([a-z-]*\.md)?(#[^)]+)?\)`)
	for _, name := range documents {
		for _, m := range link.FindAllStringSubmatch(readDocument(t, name), -1) {
			target := m[1]
			if target == "" {
				target = name
			}
			if !places[target+m[2]] {
				t.Errorf("%s refers to %s, which is not there", name, target+m[2])
			}
		}
	}
}

// said is a credential as its platform documents it, and what the map beside it
// has to make of that.
type said struct {
	values      map[string]any
	refused     bool // by "when", or since the map reads what is not there
	agent       string
	human       string
	connections []string
}

type values = map[string]any

const tenant = "00000000-0000-0000-0000-000000000000"

// credentials are by the name of the issuer, or of the certificates, in identity.md.
var credentials = map[string][]said{
	"cluster": {
		{values: values{"sub": "system:serviceaccount:agents:etl-bot"}, agent: "etl-bot"},
		{values: values{"sub": "system:serviceaccount:default:etl-bot"}, refused: true},
	},
	"github": {
		{
			values: values{"repository_owner_id": "123456", "repository": "my-org/Nightly-Loads", "ref": "refs/heads/main", "event_name": "push"},
			agent:  "ci-nightly-loads", connections: []string{"staging"},
		},
		{values: values{"repository_owner_id": "999", "repository": "my-org/loads", "ref": "refs/heads/main", "event_name": "push"}, refused: true},
		{values: values{"repository_owner_id": "123456", "repository": "my-org/loads", "ref": "refs/pull/1/merge", "event_name": "pull_request"}, refused: true},
		{values: values{"repository_owner_id": "123456", "repository": "my-org/loads", "ref": "refs/heads/main", "event_name": "pull_request_target"}, refused: true},
	},
	"google": {
		{values: values{"email": "etl-bot@my-project.iam.gserviceaccount.com", "email_verified": true}, agent: "etl-bot"},
		{values: values{"email": "etl-bot@other.iam.gserviceaccount.com", "email_verified": true}, refused: true},
		{values: values{"email": "etl-bot@my-project.iam.gserviceaccount.com", "email_verified": false}, refused: true},
		{values: values{"sub": "without --include-email"}, refused: true},
	},
	"okta": {
		{values: values{"cid": "0oa1etl", "sub": "0oa1etl"}, agent: "etl-bot"},
		{values: values{"cid": "0oa2analyst", "uid": "00u1", "sub": "ada@example.com"}, agent: "analyst-bot", human: "ada@example.com"},
		{values: values{"cid": "0oa3other", "sub": "0oa3other"}, refused: true},
	},
	"entra": {
		{values: values{"tid": tenant, "azp": "22222222-2222-2222-2222-222222222222", "roles": []any{"Call"}}, agent: "analyst-bot"},
		{
			values: values{"tid": tenant, "azp": "22222222-2222-2222-2222-222222222222", "scp": "call", "preferred_username": "ada@example.com"},
			agent:  "analyst-bot", human: "ada@example.com",
		},
		{values: values{"tid": tenant, "azp": "33333333-3333-3333-3333-333333333333"}, refused: true},
		{values: values{"tid": "44444444-4444-4444-4444-444444444444", "azp": "22222222-2222-2222-2222-222222222222"}, refused: true},
	},
	"people": {
		{values: values{"email": "ada@example.com", "email_verified": true}, human: "ada@example.com"},
		{values: values{"email": "ada@example.com", "email_verified": false}, refused: true},
		{values: values{"email": "ada@example.com"}, refused: true},
	},
	"spire": {
		{values: values{"sub": "spiffe://example.org/agent/etl-bot"}, agent: "etl-bot"},
		{values: values{"sub": "spiffe://example.org/web/etl-bot"}, refused: true},
		{values: values{"sub": "spiffe://other.org/agent/etl-bot"}, refused: true},
	},
	"mesh": {
		{values: values{"path": "/agent/etl-bot"}, agent: "etl-bot"},
		{values: values{"path": "/web/etl-bot"}, refused: true},
	},
	"internal": {
		{values: values{"organization": []string{"Agents"}, "common_name": "etl-bot"}, agent: "etl-bot"},
		{values: values{"organization": []string{"Web"}, "common_name": "etl-bot"}, refused: true},
	},
}

// TestDocsMaps evaluates every map of identity.md over credentials of the form that
// the platform documents: the right agent comes out, and others are kept out.
func TestDocsMaps(t *testing.T) {
	seen := map[string]bool{}
	check := func(name, variable string, m config.Map) {
		seen[name] = true
		if len(credentials[name]) == 0 {
			t.Errorf("%s: no credential to try its map on", name)
		}
		for _, want := range credentials[name] {
			got, err := read(t, variable, m, want.values)
			got.values = want.values
			if (err != nil) != want.refused {
				t.Errorf("%s: %v: refused with %v, want refused %v", name, want.values, err, want.refused)
				continue
			}
			if err == nil && !cmp.Equal(got, want, cmp.AllowUnexported(said{})) {
				t.Errorf("%s: %s", name, cmp.Diff(want, got, cmp.AllowUnexported(said{})))
			}
		}
	}
	for _, c := range configurations(t, "identity.md") {
		for _, issuer := range c.Identity.Issuers {
			check(issuer.Name, "claims", issuer.Map)
		}
		for _, certs := range c.Identity.Certificates {
			check(certs.Name, "cert", certs.Map)
		}
	}
	for name := range credentials {
		if !seen[name] {
			t.Errorf("identity.md has no %q any more", name)
		}
	}
}

// errNo is the map's own refusal.
type errNo struct{}

func (errNo) Error() string { return "map.when says no" }

// read evaluates a map in the order in which the gateway does.
func read(t *testing.T, variable string, m config.Map, v values) (out said, err error) {
	t.Helper()
	env, err := mapping.NewEnv(variable)
	if err != nil {
		t.Fatal(err)
	}
	vars := map[string]any{variable: v}
	if m.When != "" {
		switch yes, err := evaluate(t, env.Bool, m.When, vars); {
		case err != nil:
			return out, err
		case !yes:
			return out, errNo{}
		}
	}
	for _, part := range []struct {
		expr string
		into *string
	}{{m.Agent, &out.agent}, {m.Human, &out.human}} {
		if part.expr == "" {
			continue
		}
		if *part.into, err = evaluate(t, env.String, part.expr, vars); err != nil {
			return out, err
		}
	}
	if m.Connections != "" {
		out.connections, err = evaluate(t, env.Strings, m.Connections, vars)
	}
	return out, err
}

func evaluate[T any](t *testing.T, compile func(string) (*mapping.Expr[T], error), expr string, vars map[string]any) (T, error) {
	t.Helper()
	x, err := compile(expr)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	return x.Eval(vars)
}

// TestDocsRoles does the same for who may sign in.
func TestDocsRoles(t *testing.T) {
	env, err := mapping.NewEnv("claims")
	if err != nil {
		t.Fatal(err)
	}
	ada := values{"email": "ada@example.com", "email_verified": true, "hd": "example.com"}
	stranger := values{"email": "mallory@gmail.com", "email_verified": true}
	found := 0
	for _, name := range documents {
		for _, c := range configurations(t, name) {
			for _, expr := range []string{c.Admin.Login.Roles.Admin, c.Admin.Login.Roles.Auditor, c.Admin.Login.Roles.Approver} {
				if expr == "" {
					continue
				}
				found++
				if yes, err := evaluate(t, env.Bool, expr, map[string]any{"claims": ada}); err != nil || !yes {
					t.Errorf("%s: %s: %v, %v for somebody of the house", name, expr, yes, err)
				}
				if yes, err := evaluate(t, env.Bool, expr, map[string]any{"claims": stranger}); err != nil || yes {
					t.Errorf("%s: %s: %v, %v for a stranger", name, expr, yes, err)
				}
			}
		}
	}
	if found < 3 {
		t.Errorf("only %d roles were found", found)
	}
}
