package federation

import (
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	consentVersion  = 1
	consentKeyBytes = 32 // AES-256
	maxConsentBytes = 64 << 20
	maxConsents     = 10_000
	maxHumanBytes   = 320 // an e-mail address
)

var (
	// ErrNoConsent means that a human has not consented to a connection.
	ErrNoConsent = errors.New("no consent")
	// ErrFull means that the store keeps no more consents.
	ErrFull = fmt.Errorf("%d consents are kept, which is the most: revoke some", maxConsents)
)

// Consent is what a human allowed: that agents who act on their behalf use a
// connection as their Google account.
type Consent struct {
	Connection string    `json:"connection"`
	Human      string    `json:"human"`   // as identity providers and admins name them; compared without regard to ASCII case
	Account    string    `json:"account"` // the e-mail address that Google verified
	ClientID   string    `json:"client_id"`
	Scopes     []string  `json:"scopes"`
	Granted    time.Time `json:"granted"`
	// Broken says why the consent no longer works, such as that it was withdrawn
	// at Google; empty while it does.
	Broken string `json:"broken,omitempty"`
}

// ConsentStore keeps consents with their refresh tokens in one file that is replaced
// whole at each change; a change is in force when the method that makes it returns
// nil. The tokens are sealed with AES-256-GCM, each bound to its connection, human,
// account and OAuth client, so that neither the file alone nor one whose lines were swapped is of
// use. The key lies in a file of its own, best on another volume.
//
// It is safe for concurrent use by one process.
type ConsentStore struct {
	path  string
	seal  cipher.AEAD
	fault func(step string) error // for tests: called before each step of a write

	change sync.Mutex // held by who changes something, over the write to the disk

	mu       sync.RWMutex // guards the map; what it points at never changes
	consents map[consentID]*sealedConsent
}

type consentID struct{ connection, human string }

func idOf(connection, human string) consentID { return consentID{connection, foldASCII(human)} }

// sealedConsent is a consent as the file has it.
type sealedConsent struct {
	Consent
	// Sealed is the nonce and the sealed refresh token.
	Sealed []byte `json:"sealed"`

	digest string // of Sealed: another one is another consent
}

func (c *sealedConsent) withDigest() *sealedConsent {
	sum := sha256.Sum256(c.Sealed)
	c.digest = string(sum[:])
	return c
}

type consentFile struct {
	Version  int              `json:"version"`
	Consents []*sealedConsent `json:"consents"`
}

// OpenConsents reads the store, or begins an empty one where there is no file. The
// key file is made if it is missing, unless there are consents already: without
// their key they are lost, and the operator is to know. Anything damaged is an
// error, and the files stay as they are.
func OpenConsents(path, keyFile string) (*ConsentStore, error) {
	raw, err := readBounded(path, maxConsentBytes)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read consents: %w", err)
	}
	key, err := consentKey(keyFile, len(raw) == 0)
	if err != nil {
		return nil, fmt.Errorf("key of consents: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("key of consents: %w", err)
	}
	seal, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("key of consents: %w", err)
	}
	s := &ConsentStore{path: path, seal: seal, consents: map[consentID]*sealedConsent{}}
	if len(raw) == 0 {
		return s, nil
	}
	if err := s.load(raw); err != nil {
		return nil, fmt.Errorf("%s is damaged, or %s is not its key: %w; restore them from a backup (or remove %s: each human then consents again)", path, keyFile, err, path)
	}
	return s, nil
}

// consentKey reads the key: 32 bytes in base64 on one line.
func consentKey(path string, mayMake bool) ([]byte, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if !mayMake {
			return nil, fmt.Errorf("%s is missing, and consents are there that it opens; restore it from a backup", path)
		}
		key := make([]byte, consentKeyBytes)
		_, _ = rand.Read(key) // never fails, see its documentation
		line := base64.StdEncoding.AppendEncode(nil, key)
		if err := createFile(path, append(line, '\n')); err != nil {
			return nil, err
		}
		return key, nil
	}
	if err := private(path); err != nil {
		return nil, err
	}
	raw, err := readBounded(path, 1<<10)
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.Strict().DecodeString(string(bytes.TrimSpace(raw)))
	if err != nil || len(key) != consentKeyBytes {
		return nil, fmt.Errorf("%s does not hold 32 bytes in base64 (head -c 32 /dev/urandom | base64)", path)
	}
	return key, nil
}

func (s *ConsentStore) load(raw []byte) error {
	var f consentFile
	if err := json.Unmarshal(raw, &f, json.RejectUnknownMembers(true)); err != nil {
		return errors.New("it is not the JSON that was written") // whose error could quote it
	}
	if f.Version != consentVersion {
		return fmt.Errorf("version %d, this program reads version %d", f.Version, consentVersion)
	}
	if len(f.Consents) > maxConsents {
		return ErrFull
	}
	for i, c := range f.Consents {
		if c == nil || c.Connection == "" || c.Human == "" || s.consents[idOf(c.Connection, c.Human)] != nil {
			return fmt.Errorf("consent %d is nobody's, or stands twice", i)
		}
		if _, err := s.open(c); err != nil {
			return fmt.Errorf("consent %d: %w", i, err)
		}
		s.consents[idOf(c.Connection, c.Human)] = c.withDigest()
	}
	return nil
}

// bound is what a sealed token is bound to: each part with its length before it.
func bound(c Consent) []byte {
	b := []byte("trailgate consent v1")
	for _, part := range []string{c.Connection, c.Human, c.Account, c.ClientID} {
		b = appendPart(b, part)
	}
	return b
}

// open returns the refresh token.
func (s *ConsentStore) open(c *sealedConsent) (string, error) {
	n := s.seal.NonceSize()
	if len(c.Sealed) < n {
		return "", errors.New("its token is cut off")
	}
	token, err := s.seal.Open(nil, c.Sealed[:n], c.Sealed[n:], bound(c.Consent))
	if err != nil {
		return "", errors.New("its token does not open with this key")
	}
	return string(token), nil
}

// put keeps a consent, in place of the one that the human gave before.
func (s *ConsentStore) put(c Consent, token string) error {
	nonce := make([]byte, s.seal.NonceSize())
	_, _ = rand.Read(nonce) // 96 bits for at most some millions of writes with one key
	sealed := (&sealedConsent{Consent: c, Sealed: s.seal.Seal(nonce, nonce, []byte(token), bound(c))}).withDigest()
	return s.update(func(all map[consentID]*sealedConsent) error {
		id := idOf(c.Connection, c.Human)
		if all[id] == nil && len(all) >= maxConsents {
			return ErrFull
		}
		all[id] = sealed
		return nil
	})
}

// get returns a consent, or [ErrNoConsent].
func (s *ConsentStore) get(connection, human string) (*sealedConsent, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := s.consents[idOf(connection, human)]
	if c == nil {
		return nil, ErrNoConsent
	}
	return c, nil
}

// markBroken says of a consent that it no longer works, unless another took its
// place meanwhile.
func (s *ConsentStore) markBroken(was *sealedConsent, why string) error {
	return s.update(func(all map[consentID]*sealedConsent) error {
		id := idOf(was.Connection, was.Human)
		if now := all[id]; now == nil || now.digest != was.digest {
			return nil
		}
		broken := *was
		broken.Broken = why
		all[id] = &broken
		return nil
	})
}

// remove forgets a consent; it is no error where there is none.
func (s *ConsentStore) remove(connection, human string) error {
	return s.update(func(all map[consentID]*sealedConsent) error {
		delete(all, idOf(connection, human))
		return nil
	})
}

// others reports whether a consent by which the account lets the same client in
// stands beside this one.
func (s *ConsentStore) others(c *sealedConsent) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, other := range s.consents {
		if other.digest != c.digest && other.Broken == "" && other.ClientID == c.ClientID && foldASCII(other.Account) == foldASCII(c.Account) {
			return true
		}
	}
	return false
}

// list returns the consents to a connection, by human.
func (s *ConsentStore) list(connection string) []Consent {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Consent
	for _, c := range s.consents {
		if c.Connection == connection {
			one := c.Consent
			one.Scopes = slices.Clone(one.Scopes)
			out = append(out, one)
		}
	}
	slices.SortFunc(out, func(a, b Consent) int { return cmp.Compare(a.Human, b.Human) })
	return out
}

// update makes a change durable, and then real.
func (s *ConsentStore) update(edit func(map[consentID]*sealedConsent) error) error {
	s.change.Lock()
	defer s.change.Unlock()
	next := maps.Clone(s.consents) // who holds change may read without mu
	if err := edit(next); err != nil {
		return err
	}
	if err := s.write(next); err != nil {
		return fmt.Errorf("write consents: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.consents = next
	return nil
}

// write replaces the file: written beside it, synced, renamed over it, and the
// directory synced. A crash before the rename leaves the old file, after it the new
// one; both whole.
func (s *ConsentStore) write(all map[consentID]*sealedConsent) error {
	f := consentFile{Version: consentVersion, Consents: slices.SortedFunc(maps.Values(all), func(a, b *sealedConsent) int {
		return cmp.Or(cmp.Compare(a.Connection, b.Connection), cmp.Compare(a.Human, b.Human))
	})}
	raw, err := json.Marshal(f, jsontext.WithIndent(" "))
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	next := s.path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.step("write"); err != nil {
		return err
	}
	if err := createFile(next, append(raw, '\n')); err != nil {
		return err
	}
	err = s.step("rename")
	if err == nil {
		err = os.Rename(next, s.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(next))
	}
	if err := s.step("sync directory"); err != nil {
		return err
	}
	return syncDir(filepath.Dir(s.path))
}

func (s *ConsentStore) step(name string) error {
	if s.fault == nil {
		return nil
	}
	return s.fault(name)
}

// foldASCII lowers A to Z alone: Unicode's folding would make letters of other
// scripts equal to Latin ones (U+212A, the Kelvin sign, to "k").
func foldASCII(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return 'A' <= r && r <= 'Z' }) {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
