package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	maxRevoked      = 100_000  // session tokens that were revoked and have time left
	maxRevokedBytes = 16 << 20 // of their file
)

// RevokeSession ends a session token, and those that were got for it, with the
// next call. Unknown ids are not an error: the gateway keeps no list of session
// tokens. It is remembered until any such token would have ended. Errors are
// [ErrInvalid], [ErrFull], or tell that nothing could be written; the token
// holds on then.
func (a *Authenticator) RevokeSession(id string) error {
	if !sessionTokenID(id) {
		return fmt.Errorf("%w: %q is no session token's id, which is \"ses_\" and 26 characters", ErrInvalid, id)
	}
	return a.revoked.add(id, a.cfg.Now().Add(maxExchangeTTL))
}

func sessionTokenID(id string) bool {
	rest, ok := strings.CutPrefix(id, sessionPrefix)
	return ok && tokenID.MatchString("tok_"+rest)
}

// revocations are the session tokens that were revoked, in one small file.
type revocations struct {
	path  string
	now   func() time.Time
	fault func(step string) error // for tests: called before each step of a write

	change sync.Mutex // held by who adds one, over the write to the disk

	mu sync.RWMutex         // guards the map, which is replaced and never changed
	by map[string]time.Time // until when it matters
}

type revocationsFile struct {
	Version int                  `json:"version"`
	Revoked map[string]time.Time `json:"revoked"` // until when it matters
}

// openRevocations reads the file. One that cannot be read stops the start: what
// was revoked must not come back to life.
func openRevocations(path string, now func() time.Time) (*revocations, error) {
	r := &revocations{path: path, now: now, by: map[string]time.Time{}}
	raw, err := readFile(path, maxRevokedBytes+1)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read revoked session tokens: %w", err)
	}
	var f revocationsFile
	err = json.Unmarshal(raw, &f, json.RejectUnknownMembers(true))
	if err != nil || len(raw) > maxRevokedBytes || f.Version != fileVersion || f.Revoked == nil || len(f.Revoked) > maxRevoked {
		return nil, fmt.Errorf("%s is damaged; restore it, or remove it together with the key of session tokens, which ends them all", path)
	}
	r.by = f.Revoked
	return r, nil
}

// has waits for no write: a revocation counts from the moment that it is durable.
func (r *revocations) has(id string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ok := r.by[id]
	return ok
}

// add makes a revocation durable, and then real. A crash before its return
// leaves it made or not; it was not acknowledged.
func (r *revocations) add(id string, until time.Time) error {
	r.change.Lock()
	defer r.change.Unlock()
	next := map[string]time.Time{id: until.UTC()}
	now := r.now()
	for old, end := range r.by { // only who holds change replaces it
		if now.Before(end) && old != id {
			next[old] = end
		}
	}
	if len(next) > maxRevoked {
		return fmt.Errorf("%w: there are %d revoked session tokens; revoke the agent", ErrFull, maxRevoked)
	}
	raw, err := json.Marshal(revocationsFile{Version: fileVersion, Revoked: next}, json.Deterministic(true))
	if err == nil {
		err = replaceFile(r.path, append(raw, '\n'), r.fault)
	}
	if err != nil {
		return fmt.Errorf("write revoked session tokens: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.by = next
	return nil
}
