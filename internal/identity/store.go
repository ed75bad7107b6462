package identity

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	maxFileBytes = 512 << 20
	fileVersion  = 1
)

// Store holds agents and tokens, in memory and in one file that is replaced
// whole at each change. A change is in force when the method that makes it
// returns nil, and not at all otherwise.
//
// It is safe for concurrent use by one process; the trail's lock keeps a second
// one away.
type Store struct {
	path  string
	now   func() time.Time
	fault func(step string) error // for tests: called before each step of a write
	uses  *uses

	// change is held by who changes something, over the write to the disk. Who
	// holds it may read the maps without mu.
	change sync.Mutex

	mu     sync.RWMutex // guards the maps; what they point at never changes
	agents map[string]*Agent
	tokens map[string]*tokenRecord // by id
	hashes map[digest]*tokenRecord
}

// tokenRecord is a token as the file has it.
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
// that cannot be read whole, or holds anything that this program would not have
// written, is an error and stays as it is.
func Open(path string) (*Store, error) { return OpenAt(path, time.Now) }

// OpenAt is Open with another clock.
func OpenAt(path string, now func() time.Time) (*Store, error) {
	s := &Store{path: path, now: now, agents: map[string]*Agent{}, tokens: map[string]*tokenRecord{}, hashes: map[digest]*tokenRecord{}}
	var err error
	if s.uses, err = openUses(path + usesSuffix); err != nil {
		return nil, err
	}
	raw, err := readFile(path, maxFileBytes+1)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read agents: %w", err)
	}
	if err := s.load(raw); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; restore it from a backup (without it no agent and no token is known)", path, err)
	}
	return s, nil
}

func (s *Store) load(raw []byte) error {
	if len(raw) > maxFileBytes {
		return fmt.Errorf("larger than %d bytes", maxFileBytes)
	}
	var f file
	// Strict: no unknown, repeated or differently spelled member, no bad UTF-8,
	// nothing behind the document.
	if err := json.Unmarshal(raw, &f, json.RejectUnknownMembers(true)); err != nil {
		return err
	}
	switch {
	case f.Version != fileVersion:
		return fmt.Errorf("version %d, this program reads version %d", f.Version, fileVersion)
	case len(f.Agents) > maxAgents || len(f.Tokens) > maxTokens:
		return fmt.Errorf("%d agents and %d tokens, at most %d and %d are kept", len(f.Agents), len(f.Tokens), maxAgents, maxTokens)
	}
	for i, a := range f.Agents {
		if a == nil || !nameForm.MatchString(a.Name) || s.agents[a.Name] != nil {
			return fmt.Errorf("agent %d: its name is not valid, or stands twice", i)
		}
		s.agents[a.Name] = a
	}
	for i, t := range f.Tokens {
		if t == nil || !tokenID.MatchString(t.ID) || s.tokens[t.ID] != nil || s.agents[t.Agent] == nil {
			return fmt.Errorf("token %d: it has no id, stands twice, or belongs to no agent", i)
		}
		if err := checkScopes(t.Human, t.Connections, t.Sources); err != nil {
			return fmt.Errorf("token %s: %w", t.ID, err)
		}
		sum, err := hex.DecodeString(t.SHA256)
		if err != nil || len(sum) != len(t.hash) {
			return fmt.Errorf("token %s: it has no SHA-256", t.ID)
		}
		copy(t.hash[:], sum)
		if s.hashes[t.hash] != nil {
			return fmt.Errorf("token %s: it has another's SHA-256", t.ID)
		}
		s.tokens[t.ID], s.hashes[t.hash] = t, t
	}
	return nil
}

// edit is a change: an agent or a token that is new or takes the place of the
// one of its name, and tokens to forget.
type edit struct {
	agent *Agent
	token *tokenRecord
	also  *tokenRecord // changed in the same write; its secret stays
	drop  []*tokenRecord
}

// commitLocked makes a change durable, and then real. The caller holds
// s.change. On an error nothing has changed in memory; on the disk stands the old
// file or, if only the last sync failed, perhaps the new one, which the next
// change replaces. Either is whole.
func (s *Store) commitLocked(e edit) error {
	agents, tokens := maps.Clone(s.agents), maps.Clone(s.tokens)
	for _, t := range e.drop {
		delete(tokens, t.ID)
	}
	if e.agent != nil {
		agents[e.agent.Name] = e.agent
	}
	for _, t := range []*tokenRecord{e.token, e.also} {
		if t != nil {
			tokens[t.ID] = t
		}
	}
	if err := s.write(agents, tokens); err != nil {
		return fmt.Errorf("write agents: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agents, s.tokens = agents, tokens
	for _, t := range e.drop {
		delete(s.hashes, t.hash)
	}
	for _, t := range []*tokenRecord{e.token, e.also} {
		if t != nil {
			s.hashes[t.hash] = t
		}
	}
	return nil
}

func (s *Store) write(agents map[string]*Agent, tokens map[string]*tokenRecord) error {
	f := file{
		Version: fileVersion,
		Agents:  slices.SortedFunc(maps.Values(agents), func(a, b *Agent) int { return cmp.Compare(a.Name, b.Name) }),
		Tokens:  slices.SortedFunc(maps.Values(tokens), func(a, b *tokenRecord) int { return cmp.Compare(a.ID, b.ID) }),
	}
	raw, err := json.Marshal(f, jsontext.WithIndent(" "))
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return replaceFile(s.path, append(raw, '\n'), s.fault)
}

// readFile reads a file, or its first bytes where it has more than limit.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit))
	return raw, errors.Join(err, f.Close())
}

// replaceFile puts data in place of a file: written beside it, synced, renamed
// over it, and the directory synced. A crash before the rename leaves the old
// file and perhaps a piece beside it, which the next change overwrites; after
// it, the old or the new one, until the directory's sync makes the new one stay.
// fault, for tests, is called before each step.
func replaceFile(path string, data []byte, fault func(step string) error) error {
	step := func(name string) error {
		if fault == nil {
			return nil
		}
		return fault(name)
	}
	next := path + ".new"
	if err := writeFile(next, data, step); err != nil {
		return errors.Join(err, removeIfThere(next))
	}
	err := step("rename")
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(next))
	}
	if err := step("sync directory"); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func writeFile(path string, data []byte, step func(string) error) error {
	if err := step("create"); err != nil {
		return err
	}
	if err := removeIfThere(path); err != nil { // it may have another mode, or be a link
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = step("write")
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = step("sync")
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
