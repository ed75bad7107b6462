package trail

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/tlog"
)

// source is where Verify reads a tiled log's files from.
type source interface {
	// read returns a file's content, [fs.ErrNotExist] if it is not there.
	read(ctx context.Context, path string) ([]byte, error)
	// place names a file for a human.
	place(path string) string
}

// resourceOf reads a tile or bundle of width entries, falling back to the full
// one, which then may hold more.
func resourceOf(ctx context.Context, src source, path func(p uint8) string, width int) (data []byte, name string, err error) {
	if width < tileWidth {
		name = path(uint8(width))
		data, err = src.read(ctx, name)
		if !errors.Is(err, fs.ErrNotExist) {
			return data, name, err
		}
	}
	full, err := src.read(ctx, path(0))
	if errors.Is(err, fs.ErrNotExist) && width < tileWidth {
		return nil, name, err // name what is asked for
	}
	return full, path(0), err
}

// dirSource is a log in a directory.
type dirSource string

func (d dirSource) read(_ context.Context, path string) ([]byte, error) {
	f, err := os.Open(filepath.Join(string(d), path))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxBundleBytes || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a file of at most %d bytes", d.place(path), maxBundleBytes)
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", d.place(path), err)
	}
	return data, nil
}

func (d dirSource) place(path string) string { return filepath.Join(string(d), path) }

// readBounded reads all, or fails.
func readBounded(r io.Reader, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(data)) > most {
		return nil, fmt.Errorf("larger than %d bytes", most)
	}
	return data, err
}

// httpSource is a log behind an address.
type httpSource struct {
	base   string
	token  string
	client *http.Client
}

func newHTTPSource(address, token string) (*httpSource, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("log address %q: want http://… or https://…", address)
	}
	return &httpSource{
		base: strings.TrimSuffix(address, "/") + "/", token: token,
		client: &http.Client{
			Timeout:       time.Minute,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func (h *httpSource) read(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.base+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	if h.token != "" {
		req.Header.Set("Authorization", "Bearer "+h.token)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	switch resp.StatusCode {
	case http.StatusOK:
		return readBounded(resp.Body, maxBundleBytes)
	case http.StatusNotFound, http.StatusGone:
		return nil, fmt.Errorf("%s: %s: %w", h.place(path), resp.Status, fs.ErrNotExist)
	default:
		return nil, fmt.Errorf("%s: %s", h.place(path), resp.Status)
	}
}

func (h *httpSource) place(path string) string { return h.base + path }

// sourceTiles makes a source a [tlog.TileReader].
type sourceTiles struct{ source }

func (s sourceTiles) Height() int { return tileHeight }

func (s sourceTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		data, name, err := resourceOf(context.Background(), s.source, func(p uint8) string { return layout.TilePath(uint64(t.L), uint64(t.N), p) }, t.W)
		if err != nil {
			return nil, err
		}
		if len(data) < t.W*tlog.HashSize {
			return nil, fmt.Errorf("%s: too short", name)
		}
		out[i] = data[:t.W*tlog.HashSize]
	}
	return out, nil
}

func (s sourceTiles) SaveTiles([]tlog.Tile, [][]byte) {}
