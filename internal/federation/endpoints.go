package federation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// Bounds on what a token endpoint may do to us.
const (
	endpointTimeout = 30 * time.Second
	maxAnswerBytes  = 256 << 10
	maxErrorText    = 300 // bytes of its words in an error
)

// Endpoints are where tokens come from. The zero value means Google's; a private
// environment (Private Service Connect, a sovereign cloud, a test) has its own.
// Each must be trusted as Google is: they are sent secrets.
type Endpoints struct {
	STS            string // base URL; "/v1/token" is put behind it
	IAMCredentials string // base URL; "/v1/projects/-/serviceAccounts/…" is put behind it
	OAuthAuth      string // where a browser is sent to consent
	OAuthToken     string
	OAuthRevoke    string
	UserInfo       string // OpenID Connect userinfo
	// HTTP makes the requests. Optional. Redirects are not followed in any case:
	// they could lead a secret elsewhere.
	HTTP *http.Client
}

// withDefaults fills in Google's, and makes the client one that follows nothing.
func (e Endpoints) withDefaults() Endpoints {
	set := func(at *string, google string) {
		if *at == "" {
			*at = google
		}
		*at = strings.TrimSuffix(*at, "/")
	}
	set(&e.STS, "https://sts.googleapis.com")
	set(&e.IAMCredentials, "https://iamcredentials.googleapis.com")
	set(&e.OAuthAuth, "https://accounts.google.com/o/oauth2/v2/auth")
	set(&e.OAuthToken, "https://oauth2.googleapis.com/token")
	set(&e.OAuthRevoke, "https://oauth2.googleapis.com/revoke")
	set(&e.UserInfo, "https://openidconnect.googleapis.com/v1/userinfo")
	client := http.Client{}
	if e.HTTP != nil {
		client = *e.HTTP
	} else {
		client.Transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment, // as Google's own libraries do
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: endpointTimeout, IdleConnTimeout: time.Minute,
			MaxResponseHeaderBytes: 64 << 10, MaxIdleConnsPerHost: 16, ForceAttemptHTTP2: true,
		}
	}
	if client.Timeout <= 0 || client.Timeout > endpointTimeout {
		client.Timeout = endpointTimeout
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	e.HTTP = &client
	return e
}

// refusal is an endpoint's answer that is not a success.
type refusal struct {
	Status  int
	Code    string // OAuth's "error", or Google's "status"
	Subtype string // OAuth's "error_subtype", which Google has
	Text    string // its words, cut and without secrets
}

func (r *refusal) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "it answered %d", r.Status)
	for _, s := range []string{r.Code, r.Subtype} {
		if s != "" {
			b.WriteString(" " + s)
		}
	}
	if r.Text != "" {
		b.WriteString(": " + r.Text)
	}
	return b.String()
}

// temporary reports whether trying again may help.
func temporary(err error) bool {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.Status >= 500 || r.Status == http.StatusTooManyRequests || r.Status == http.StatusRequestTimeout ||
			r.Code == "temporarily_unavailable" || r.Code == "server_error" || r.Code == "slow_down"
	}
	return !errors.Is(err, errAnswer)
}

// errAnswer means that an endpoint said yes in a way that cannot be used.
var errAnswer = errors.New("its answer cannot be used")

// postForm sends a form and reads the JSON answer into out. Members of the form
// that secrets names are kept out of errors, should the endpoint echo them.
func (e Endpoints) postForm(ctx context.Context, at string, form url.Values, out any, secrets ...string) error {
	hide := make([]string, 0, len(secrets))
	for _, name := range secrets {
		hide = append(hide, form.Get(name))
	}
	return e.do(ctx, http.MethodPost, at, "application/x-www-form-urlencoded", "", []byte(form.Encode()), out, hide)
}

// do makes one request and reads the JSON answer into out, which is nil where no
// answer matters. It does not try twice: callers cache failures for a moment, and
// clients try again.
func (e Endpoints) do(ctx context.Context, method, at, contentType, bearer string, body []byte, out any, hide []string) error {
	req, err := http.NewRequestWithContext(ctx, method, at, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: its URL is not valid", errAnswer)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("Accept", "application/json")
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
		hide = append(hide, bearer)
	}
	resp, err := e.HTTP.Do(req)
	if err != nil {
		return fmt.Errorf("it cannot be reached: %w", clean(err, hide))
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	_ = resp.Body.Close() // what was read is what counts
	switch {
	case err != nil:
		return fmt.Errorf("its answer broke off: %w", clean(err, hide))
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return readRefusal(resp.StatusCode, raw, hide)
	case len(raw) > maxAnswerBytes:
		return fmt.Errorf("%w: larger than %d bytes", errAnswer, maxAnswerBytes)
	case out == nil:
		return nil
	}
	// Unknown members are ignored, repeated ones and bad UTF-8 refused. The
	// decoder's error may quote what it read, so it is not passed on.
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%w: it is not the JSON that was expected", errAnswer)
	}
	return nil
}

// readRefusal reads OAuth's errors (RFC 6749 section 5.2) and those of Google's APIs
// (https://cloud.google.com/apis/design/errors).
func readRefusal(status int, raw []byte, hide []string) *refusal {
	r := &refusal{Status: status}
	var oauth struct {
		Error       string `json:"error"`
		Subtype     string `json:"error_subtype"`
		Description string `json:"error_description"`
	}
	var api struct {
		Error struct {
			Status  string `json:"status"`
			Message string `json:"message"`
		} `json:"error"`
	}
	switch {
	case len(raw) > maxAnswerBytes:
	case json.Unmarshal(raw, &oauth) == nil && oauth.Error != "":
		r.Code, r.Subtype, r.Text = word(oauth.Error), word(oauth.Subtype), cleanText(oauth.Description, hide)
	case json.Unmarshal(raw, &api) == nil:
		r.Code, r.Text = word(api.Error.Status), cleanText(api.Error.Message, hide)
	}
	return r
}

// word lets an error code pass, and nothing that could be anything else.
func word(s string) string {
	if len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	}) {
		return ""
	}
	return s
}

// looksSecret finds JWTs (also those without their signature), Google's access,
// refresh and federated tokens, client secrets and private keys.
var looksSecret = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*){0,2}|ya29\.[A-Za-z0-9._-]+|1//[A-Za-z0-9_-]{10,}|GOCSPX-[A-Za-z0-9_-]+|-----BEGIN[^\n]*PRIVATE KEY-----(?s:.*)`)

// cleanText cuts an outsider's words and takes out secrets and what could steer a
// terminal. Endpoints do not echo credentials, but one that is not Google's might.
func cleanText(s string, hide []string) string {
	for _, secret := range hide {
		if len(secret) >= 6 {
			s = strings.ReplaceAll(s, secret, "[secret]")
			s = strings.ReplaceAll(s, url.QueryEscape(secret), "[secret]")
		}
	}
	s = looksSecret.ReplaceAllString(s, "[secret]")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || (r >= 0x200b && r <= 0x200f) || (r >= 0x2028 && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) || r == 0xfeff {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxErrorText {
		s = strings.ToValidUTF8(s[:maxErrorText], "") + "…"
	}
	return s
}

// clean does so with an error, and keeps what it is for errors.Is.
func clean(err error, hide []string) error {
	return &cleaned{text: cleanText(err.Error(), hide), err: err}
}

type cleaned struct {
	text string
	err  error
}

func (c *cleaned) Error() string { return c.text }
func (c *cleaned) Unwrap() error { return c.err }
