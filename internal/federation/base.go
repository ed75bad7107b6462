package federation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	"github.com/go-json-experiment/json"
)

// maxCredentialBytes bounds a credential file; a service account's key has 2.4 KiB.
const maxCredentialBytes = 64 << 10

// Base is the gateway's own credential, by Google's own library.
type Base struct {
	// File is a credential as Google's tools write it: service_account,
	// external_account (Workload Identity Federation), impersonated_service_account
	// and so on. It is read again when it changes. Empty means Application
	// Default Credentials: GOOGLE_APPLICATION_CREDENTIALS, the file of "gcloud auth
	// application-default login", or the metadata server, in that order
	// (https://cloud.google.com/docs/authentication/application-default-credentials).
	//
	// Such a file names URLs that it is sent to, so it must be the operator's own.
	File string
}

type baseCredential struct {
	file   string
	scopes []string
	ends   Endpoints

	mu    sync.Mutex // guards what follows
	creds *auth.Credentials
	mtime time.Time
	size  int64
}

// newBase finds the credential; it is not used yet.
func newBase(b Base, scopes []string, ends Endpoints) (*baseCredential, error) {
	base := &baseCredential{file: b.File, scopes: scopes, ends: ends.withDefaults()}
	if _, err := base.current(); err != nil {
		return nil, err
	}
	return base, nil
}

// current returns the library's credentials, which cache their token.
func (b *baseCredential) current() (*auth.Credentials, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// The token endpoint of a key file is the one in the file, as for all of
	// Google's tools. The library's default client serves ADC, since the metadata
	// server is no host that an operator's CA or proxy would know.
	// No refresh in the background: it would end with the context of the mint that began it.
	opts := &credentials.DetectOptions{Scopes: b.scopes, TokenURL: b.ends.OAuthToken, DisableAsyncRefresh: true}
	if b.file == "" {
		if b.creds == nil {
			creds, err := credentials.DetectDefault(opts)
			if err != nil {
				return nil, fmt.Errorf("find Application Default Credentials: %w; set GOOGLE_APPLICATION_CREDENTIALS or run 'gcloud auth application-default login'", clean(err, nil))
			}
			b.creds = creds
		}
		return b.creds, nil
	}
	info, err := os.Stat(b.file)
	if err != nil {
		return nil, fmt.Errorf("read credential file: %w", err)
	}
	if b.creds != nil && info.ModTime().Equal(b.mtime) && info.Size() == b.size {
		return b.creds, nil
	}
	raw, err := readBounded(b.file, maxCredentialBytes)
	if err != nil {
		return nil, fmt.Errorf("read credential file: %w", err)
	}
	var kind struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil || kind.Type == "" {
		return nil, fmt.Errorf("read credential file: %s is not a credential as Google's tools write it: a JSON object with a \"type\"", b.file)
	}
	opts.Client = b.ends.HTTP
	creds, err := credentials.NewCredentialsFromJSON(credentials.CredType(kind.Type), raw, opts)
	if err != nil {
		return nil, fmt.Errorf("read credential file %s: %w", b.file, clean(err, nil))
	}
	b.creds, b.mtime, b.size = creds, info.ModTime(), info.Size()
	return creds, nil
}

func (b *baseCredential) token(ctx context.Context) (*auth.Token, error) {
	creds, err := b.current()
	if err != nil {
		return nil, err
	}
	token, err := creds.Token(ctx)
	if err != nil {
		return nil, err
	}
	if !printable(token.Value) {
		return nil, fmt.Errorf("%w: there is no token in it", errAnswer)
	}
	return token, nil
}

// failed tells that the gateway has no credential of its own. The library's error
// may hold an endpoint's whole answer, which is cut and cleaned.
func (b *baseCredential) failed(connection string, err error) *Error {
	e := &Error{Connection: connection, Step: StepBase, Message: "the gateway's own Google credential is not to be had: " + clean(err, nil).Error()}
	if known, ok := errors.AsType[*auth.Error](err); ok {
		e.Temporary = known.Temporary()
	} else if _, file := errors.AsType[*os.PathError](err); !file {
		e.Temporary = temporary(err)
	}
	switch b.kind().Type {
	case "authorized_user":
		e.Fix = "gcloud auth application-default login"
	case "service_account":
		e.Fix = "check that the key in " + b.where() + " is not deleted: gcloud iam service-accounts keys list --iam-account=" + b.kind().Email
	case "external_account":
		e.Fix = "check what " + b.where() + " names: its audience, and the file, URL or command that the subject token comes from"
	case "":
		e.Fix = "set credential_file or GOOGLE_APPLICATION_CREDENTIALS, or run: gcloud auth application-default login"
	}
	return e
}

// where names the credential for people.
func (b *baseCredential) where() string {
	if b.file != "" {
		return b.file
	}
	return "the Application Default Credentials"
}

// kindOfCredential is what a credential's file tells about whose it is.
type kindOfCredential struct {
	Type          string `json:"type"` // "metadata" where there is no file
	Email         string `json:"client_email"`
	Impersonation string `json:"service_account_impersonation_url"`
	Audience      string `json:"audience"`
	Source        struct {
		File string `json:"file"`
	} `json:"credential_source"`
}

func (b *baseCredential) kind() kindOfCredential {
	b.mu.Lock()
	defer b.mu.Unlock()
	var k kindOfCredential
	switch {
	case b.creds == nil:
	case len(b.creds.JSON()) == 0:
		k.Type = "metadata"
	default:
		_ = json.Unmarshal(b.creds.JSON(), &k) // the library has read it
	}
	return k
}

// member is the base credential as IAM policies name it, fit for a shell: where it
// can only be found out on the machine, a command that prints it.
func (b *baseCredential) member() string {
	k := b.kind()
	if email := impersonated(k.Impersonation); email != "" { // of external_account and impersonated_service_account
		return "serviceAccount:" + email
	}
	switch k.Type {
	case "service_account":
		if accountForm.MatchString(k.Email) {
			return "serviceAccount:" + k.Email
		}
	case "metadata":
		return `serviceAccount:"$(curl -s -H Metadata-Flavor:Google http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/email)"`
	case "authorized_user":
		return `user:"$(gcloud config get-value account)"`
	case "external_account":
		subject := "SUBJECT"
		if filepath.IsAbs(k.Source.File) {
			if raw, err := readBounded(k.Source.File, maxTokenBytes); err == nil {
				if s := subjectOf(strings.TrimSpace(string(raw))); s != "" {
					subject = s
				}
			}
		}
		if p := poolPrincipal(k.Audience, subject); p != "" {
			return quote(p)
		}
	}
	return "MEMBER"
}
