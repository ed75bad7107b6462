package connector

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/trailgate/trailgate/internal/trail/durable"
)

// Bounds of the registry.
const (
	maxEnrolled     = 10_000
	maxTokens       = 1000 // that are neither used nor ended
	maxRegistryFile = 32 << 20
	registryVersion = 1
	maxTokenTTL     = 7 * 24 * time.Hour
)

// Errors that callers tell apart.
var (
	ErrUnknown = errors.New("no connector of that name")
	ErrTaken   = errors.New("the name is taken; a name in the trail means one connector for ever")
	ErrInvalid = errors.New("not possible")
	ErrRevoked = errors.New("revoked already")
)

// Enrolled is a connector that has, or had, a certificate of the gateway's.
type Enrolled struct {
	Name        string     `json:"name"`
	Connections []string   `json:"connections"`
	Created     time.Time  `json:"created"`
	Revoked     *time.Time `json:"revoked,omitempty"`
	// Serial is of the certificate in force, Previous of the one that it renews, which
	// is good until the new one was used: the answer with the new one may have been lost.
	Serial   string    `json:"serial"`
	Previous string    `json:"previous,omitempty"`
	Expires  time.Time `json:"expires"`
}

// Token is an enrolment token, all but the secret.
type Token struct {
	ID          string     `json:"id"`
	Name        string     `json:"name"` // of the connector that it is for
	Connections []string   `json:"connections"`
	Created     time.Time  `json:"created"`
	Expires     time.Time  `json:"expires"`
	Used        *time.Time `json:"used,omitempty"`
	Hash        string     `json:"hash"` // SHA-256 of the secret, hex
}

// Registry is who may connect: in memory, and in one small file that is replaced whole
// at each change. A change is in force when the method that makes it returns nil. It is
// safe for concurrent use by one process.
type Registry struct {
	path string
	fs   durable.FS
	now  func() time.Time

	change     sync.Mutex   // held by who changes something, over the write to the disk
	mu         sync.RWMutex // guards what follows
	connectors map[string]Enrolled
	tokens     map[string]Token
}

type registryFile struct {
	Version    int        `json:"version"`
	Connectors []Enrolled `json:"connectors"`
	Tokens     []Token    `json:"tokens"`
}

// OpenRegistry reads the list, or begins an empty one where there is no file. A file
// that cannot be read whole is an error: who was revoked must not come back by it.
func OpenRegistry(path string, now func() time.Time) (*Registry, error) {
	r := &Registry{path: path, now: now, connectors: map[string]Enrolled{}, tokens: map[string]Token{}}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read connectors: %w", err)
	}
	var f registryFile
	switch err := json.Unmarshal(raw, &f, json.RejectUnknownMembers(true)); {
	case err != nil:
		return nil, fmt.Errorf("%s is damaged: %w; restore it from a backup", path, err)
	case len(raw) > maxRegistryFile:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxRegistryFile)
	case f.Version != registryVersion:
		return nil, fmt.Errorf("%s has version %d, this program reads version %d", path, f.Version, registryVersion)
	}
	for _, c := range f.Connectors {
		r.connectors[c.Name] = c
	}
	for _, t := range f.Tokens {
		r.tokens[t.ID] = t
	}
	return r, nil
}

// List is all connectors that were ever enrolled, by name.
func (r *Registry) List() []Enrolled {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]Enrolled, 0, len(r.connectors))
	for _, c := range r.connectors {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Enrolled) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func (r *Registry) get(name string) (Enrolled, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	c, ok := r.connectors[name]
	return c, ok
}

const tokenPrefix = "tgc_"

var tokenForm = regexp.MustCompile(`^tgc_([a-z2-7]{16})\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})$`)

// splitToken takes an enrolment token apart: its id, its secret, and the SHA-256 of the
// authority that the gateway will prove itself with.
func splitToken(token string) (id, secret string, pin []byte, err error) {
	m := tokenForm.FindStringSubmatch(strings.TrimSpace(token))
	if m == nil {
		return "", "", nil, errors.New("not an enrolment token; \"trailgate connector enroll-token\" prints one")
	}
	pin, err = base64.RawURLEncoding.DecodeString(m[3])
	return m[1], m[2], pin, err
}

// NewToken makes a token with which one connector of that name can enrol, once. pin is
// the SHA-256 of the gateway's authority. record writes the trail's entry, first: an error
// of it changes nothing. A crash after it leaves an entry about a token that nobody has.
func (r *Registry) NewToken(name string, connections []string, ttl time.Duration, pin []byte, record func(Token) error) (string, Token, error) {
	r.change.Lock()
	defer r.change.Unlock()
	now := r.now().UTC()
	switch {
	case !nameForm.MatchString(name):
		return "", Token{}, fmt.Errorf("%w: connector name %.80q: %w", ErrInvalid, name, errName)
	case len(connections) == 0:
		return "", Token{}, fmt.Errorf("%w: name the connection that the connector is for", ErrInvalid)
	case ttl < time.Minute || ttl > maxTokenTTL:
		return "", Token{}, fmt.Errorf("%w: a token lives from a minute to %v", ErrInvalid, maxTokenTTL)
	}
	open := 0
	for _, t := range r.tokens {
		if t.Used != nil || now.After(t.Expires) {
			continue
		}
		if open++; t.Name == name {
			return "", Token{}, fmt.Errorf("connector %s: %w: token %s, which is not used yet, is for it", name, ErrTaken, t.ID)
		}
	}
	switch _, taken := r.connectors[name]; {
	case taken:
		return "", Token{}, fmt.Errorf("connector %s: %w", name, ErrTaken)
	case open >= maxTokens, len(r.connectors) >= maxEnrolled:
		return "", Token{}, fmt.Errorf("%w: too many tokens that are not used yet, or connectors", ErrInvalid)
	}
	var random [42]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", Token{}, fmt.Errorf("make a token: %w", err)
	}
	id := strings.ToLower(base32.StdEncoding.EncodeToString(random[:10]))
	secret := base64.RawURLEncoding.EncodeToString(random[10:])
	connections = slices.Compact(slices.Sorted(slices.Values(connections)))
	t := Token{ID: id, Name: name, Connections: connections, Created: now, Expires: now.Add(ttl), Hash: sum(secret)}
	if err := record(t); err != nil {
		return "", Token{}, err
	}
	tokens := copied(r.tokens)
	for id, old := range tokens { // what nobody can use any more, and nobody tries
		if now.After(old.Expires.Add(maxTokenTTL)) {
			delete(tokens, id)
		}
	}
	tokens[id] = t
	if err := r.replace(r.connectors, tokens); err != nil {
		return "", Token{}, err
	}
	return tokenPrefix + id + "." + secret + "." + base64.RawURLEncoding.EncodeToString(pin), t, nil
}

// enroll uses a token up. issue makes the certificate and records it; the answer with it
// may be given only after enroll returned nil: then the token is used, durably. A crash
// before that leaves an entry about a certificate that nobody has, and a token that is
// good still.
func (r *Registry) enroll(token string, issue func(Token) (serial string, expires time.Time, err error)) (Enrolled, error) {
	id, secret, _, err := splitToken(token)
	if err != nil {
		return Enrolled{}, refuse(CodeToken, "%v", err)
	}
	r.change.Lock()
	defer r.change.Unlock()
	t, known := r.tokens[id]
	hash := sha256.Sum256([]byte(secret))
	want, herr := hex.DecodeString(t.Hash)
	now := r.now().UTC()
	switch {
	case !known, herr != nil, subtle.ConstantTimeCompare(hash[:], want) != 1:
		return Enrolled{}, refuse(CodeToken, "the enrolment token is not known; make another with \"trailgate connector enroll-token\"")
	case t.Used != nil:
		return Enrolled{Name: t.Name}, refuse(CodeToken, "the enrolment token was used on %s; a token is good once. If that was not you, revoke connector %s", t.Used.Format(time.RFC3339), t.Name)
	case now.After(t.Expires):
		return Enrolled{Name: t.Name}, refuse(CodeToken, "the enrolment token ended on %s; make another with \"trailgate connector enroll-token\"", t.Expires.Format(time.RFC3339))
	}
	if _, taken := r.connectors[t.Name]; taken { // revoked before it enrolled, and the clock went back since
		return Enrolled{Name: t.Name}, refuse(CodeToken, "connector %s is there already, or was revoked; make another token, for another name", t.Name)
	}
	serial, expires, err := issue(t)
	if err != nil {
		return Enrolled{Name: t.Name}, err
	}
	t.Used = &now
	c := Enrolled{Name: t.Name, Connections: t.Connections, Created: now, Serial: serial, Expires: expires}
	connectors, tokens := copied(r.connectors), copied(r.tokens)
	connectors[c.Name], tokens[id] = c, t
	return c, r.replace(connectors, tokens)
}

// renew puts a new certificate in force beside the old one.
func (r *Registry) renew(name, with string, issue func(Enrolled) (serial string, expires time.Time, err error)) error {
	r.change.Lock()
	defer r.change.Unlock()
	c, ok := r.connectors[name]
	if refusal := usable(c, ok, with); refusal != nil {
		return refusal
	}
	serial, expires, err := issue(c)
	if err != nil {
		return err
	}
	c.Serial, c.Previous, c.Expires = serial, with, expires
	connectors := copied(r.connectors)
	connectors[name] = c
	return r.replace(connectors, r.tokens)
}

// usable says why a certificate of that serial number may not be used; nil: it may.
func usable(c Enrolled, known bool, serial string) *Refusal {
	switch {
	case !known:
		return refuse(CodeCertificate, "the certificate is for a connector that is not enrolled here")
	case c.Revoked != nil:
		return refuse(CodeRevoked, "connector %s was revoked on %s; enrol one of another name", c.Name, c.Revoked.Format(time.RFC3339))
	case serial != c.Serial && serial != c.Previous:
		return refuse(CodeCertificate, "the certificate was renewed, and the new one used: this is an old copy of connector %s; enrol this one by itself, and revoke that if it is not yours", c.Name)
	}
	return nil
}

// use admits a certificate. With the newest, the one before ends, durably.
func (r *Registry) use(name, serial string) (Enrolled, error) {
	c, ok := r.get(name)
	if refusal := usable(c, ok, serial); refusal != nil {
		return c, refusal
	}
	if serial != c.Serial || c.Previous == "" {
		return c, nil
	}
	r.change.Lock()
	defer r.change.Unlock()
	if c, ok = r.connectors[name]; !ok || c.Serial != serial || c.Revoked != nil {
		return c, usable(c, ok, serial)
	}
	c.Previous = ""
	connectors := copied(r.connectors)
	connectors[name] = c
	return c, r.replace(connectors, r.tokens)
}

// Revoke shuts a connector out for good, with record as [Registry.NewToken] has it. Its
// tunnels are the hub's to cut.
func (r *Registry) Revoke(name string, record func(Enrolled) error) (Enrolled, error) {
	r.change.Lock()
	defer r.change.Unlock()
	now := r.now().UTC()
	connectors, tokens := copied(r.connectors), copied(r.tokens)
	c, ok := connectors[name]
	for id, t := range tokens {
		if t.Name == name && t.Used == nil && now.Before(t.Expires) { // not enrolled yet, and not to be
			ok, c = true, Enrolled{Name: name, Connections: t.Connections, Created: t.Created}
			t.Expires = now
			tokens[id] = t
		}
	}
	switch {
	case !ok:
		return c, fmt.Errorf("connector %.80q: %w", name, ErrUnknown)
	case c.Revoked != nil:
		return c, fmt.Errorf("connector %s: %w", name, ErrRevoked)
	}
	if err := record(c); err != nil {
		return c, err
	}
	c.Revoked = &now
	connectors[name] = c
	return c, r.replace(connectors, tokens)
}

func copied[T any](m map[string]T) map[string]T {
	next := make(map[string]T, len(m)+1)
	for k, v := range m {
		next[k] = v
	}
	return next
}

// replace makes the lists durable, then puts them in force.
func (r *Registry) replace(connectors map[string]Enrolled, tokens map[string]Token) error {
	f := registryFile{Version: registryVersion, Connectors: []Enrolled{}, Tokens: []Token{}}
	for _, c := range connectors {
		f.Connectors = append(f.Connectors, c)
	}
	for _, t := range tokens {
		f.Tokens = append(f.Tokens, t)
	}
	slices.SortFunc(f.Connectors, func(a, b Enrolled) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(f.Tokens, func(a, b Token) int { return cmp.Compare(a.ID, b.ID) })
	var b bytes.Buffer
	if err := json.MarshalWrite(&b, f, jsontext.WithIndent(" ")); err != nil {
		return fmt.Errorf("encode connectors: %w", err)
	}
	if err := r.fs.WriteFile(r.path, append(b.Bytes(), '\n'), 0o600); err != nil {
		return fmt.Errorf("write connectors: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.connectors, r.tokens = connectors, tokens
	return nil
}
