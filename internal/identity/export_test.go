package identity

import "time"

// SetNow gives the store another clock.
func (s *Store) SetNow(now func() time.Time) { s.now = now }

// Format is how 256 bits become a token.
func Format(raw [32]byte) string { return format(raw) }

// WellFormed is the check that asks no store.
func WellFormed(s string) bool { return wellFormed(s) }
