package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// API reaches BigQuery's REST API as whoever may see all jobs.
type API struct {
	Root  *url.URL          // such as https://bigquery.googleapis.com
	HTTP  http.RoundTripper // follows no redirect
	Token func(ctx context.Context) (string, error)
	// Reason goes with each request, for BigQuery's own log; an entry's id.
	Reason string
	// Pause waits between tries. Optional.
	Pause func(ctx context.Context, d time.Duration) error
}

const (
	apiTries     = 6
	apiTimeout   = 2 * time.Minute
	maxAPIError  = 64 << 10
	maxJobAnswer = 64 << 20
)

// apiError is BigQuery's answer where there is none to read.
type apiError struct {
	status          int
	reason, message string
}

func (e *apiError) Error() string {
	text := fmt.Sprintf("BigQuery answered %d", e.status)
	if e.reason != "" {
		text += " " + e.reason
	}
	if e.message != "" {
		text += ": " + e.message
	}
	if e.status == http.StatusForbidden {
		text += "; the credential under \"reconcile\" needs bigquery.jobs.listAll, and bigquery.jobs.get: roles/bigquery.resourceViewer on the project (docs/completeness.md)"
	}
	if e.status == http.StatusUnauthorized {
		text += "; the credential under \"reconcile\" is not accepted"
	}
	return text
}

// do asks, tries again where that may help, and hands the body of a 200 to read, once:
// what breaks off within a body is the caller's to begin anew.
func (a *API) do(ctx context.Context, verb, path string, q url.Values, body []byte, read func(io.Reader) error) error {
	wait := 500 * time.Millisecond
	for try := 1; ; try++ {
		err := a.once(ctx, verb, path, q, body, read)
		temporary := errors.Is(err, errUnanswered) && !errors.Is(err, ErrInVain)
		if e, ok := errors.AsType[*apiError](err); ok {
			temporary = e.status == http.StatusTooManyRequests || e.status >= 500 || e.status == http.StatusForbidden && (e.reason == "rateLimitExceeded" || e.reason == "quotaExceeded")
		}
		if err == nil || !temporary || try == apiTries || ctx.Err() != nil {
			return err
		}
		if err := a.pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, 15*time.Second)
	}
}

// errUnanswered means that there was no answer, whole or in part.
var errUnanswered = errors.New("BigQuery did not answer")

// ErrInVain is of a transport that knows that asking again does not help.
var ErrInVain = errors.New("asking again does not help")

func (a *API) pause(ctx context.Context, d time.Duration) error {
	if a.Pause != nil {
		return a.Pause(ctx, d)
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *API) once(ctx context.Context, verb, path string, q url.Values, body []byte, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	at := strings.TrimSuffix(a.Root.String(), "/") + "/bigquery/v2/" + path
	if len(q) > 0 {
		at += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, verb, at, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask BigQuery: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("X-Goog-Request-Reason", a.Reason)
	token, err := a.Token(ctx)
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := a.HTTP.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnanswered, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return read(resp.Body)
	}
	e := &apiError{status: resp.StatusCode}
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxAPIError)) // what there is of it
	var said struct {
		Error struct {
			Message string `json:"message"`
			Errors  []struct {
				Reason string `json:"reason"`
			} `json:"errors"`
		} `json:"error"`
	}
	if json.Unmarshal(raw, &said) == nil {
		e.message = clip(said.Error.Message, 500)
		if len(said.Error.Errors) > 0 {
			e.reason = clip(said.Error.Errors[0].Reason, 64)
		}
	}
	return e
}

// millis is a time as the API counts it.
func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

// lastMillis is the last millisecond before t.
func lastMillis(t time.Time) string {
	return strconv.FormatInt((t.UnixNano()-1)/int64(time.Millisecond), 10)
}

// number reads what the API writes as a string; -1 where there is none.
func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "…"
}
