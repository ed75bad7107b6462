package approval

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	fileVersion  = 1
	maxFileBytes = 1 << 20
	maxFiles     = 200_000
	requestExt   = ".json"
	bodyExt      = ".body"
	newExt       = ".new" // being written; nothing reads it
)

// record is a request's file.
type record struct {
	Version int `json:"version"`
	// Number counts requests in the order in which they were made, which the
	// clock does not tell for certain.
	Number  uint64   `json:"number"`
	Request *Request `json:"request"`
}

func encode(n uint64, r *Request) ([]byte, error) {
	raw, err := json.Marshal(record{Version: fileVersion, Number: n, Request: r}, json.Deterministic(true), jsontext.WithIndent(" "))
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return append(raw, '\n'), nil
}

// decode reads a request's file. It takes what encode and this package's
// methods make, and nothing else: no unknown, repeated or differently spelled
// member, no bad UTF-8, nothing behind the document, no state without the votes
// for it.
func decode(raw []byte) (uint64, *Request, error) {
	if len(raw) > maxFileBytes {
		return 0, nil, fmt.Errorf("%w: more than %d bytes", errDamaged, maxFileBytes)
	}
	var rec record
	if err := json.Unmarshal(raw, &rec, json.RejectUnknownMembers(true)); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	switch {
	case rec.Version != fileVersion:
		return 0, nil, fmt.Errorf("%w: version %d, this program reads version %d", errDamaged, rec.Version, fileVersion)
	case rec.Number == 0 || rec.Request == nil:
		return 0, nil, fmt.Errorf("%w: there is no number, or no request", errDamaged)
	}
	if err := rec.Request.check(); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return rec.Number, rec.Request, nil
}

func (s *Store) path(id, ext string) string { return filepath.Join(s.dir, id+ext) }

// loaded is what a directory holds.
type loaded struct {
	number uint64
	size   int64
	req    *Request
}

// load reads the directory. Nothing in it is changed before all of it was read.
func (s *Store) load() ([]loaded, error) {
	if err := os.Mkdir(s.dir, 0o700); err == nil {
		if err := syncDir(filepath.Dir(s.dir)); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	var all []loaded
	needed := map[string]bool{}
	for _, name := range names {
		id, ok := strings.CutSuffix(name, requestExt)
		if !ok {
			continue
		}
		n, r, size, err := s.loadOne(id)
		if err != nil {
			return nil, fmt.Errorf("%s: %w; move it away, and the %s beside it, and start again: that approval must then be asked for anew (the trail still has the held call)",
				s.path(id, requestExt), err, bodyExt)
		}
		needed[id+requestExt] = true
		needed[id+bodyExt] = r.Call.BodyBytes > 0 && !r.State.Final()
		all = append(all, loaded{n, size, r})
	}
	// What is left is what a crash left: pieces that were being written, bodies
	// whose request never came to be or no longer needs them. Nothing points at
	// them. Names that are not ours stay as they are.
	for _, name := range names {
		base := strings.TrimSuffix(name, newExt)
		id := strings.TrimSuffix(strings.TrimSuffix(base, bodyExt), requestExt)
		if idForm.MatchString(id) && id != name && !needed[name] {
			if err := removeIfThere(filepath.Join(s.dir, name)); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

func (s *Store) names() ([]string, error) {
	d, err := os.Open(s.dir)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(maxFiles + 1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err := errors.Join(err, d.Close()); err != nil {
		return nil, err
	}
	if len(names) > maxFiles {
		return nil, fmt.Errorf("%s holds more than %d files; what fills it?", s.dir, maxFiles)
	}
	return names, nil
}

func (s *Store) loadOne(id string) (uint64, *Request, int64, error) {
	raw, err := readFile(s.path(id, requestExt), maxFileBytes+1)
	if err != nil {
		return 0, nil, 0, err
	}
	n, r, err := decode(raw)
	if err != nil {
		return 0, nil, 0, err
	}
	if r.ID != id {
		return 0, nil, 0, fmt.Errorf("%w: it is about another id", errDamaged)
	}
	if r.Call.BodyBytes > 0 && !r.State.Final() {
		// The content is compared when it is used: a start must not read a gigabyte.
		if info, err := os.Stat(s.path(id, bodyExt)); err != nil || info.Size() != r.Call.BodyBytes {
			return 0, nil, 0, errBodyGone
		}
	}
	return n, r, int64(len(raw)), nil
}

// readBody gives the body of a held call, exactly as it was held.
func (s *Store) readBody(r *Request) ([]byte, error) {
	if r.Call.BodyBytes == 0 {
		return nil, nil
	}
	body, err := readFile(s.path(r.ID, bodyExt), MaxBodyBytes+1)
	if err != nil {
		return nil, fmt.Errorf("read held call: %w", err)
	}
	if sum := sha256.Sum256(body); int64(len(body)) != r.Call.BodyBytes || hex.EncodeToString(sum[:]) != r.Call.BodySHA256 {
		return nil, fmt.Errorf("%s: %w; deny the request, the agent must ask again", s.path(r.ID, bodyExt), errBodyGone)
	}
	return body, nil
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	var buf bytes.Buffer
	_, err = buf.ReadFrom(io.LimitReader(f, limit))
	return buf.Bytes(), errors.Join(err, f.Close())
}

// replaceFile puts data in place of a file: written beside it, synced, renamed
// over it, and the directory synced. A crash before the rename leaves the old
// file and perhaps a piece beside it, which the next Open removes; after it, the
// old or the new one, until the directory's sync makes the new one stay. An
// error from the rename or that sync leaves the same doubt, which it reports:
// see [Store.put].
func (s *Store) replaceFile(path string, data []byte) (doubt bool, err error) {
	next := path + newExt
	if err := s.writeFile(next, data); err != nil {
		return false, errors.Join(err, removeIfThere(next))
	}
	err = s.step("rename", path)
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return true, errors.Join(err, removeIfThere(next))
	}
	if err = s.step("sync directory", path); err == nil {
		err = syncDir(s.dir)
	}
	return err != nil, err
}

func (s *Store) writeFile(path string, data []byte) error {
	if err := s.step("create", path); err != nil {
		return err
	}
	if err := removeIfThere(path); err != nil { // it may have another mode, or be a link
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = s.step("write", path)
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = s.step("sync", path)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// remove forgets a file. Its name may come back after a power cut; Open removes
// it again.
func (s *Store) remove(path string) error {
	if err := s.step("remove", path); err != nil {
		return err
	}
	return removeIfThere(path)
}

// step is where tests have the disk fail.
func (s *Store) step(name, path string) error {
	if f := s.fault.Load(); f != nil {
		return (*f)(name, path)
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
