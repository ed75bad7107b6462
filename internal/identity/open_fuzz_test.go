package identity_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/identity"
)

// FuzzOpen: a file of agents is read whole or refused; what was read is written
// back so that it is read the same again.
func FuzzOpen(f *testing.F) {
	path := filepath.Join(f.TempDir(), "agents.json")
	s, err := identity.Open(path)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := s.AddAgent("etl-bot", "nightly"); err != nil {
		f.Fatal(err)
	}
	if _, _, err := s.IssueToken("etl-bot", identity.TokenOptions{}); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "agents.json")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := identity.Open(path)
		if err != nil {
			return
		}
		before := s.Agents()
		if _, err := s.AddAgent("one-more", ""); err != nil {
			return // it is there already, or there is no room
		}
		again, err := identity.Open(path)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		for _, a := range before {
			b, err := again.Agent(a.Name)
			if err != nil {
				t.Fatalf("%s is gone: %v", a.Name, err)
			}
			if d := cmp.Diff(a, b); d != "" {
				t.Error(d)
			}
		}
	})
}
