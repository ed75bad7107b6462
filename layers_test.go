package trailgate_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/trailgate/trailgate"

// mayImport is the table of ARCHITECTURE.md: which packages of this module each
// package may import, in code that is not a test. A package that is not listed
// fails the test until somebody decides where it stands.
var mayImport = map[string][]string{
	"":                                    {},
	"/internal/discovery":                 {},
	"/internal/config":                    {},
	"/internal/connector":                 {"", "/internal/trail/durable"},
	"/internal/bigquery":                  {"", "/internal/discovery"},
	"/internal/mapping":                   {},
	"/internal/identity/assertion":        {"", "/internal/mapping"},
	"/internal/identity":                  {"", "/internal/identity/assertion"},
	"/internal/idptest":                   {},
	"/internal/federation":                {""},
	"/internal/policy":                    {""},
	"/internal/approval":                  {""},
	"/internal/export":                    {""},
	"/internal/bundle":                    {"", "/internal/export"},
	"/internal/bundle/bundletest":         {"", "/internal/bundle"},
	"/internal/budget":                    {"", "/internal/trail/durable"},
	"/internal/webhook":                   {},
	"/internal/mailout":                   {"", "/internal/trail/durable"},
	"/internal/witness":                   {"", "/internal/trail/durable"},
	"/internal/suspend":                   {"/internal/trail/durable"},
	"/internal/trail":                     {"", "/internal/trail/durable", "/internal/trail/journal"},
	"/internal/trail/journal":             {"", "/internal/trail/durable"},
	"/internal/trail/durable":             {},
	"/internal/trail/durable/durabletest": {"/internal/trail/durable"},
	"/internal/sandbox":                   {"", "/internal/discovery", "/internal/sandbox/googlesql"},
	"/internal/sandbox/googlesql":         {},
	"/internal/gateway":                   {"", "/internal/approval", "/internal/policy", "/internal/recording", "/internal/bigquery", "/internal/discovery", "/internal/federation", "/internal/identity", "/internal/identity/assertion"},
	"/internal/index":                     {""},
	"/internal/reconcile":                 {"", "/internal/trail/durable"},
	"/internal/index/indextest":           {""},
	"/internal/admin":                     {"", "/internal/bundle", "/internal/export", "/internal/recording", "/internal/approval", "/internal/suspend", "/internal/connector", "/internal/identity", "/internal/mapping", "/internal/federation", "/internal/index", "/internal/reconcile", "/internal/trail", "/internal/trail/durable"},
	"/internal/admin/client":              {""},
	"/internal/recording":                 {"", "/internal/trail/durable"},
	"/internal/pages":                     {"", "/internal/admin/client"},
	"/cmd/trailgate":                      {"*"},
}

// TestLayers holds the imports to the table: they point down only.
func TestLayers(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{if .GoFiles}}{{.ImportPath}}: {{join .Imports " "}}{{end}}`, "./...").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		pkg, imports, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue // tests alone
		}
		name := strings.TrimPrefix(pkg, module)
		allowed, listed := mayImport[name]
		if !listed {
			t.Errorf("package %s is not in the table", pkg)
			continue
		}
		seen[name] = true
		for imp := range strings.FieldsSeq(imports) {
			dep, ours := strings.CutPrefix(imp, module)
			if ours && !slices.Contains(allowed, dep) && !slices.Contains(allowed, "*") {
				t.Errorf("%s must not import %s", pkg, imp)
			}
			if name == "" && !ours && strings.Contains(imp, ".") && !strings.HasPrefix(imp, "golang.org/x/mod/sumdb") {
				t.Errorf("the root package must not import %s", imp)
			}
		}
	}
	for name := range mayImport {
		if !seen[name] {
			t.Errorf("the table names %q, which does not exist", module+name)
		}
	}
}

// TestGoMod keeps the module buildable by anyone as it stands.
func TestGoMod(t *testing.T) {
	out, err := exec.Command("go", "mod", "edit", "-json").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), `"Replace": [`) {
		t.Error("go.mod has a replace directive")
	}
}
