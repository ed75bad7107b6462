package identity

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
)

const (
	maxTokens = 100_000

	// DefaultTTL and MaxTTL bound how long a token lives.
	DefaultTTL = 24 * time.Hour
	MaxTTL     = 366 * 24 * time.Hour

	// AuthMode and Issuer are what a principal says that came by a gateway token.
	AuthMode = "gateway_token"
	Issuer   = "trailgate"
)

// ErrNoToken means that there is no token of that id.
var ErrNoToken = errors.New("no such token")

// Token is an issued token, all but the secret.
type Token struct {
	ID      string     `json:"id"` // "tok_" and a ULID in lower case
	Agent   string     `json:"agent"`
	Note    string     `json:"note,omitempty"`
	Title   string     `json:"title,omitempty"`   // of the session, as claimed
	Purpose string     `json:"purpose,omitempty"` // of the session, as claimed
	Created time.Time  `json:"created"`
	Expires time.Time  `json:"expires"`
	Revoked *time.Time `json:"revoked,omitempty"`
	// SessionBound tokens were made for one session, by "trailgate run".
	SessionBound bool `json:"session_bound,omitzero"`
}

// Identity is what a valid credential proves.
type Identity struct {
	Principal trailgate.Principal
	Token     Token
}

// TokenOptions say what token to issue.
type TokenOptions struct {
	// ID is the token's id, from [NewTokenID]. Optional.
	ID             string
	TTL            time.Duration // Default DefaultTTL, at most MaxTTL.
	Note           string        // Optional, up to 500 bytes.
	Title, Purpose string        // Optional, up to 500 bytes; claims about the session.
	SessionBound   bool
}

func (o *TokenOptions) check() error {
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	switch {
	case o.ID != "" && !tokenID.MatchString(o.ID):
		return fmt.Errorf("%w: a token's id is made by this gateway", ErrInvalid)
	case o.TTL < time.Second || o.TTL > MaxTTL:
		return fmt.Errorf("%w: a token lives between 1 second and %d days, not %s", ErrInvalid, MaxTTL/(24*time.Hour), o.TTL)
	case len(o.Note) > maxNote || len(o.Title) > maxNote || len(o.Purpose) > maxNote:
		return fmt.Errorf("%w: note, title and purpose are at most %d bytes each", ErrInvalid, maxNote)
	}
	return nil
}

// IssueToken makes a token for an agent and returns its secret, which is
// nowhere to be had again. Tokens that ended are forgotten to make room.
// Errors are [ErrNoAgent], [ErrRevoked], [ErrInvalid], [ErrFull], or tell that
// nothing could be written; no token exists then.
func (s *Store) IssueToken(agent string, o TokenOptions) (secret string, t Token, err error) {
	if err := o.check(); err != nil {
		return "", Token{}, err
	}
	if o.ID == "" {
		if o.ID, err = NewTokenID(); err != nil {
			return "", Token{}, err
		}
	}
	if secret, err = newSecret(); err != nil {
		return "", Token{}, err
	}
	s.change.Lock()
	defer s.change.Unlock()
	a := s.agents[agent]
	switch {
	case a == nil:
		return "", Token{}, fmt.Errorf("%w: %s; make it with 'trailgate agent add'", ErrNoAgent, agent)
	case a.Revoked != nil:
		return "", Token{}, fmt.Errorf("agent %s: %w", agent, ErrRevoked)
	case s.tokens[o.ID] != nil:
		return "", Token{}, fmt.Errorf("%w: a token has the id %s already", ErrInvalid, o.ID)
	}
	now := s.now().UTC()
	drop := s.endedLocked(now)
	if len(s.tokens)-len(drop) >= maxTokens {
		return "", Token{}, fmt.Errorf("%w: there are %d live tokens, which is the most that one gateway keeps; revoke some", ErrFull, maxTokens)
	}
	r := &tokenRecord{hash: digestOf(secret)}
	r.SHA256 = hex.EncodeToString(r.hash[:])
	r.Token = Token{
		ID: o.ID, Agent: agent, Note: strings.ToValidUTF8(o.Note, "�"), Title: strings.ToValidUTF8(o.Title, "�"),
		Purpose: strings.ToValidUTF8(o.Purpose, "�"), Created: now, Expires: now.Add(o.TTL), SessionBound: o.SessionBound,
	}
	if err := s.commitLocked(edit{token: r, drop: drop}); err != nil {
		return "", Token{}, err
	}
	return secret, r.Token, nil
}

// keepEnded is how long a token that ended is still listed, and its use told
// apart from that of an unknown one.
const keepEnded = 30 * 24 * time.Hour

// endedLocked are the tokens that may be forgotten now: those that ended long
// ago, or, where there is no room, at all.
func (s *Store) endedLocked(now time.Time) []*tokenRecord {
	full := len(s.tokens) >= maxTokens
	var drop []*tokenRecord
	for _, t := range s.tokens {
		end := t.Expires
		if t.Revoked != nil && t.Revoked.Before(end) {
			end = *t.Revoked
		}
		if age := now.Sub(end); age > keepEnded || full && age > 0 {
			drop = append(drop, t)
		}
	}
	return drop
}

// RevokeToken ends a token at once. It is not undone, and not an error twice.
func (s *Store) RevokeToken(id string) error {
	s.change.Lock()
	defer s.change.Unlock()
	old := s.tokens[id]
	if old == nil {
		return fmt.Errorf("%w: %s", ErrNoToken, id)
	}
	if old.Revoked != nil {
		return nil
	}
	t, now := *old, s.now().UTC()
	t.Revoked = &now
	return s.commitLocked(edit{token: &t})
}

// Token returns one token, or [ErrNoToken].
func (s *Store) Token(id string) (Token, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t := s.tokens[id]
	if t == nil {
		return Token{}, fmt.Errorf("%w: %s", ErrNoToken, id)
	}
	return t.Token, nil
}

// Tokens lists an agent's tokens, newest first.
func (s *Store) Tokens(agent string) []Token {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Token
	for _, t := range s.tokens {
		if t.Agent == agent {
			out = append(out, t.Token)
		}
	}
	slices.SortFunc(out, func(a, b Token) int { return strings.Compare(b.ID, a.ID) })
	return out
}

// Authenticate says whose token this is. Errors are [ErrMalformed],
// [ErrUnknown], [ErrExpired] and [ErrRevoked].
//
// It does no I/O and waits for none: a change that is being written does not
// hold it up, and is seen by the first call after it was written.
func (s *Store) Authenticate(bearer string) (Identity, error) {
	if !wellFormed(bearer) {
		return Identity{}, ErrMalformed
	}
	hash := digestOf(bearer)
	var agent *Agent
	s.mu.RLock()
	t := s.hashes[hash]
	if t != nil {
		agent = s.agents[t.Agent]
	}
	s.mu.RUnlock()
	switch {
	case t == nil:
		return Identity{}, ErrUnknown
	case t.Revoked != nil || agent.Revoked != nil:
		return Identity{}, ErrRevoked
	case !s.now().Before(t.Expires):
		return Identity{}, ErrExpired
	}
	return Identity{
		Principal: trailgate.Principal{Agent: t.Agent, TokenID: t.ID, Issuer: Issuer, Subject: t.Agent, AuthMode: AuthMode},
		Token:     t.Token,
	}, nil
}
