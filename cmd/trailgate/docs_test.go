package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocs: docs/cli.md names every command, CSV column and variable there is.
func TestDocs(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	doc := string(raw)
	missing := func(what, name string) {
		if !strings.Contains(doc, "`"+name) {
			t.Errorf("docs/cli.md does not tell of the %s %s", what, name)
		}
	}
	for _, cmd := range commands(t) {
		if cmd.HasParent() && !cmd.Parent().HasParent() {
			missing("command", cmd.Name())
		}
	}
	for _, name := range csvColumns {
		missing("column", name)
	}
	env := &clientEnv{gateway: "http://gw", project: "p", caFile: "ca", withToken: true, dir: "d"}
	for _, v := range env.variables(func(string) string { return "set" }) {
		missing("variable", v.name)
	}
}
