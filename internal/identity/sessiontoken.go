package identity

import (
	"container/list"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/oklog/ulid/v2"

	"github.com/trailgate/trailgate"
)

// A session token is "tgs_", a JSON object in base64url, a dot, and an
// HMAC-SHA-256 over all before the dot, in base64url. It is got by token
// exchange, holds for minutes to hours, and says by itself whose it is, so that
// a restart does not end every agent's work (docs/adr/0007-who-calls.md).
const (
	sealPrefix    = "tgs_"
	sealVersion   = 1
	sealKeyBytes  = 32
	sessionPrefix = "ses_"  // of a session token's public name
	maxSealed     = 6 << 10 // bytes of a whole session token: it has to fit a header
	maxKeyFile    = 4 << 10 // bytes
	maxJWTs       = 20_000  // agents' own JWTs that are remembered
)

// sealed is what a session token says.
type sealed struct {
	Version     int      `json:"v"`
	ID          string   `json:"id"` // "ses_" and a ULID in lower case
	Agent       string   `json:"agent"`
	Issuer      string   `json:"iss"`
	Subject     string   `json:"sub"`
	Human       string   `json:"human,omitempty"`
	HumanBy     string   `json:"human_by,omitempty"`
	Actors      []string `json:"actors,omitempty"`
	Credential  string   `json:"credential_sha256,omitempty"`
	Evidence    string   `json:"evidence,omitempty"`
	Session     string   `json:"session"`
	Title       string   `json:"title,omitempty"`
	Purpose     string   `json:"purpose,omitempty"`
	Scoped      bool     `json:"scoped,omitempty"`
	Connections []string `json:"connections,omitempty"`
	Sources     []string `json:"sources,omitempty"`
	MayAct      []string `json:"may_act,omitzero"`  // see Identity.mayAct: none is not anybody
	Parents     []string `json:"parents,omitempty"` // ids of the tokens that it was got for
	Behind      []string `json:"behind,omitempty"`  // the other agents of the chain
	Issued      int64    `json:"iat"`               // Unix seconds
	Expires     int64    `json:"exp"`
}

// sealer makes and checks session tokens.
type sealer struct{ key [sealKeyBytes]byte }

// openSealer reads the key, or makes one. Who removes the file ends all session tokens.
func openSealer(path string) (*sealer, error) {
	var s sealer
	raw, err := readFile(path, maxKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := rand.Read(s.key[:]); err != nil {
			return nil, fmt.Errorf("make the key of session tokens: %w", err)
		}
		if err := replaceFile(path, []byte(base64.StdEncoding.EncodeToString(s.key[:])+"\n"), nil); err != nil {
			return nil, fmt.Errorf("write the key of session tokens: %w", err)
		}
		return &s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the key of session tokens: %w", err)
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the key of session tokens can be read by others (mode %04o): remove %s, which ends all session tokens, and start again", info.Mode().Perm(), path)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != sealKeyBytes {
		return nil, fmt.Errorf("the key of session tokens is damaged: remove %s, which ends all session tokens, and start again", path)
	}
	copy(s.key[:], key)
	return &s, nil
}

func (s *sealer) mac(body string) []byte {
	m := hmac.New(sha256.New, s.key[:])
	m.Write([]byte(body))
	return m.Sum(nil)
}

func (s *sealer) seal(p sealed) (string, error) {
	raw, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("encode a session token: %w", err)
	}
	body := sealPrefix + base64.RawURLEncoding.EncodeToString(raw)
	token := body + "." + base64.RawURLEncoding.EncodeToString(s.mac(body))
	if len(token) > maxSealed {
		return "", fmt.Errorf("%w: a session token of more than %d bytes; the chain has too long names", ErrInvalid, maxSealed)
	}
	return token, nil
}

// open checks a session token. What it says is looked at after the MAC held.
func (s *sealer) open(token string) (p sealed, err error) {
	if len(token) > maxSealed {
		return p, ErrMalformed
	}
	body, sum, ok := strings.Cut(token, ".")
	if !ok {
		return p, ErrMalformed
	}
	got, err := base64.RawURLEncoding.Strict().DecodeString(sum)
	if err != nil || len(sum) != base64.RawURLEncoding.EncodedLen(sha256.Size) { // the decoder overlooks line breaks
		return p, ErrMalformed
	}
	if !hmac.Equal(got, s.mac(body)) { // in constant time
		return p, ErrUnknown
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body[len(sealPrefix):])
	if err != nil {
		return p, ErrMalformed
	}
	if err := json.Unmarshal(raw, &p, json.RejectUnknownMembers(true)); err != nil || p.Version != sealVersion {
		return p, ErrUnknown // of another version of this gateway
	}
	return p, nil
}

// newSessionTokenID makes the public name of a session token.
func newSessionTokenID(now time.Time) (string, error) {
	id, err := ulid.New(ulid.Timestamp(now), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make a session token's id: %w", err)
	}
	return sessionPrefix + strings.ToLower(id.String()), nil
}

// session says whose session token this is. It ends with its time, by itself, and
// with the agent or a token that it was got for.
func (a *Authenticator) session(token string) (Identity, error) {
	p, err := a.seal.open(token)
	if err != nil {
		return Identity{}, err
	}
	expires := time.Unix(p.Expires, 0).UTC()
	if !a.cfg.Now().Before(expires) {
		return Identity{}, ErrExpired
	}
	if a.revoked.has(p.ID) {
		return Identity{}, ErrRevoked
	}
	for _, agent := range p.Behind {
		if err := a.cfg.Store.live(agent, ""); err != nil {
			return Identity{}, ErrRevoked
		}
	}
	for _, parent := range p.Parents {
		if err := a.parent(parent); err != nil {
			return Identity{}, err
		}
	}
	who := Identity{
		Principal: trailgate.Principal{
			Agent: p.Agent, TokenID: p.ID, Issuer: p.Issuer, Subject: p.Subject, Human: p.Human, HumanBy: p.HumanBy, Actors: p.Actors,
			AuthMode: trailgate.AuthTokenExchange, CredentialSHA256: p.Credential, Evidence: p.Evidence,
		},
		SessionKey: p.Session, Title: p.Title, Purpose: p.Purpose, Connections: p.Connections, Scoped: p.Scoped, Sources: p.Sources,
		Issued: time.Unix(p.Issued, 0).UTC(), Expires: expires, mayAct: p.MayAct, parents: p.Parents, behind: p.Behind,
	}
	if err := a.cfg.Store.live(p.Agent, ""); err != nil {
		return who, err
	}
	who.Assertion, who.AssertionExpires = a.jwts.get(p.ID, a.cfg.Now())
	return who, nil
}

// parent checks that a token which another was got for still holds.
func (a *Authenticator) parent(id string) error {
	if strings.HasPrefix(id, sessionPrefix) {
		if a.revoked.has(id) {
			return ErrRevoked
		}
		return nil
	}
	t, err := a.cfg.Store.Token(id)
	if err != nil {
		return ErrUnknown
	}
	return a.cfg.Store.live(t.Agent, id)
}

// jwtMemory remembers agents' own JWTs by the session token that they were
// exchanged for, for connections that exchange them on. After a restart it is
// empty.
type jwtMemory struct {
	mu   sync.Mutex // guards the rest
	byID map[string]*list.Element
	used list.List // of *keptJWT, the latest used first
}

type keptJWT struct {
	id, jwt string
	expires time.Time
}

func newJWTMemory() *jwtMemory { return &jwtMemory{byID: map[string]*list.Element{}} }

func (m *jwtMemory) put(id, jwt string, expires time.Time) {
	if jwt == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byID[id] = m.used.PushFront(&keptJWT{id, jwt, expires})
	for m.used.Len() > maxJWTs {
		delete(m.byID, m.used.Remove(m.used.Back()).(*keptJWT).id)
	}
}

func (m *jwtMemory) get(id string, now time.Time) (jwt string, expires time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	el := m.byID[id]
	if el == nil {
		return "", time.Time{}
	}
	k := el.Value.(*keptJWT)
	if !now.Before(k.expires) {
		m.used.Remove(el)
		delete(m.byID, id)
		return "", time.Time{}
	}
	m.used.MoveToFront(el)
	return k.jwt, k.expires
}
