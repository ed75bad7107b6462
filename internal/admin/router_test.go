package admin_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/admin"
)

func TestMatchPath(t *testing.T) {
	for _, tt := range []struct {
		template, path string
		want           map[string]string // nil: no match
	}{
		{"/a", "/a", map[string]string{}},
		{"/a", "/a/", nil},
		{"/a", "/a/b", nil},
		{"/a/b", "/a", nil},
		{"/a:follow", "/a:follow", map[string]string{}},
		{"/a", "/a:follow", nil},
		{"/a/{id}", "/a/x%20y", map[string]string{"id": "x y"}},
		{"/a/{id}", "/a/x%2Fy", map[string]string{"id": "x/y"}},
		{"/a/{id}", "/a/", nil},
		{"/a/{id}", "/a/x:revoke", nil},
		{"/a/{id}", "/a/%zz", nil},
		{"/a/{id}/b", "/a/x/b", map[string]string{"id": "x"}},
		{"/a/{id}/b", "/a/x", nil},
		{"/a/{id}/b", "/a//b", nil},
		{"/a/{id}:revoke", "/a/x:revoke", map[string]string{"id": "x"}},
		{"/a/{id}:revoke", "/a/x:y:revoke", map[string]string{"id": "x:y"}},
		{"/a/{id}:revoke", "/a/:revoke", nil},
		{"/a/{id}:revoke", "/a/x", nil},
		{"/t/{tile}", "/t/0/x001/067.p/3", map[string]string{"tile": "0/x001/067.p/3"}},
		{"/t/{tile}", "/t", nil},
	} {
		got, ok := admin.MatchPath(tt.template, tt.path)
		if ok != (tt.want != nil) || ok && cmp.Diff(tt.want, got) != "" {
			t.Errorf("%s, %s: %v %t", tt.template, tt.path, got, ok)
		}
	}
}

// FuzzMatchPath: a path matches at most one route of a verb, and gives every
// argument of it a value.
func FuzzMatchPath(f *testing.F) {
	routes := newRig(f).api.Routes()
	f.Add("/api/v1/entries/x/proof")
	f.Add("/api/v1/agents/%2e%2e:revoke")
	f.Fuzz(func(t *testing.T, path string) {
		found := map[string]string{}
		for _, r := range routes {
			args, ok := admin.MatchPath(r.Path, path)
			if !ok {
				continue
			}
			if found[r.Method] != "" {
				t.Errorf("%q is %s and %s", path, found[r.Method], r.Path)
			}
			found[r.Method] = r.Path
			if len(args) != strings.Count(r.Path, "{") {
				t.Errorf("%q: %s: %v", path, r.Path, args)
			}
			for name, value := range args {
				if value == "" && name != "tile" {
					t.Errorf("%q: %s: no %s", path, r.Path, name)
				}
			}
		}
	})
}
