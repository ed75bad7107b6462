package identity

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/trailgate/trailgate"
)

const (
	maxAgents    = 10_000
	maxTokens    = 100_000
	maxNote      = 500
	maxFileBytes = 256 << 20

	// DefaultTTL and MaxTTL bound how long a token lives.
	DefaultTTL = 24 * time.Hour
	MaxTTL     = 366 * 24 * time.Hour

	// AuthMode and Issuer are what a principal says that came by a gateway token.
	AuthMode = "gateway_token"
	Issuer   = "trailgate"

	fileVersion = 1
)

var (
	// ErrNoAgent means that there is no agent of that name.
	ErrNoAgent = errors.New("no such agent")
	// ErrNoToken means that there is no token of that id.
	ErrNoToken = errors.New("no such token")
	// ErrExists means that the name is taken, by a revoked agent too: a name in
	// the trail must mean one agent for ever.
	ErrExists = errors.New("an agent of that name exists")
	// ErrBadName means a name that no agent can have.
	ErrBadName = errors.New("an agent's name is a lower-case letter followed by up to 62 lower-case letters, digits, '-' or '_'")
)

// nameForm keeps names fit for BigQuery job labels, host names and terminals.
var nameForm = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

// Agent is an audited party.
type Agent struct {
	Name    string     `json:"name"`
	Note    string     `json:"note,omitempty"`
	Created time.Time  `json:"created"`
	Revoked *time.Time `json:"revoked,omitempty"`
}

// Token is an issued token, all but the secret.
type Token struct {
	ID      string     `json:"id"`
	Agent   string     `json:"agent"`
	Note    string     `json:"note,omitempty"`
	Title   string     `json:"title,omitempty"`   // of the session, as claimed
	Purpose string     `json:"purpose,omitempty"` // of the session, as claimed
	Created time.Time  `json:"created"`
	Expires time.Time  `json:"expires"`
	Revoked *time.Time `json:"revoked,omitempty"`
	// SessionBound tokens were made for one session, by "trailgate run".
	SessionBound bool `json:"session_bound,omitempty"`
}

// Identity is what a valid credential proves.
type Identity struct {
	Principal trailgate.Principal
	Token     Token
}

// TokenOptions say what token to issue.
type TokenOptions struct {
	TTL            time.Duration // Default DefaultTTL, at most MaxTTL.
	Note           string        // Optional.
	Title, Purpose string        // Optional; claims about the session.
	SessionBound   bool
}

// Store holds agents and tokens, in memory and in one file that is replaced
// whole at each change. It is safe for concurrent use by one process; the
// trail's lock keeps a second one away.
type Store struct {
	path string
	now  func() time.Time

	mu     sync.RWMutex // guards the rest
	agents map[string]*Agent
	tokens map[string]*tokenRecord // by id
	hashes map[digest]*tokenRecord
}

// tokenRecord is never changed once it is in the maps; a change replaces it.
type tokenRecord struct {
	Token
	SHA256 string `json:"sha256"`
	hash   digest
}

type file struct {
	Version int            `json:"version"`
	Agents  []*Agent       `json:"agents"`
	Tokens  []*tokenRecord `json:"tokens"`
}

// Open reads the store, or begins an empty one where there is no file. A file
// that cannot be read whole is an error and stays as it is.
func Open(path string) (*Store, error) {
	s := &Store{path: path, now: time.Now, agents: map[string]*Agent{}, tokens: map[string]*tokenRecord{}, hashes: map[digest]*tokenRecord{}}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open agents: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read agents: %w", err)
	}
	if err := s.load(raw); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; restore it from a backup (moving it away revokes every token)", path, err)
	}
	return s, nil
}

func (s *Store) load(raw []byte) error {
	if len(raw) > maxFileBytes {
		return errors.New("larger than 256 MiB")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var f file
	if err := dec.Decode(&f); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the document")
	}
	if f.Version != fileVersion {
		return fmt.Errorf("version %d, this program reads version %d", f.Version, fileVersion)
	}
	for _, a := range f.Agents {
		if a == nil || !nameForm.MatchString(a.Name) || s.agents[a.Name] != nil {
			return errors.New("an agent's name is not valid, or stands twice")
		}
		s.agents[a.Name] = a
	}
	for _, t := range f.Tokens {
		if t == nil || t.ID == "" || s.tokens[t.ID] != nil || s.agents[t.Agent] == nil {
			return errors.New("a token has no id, stands twice, or belongs to no agent")
		}
		sum, err := hex.DecodeString(t.SHA256)
		if err != nil || len(sum) != len(t.hash) {
			return fmt.Errorf("token %s has no SHA-256", t.ID)
		}
		copy(t.hash[:], sum)
		if s.hashes[t.hash] != nil {
			return fmt.Errorf("token %s has another's SHA-256", t.ID)
		}
		s.tokens[t.ID], s.hashes[t.hash] = t, t
	}
	return nil
}

// AddAgent makes an agent. Names are never reused.
func (s *Store) AddAgent(name, note string) (Agent, error) {
	if !nameForm.MatchString(name) {
		return Agent{}, ErrBadName
	}
	if len(note) > maxNote {
		return Agent{}, fmt.Errorf("the note is longer than %d bytes", maxNote)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.agents[name] != nil:
		return Agent{}, fmt.Errorf("%w: %s", ErrExists, name)
	case len(s.agents) >= maxAgents:
		return Agent{}, fmt.Errorf("there are %d agents, which is the most that one gateway keeps", maxAgents)
	}
	a := &Agent{Name: name, Note: strings.ToValidUTF8(note, "�"), Created: s.now().UTC()}
	s.agents[name] = a
	if err := s.saveLocked(); err != nil {
		delete(s.agents, name)
		return Agent{}, err
	}
	return *a, nil
}

// RevokeAgent ends an agent: none of its tokens works from now on, and none can
// be issued. It is not undone, and not an error twice.
func (s *Store) RevokeAgent(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.agents[name]
	if old == nil {
		return fmt.Errorf("%w: %s", ErrNoAgent, name)
	}
	if old.Revoked != nil {
		return nil
	}
	a, now := *old, s.now().UTC()
	a.Revoked = &now
	s.agents[name] = &a
	if err := s.saveLocked(); err != nil {
		s.agents[name] = old
		return err
	}
	return nil
}

// Agents lists all agents by name, revoked ones included.
func (s *Store) Agents() []Agent {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Agent, 0, len(s.agents))
	for _, a := range s.agents {
		out = append(out, *a)
	}
	slices.SortFunc(out, func(a, b Agent) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Agent returns one agent, or [ErrNoAgent].
func (s *Store) Agent(name string) (Agent, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	a := s.agents[name]
	if a == nil {
		return Agent{}, fmt.Errorf("%w: %s", ErrNoAgent, name)
	}
	return *a, nil
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

// IssueToken makes a token for an agent and returns its secret, which is
// nowhere to be had again. Tokens that ended are forgotten to make room.
func (s *Store) IssueToken(agent string, o TokenOptions) (secret string, t Token, err error) {
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	switch {
	case o.TTL < time.Second || o.TTL > MaxTTL:
		return "", Token{}, fmt.Errorf("a token lives between 1s and %s, not %s", MaxTTL, o.TTL)
	case len(o.Note) > maxNote || len(o.Title) > maxNote || len(o.Purpose) > maxNote:
		return "", Token{}, fmt.Errorf("note, title and purpose are at most %d bytes each", maxNote)
	}
	if secret, err = newSecret(); err != nil {
		return "", Token{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[agent]
	switch {
	case a == nil:
		return "", Token{}, fmt.Errorf("%w: %s; make it with 'trailgate agent add %s'", ErrNoAgent, agent, agent)
	case a.Revoked != nil:
		return "", Token{}, fmt.Errorf("agent %s: %w", agent, ErrRevoked)
	}
	now := s.now().UTC()
	id, err := ulid.New(ulid.Timestamp(now), rand.Reader)
	if err != nil {
		return "", Token{}, fmt.Errorf("make a token id: %w", err)
	}
	r := &tokenRecord{hash: digestOf(secret)}
	r.SHA256 = hex.EncodeToString(r.hash[:])
	r.Token = Token{
		ID: "tok_" + strings.ToLower(id.String()), Agent: agent, Note: strings.ToValidUTF8(o.Note, "�"), Title: strings.ToValidUTF8(o.Title, "�"),
		Purpose: strings.ToValidUTF8(o.Purpose, "�"), Created: now, Expires: now.Add(o.TTL), SessionBound: o.SessionBound,
	}
	dropped := s.makeRoomLocked(now)
	if len(s.tokens) >= maxTokens {
		s.putBackLocked(dropped)
		return "", Token{}, fmt.Errorf("there are %d live tokens, which is the most that one gateway keeps; revoke some", maxTokens)
	}
	s.tokens[r.ID], s.hashes[r.hash] = r, r
	if err := s.saveLocked(); err != nil {
		delete(s.tokens, r.ID)
		delete(s.hashes, r.hash)
		s.putBackLocked(dropped)
		return "", Token{}, err
	}
	return secret, r.Token, nil
}

// keepEnded is how long a token that ended is still listed, and its use told
// apart from that of an unknown one.
const keepEnded = 30 * 24 * time.Hour

func (s *Store) makeRoomLocked(now time.Time) []*tokenRecord {
	full := len(s.tokens) >= maxTokens
	var dropped []*tokenRecord
	for id, t := range s.tokens {
		end := t.Expires
		if t.Revoked != nil && t.Revoked.Before(end) {
			end = *t.Revoked
		}
		if age := now.Sub(end); age > keepEnded || full && age > 0 {
			dropped = append(dropped, t)
			delete(s.tokens, id)
			delete(s.hashes, t.hash)
		}
	}
	return dropped
}

func (s *Store) putBackLocked(ts []*tokenRecord) {
	for _, t := range ts {
		s.tokens[t.ID], s.hashes[t.hash] = t, t
	}
}

// RevokeToken ends a token at once. It is not an error twice.
func (s *Store) RevokeToken(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.tokens[id]
	if old == nil {
		return fmt.Errorf("%w: %s", ErrNoToken, id)
	}
	if old.Revoked != nil {
		return nil
	}
	t, now := *old, s.now().UTC()
	t.Revoked = &now
	s.tokens[id], s.hashes[t.hash] = &t, &t
	if err := s.saveLocked(); err != nil {
		s.tokens[id], s.hashes[t.hash] = old, old
		return err
	}
	return nil
}

// Authenticate says whose token this is. It does no I/O and holds no lock but a
// shared one, so revocation takes effect with the next call.
func (s *Store) Authenticate(bearer string) (Identity, error) {
	if !wellFormed(bearer) {
		return Identity{}, ErrMalformed
	}
	hash := digestOf(bearer)
	s.mu.RLock()
	t := s.hashes[hash]
	var agent *Agent
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

// saveLocked replaces the file. On an error the old one stands, whole; the
// caller then undoes its change in memory.
func (s *Store) saveLocked() error {
	f := file{Version: fileVersion, Agents: []*Agent{}, Tokens: []*tokenRecord{}}
	for _, a := range s.agents {
		f.Agents = append(f.Agents, a)
	}
	for _, t := range s.tokens {
		f.Tokens = append(f.Tokens, t)
	}
	slices.SortFunc(f.Agents, func(a, b *Agent) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(f.Tokens, func(a, b *tokenRecord) int { return strings.Compare(a.ID, b.ID) })
	raw, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return fmt.Errorf("encode agents: %w", err)
	}
	if err := replace(s.path, append(raw, '\n')); err != nil {
		return fmt.Errorf("write agents: %w", err)
	}
	return nil
}

// replace puts data in place of the file: written beside it and synced, then
// renamed over it, then the directory synced. A crash leaves the old content or
// the new; before the last sync either may come back.
func replace(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".agents-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
			_ = os.Remove(f.Name()) // what is left of it is nobody's
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close(), f.Close())
}
