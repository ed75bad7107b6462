//go:build ignore

// Command copy renews the discovery document from the module in go.mod.
package main

import (
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "google.golang.org/api").Output()
	if err != nil {
		log.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "bigquery", "v2", "bigquery-api.json"))
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("bigquery-v2.json", raw, 0o644); err != nil {
		log.Fatal(err)
	}
}
