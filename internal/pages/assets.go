package pages

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

// assets are files whose path has their hash in it, so that browsers may keep them.
type assets struct {
	byPath map[string]asset
	paths  map[string]string // by name
}

type asset struct {
	kind string
	body []byte
}

func readAssets(files fs.FS) (*assets, error) {
	a := &assets{byPath: map[string]asset{}, paths: map[string]string{}}
	err := fs.WalkDir(files, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		name = strings.TrimPrefix(name, "assets/")
		sum := sha256.Sum256(body)
		at := "/assets/" + hex.EncodeToString(sum[:8]) + "/" + name
		a.byPath[at] = asset{mime.TypeByExtension(path.Ext(name)), body}
		a.paths[name] = at
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("pages: assets: %w", err)
	}
	return a, nil
}

// path is where an asset is served; templates fail on one that is not there.
func (a *assets) path(name string) (string, error) {
	at, ok := a.paths[name]
	if !ok {
		return "", fmt.Errorf("there is no asset %s", name)
	}
	return at, nil
}

// ServeHTTP serves a file by its path with the hash.
func (a *assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	file, ok := a.byPath[r.URL.Path]
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "there is no such file; reload the page", http.StatusNotFound)
		return
	}
	h := w.Header()
	h.Set("Content-Type", file.kind)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	_, _ = w.Write(file.body)
}
