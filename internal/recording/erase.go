package recording

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// KeyInfo is a data key, and what lies under it.
type KeyInfo struct {
	Key        string
	Connection string
	Month      string // "2026-11"
	Bodies     int64
	Bytes      int64 // on disk
	Erased     bool
}

// Erased is what an erasure took away.
type Erased struct{ Bodies, Bytes int64 }

// Keys lists the keys, those that were erased among them, by name.
func (s *Store) Keys(ctx context.Context) ([]KeyInfo, error) {
	names, err := s.keyNames()
	if err != nil {
		return nil, err
	}
	var out []KeyInfo
	for name, erased := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		parts := keyForm.FindStringSubmatch(name)
		k := KeyInfo{Key: name, Connection: parts[1], Month: parts[2], Erased: erased}
		if k.Bodies, k.Bytes, err = s.under(name); err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b KeyInfo) int { return cmp.Compare(a.Key, b.Key) })
	return out, nil
}

// keyNames are all keys that there were, and whether they were erased.
func (s *Store) keyNames() (map[string]bool, error) {
	names := map[string]bool{}
	connections, err := os.ReadDir(s.o.KeyDir)
	if err != nil {
		return nil, fmt.Errorf("list data keys: %w", err)
	}
	for _, c := range connections {
		if !c.IsDir() {
			continue
		}
		files, err := os.ReadDir(filepath.Join(s.o.KeyDir, c.Name()))
		if err != nil {
			return nil, fmt.Errorf("list data keys: %w", err)
		}
		for _, f := range files {
			for _, suffix := range []string{keySuffix, erasedSuffix} {
				if name, ok := strings.CutSuffix(c.Name()+"/"+f.Name(), suffix); ok && keyForm.MatchString(name) {
					names[name] = names[name] || suffix == erasedSuffix
				}
			}
		}
	}
	return names, nil
}

// under counts the bodies under a key.
func (s *Store) under(name string) (bodies, bytes int64, err error) {
	err = filepath.WalkDir(filepath.Join(s.o.Dir, filepath.FromSlash(name)), func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && strings.HasSuffix(d.Name(), ".age") {
			bodies++
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("count recordings: %w", err)
	}
	return bodies, bytes, nil
}

// Due are the keys that a period of retention is over for: whose month ended longer ago
// than that, and that no hold touches.
func Due(keys []KeyInfo, holds []Hold, period time.Duration, now time.Time) []string {
	var out []string
	for _, k := range keys {
		begins, err := time.Parse("2006-01", k.Month)
		if err != nil || k.Erased || period <= 0 || begins.AddDate(0, 1, 0).Add(period).After(now) || Held(k, holds) {
			continue
		}
		out = append(out, k.Key)
	}
	return out
}

// MayErase is nil where [Store.Erase] may be asked for.
func (s *Store) MayErase(name string) error {
	parts := keyForm.FindStringSubmatch(name)
	if parts == nil {
		return fmt.Errorf("%w: %q is no data key's name; they are connection/year-month", ErrInvalid, name)
	}
	for _, h := range s.Holds() {
		if h.touches(parts[1], parts[2]) {
			return fmt.Errorf("data key %s is %w: %s (%s)", name, ErrHeld, h.ID, h.Reason)
		}
	}
	if _, err := s.keys.get(name); err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	return nil
}

// Erase deletes a data key, and the bodies under it. The key goes first: from then on
// nobody can read the bodies, wherever copies of them may be. It may be called again
// after an error.
func (s *Store) Erase(_ context.Context, name string) (Erased, error) {
	var out Erased
	if !keyForm.MatchString(name) {
		return out, fmt.Errorf("%w: %q is no data key's name", ErrInvalid, name)
	}
	parts := keyForm.FindStringSubmatch(name)
	s.holds.mu.Lock() // no hold comes to be in between
	defer s.holds.mu.Unlock()
	if slices.ContainsFunc(s.holds.list, func(h Hold) bool { return h.touches(parts[1], parts[2]) }) {
		return out, fmt.Errorf("data key %s is %w", name, ErrHeld)
	}
	var err error
	if out.Bodies, out.Bytes, err = s.under(name); err != nil {
		return out, err
	}
	if err := s.keys.erase(name, s.o.Now()); err != nil {
		return Erased{}, err
	}
	return out, s.removeBodies(name)
}

// removeBodies deletes what nobody can read any more. A crash in between leaves some of
// it, which goes when the store is next opened.
func (s *Store) removeBodies(name string) error {
	dir := filepath.Join(s.o.Dir, filepath.FromSlash(name))
	s.mu.Lock()
	for rel := range s.dirs {
		if rel == filepath.FromSlash(name) || strings.HasPrefix(rel, filepath.FromSlash(name)+string(filepath.Separator)) {
			delete(s.dirs, rel)
		}
	}
	for body := range s.kept {
		if strings.HasPrefix(body, name+"/") {
			delete(s.kept, body)
		}
	}
	s.mu.Unlock()
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("erase recordings of %s: %w", name, err)
	}
	if _, err := os.Stat(filepath.Dir(dir)); err != nil {
		return nil //nolint:nilerr // there were none
	}
	if err := s.fs.SyncDir(filepath.Dir(dir)); err != nil {
		return fmt.Errorf("erase recordings of %s: %w", name, err)
	}
	return nil
}

// completeErasures ends what a crash interrupted.
func (s *Store) completeErasures() error {
	names, err := s.keyNames()
	if err != nil {
		return err
	}
	for name, erased := range names {
		if !erased {
			continue
		}
		_, kerr := os.Lstat(s.keys.path(name, keySuffix))
		_, berr := os.Lstat(filepath.Join(s.o.Dir, filepath.FromSlash(name)))
		if kerr != nil && berr != nil {
			continue
		}
		if err := s.keys.erase(name, s.o.Now()); err != nil {
			return err
		}
		if err := s.removeBodies(name); err != nil {
			return err
		}
	}
	return nil
}
