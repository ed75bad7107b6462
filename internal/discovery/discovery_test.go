package discovery_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/discovery"
)

// TestDocumentIsGoogles holds the embedded copy to the module that go.mod
// names. When it fails after an update of google.golang.org/api, run
// `go generate ./internal/discovery` and class what is new.
func TestDocumentIsGoogles(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "google.golang.org/api").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	want, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "bigquery", "v2", "bigquery-api.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(discovery.Document(), want) {
		t.Error("the embedded document is not the one in google.golang.org/api: run `go generate ./internal/discovery`")
	}
}

func TestRevision(t *testing.T) {
	if got := discovery.Revision(); len(got) != len("20261009") || strings.Trim(got, "0123456789") != "" {
		t.Errorf("Revision() = %q, want a date", got)
	}
}

// TestFor compares whole documents: nothing but three addresses may differ.
func TestFor(t *testing.T) {
	for _, root := range []string{"https://gw.example:8470/", "http://127.0.0.1:8470", `https://odd"host/`} {
		var want, got map[string]any
		if err := json.Unmarshal(discovery.Document(), &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(discovery.For(root), &got); err != nil {
			t.Fatalf("For(%q): %v", root, err)
		}
		slashed := strings.TrimSuffix(root, "/") + "/"
		want["rootUrl"], want["mtlsRootUrl"], want["baseUrl"] = slashed, slashed, slashed+"bigquery/v2/"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("For(%q) (-want +got):\n%s", root, diff)
		}
	}
}

func TestDocumentIsACopy(t *testing.T) {
	discovery.Document()[0] = 'x'
	if discovery.Document()[0] != '{' {
		t.Error("a caller can change the embedded document")
	}
}
