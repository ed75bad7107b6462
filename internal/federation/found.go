package federation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"cloud.google.com/go/auth/credentials"
	"github.com/go-json-experiment/json"
)

// Found is a Google credential that a process finds where it runs, the way Google's
// own libraries and tools find one. Of an agent it is a road past the gateway.
type Found struct {
	Where string // for people: the variable, the file, or the metadata server
	// Type is as in a credential's file ("service_account", "authorized_user", …),
	// or "access_token", or "metadata".
	Type string
	// Account is whose it is as IAM names members, where that can be told without
	// asking anybody: "serviceAccount:…", "user:…". May be empty.
	Account string

	file  string // holds it
	raw   []byte // of the file, JSON
	token string // of access_token, and of metadata once it was asked for
	keyID string // of service_account
	login bool   // made by "gcloud auth login", not by "… application-default login"
}

// Place is where to look.
type Place struct {
	Getenv func(string) string
	// Home is the user's own directory; empty means that there is none.
	Home string
	// HTTP asks the metadata server. Nil means one that waits two seconds and takes
	// no proxy: that server is never behind one.
	HTTP *http.Client
}

// metadataTimeout bounds the wait for a metadata server: where there is one, it is near.
const metadataTimeout = 2 * time.Second

// ownTokens begin the gateway's own tokens, which are nobody's credential at Google.
var ownTokens = []string{"tgt_", "tgs_", "tga_"}

// Find looks at the environment's variables, the files of gcloud and of
// Application Default Credentials, and the metadata server, and uses none of what
// is there. The second result names what was there and could not be read.
//
// It cannot see what other processes and users hold, or what an agent is told in
// its instructions.
func Find(ctx context.Context, p Place) (found []Found, unread []error) {
	for _, name := range []string{"CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN"} {
		if token := strings.TrimSpace(p.Getenv(name)); token != "" && !p.own(token) {
			found = append(found, Found{Where: name, Type: "access_token", token: token})
		}
	}
	if file := p.Getenv("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE"); file != "" {
		raw, err := readBounded(file, maxTokenBytes)
		switch token := strings.TrimSpace(string(raw)); {
		case err != nil:
			unread = append(unread, fmt.Errorf("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE: %w", err))
		case token != "" && !p.own(token):
			found = append(found, Found{Where: "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE, " + file, Type: "access_token", file: file, token: token})
		}
	}
	seen := map[string]bool{}
	for _, c := range p.files() {
		real, err := filepath.EvalSymlinks(c.file)
		if err != nil && c.named || err == nil && !seen[real] {
			seen[real] = true
			f, err := readFound(c)
			if err != nil {
				unread = append(unread, err)
				continue
			}
			found = append(found, *f)
		}
	}
	if f := p.metadata(ctx); f != nil {
		found = append(found, *f)
	}
	return found, unread
}

// own reports whether a token is the gateway's, and so must not be sent elsewhere.
func (p Place) own(token string) bool {
	for _, prefix := range ownTokens {
		if strings.HasPrefix(token, prefix) {
			return true
		}
	}
	if token == p.Getenv("TRAILGATE_TOKEN") {
		return true
	}
	file := p.Getenv("TRAILGATE_TOKEN_FILE")
	if file == "" {
		return false
	}
	raw, err := readBounded(file, maxTokenBytes)
	return err == nil && token == strings.TrimSpace(string(raw))
}

// candidate is a file that may hold a credential.
type candidate struct {
	file, where string
	named       bool // a variable names it, so its absence is worth a word
	login       bool
	account     string
}

// files lists where Google's libraries and gcloud keep credentials. "trailgate run"
// gives clients a gcloud configuration of their own; the user's stays where it is,
// and so is looked at as well.
func (p Place) files() (list []candidate) {
	for _, name := range []string{"GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE"} {
		if file := p.Getenv(name); file != "" {
			list = append(list, candidate{file: file, where: name + ", " + file, named: true})
		}
	}
	dirs := []string{p.Getenv("CLOUDSDK_CONFIG")}
	if p.Home != "" {
		dirs = append(dirs, filepath.Join(p.Home, ".config", "gcloud"))
	}
	if at := p.Getenv("APPDATA"); runtime.GOOS == "windows" && at != "" {
		dirs = append(dirs, filepath.Join(at, "gcloud"))
	}
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		adc := filepath.Join(dir, "application_default_credentials.json")
		list = append(list, candidate{file: adc, where: adc})
		logins, err := os.ReadDir(filepath.Join(dir, "legacy_credentials"))
		if err != nil {
			continue // there are none
		}
		for _, l := range logins {
			file := filepath.Join(dir, "legacy_credentials", l.Name(), "adc.json")
			list = append(list, candidate{file: file, where: file, login: true, account: l.Name()})
		}
	}
	return list
}

func readFound(c candidate) (*Found, error) {
	raw, err := readBounded(c.file, maxCredentialBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.where, err)
	}
	var kind struct {
		kindOfCredential
		KeyID string `json:"private_key_id"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil || kind.Type == "" {
		return nil, fmt.Errorf("%s: it is not a credential as Google's tools write it: a JSON object with a \"type\"", c.where)
	}
	f := &Found{Where: c.where, Type: word(kind.Type), file: c.file, raw: raw, keyID: word(kind.KeyID), login: c.login}
	switch email := impersonated(kind.Impersonation); {
	case email != "":
		f.Account = "serviceAccount:" + email
	case accountForm.MatchString(kind.Email):
		f.Account = "serviceAccount:" + kind.Email
	case strings.Contains(c.account, "@"):
		f.Account = "user:" + c.account
	}
	return f, nil
}

// impersonated is the account that a credential's impersonation URL names.
func impersonated(at string) string {
	email := strings.TrimSuffix(at[strings.LastIndexByte(at, '/')+1:], ":generateAccessToken")
	if !accountForm.MatchString(email) {
		return ""
	}
	return email
}

// Token gets an access token by what was found. The error's text holds no secret.
func (f *Found) Token(ctx context.Context) (string, error) {
	if f.token != "" {
		return f.token, nil
	}
	creds, err := credentials.NewCredentialsFromJSON(credentials.CredType(f.Type), f.raw, &credentials.DetectOptions{
		Scopes: []string{scopeCloud}, DisableAsyncRefresh: true, Client: Endpoints{}.withDefaults().HTTP,
	})
	if err != nil {
		return "", clean(err, nil)
	}
	token, err := creds.Token(ctx)
	if err != nil {
		return "", clean(err, nil)
	}
	if !printable(token.Value) {
		return "", fmt.Errorf("%w: there is no token in it", errAnswer)
	}
	return token.Value, nil
}

// metadata asks Google's metadata server, whose token every process of the machine
// or the pod can have.
func (p Place) metadata(ctx context.Context) *Found {
	host := p.Getenv("GCE_METADATA_HOST")
	if host == "" {
		host = "169.254.169.254" // by address: a name would be asked of any resolver
	}
	client := p.HTTP
	if client == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.Proxy = nil
		defer t.CloseIdleConnections()
		client = &http.Client{Transport: t, Timeout: metadataTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	base := "http://" + host + "/computeMetadata/v1/instance/service-accounts/default/"
	var answer struct {
		Token string `json:"access_token"`
	}
	raw, err := askMetadata(ctx, client, base+"token")
	if err != nil || json.Unmarshal(raw, &answer) != nil || !printable(answer.Token) {
		return nil // no such server, or one without an account
	}
	f := &Found{Where: "the metadata server " + host, Type: "metadata", token: answer.Token}
	if raw, err := askMetadata(ctx, client, base+"email"); err == nil && accountForm.Match(raw) {
		f.Account = "serviceAccount:" + string(raw)
	}
	return f
}

func askMetadata(ctx context.Context, client *http.Client, at string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenBytes))
	err = errors.Join(err, resp.Body.Close())
	// Whatever else listens on that address does not answer with the header.
	if err == nil && (resp.StatusCode != http.StatusOK || resp.Header.Get("Metadata-Flavor") != "Google") {
		err = fmt.Errorf("it answered %d", resp.StatusCode)
	}
	return raw, err
}
