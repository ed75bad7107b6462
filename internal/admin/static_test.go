package admin_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
)

const log = "/api/v1/log/"

func TestLogFiles(t *testing.T) {
	r := newRig(t)
	r.file("checkpoint", "trailgate/test\n3\nroot\n")
	r.file("tile/0/x001/x234/067", "hashes")
	r.file("tile/entries/000.p/255", "entries")
	for _, tt := range []struct{ target, kind, cache, body string }{
		{"checkpoint", "text/plain; charset=utf-8", "no-store", "trailgate/test\n3\nroot\n"},
		{"key", "text/plain; charset=utf-8", "no-store", r.trail.PublicKey() + "\n"},
		{"tile/0/x001/x234/067", "application/octet-stream", "private, max-age=31536000, immutable", "hashes"},
		{"tile/entries/000.p/255", "application/octet-stream", "private, max-age=31536000, immutable", "entries"},
	} {
		a := r.socket("GET", log+tt.target, "")
		if a.StatusCode != http.StatusOK || string(a.body) != tt.body || a.Header.Get("Content-Type") != tt.kind || a.Header.Get("Cache-Control") != tt.cache ||
			a.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %q %v", tt.target, a.StatusCode, a.body, a.Header)
		}
		if a := r.socket("HEAD", log+tt.target, ""); a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != tt.kind {
			t.Errorf("HEAD %s: %d %v", tt.target, a.StatusCode, a.Header)
		}
	}
}

// TestLogGzip: entry bundles are compressed for who accepts that.
func TestLogGzip(t *testing.T) {
	r := newRig(t)
	content := strings.Repeat("an entry ", 10_000)
	r.file("tile/entries/000", content)
	r.file("tile/0/000", content)
	for accept, want := range map[string]bool{"gzip": true, "br, gzip;q=0.5": true, "GZIP": true, "gzip;q=0": false, "gzip; q=0.0": false, "identity": false, "": false} {
		a := r.socket("GET", log+"tile/entries/000", "", "Accept-Encoding", accept)
		body := a.body
		if got := a.Header.Get("Content-Encoding") == "gzip"; got != want || a.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%q: %v", accept, a.Header)
		} else if got {
			z, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if body, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
			if len(a.body) > len(content)/10 {
				t.Errorf("%d bytes", len(a.body))
			}
		}
		if string(body) != content {
			t.Errorf("%q: another content", accept)
		}
		if a := r.socket("GET", log+"tile/0/000", "", "Accept-Encoding", accept); a.Header.Get("Content-Encoding") != "" {
			t.Errorf("hashes are compressed: %v", a.Header)
		}
	}
}

// TestLogPaths: nothing but tiles, bundles, checkpoint and key is served, by no
// spelling, though it lies in the directory or beside it.
func TestLogPaths(t *testing.T) {
	r := newRig(t)
	outside := filepath.Join(filepath.Dir(r.trail.dir), "log.key")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.file(".state/treeState", "secret")
	r.file("log.key", "secret")
	r.file("tile/secret", "secret")
	r.file("tile/0/secret", "secret")
	r.file("tile/0/000", "good")
	r.file("tile/0/001.p/256", "secret")
	r.file("tile/0/x000/005", "secret")
	r.file("tile/64/000", "secret")
	r.file("tile/00/000", "secret")
	if err := os.Symlink(outside, filepath.Join(r.trail.dir, "tile", "0", "999")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(r.trail.dir, "tile", "0", "998"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"", "tile", "tile/", "tile/0", "tile/0/", "log.key", "../log.key", ".state/treeState", "tile/../log.key", "tile/0/../../log.key",
		"tile/0/%2e%2e/%2e%2e/log.key", "tile/%2e%2e%2flog.key", "tile/0%2f000", "tile/0/000%00", "tile/0/000/", "tile//0/000", "tile/0//000",
		"tile/secret", "tile/0/secret", "tile/0/00", "tile/0/0000", "tile/0/x001", "tile/0/001.p/256", "tile/0/001.p/0", "tile/0/001.p/01", "tile/0/001.p/",
		"tile/0/x000/005", "tile/64/000", "tile/00/000", "tile/-1/000", "tile/0/999", "tile/0/998", "tile/Entries/000", "tile/0/000.P/1", `tile\0\000`,
		"tile/0/" + strings.Repeat("x001/", 7) + "000", "checkpoint/", "Checkpoint", "%63heckpoint",
	} {
		a := r.socket("GET", log+path, "")
		if a.StatusCode == http.StatusOK || bytes.Contains(a.body, []byte("secret")) && !strings.Contains(path, "secret") {
			t.Errorf("%q: %d %s", path, a.StatusCode, a.body)
		}
		if a.StatusCode >= 300 && a.StatusCode < 400 {
			t.Errorf("%q: a redirect", path)
		}
	}
	if a := r.socket("GET", log+"tile/0/000", ""); string(a.body) != "good" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if n := r.trail.Size(); n != 0 {
		t.Errorf("%d entries: %v", n, r.trail.actions(t))
	}
}

// TestTilePaths: every path that a tiled log has is one, and only that spelling.
func TestTilePaths(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		level := rapid.Uint64Range(0, 63).Draw(t, "level")
		index := rapid.Uint64Range(0, 1<<60).Draw(t, "index")
		width := rapid.Uint8().Draw(t, "width")
		for _, path := range []string{layout.TilePath(level, index, width), layout.EntriesPath(index, width)} {
			path = strings.TrimPrefix(path, "tile/")
			if !admin.TilePath(path) {
				t.Errorf("%s is not served", path)
			}
			at := rapid.IntRange(0, len(path)).Draw(t, "at")
			for _, odd := range []string{".", "/", "x000/", "0", "%", "..", "\n"} {
				if bad := path[:at] + odd + path[at:]; admin.TilePath(bad) && strings.ContainsAny(odd, ".%\n") {
					t.Errorf("%q is served", bad)
				}
			}
		}
	})
}

// TestLogReaders: reading entry bundles is recorded before it is answered, once
// a minute for each reader; hash tiles and checkpoints tell nothing and are not.
func TestLogReaders(t *testing.T) {
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	r := newRig(t, func(c *admin.Config) { c.Now = func() time.Time { return now } })
	r.file("tile/entries/000", "entries")
	r.file("tile/entries/001", "entries")
	r.file("tile/0/000", "hashes")
	door := r.api.TCP(admin.HashToken(adminToken))
	read := func(path string, code int) {
		t.Helper()
		if a := do(t, door, "GET", log+path, "", "Authorization", "Bearer "+adminToken); a.StatusCode != code {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
	count := func(want int) {
		t.Helper()
		if got := r.trail.actions(t); len(got) != want {
			t.Errorf("%d entries, want %d: %v", len(got), want, got)
		}
	}
	read("tile/0/000", 200)
	count(0)
	// While it cannot be recorded nothing is read.
	r.trail.set(func(m *memory) { m.refuse = func(*trailgate.Entry) error { return errNoSpace } })
	read("tile/entries/000", 503)
	r.trail.set(func(m *memory) { m.refuse = nil })
	read("tile/entries/000", 200)
	count(1)
	read("tile/entries/001", 200)
	now = now.Add(59 * time.Second)
	read("tile/entries/001", 200)
	count(1)
	r.socket("GET", log+"tile/entries/000", "") // another caller
	count(2)
	now = now.Add(time.Second)
	read("tile/entries/001", 200)
	count(3)
}

// TestBlob: a stored statement comes as bytes that no browser will interpret.
func TestBlob(t *testing.T) {
	r := newRig(t)
	sha := r.trail.PutBlob("<script>alert(1)</script>")
	a := r.socket("GET", "/api/v1/blobs/"+sha, "")
	if string(a.body) != "<script>alert(1)</script>" || a.Header.Get("Content-Type") != "application/octet-stream" ||
		!strings.HasPrefix(a.Header.Get("Content-Disposition"), "attachment") || a.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s %v", a.body, a.Header)
	}
	for _, bad := range []string{strings.ToUpper(sha), sha[:63], sha + "0", "..%2f" + sha, "%2e%2e"} {
		if a := r.socket("GET", "/api/v1/blobs/"+bad, ""); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %s", bad, a.StatusCode, a.body)
		}
	}
}
