package recording

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

// Errors that callers tell apart.
var (
	ErrInvalid  = errors.New("not valid")
	ErrNotFound = errors.New("there is no such recording")
	ErrErased   = errors.New("erased")
	ErrDamaged  = errors.New("not as it was written")
	ErrHeld     = errors.New("under a legal hold")
	ErrExists   = errors.New("there is one of that name")
)

// Defaults of [Options].
const (
	DefaultMaxBytes = 32 << 20
	DefaultMaxRow   = 16 << 20
)

// maxBody bounds what is read of any body, whatever its entry says.
const maxBody = 2 << 30

// Options say where a store is. Dir and KeyDir are required, and made where they are
// not there.
type Options struct {
	Dir    string // bodies, and holds
	KeyDir string // keys; best on another volume
	// MaxBytes is how much of one answer's rows is stored. Optional.
	MaxBytes int64
	// MaxRow is the longest row that is looked at whole. Optional.
	MaxRow int64
	Now    func() time.Time // Optional.
	Log    *slog.Logger     // Optional.
}

// Store keeps recordings. It is safe for concurrent use, by one process.
type Store struct {
	o     Options
	fs    durable.FS
	keys  *keyring
	holds holds
	temps atomic.Uint64

	naming [64]sync.Mutex // by an address's first bits: one writer of a file

	mu   sync.Mutex          // guards both
	dirs map[string]bool     // made, and durable
	kept map[string]struct{} // bodies that are durable, some of them
}

// Open opens a store. It completes erasures that were begun, and clears away what an
// earlier run left half written.
func Open(o Options) (*Store, error) {
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxRow <= 0 {
		o.MaxRow = DefaultMaxRow
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{o: o, dirs: map[string]bool{}, kept: map[string]struct{}{}}
	s.keys = &keyring{dir: o.KeyDir, fs: &s.fs, known: map[string]*dataKey{}, hash: map[string][]byte{}}
	for _, dir := range []string{o.Dir, o.KeyDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open recordings: %w", err)
		}
	}
	if err := os.RemoveAll(s.tempDir()); err != nil {
		return nil, fmt.Errorf("open recordings: %w", err)
	}
	if err := s.fs.Mkdir(s.tempDir(), 0o700); err != nil {
		return nil, fmt.Errorf("open recordings: %w", err)
	}
	if err := s.holds.open(filepath.Join(o.Dir, "holds.json"), &s.fs); err != nil {
		return nil, err
	}
	if err := s.completeErasures(); err != nil {
		return nil, err
	}
	return s, nil
}

// Existing is a store that is only read, beside the process that writes to it: by Open,
// Rows, Schema and Check.
func Existing(o Options) *Store {
	s := &Store{o: o}
	s.keys = &keyring{dir: o.KeyDir, fs: &s.fs, known: map[string]*dataKey{}, hash: map[string][]byte{}}
	return s
}

func (s *Store) tempDir() string { return filepath.Join(s.o.Dir, ".tmp") }

// temp makes a file for a body that has no name yet.
func (s *Store) temp() (*durable.File, error) {
	return s.fs.CreateZeroed(filepath.Join(s.tempDir(), strconv.FormatUint(s.temps.Add(1), 10)), 0, 0o600)
}

var addressForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// place is a body's path below Dir.
func place(key, address string) (string, error) {
	if !keyForm.MatchString(key) || !addressForm.MatchString(address) {
		return "", fmt.Errorf("%w: %q / %q names no body", ErrInvalid, key, address)
	}
	return filepath.Join(filepath.FromSlash(key), address[:2], address+".age"), nil
}

// maxKept bounds the bodies that are remembered as durable.
const maxKept = 1 << 16

func (s *Store) durable(key, address string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.kept[key+"/"+address]
	return ok
}

func (s *Store) isDurable(key, address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kept) >= maxKept {
		clear(s.kept)
	}
	s.kept[key+"/"+address] = struct{}{}
}

// mkdir makes a directory below Dir and all above it, durably, once.
func (s *Store) mkdir(rel string) error {
	s.mu.Lock()
	made := s.dirs[rel]
	s.mu.Unlock()
	if made || rel == "." {
		return nil
	}
	if err := s.mkdir(filepath.Dir(rel)); err != nil {
		return err
	}
	if err := s.fs.Mkdir(filepath.Join(s.o.Dir, rel), 0o700); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirs[rel] = true
	return nil
}

// name makes a sealed body durable under its address. The same rows under the same key
// are there already: then this copy is dropped.
func (o *spool) name(key, address string) error {
	defer o.drop()
	s := o.s
	rel, err := place(key, address)
	if err != nil {
		return err
	}
	path := filepath.Join(s.o.Dir, rel)
	lock := &s.naming[address[0]%byte(len(s.naming))]
	lock.Lock()
	defer lock.Unlock()
	if s.durable(key, address) {
		return nil
	}
	if err := s.mkdir(filepath.Dir(rel)); err != nil {
		return err
	}
	if f, err := s.fs.Open(path); err == nil {
		// An earlier run may have ended between its rename and its sync.
		if err := errors.Join(f.Sync(), f.Close(), s.fs.SyncDir(filepath.Dir(path))); err != nil {
			return err
		}
		s.isDurable(key, address)
		return nil
	}
	if o.file == nil {
		if err := s.fs.WriteFile(path, o.mem.Bytes(), 0o600); err != nil {
			return err
		}
	} else {
		if err := o.file.Sync(); err != nil {
			return err
		}
		// On disk now: the body, under a name that nobody looks for.
		if err := o.file.Rename(path); err != nil {
			return err
		}
		if err := errors.Join(o.file.Close(), s.fs.SyncDir(filepath.Dir(path))); err != nil {
			o.file = nil
			return err
		}
		o.file = nil
	}
	s.isDurable(key, address)
	return nil
}

// Open opens a body: a line of JSON for each row. Reading it to the end checks it
// against its address; then, or at once, the error is [ErrErased], [ErrNotFound] or
// [ErrDamaged] where it is not what it was.
func (s *Store) Open(_ context.Context, key, address string) (io.ReadCloser, error) {
	rel, err := place(key, address)
	if err != nil {
		return nil, err
	}
	k, err := s.keys.get(key)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenInRoot(s.o.Dir, rel)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("recorded rows %s: %w", address, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("recorded rows %s: %w", address, err)
	}
	b := &body{f: f, key: k, address: address, sum: sha256.New()}
	opened, err := age.Decrypt(bufio.NewReaderSize(f, 64<<10), k.identity)
	if err == nil {
		b.zstd, err = zstd.NewReader(opened, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20), zstd.WithDecoderMaxWindow(8<<20))
	}
	if err != nil {
		return nil, errors.Join(b.damaged(err), f.Close())
	}
	return b, nil
}

// body is one that is being read.
type body struct {
	f       *os.File
	zstd    *zstd.Decoder
	key     *dataKey
	address string
	sum     hash.Hash
	n       int64
}

func (b *body) damaged(err error) error {
	return fmt.Errorf("recorded rows %s: %w: %w", b.address, ErrDamaged, err)
}

var (
	errOther = errors.New("it holds something else than was recorded")
	errLong  = errors.New("it is longer than any recording")
)

func (b *body) Read(p []byte) (int, error) {
	n, err := b.zstd.Read(p)
	b.sum.Write(p[:n])
	b.n += int64(n)
	switch {
	case b.n > maxBody:
		return 0, b.damaged(errLong)
	case errors.Is(err, io.EOF):
		if b.key.commit(b.sum.Sum(nil)) != b.address {
			return 0, b.damaged(errOther)
		}
		return n, io.EOF
	case err != nil:
		return n, b.damaged(err)
	}
	return n, nil
}

func (b *body) Close() error {
	b.zstd.Close()
	return b.f.Close()
}

// Rows are the recorded rows from..from+n, counted in what is stored, fewer where there
// are fewer. The whole body is read and checked before any is returned.
func (s *Store) Rows(ctx context.Context, rec *trailgate.Recording, from, n int64) ([]json.RawMessage, error) {
	if rec.Body == "" {
		return nil, fmt.Errorf("no rows are stored: %w", ErrNotFound)
	}
	r, err := s.Open(ctx, rec.Key, rec.Body)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var out []json.RawMessage
	err = s.lines(ctx, r, rec.StoredBytes, func(i int64, line []byte) {
		if i >= from && i-from < n {
			out = append(out, bytes.Clone(line))
		}
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// lines goes through a body of a known length.
func (s *Store) lines(ctx context.Context, r io.Reader, length int64, f func(i int64, line []byte)) error {
	lines := bufio.NewReaderSize(io.LimitReader(r, length+1), 64<<10)
	var long []byte
	var read, i int64
	for {
		if i%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		part, err := lines.ReadSlice('\n')
		read += int64(len(part))
		if read > length {
			return fmt.Errorf("%w: it is longer than its entry says", ErrDamaged)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long = append(long, part...)
			continue
		case errors.Is(err, io.EOF):
			if read != length || len(part)+len(long) > 0 {
				return fmt.Errorf("%w: it is shorter than its entry says", ErrDamaged)
			}
			return nil
		case err != nil:
			return err
		}
		line := part[:len(part)-1]
		if len(long) > 0 {
			long = append(long, line...)
			line = long
		}
		f(i, line)
		i++
		long = long[:0]
	}
}

// Column is one of a result's columns, as BigQuery's TableFieldSchema has it.
type Column struct {
	Name   string   `json:"name"`
	Type   string   `json:"type"`
	Mode   string   `json:"mode,omitempty"`
	Fields []Column `json:"fields,omitempty"`
}

// Schema is the recorded schema; nil where there was none.
func (s *Store) Schema(ctx context.Context, rec *trailgate.Recording) ([]Column, error) {
	if rec.Schema == "" {
		return nil, nil
	}
	r, err := s.Open(ctx, rec.Key, rec.Schema)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, maxSchema+1))
	if err != nil {
		return nil, err
	}
	return columns(raw)
}

func columns(raw []byte) ([]Column, error) {
	var in struct {
		Fields []Column `json:"fields"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return in.Fields, nil
}

// Check checks that what an entry says was stored is there, and is what the entry says.
// Gone means that the data key is not there, so that it cannot be told.
func (s *Store) Check(ctx context.Context, rec *trailgate.Recording) (gone bool, err error) {
	if _, err := s.keys.get(rec.Key); errors.Is(err, ErrErased) || errors.Is(err, ErrNotFound) {
		return true, nil
	}
	if rec.Body != "" {
		r, err := s.Open(ctx, rec.Key, rec.Body)
		if err != nil {
			return false, err
		}
		var rows int64
		err = errors.Join(s.lines(ctx, r, rec.StoredBytes, func(int64, []byte) { rows++ }), r.Close())
		switch {
		case err != nil:
			return false, err
		case rows != rec.StoredRows:
			return false, fmt.Errorf("recorded rows %s: %w: %d rows, the entry says %d", rec.Body, ErrDamaged, rows, rec.StoredRows)
		}
	}
	if _, err := s.Schema(ctx, rec); err != nil {
		return false, err
	}
	return false, nil
}
