package config_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/trailgate/trailgate/internal/config"
)

// TestDocs: every configuration in the documents can be copied and used.
func TestDocs(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```")
	found := 0
	for _, name := range []string{"gcp-setup.md", "identity.md"} {
		raw, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range blocks.FindAllSubmatch(raw, -1) {
			found++
			if _, err := config.Parse(name, m[1]); err != nil {
				t.Errorf("%v\n%s", err, m[1])
			}
		}
		for _, word := range []string{"TODO", "FIXME"} {
			if strings.Contains(string(raw), word) {
				t.Errorf("%s has a %s in it", name, word)
			}
		}
	}
	if found < 8 {
		t.Errorf("only %d configurations were found", found)
	}
}
