package recording

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"filippo.io/age"

	"github.com/trailgate/trailgate/internal/trail/durable"
)

// Names of what a key directory holds, for each connection.
const (
	keySuffix    = ".key"
	erasedSuffix = ".erased"
	hashKeyName  = "hash.key"
)

// maxGenerations bounds how often the key of one month can be erased and made anew.
const maxGenerations = 10_000

// keyForm is a data key's name: connection, month, and a number from 2 on where an
// earlier key of that month was erased.
var keyForm = regexp.MustCompile(`^([a-z][a-z0-9_-]{0,62})/([0-9]{4}-(0[1-9]|1[0-2]))(\.([2-9]|[1-9][0-9]{1,4}))?$`)

// dataKey is what the bodies of one connection and month are sealed with.
type dataKey struct {
	name     string
	identity *age.X25519Identity
	salt     []byte
}

func newDataKey(name string, identity *age.X25519Identity) (*dataKey, error) {
	salt, err := hkdf.Key(sha256.New, []byte(identity.String()), nil, "trailgate recording salt v1", sha256.Size)
	if err != nil {
		return nil, err
	}
	return &dataKey{name, identity, salt}, nil
}

// commit is the commitment to a body by its SHA-256, hex (docs/spec/recording.md).
func (k *dataKey) commit(sum []byte) string {
	mac := hmac.New(sha256.New, k.salt)
	mac.Write(sum)
	h := sha256.New()
	h.Write([]byte("trailgate recording v1\n"))
	h.Write(mac.Sum(nil))
	h.Write(sum)
	return hex.EncodeToString(h.Sum(nil))
}

// keyring makes, reads and erases keys. It is safe for concurrent use.
type keyring struct {
	dir string
	fs  *durable.FS

	mu    sync.Mutex // guards all, and the files
	known map[string]*dataKey
	hash  map[string][]byte // by connection
}

// current is the key for a connection's bodies of a month, made where there is none.
func (r *keyring) current(connection string, at time.Time) (*dataKey, error) {
	month := at.UTC().Format("2006-01")
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := 1; n < maxGenerations; n++ {
		name := connection + "/" + month
		if n > 1 {
			name += "." + strconv.Itoa(n)
		}
		k, err := r.readLocked(name)
		switch {
		case err == nil:
			return k, nil
		case errors.Is(err, ErrErased):
			continue
		case !errors.Is(err, ErrNotFound):
			return nil, err
		}
		return r.makeLocked(name)
	}
	return nil, fmt.Errorf("the key of %s was erased %d times", month, maxGenerations)
}

// get is a key that was made before; [ErrErased] or [ErrNotFound] where it is not there.
func (r *keyring) get(name string) (*dataKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.readLocked(name)
}

func (r *keyring) path(name, suffix string) string {
	return filepath.Join(r.dir, filepath.FromSlash(name)+suffix)
}

func (r *keyring) readLocked(name string) (*dataKey, error) {
	if k := r.known[name]; k != nil {
		return k, nil
	}
	if !keyForm.MatchString(name) {
		return nil, fmt.Errorf("%w: %q is no data key's name", ErrInvalid, name)
	}
	if _, err := os.Lstat(r.path(name, erasedSuffix)); err == nil {
		return nil, fmt.Errorf("data key %s: %w", name, ErrErased)
	}
	raw, err := readSmall(r.path(name, keySuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("data key %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("data key %s: %w", name, err)
	}
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		identity, err := age.ParseX25519Identity(line)
		if err != nil {
			break // the error might repeat the secret
		}
		k, err := newDataKey(name, identity)
		if err != nil {
			return nil, err
		}
		r.known[name] = k
		return k, nil
	}
	return nil, fmt.Errorf("data key %s: %w: the file holds no age identity", name, ErrDamaged)
}

// makeLocked makes a key. It is durable on return: a body that is sealed for it can be
// opened after any crash. Before that, a crash leaves no key, or one that nothing uses yet.
func (r *keyring) makeLocked(name string) (*dataKey, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	path := r.path(name, keySuffix)
	if err := r.fs.Mkdir(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make data key %s: %w", name, err)
	}
	text := "# Trailgate: the key of recorded rows, " + name + ". Deleting it erases them.\n# public key: " + identity.Recipient().String() + "\n" + identity.String() + "\n"
	if err := r.fs.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("make data key %s: %w", name, err)
	}
	k, err := newDataKey(name, identity)
	if err == nil {
		r.known[name] = k
	}
	return k, err
}

// hashKey is what a connection's hashed values are keyed with: the same for all months,
// so that they can be compared.
func (r *keyring) hashKey(connection string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if key := r.hash[connection]; key != nil {
		return key, nil
	}
	path := filepath.Join(r.dir, connection, hashKeyName)
	raw, err := readSmall(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		var key [32]byte
		_, _ = rand.Read(key[:]) // it does not fail: crypto/rand ends the program first
		raw = []byte(hex.EncodeToString(key[:]) + "\n")
		if err := r.fs.Mkdir(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("make hash key: %w", err)
		}
		if err := r.fs.WriteFile(path, raw, 0o600); err != nil {
			return nil, fmt.Errorf("make hash key: %w", err)
		}
	case err != nil:
		return nil, fmt.Errorf("read hash key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("read hash key: %w: %s holds no key", ErrDamaged, path)
	}
	r.hash[connection] = key
	return key, nil
}

// erase deletes a key for good. First a mark that it is erased becomes durable, so that
// it is never made or used again; a crash behind that is completed when the store is
// next opened. Then the secret is overwritten, which on many a disk and file system
// leaves it readable to who takes the disk apart: a volume that can itself be wiped
// is the place for keys where that matters.
func (r *keyring) erase(name string, at time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, name)
	mark := r.path(name, erasedSuffix)
	if _, err := os.Lstat(mark); errors.Is(err, fs.ErrNotExist) {
		if err := r.fs.WriteFile(mark, []byte(at.UTC().Format(time.RFC3339)+"\n"), 0o600); err != nil {
			return fmt.Errorf("erase data key %s: %w", name, err)
		}
	}
	path := r.path(name, keySuffix)
	f, err := r.fs.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("erase data key %s: %w", name, err)
	}
	size, err := f.Size()
	if err == nil {
		err = f.WriteAt(make([]byte, min(size, 1<<16)), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = r.fs.Remove(path)
	}
	if err == nil {
		err = r.fs.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("erase data key %s: %w", name, err)
	}
	return nil
}

// readSmall reads a regular file of at most 64 KiB, and follows no link.
func readSmall(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > 1<<16 {
		return nil, fmt.Errorf("%s: not a small regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<16))
}

// readSmallish reads a file of at most 4 MiB.
func readSmallish(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, 4<<20+1))
	if err == nil && len(raw) > 4<<20 {
		err = fmt.Errorf("%s is longer than any such file", path)
	}
	return raw, err
}
