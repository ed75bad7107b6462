package identity

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/trailgate/trailgate"
)

const (
	maxTokens = 100_000

	// DefaultTTL and MaxTTL bound how long a token lives.
	DefaultTTL = 24 * time.Hour
	MaxTTL     = 366 * 24 * time.Hour

	// AuthMode and Issuer are what a principal says that came by a gateway token.
	AuthMode = trailgate.AuthGatewayToken
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
	// Connections are those that the token may be used for. Empty: all.
	Connections []string `json:"connections,omitempty"`
	// Sources are the networks (RFC 4632 notation) and addresses that it may be
	// used from. Empty: any.
	Sources []string `json:"sources,omitempty"`
	// Human is on whose behalf; whoever issued the token vouches for that.
	Human string `json:"human,omitempty"`
	// Replaces and ReplacedBy are the ids before and after a rotation.
	Replaces   string `json:"replaces,omitempty"`
	ReplacedBy string `json:"replaced_by,omitempty"`
	// LastUsed and LastAddress are kept apart from the rest and may lag a minute
	// behind; they are filled in by [Store.Token] and [Store.Tokens].
	LastUsed    *time.Time `json:"last_used,omitempty"`
	LastAddress string     `json:"last_address,omitempty"`
}

// TokenOptions say what token to issue.
type TokenOptions struct {
	// ID is the token's id, from [NewTokenID]. Optional.
	ID             string
	TTL            time.Duration // Default DefaultTTL, at most MaxTTL.
	Note           string        // Optional, up to 500 bytes.
	Title, Purpose string        // Optional, up to 500 bytes; claims about the session.
	SessionBound   bool

	Connections []string // Optional: all.
	Sources     []string // Optional: any; networks such as "10.0.0.0/8", or addresses.
	Human       string   // Optional, up to 256 bytes.
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
	return checkScopes(o.Human, o.Connections, o.Sources)
}

// checkScopes checks what a token says beside its times and texts.
func checkScopes(human string, connections, sources []string) error {
	switch {
	case len(human) > maxHuman || !recordable(human):
		return fmt.Errorf("%w: a human's name has at most %d bytes and no control characters", ErrInvalid, maxHuman)
	case len(connections) > maxScopes || len(sources) > maxScopes:
		return fmt.Errorf("%w: at most %d connections and %d sources", ErrInvalid, maxScopes, maxScopes)
	}
	for _, name := range connections {
		if !nameForm.MatchString(name) {
			return fmt.Errorf("%w: %q is no connection's name", ErrInvalid, name)
		}
	}
	for _, source := range sources {
		if _, err := readSource(source); err != nil {
			return err
		}
	}
	return nil
}

// Bounds on what a token says beside its secret.
const (
	maxHuman  = 256 // bytes
	maxScopes = 100 // connections, and sources
)

// recordable reports whether a name can stand in an entry and in a terminal.
func recordable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) })
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
	s.change.Lock()
	defer s.change.Unlock()
	r := &tokenRecord{Token: Token{
		ID: o.ID, Agent: agent, Note: strings.ToValidUTF8(o.Note, "�"), Title: strings.ToValidUTF8(o.Title, "�"),
		Purpose: strings.ToValidUTF8(o.Purpose, "�"), SessionBound: o.SessionBound,
		Connections: slices.Clone(o.Connections), Sources: slices.Clone(o.Sources), Human: o.Human,
	}}
	return s.issueLocked(r, o.TTL, nil)
}

// issueLocked makes a token of a record that has all but its secret and its
// times; with, if set, is changed in the same write. The caller holds s.change.
func (s *Store) issueLocked(r *tokenRecord, ttl time.Duration, with *tokenRecord) (secret string, t Token, err error) {
	if secret, err = newSecret(); err != nil {
		return "", Token{}, err
	}
	agent := r.Agent
	a := s.agents[agent]
	switch {
	case a == nil:
		return "", Token{}, fmt.Errorf("%w: %s; make it with 'trailgate agent add'", ErrNoAgent, agent)
	case a.Revoked != nil:
		return "", Token{}, fmt.Errorf("agent %s: %w, and stays so; make another with 'trailgate agent add'", agent, ErrRevoked)
	case s.tokens[r.ID] != nil:
		return "", Token{}, fmt.Errorf("%w: a token has the id %s already", ErrInvalid, r.ID)
	}
	now := s.now().UTC()
	drop := s.endedLocked(now)
	if len(s.tokens)-len(drop) >= maxTokens {
		return "", Token{}, fmt.Errorf("%w: there are %d live tokens, which is the most that one gateway keeps; revoke some", ErrFull, maxTokens)
	}
	r.hash = digestOf(secret)
	r.SHA256 = hex.EncodeToString(r.hash[:])
	r.Created, r.Expires = now, now.Add(ttl)
	if err := s.commitLocked(edit{token: r, also: with, drop: drop}); err != nil {
		return "", Token{}, err
	}
	return secret, r.Token, nil
}

// RotateOptions say how a token is rotated.
type RotateOptions struct {
	// ID is the new token's id, from [NewTokenID]. Optional.
	ID string
	// TTL of the new token. Optional: as long as the old one was made for.
	TTL time.Duration
	// Overlap is how long the old token still holds, at most. Zero ends it at once.
	Overlap time.Duration
}

// RotateToken makes a token that has all of another's settings and takes its
// place: the old one ends after the overlap, or before if it would have. Both
// changes are one write. Errors are those of [Store.IssueToken], [ErrNoToken],
// and [ErrInvalid] of a token that has ended or was rotated before.
func (s *Store) RotateToken(id string, o RotateOptions) (secret string, t Token, err error) {
	if o.ID == "" {
		if o.ID, err = NewTokenID(); err != nil {
			return "", Token{}, err
		}
	}
	if o.Overlap < 0 || o.Overlap > MaxTTL {
		return "", Token{}, fmt.Errorf("%w: an overlap of %s", ErrInvalid, o.Overlap)
	}
	s.change.Lock()
	defer s.change.Unlock()
	old := s.tokens[id]
	now := s.now().UTC()
	switch {
	case old == nil:
		return "", Token{}, fmt.Errorf("%w: %s", ErrNoToken, id)
	case old.Revoked != nil || !now.Before(old.Expires):
		return "", Token{}, fmt.Errorf("%w: the token %s has ended; issue a new one", ErrInvalid, id)
	case old.ReplacedBy != "":
		return "", Token{}, fmt.Errorf("%w: the token %s was rotated already, to %s", ErrInvalid, id, old.ReplacedBy)
	}
	if o.TTL == 0 {
		o.TTL = old.Expires.Sub(old.Created)
	}
	check := TokenOptions{ID: o.ID, TTL: o.TTL}
	if err := check.check(); err != nil {
		return "", Token{}, err
	}
	next := &tokenRecord{Token: old.Token}
	next.ID, next.Replaces = o.ID, id
	ended := *old
	ended.ReplacedBy = o.ID
	if end := now.Add(o.Overlap); end.Before(ended.Expires) {
		ended.Expires = end
	}
	return s.issueLocked(next, o.TTL, &ended)
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
	return s.uses.fill(t.Token), nil
}

// Tokens lists an agent's tokens, newest first.
func (s *Store) Tokens(agent string) []Token {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Token
	for _, t := range s.tokens {
		if t.Agent == agent {
			out = append(out, s.uses.fill(t.Token))
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
	p := trailgate.Principal{Agent: t.Agent, TokenID: t.ID, Issuer: Issuer, Subject: t.Agent, AuthMode: AuthMode, Human: t.Human}
	if t.Human != "" {
		p.HumanBy = trailgate.HumanByAdmin
	}
	return Identity{
		Principal: p, Token: t.Token, SessionKey: t.ID, Title: t.Title, Purpose: t.Purpose,
		Connections: t.Connections, Scoped: len(t.Connections) > 0, Sources: t.Sources, Issued: t.Created, Expires: t.Expires,
	}, nil
}

// live tells whether an agent may call, and a token that another one was got
// for: [ErrUnknownAgent], [ErrRevoked], [ErrExpired], [ErrUnknown].
func (s *Store) live(agent, token string) error {
	s.mu.RLock()
	a, t := s.agents[agent], s.tokens[token]
	s.mu.RUnlock()
	switch {
	case a == nil:
		return ErrUnknownAgent
	case a.Revoked != nil:
		return ErrRevoked
	case token == "":
		return nil
	case t == nil:
		return ErrUnknown
	case t.Revoked != nil:
		return ErrRevoked
	case !s.now().Before(t.Expires):
		return ErrExpired
	}
	return nil
}
