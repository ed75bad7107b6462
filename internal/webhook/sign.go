package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	minSecret     = 24 // bytes, as Standard Webhooks wants
	maxSecret     = 64
	tolerance     = 5 * time.Minute // of a receiver's clock
	maxSignatures = 16              // that a receiver looks at
)

// Secret is a key that signs. It cannot be printed, logged or encoded by accident.
type Secret []byte

const redacted = "[secret]"

// Format writes the same for each verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue is for slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText is for JSON and whatever else encodes.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// ParseSecret reads a key as Standard Webhooks writes it: "whsec_" and base64.
func ParseSecret(text string) (Secret, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), "whsec_")
	key, err := base64.StdEncoding.DecodeString(rest)
	if !ok || err != nil || len(key) < minSecret || len(key) > maxSecret {
		return nil, fmt.Errorf("want \"whsec_\" and %d to %d random bytes in base64 (printf 'whsec_%%s\\n' \"$(openssl rand -base64 32)\")", minSecret, maxSecret)
	}
	return key, nil
}

// Sign is the signature of a notice: "v1," and base64.
func Sign(secret Secret, id string, at time.Time, body []byte) string {
	return sign(secret, id, strconv.FormatInt(at.Unix(), 10), body)
}

func sign(secret Secret, id, at string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Verify reports whether headers and body are a notice that was signed with secret,
// no more than five minutes from now. It is what a receiver does, who also has to
// drop ids that were seen before.
func Verify(secret Secret, h http.Header, body []byte, now time.Time) error {
	id, at := h.Get("Webhook-Id"), h.Get("Webhook-Timestamp")
	unix, err := strconv.ParseInt(at, 10, 64)
	if err != nil || id == "" {
		return errors.New("webhook: no id, or no time")
	}
	if unix < now.Add(-tolerance).Unix() || unix > now.Add(tolerance).Unix() {
		return errors.New("webhook: too old, or from the future")
	}
	want := []byte(sign(secret, id, at, body)) // over what came, not over how it was read
	looked := 0
	for got := range strings.FieldsSeq(h.Get("Webhook-Signature")) {
		if subtle.ConstantTimeCompare([]byte(got), want) == 1 {
			return nil
		}
		if looked++; looked == maxSignatures {
			break
		}
	}
	return errors.New("webhook: the signature is not the sender's")
}
