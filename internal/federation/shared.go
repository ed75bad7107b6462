package federation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// maxTokenBytes bounds a token; Google's access tokens stay below 4 KiB.
const maxTokenBytes = 16 << 10

// None is for an upstream that asks for no credential.
func None() Source { return none{} }

type none struct{}

func (none) Describe() Credential { return Credential{Mode: ModeNone} }

func (n none) Credential(context.Context, Request) (Credential, error) { return n.Describe(), nil }

// Static reads the token from a file, and again when the file changes.
func Static(path string) (Source, error) {
	s := &static{path: path}
	if _, err := s.read(); err != nil {
		return nil, err
	}
	return s, nil
}

type static struct {
	path string

	mu    sync.Mutex // guards what follows
	mtime time.Time
	size  int64
	token string
}

func (*static) Describe() Credential { return Credential{Mode: ModeStatic, Shared: true} }

func (s *static) Credential(_ context.Context, r Request) (Credential, error) {
	token, err := s.read()
	if err != nil {
		return Credential{}, &Error{Connection: r.Connection, Step: StepBase, Message: err.Error(), Fix: "put a token into the file that token_file names"}
	}
	c := s.Describe()
	c.Token = token
	return c, nil
}

func (s *static) read() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := os.Stat(s.path)
	if err != nil {
		return "", fmt.Errorf("read static token: %w", err)
	}
	if s.token == "" || !info.ModTime().Equal(s.mtime) || info.Size() != s.size {
		raw, err := readBounded(s.path, maxTokenBytes)
		if err != nil {
			return "", fmt.Errorf("read static token: %w", err)
		}
		token := strings.TrimSpace(string(raw))
		if !printable(token) {
			return "", fmt.Errorf("read static token: %s must hold one token on one line", s.path)
		}
		s.token, s.mtime, s.size = token, info.ModTime(), info.Size()
	}
	return s.token, nil
}

// printable reports whether s can stand in a header as a token.
func printable(s string) bool {
	return s != "" && len(s) <= maxTokenBytes && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return raw, nil
}

// ADC uses the gateway's own credential for every call.
func ADC(base Base) (Source, error) {
	b, err := newBase(base, []string{Scope}, Endpoints{})
	if err != nil {
		return nil, err
	}
	a := &adc{base: b}
	a.cache = newCache(a.mint)
	return a, nil
}

// unknownLifetime is how long a token is kept whose end the library does not know.
const unknownLifetime = 5 * time.Minute

// adc keeps the library's token once more, since callers of the library wait for
// each other's requests without regard to their contexts.
type adc struct {
	base  *baseCredential
	cache *cache
}

func (*adc) Describe() Credential { return Credential{Mode: ModeADC, Shared: true} }

func (a *adc) Credential(ctx context.Context, r Request) (Credential, error) {
	// One for all, which is what Shared says.
	return a.cache.get(ctx, cacheKey{}, Request{Connection: r.Connection})
}

func (a *adc) mint(ctx context.Context, r Request) (Credential, error) {
	token, err := a.base.token(ctx)
	if err != nil {
		return Credential{}, a.base.failed(r.Connection, err)
	}
	c := a.Describe()
	c.Token, c.Expires = token.Value, token.Expiry.UTC()
	if token.Expiry.IsZero() {
		c.Expires = a.cache.now().Add(unknownLifetime)
	}
	return c, nil
}

// Close implements [io.Closer].
func (a *adc) Close() error {
	a.cache.close()
	return nil
}
