// Package federation turns a principal into the Google access token that its
// calls carry upstream. It is the only place where a Google credential is held;
// the agent's own token never goes further than the gateway.
//
// Modes so far: "none" (the upstream asks for no credential), "static" (a token
// from a file) and "adc" (Application Default Credentials). In the last two the
// credential is the gateway's and not the agent's own; [Credential.Shared] says
// so, and every entry repeats it.
package federation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"

	"github.com/trailgate/trailgate"
)

// Scope is what a token is good for: BigQuery, all of it. What an agent may do
// is decided by policy here and by IAM there.
const Scope = "https://www.googleapis.com/auth/bigquery"

// maxTokenBytes bounds a token file; Google's access tokens stay below 4 KiB.
const maxTokenBytes = 16 << 10

// Credential is what one call carries upstream.
type Credential struct {
	Token     string // empty in mode "none"; secret
	Mode      string
	Principal string // as whom, where it is known before the call
	Shared    bool   // not the agent's own
}

// LogValue keeps the token out of every log.
func (c Credential) LogValue() slog.Value {
	return slog.GroupValue(slog.String("mode", c.Mode), slog.String("principal", c.Principal))
}

// Source mints credentials for one connection. Implementations are safe for
// concurrent use and cache what they mint.
type Source interface {
	// Credential returns the token for the principal's next call. The error
	// names what failed and the next step; it never holds a secret.
	Credential(ctx context.Context, p *trailgate.Principal) (Credential, error)
	// Describe tells what every credential of this source has in common, with
	// no I/O: mode and Shared. The intent entry holds it.
	Describe() Credential
}

// None is for an upstream that asks for no credential.
func None() Source { return none{} }

type none struct{}

func (none) Describe() Credential { return Credential{Mode: "none"} }

func (n none) Credential(context.Context, *trailgate.Principal) (Credential, error) {
	return n.Describe(), nil
}

// Static reads the token from a file, and again when the file changes.
func Static(path string) (Source, error) {
	s := &static{path: path}
	if _, err := s.Credential(context.Background(), nil); err != nil {
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

func (*static) Describe() Credential { return Credential{Mode: "static", Shared: true} }

func (s *static) Credential(context.Context, *trailgate.Principal) (Credential, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := os.Stat(s.path)
	if err != nil {
		return Credential{}, fmt.Errorf("read static token: %w", err)
	}
	if s.token == "" || !info.ModTime().Equal(s.mtime) || info.Size() != s.size {
		if info.Size() > maxTokenBytes {
			return Credential{}, fmt.Errorf("read static token: %s is larger than %d bytes", s.path, maxTokenBytes)
		}
		raw, err := os.ReadFile(s.path)
		if err != nil {
			return Credential{}, fmt.Errorf("read static token: %w", err)
		}
		token := strings.TrimSpace(string(raw))
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return Credential{}, fmt.Errorf("read static token: %s must hold one token on one line", s.path)
		}
		s.token, s.mtime, s.size = token, info.ModTime(), info.Size()
	}
	c := s.Describe()
	c.Token = s.token
	return c, nil
}

// ADC uses Application Default Credentials: GOOGLE_APPLICATION_CREDENTIALS,
// the gcloud file, or the metadata server, in that order
// (https://cloud.google.com/docs/authentication/application-default-credentials).
func ADC() (Source, error) {
	creds, err := credentials.DetectDefault(&credentials.DetectOptions{Scopes: []string{Scope}})
	if err != nil {
		return nil, fmt.Errorf("find Application Default Credentials: %w; set GOOGLE_APPLICATION_CREDENTIALS or run 'gcloud auth application-default login'", err)
	}
	return &adc{creds: creds}, nil
}

type adc struct{ creds *auth.Credentials }

func (*adc) Describe() Credential { return Credential{Mode: "adc", Shared: true} }

func (a *adc) Credential(ctx context.Context, _ *trailgate.Principal) (Credential, error) {
	token, err := a.creds.Token(ctx)
	if err != nil {
		return Credential{}, fmt.Errorf("mint an access token from Application Default Credentials: %w", bounded(err))
	}
	c := a.Describe()
	c.Token = token.Value
	return c, nil
}

// maxErrorText bounds what of a token endpoint's answer goes into an error.
const maxErrorText = 300

// bounded cuts an outsider's text. Endpoints answer errors with a code and a
// description, which the operator needs; none of them echoes a credential.
func bounded(err error) error {
	if text := err.Error(); len(text) > maxErrorText {
		return errors.New(strings.ToValidUTF8(text[:maxErrorText], "") + "…")
	}
	return err
}
