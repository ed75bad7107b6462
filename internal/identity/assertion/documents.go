package assertion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// download gets the key set, by way of the metadata where need be.
func (s *keySet) download(ctx context.Context) (raw []byte, age time.Duration, err error) {
	at := s.conf.JWKSURL
	if at == "" {
		meta := s.conf.DiscoveryURL
		if meta == "" {
			if meta, err = wellKnown(s.conf.Issuer); err != nil {
				return nil, 0, err
			}
		}
		doc, _, err := s.get(ctx, meta)
		if err != nil {
			return nil, 0, err
		}
		var m struct {
			Issuer string `json:"issuer"`
			JWKS   string `json:"jwks_uri"`
		}
		if err := json.Unmarshal(doc, &m); err != nil {
			return nil, 0, errors.New("its metadata is not strict JSON")
		}
		if m.Issuer != s.conf.Issuer {
			return nil, 0, errors.New("its metadata is that of another issuer")
		}
		if strings.HasPrefix(meta, "https:") && !strings.HasPrefix(m.JWKS, "https:") {
			return nil, 0, errors.New("its metadata names no https address of keys")
		}
		at = m.JWKS
	}
	return s.get(ctx, at)
}

func (s *keySet) get(ctx context.Context, at string) (raw []byte, age time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, http.NoBody)
	if err != nil {
		return nil, 0, fmt.Errorf("its address: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	raw, err = io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	_ = resp.Body.Close() // what was read is what counts
	switch {
	case err != nil:
		return nil, 0, err
	case resp.StatusCode != http.StatusOK:
		return nil, 0, fmt.Errorf("%s answers %d", req.URL.Redacted(), resp.StatusCode)
	case len(raw) > maxDocument:
		return nil, 0, fmt.Errorf("%s answers with more than %d bytes", req.URL.Redacted(), maxDocument)
	}
	return raw, freshness(resp.Header.Get("Cache-Control")), nil
}

// freshness is how long an answer may be kept, within our bounds.
func freshness(cacheControl string) time.Duration {
	for part := range strings.SplitSeq(cacheControl, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if strings.EqualFold(name, "max-age") {
			if n, err := strconv.ParseInt(value, 10, 32); err == nil {
				return min(max(time.Duration(n)*time.Second, freshLeast), freshMost)
			}
		}
	}
	return freshDefault
}

// refreshFile reads JWKSFile again where it has changed, looking at most once a
// second. One that cannot be read leaves the keys in use.
func (s *keySet) refreshFile() {
	if s.conf.JWKSFile == "" {
		return
	}
	s.mu.Lock()
	now := s.now()
	due := now.Sub(s.tried) >= time.Second || now.Before(s.tried)
	if due {
		s.tried = now
	}
	mtime, size := s.mtime, s.size
	s.mu.Unlock()
	if !due {
		return
	}
	info, err := os.Stat(s.conf.JWKSFile)
	if err == nil && (!info.ModTime().Equal(mtime) || info.Size() != size) {
		err = s.readFile()
	}
	if err != nil {
		s.log.WarnContext(context.Background(), "an issuer's key file cannot be read; the keys in use stay", "issuer", s.conf.Name, "err", err)
	}
}

func (s *keySet) readFile() error {
	raw, info, err := readBounded(s.conf.JWKSFile)
	if err != nil {
		return fmt.Errorf("read jwks_file: %w", err)
	}
	if err := s.take(raw, freshMost); err != nil {
		return fmt.Errorf("read jwks_file %s: %w", s.conf.JWKSFile, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mtime, s.size, s.tried = info.ModTime(), info.Size(), s.now()
	return nil
}

// readBounded reads a whole file, and tells which state of it that was.
func readBounded(path string) ([]byte, os.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err == nil && len(raw) > maxDocument {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxDocument)
	}
	return raw, info, err
}
