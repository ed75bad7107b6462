package trail

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/trailgate/trailgate/internal/trail/durable"
)

// MaxBlobBytes bounds a stored body, uncompressed.
const MaxBlobBytes = 64 << 20

// blobStore keeps bodies that are too long for an entry, each in a file named
// by the SHA-256 of its content and compressed with zstd.
type blobStore struct {
	dir string
	fs  *durable.FS
	log *slog.Logger

	stripes [64]sync.Mutex // by the hash's first bits: one writer a blob
}

// The zstd coders are safe for concurrent use, and costly to make.
var (
	zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(2), zstd.WithEncoderLevel(zstd.SpeedDefault))
	})
	zstdDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxBlobBytes+1))
	})
)

// PutBlob stores a body, durably, and returns the SHA-256 that an entry names
// it by, in hex. A body that is there already is not written again. It is
// bounded by [MaxBlobBytes], and refused as [Trail.Append] refuses entries.
func (t *Trail) PutBlob(ctx context.Context, data []byte) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("store body: %w", err)
	}
	t.mu.Lock()
	err := t.refusalLocked()
	t.mu.Unlock()
	if err != nil {
		return "", fmt.Errorf("store body: %w", err)
	}
	sha, err := t.blobs.put(data)
	if err != nil {
		return "", fmt.Errorf("store body: %w", err)
	}
	return sha, nil
}

// GetBlob returns a stored body, checked against its hash; [ErrNotFound] if
// there is none.
func (t *Trail) GetBlob(ctx context.Context, sha string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("body %s: %w", sha, err)
	}
	return readBlob(t.blobs.dir, sha)
}

func (b *blobStore) put(data []byte) (string, error) {
	if len(data) > MaxBlobBytes {
		return "", fmt.Errorf("%d bytes, at most %d are kept", len(data), MaxBlobBytes)
	}
	sum := sha256.Sum256(data)
	sha := hex.EncodeToString(sum[:])
	path, err := blobPath(b.dir, sha)
	if err != nil {
		return "", err
	}
	lock := &b.stripes[sum[0]%byte(len(b.stripes))]
	lock.Lock()
	defer lock.Unlock()

	old, err := readBlob(b.dir, sha)
	switch {
	case err == nil && bytes.Equal(old, data):
		return sha, b.settle(path)
	case err != nil && !errors.Is(err, ErrNotFound):
		// Somebody changed it. The body at hand is the right one; verify will have
		// told if it was asked before now, and the log says that it was stored.
		b.log.LogAttrs(context.Background(), slog.LevelError, "a stored body was damaged, and is written anew", slog.String("sha256", sha), slog.Any("err", err))
	}
	enc, err := zstdEncoder()
	if err != nil {
		return "", err
	}
	if err := b.fs.Mkdir(filepath.Dir(path), 0o700); err != nil {
		return "", unavailable(err)
	}
	if err := b.fs.WriteFile(path, enc.EncodeAll(data, nil), 0o600); err != nil {
		return "", unavailable(err)
	}
	// On disk now: the body, whole, under its name. A crash before the entry that
	// names it leaves a body that nobody refers to, which harms nobody.
	return sha, nil
}

// settle makes durable a file that is there already: an earlier put may have
// been interrupted between its rename and its sync.
func (b *blobStore) settle(path string) error {
	f, err := b.fs.Open(path)
	if err != nil {
		return unavailable(err)
	}
	err = errors.Join(f.Sync(), f.Close())
	if err == nil {
		err = b.fs.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return unavailable(err)
	}
	return nil
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) }

func readBlob(dir, sha string) ([]byte, error) {
	path, err := blobPath(dir, sha)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("body %s: %w", sha, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("body %s: %w", sha, err)
	}
	defer f.Close() //nolint:errcheck // read only
	packed, err := io.ReadAll(io.LimitReader(f, MaxBlobBytes+1<<20))
	if err != nil {
		return nil, fmt.Errorf("body %s: %w", sha, err)
	}
	dec, err := zstdDecoder()
	if err != nil {
		return nil, err
	}
	data, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("body %s: %w: %w", sha, errBlob, err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != sha {
		return nil, fmt.Errorf("body %s: %w: content has another hash", sha, errBlob)
	}
	return data, nil
}

// errBlob means that a stored body is not what its name says.
var errBlob = errors.New("stored body was changed")
