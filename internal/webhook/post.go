package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// maxErrorText bounds what an error says, bytes.
const maxErrorText = 200

// try sends a notice once and notes in it what came of that. again says whether to try
// later, after how soon at the earliest.
func (l *line) try(ctx context.Context, it *item) (again bool, after time.Duration) {
	it.attempts++
	it.status = 0
	body, err := render(l.Format, &it.n)
	if err != nil {
		it.err = errors.New("the notice cannot be encoded") // its text is not for errors
		return false, 0
	}
	again, after, err = l.post(ctx, it, body)
	it.err = err
	return again, after
}

func (l *line) post(ctx context.Context, it *item, body []byte) (again bool, after time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.URL, bytes.NewReader(body))
	if err != nil {
		return false, 0, errors.New("its URL cannot be read") // which may hold a secret
	}
	at := l.cfg.Now()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "trailgate-webhook")
	req.Header.Set("Webhook-Id", it.n.ID)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	req.Header.Set("Webhook-Signature", Sign(l.Secret, it.n.ID, at, body))
	resp, err := l.cfg.HTTP.Do(req)
	if err != nil {
		return true, 0, l.unnamed(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // so that the connection can be used again
	it.status = resp.StatusCode
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return false, 0, nil
	case code >= 300 && code < 400:
		return false, 0, fmt.Errorf("it answers %d, a redirect, which is not followed", code)
	case code == http.StatusRequestTimeout, code == http.StatusConflict, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500:
		again, after = true, retryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	// Codes such as Slack's "invalid_blocks" help; other words may repeat what was sent.
	if said := strings.TrimSpace(string(answer)); errorCode.MatchString(said) {
		return again, after, fmt.Errorf("it answers %d, %s", resp.StatusCode, said)
	}
	return again, after, fmt.Errorf("it answers %d", resp.StatusCode)
}

var errorCode = regexp.MustCompile(`^[a-z]+(_[a-z]+){1,6}$`)

// retryAfter reads the header: seconds, or a date (RFC 9110, section 10.2.3). What
// cannot be read is as good as none.
func retryAfter(value string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// unnamed takes out of an error of net/http whatever may be a secret: the URL, and
// each part of it that could be one.
func (l *line) unnamed(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %v", timeout)
	case errors.Is(err, context.Canceled):
		return errors.New("cut before an answer came; it may have arrived")
	}
	for next := err; next != nil; next = errors.Unwrap(next) {
		err = next
	}
	text := err.Error()
	hide := []string{l.URL}
	if u, bad := url.Parse(l.URL); bad == nil {
		hide = append(hide, u.RequestURI(), u.Path)
		hide = append(hide, strings.FieldsFunc(u.RequestURI(), func(r rune) bool { return strings.ContainsRune("/?&=", r) })...)
	}
	for _, h := range hide {
		if len(h) >= 4 {
			text = strings.ReplaceAll(text, h, "…")
		}
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	return errors.New(cutBytes(text, maxErrorText))
}
