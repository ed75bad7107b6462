package identity

import (
	"encoding/base64"
	"path/filepath"
	"time"
)

// Bounds, for tests.
const (
	MaxAgents   = maxAgents
	MaxTokens   = maxTokens
	MaxSessions = maxSessions
)

// SetNow gives the store another clock.
func (s *Store) SetNow(now func() time.Time) { s.now = now }

// SetFault has fault called before each step of a write; its error becomes the
// step's. The steps are WriteSteps.
func (s *Store) SetFault(fault func(step string) error) { s.fault = fault }

// WriteSteps are the steps of a write, in order.
var WriteSteps = []string{"create", "write", "sync", "rename", "sync directory"}

// Format is how 256 bits become a token.
func Format(raw [32]byte) string { return format(raw) }

// Checksum is what ends a token that begins with body.
func Checksum(body string) string { sum := checksum(body); return string(sum[:]) }

// WellFormed is the check that asks no store.
func WellFormed(s string) bool { return wellFormed(s) }

// Dir is where the store is.
func (s *Store) Dir() string { return filepath.Dir(s.path) }

// Seal puts a payload under the key of session tokens.
func (a *Authenticator) Seal(payload string) string {
	body := sealPrefix + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return body + "." + base64.RawURLEncoding.EncodeToString(a.seal.mac(body))
}

// SetRevokeFault is [Store.SetFault] for writes of revoked session tokens.
func (a *Authenticator) SetRevokeFault(fault func(step string) error) { a.revoked.fault = fault }
