// Package durable does the few file operations whose order decides what a
// crash leaves behind: preallocated files written in place and synced by data
// only, small files replaced whole, directories synced.
//
// Each operation passes through one hook, so that a test can make any of them
// fail (with nothing done, with all done, or with half of a write done) and can
// record them to tell what a power cut would have left.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Kind is a kind of operation, as the hook sees it.
type Kind string

// The operations that a hook sees.
const (
	OpCreate  Kind = "create"  // a new file of Len zero bytes, its content synced, its name not
	OpWrite   Kind = "write"   // Data at Off
	OpSync    Kind = "sync"    // the file's data, and its size
	OpRename  Kind = "rename"  // Path becomes To
	OpRemove  Kind = "remove"  // Path goes
	OpMkdir   Kind = "mkdir"   // Path comes to be
	OpSyncDir Kind = "syncdir" // the names in Path
)

// Op is one operation that is about to be done.
type Op struct {
	Kind Kind
	Path string
	To   string
	Off  int64
	Len  int64
	Data []byte // must not be kept or changed
}

// Fault is a hook's answer. The zero value lets the operation be.
type Fault struct {
	// Err is returned in place of the operation's own result.
	Err error
	// Apply has the operation done all the same.
	Apply bool
	// Bytes of a write are done before Err, where Apply is not set.
	Bytes int
}

// FS is the operating system's file system. The zero value is ready to use;
// all methods are safe for concurrent use.
type FS struct {
	// Hook, if set, is asked before each operation.
	Hook func(Op) Fault
	// FreeHook, if set, stands in for the system's figure in [FS.Free].
	FreeHook func(dir string) (int64, error)
}

func (s *FS) do(op Op, f func() error) error {
	if s.Hook == nil {
		return f()
	}
	fault := s.Hook(op)
	if fault.Err == nil || fault.Apply {
		if err := f(); err != nil {
			return err
		}
	}
	return fault.Err
}

// File is an open file that is written in place.
type File struct {
	f    *os.File
	fs   *FS
	path string
}

// Path is the file's name.
func (f *File) Path() string { return f.path }

// ReadAt reads as [io.ReaderAt] does.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// Size is the file's length in bytes.
func (f *File) Size() (int64, error) {
	st, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// WriteAt writes all of p at off. After an error any part of it may be written.
func (f *File) WriteAt(p []byte, off int64) error {
	if f.fs.Hook != nil {
		fault := f.fs.Hook(Op{Kind: OpWrite, Path: f.path, Off: off, Len: int64(len(p)), Data: p})
		if fault.Err != nil && !fault.Apply {
			if fault.Bytes > 0 {
				if _, err := f.f.WriteAt(p[:min(fault.Bytes, len(p))], off); err != nil {
					return err
				}
			}
			return fault.Err
		}
		if fault.Err != nil {
			if _, err := f.f.WriteAt(p, off); err != nil {
				return err
			}
			return fault.Err
		}
	}
	_, err := f.f.WriteAt(p, off)
	return err
}

// Sync makes the file's data durable (fdatasync). After an error nothing is
// known about what was written since the last Sync that succeeded, not even
// if a later one does: the kernel may have dropped it and forgotten.
func (f *File) Sync() error {
	return f.fs.do(Op{Kind: OpSync, Path: f.path}, func() error { return datasync(f.f) })
}

// Rename gives the file another name, replacing what had it.
func (f *File) Rename(to string) error {
	if err := f.fs.Rename(f.path, to); err != nil {
		return err
	}
	f.path = to
	// Whoever took the old name away meanwhile, and gave it to another file, would
	// have that one renamed, and what is written here go to a file without a name.
	mine, err := f.f.Stat()
	if err != nil {
		return err
	}
	named, err := os.Lstat(to)
	if err != nil {
		return err
	}
	if !os.SameFile(mine, named) {
		return fmt.Errorf("rename to %s: the name is another file's", to)
	}
	return nil
}

// Close closes the file without syncing it.
func (f *File) Close() error { return f.f.Close() }

// Open opens an existing file for reading and writing.
func (s *FS) Open(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &File{f: f, fs: s, path: path}, nil
}

// CreateZeroed makes a new file of size zero bytes that are really written, so
// that later writes inside it change no metadata and a datasync of them costs
// no file system transaction. The content is durable on return, the name is
// not: see [FS.SyncDir]. On error no file is left, if that can be helped.
func (s *FS) CreateZeroed(path string, size int64, perm fs.FileMode) (*File, error) {
	var f *os.File
	err := s.do(Op{Kind: OpCreate, Path: path, Len: size}, func() (err error) {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
		if err != nil {
			return err
		}
		if size == 0 {
			return nil
		}
		// Ask for the space first: a full disk then says so before it is written to.
		if err := allocate(f, size); err != nil {
			return err
		}
		zero := make([]byte, min(size, 1<<20))
		for off := int64(0); off < size; off += int64(len(zero)) {
			if _, err := f.WriteAt(zero[:min(int64(len(zero)), size-off)], off); err != nil {
				return err
			}
			// In small steps, so that others who sync at this moment wait for one only.
			if err := datasync(f); err != nil {
				return err
			}
		}
		return f.Sync()
	})
	if err != nil {
		if f != nil {
			err = errors.Join(err, f.Close(), os.Remove(path))
		}
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return &File{f: f, fs: s, path: path}, nil
}

// Rename gives a file another name, replacing what had it.
func (s *FS) Rename(from, to string) error {
	return s.do(Op{Kind: OpRename, Path: from, To: to}, func() error { return os.Rename(from, to) })
}

// Remove removes a file.
func (s *FS) Remove(path string) error {
	return s.do(Op{Kind: OpRemove, Path: path}, func() error { return os.Remove(path) })
}

// SyncDir makes the names in a directory durable.
func (s *FS) SyncDir(dir string) error {
	return s.do(Op{Kind: OpSyncDir, Path: dir}, func() (err error) {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.Close()) }()
		return d.Sync()
	})
}

// Mkdir makes a directory, and its name durable, where it does not exist yet.
func (s *FS) Mkdir(dir string, perm fs.FileMode) error {
	err := s.do(Op{Kind: OpMkdir, Path: dir}, func() error { return os.Mkdir(dir, perm) })
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return s.SyncDir(filepath.Dir(dir))
}

// WriteFile makes path hold data, all of it or what was there before, whatever
// happens, and returns when that is durable. One caller at a time may write a
// given path.
func (s *FS) WriteFile(path string, data []byte, perm fs.FileMode) error {
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := s.CreateZeroed(tmp, 0, perm)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	// On disk now: perhaps an empty .tmp file. Nothing reads those.
	err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		// On disk now: the old file, and the new content under its temporary name.
		err = s.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, removeIfThere(tmp)))
	}
	// A crash here leaves the old content or the new, both whole.
	if err := s.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Free is how many bytes an unprivileged process may still write on dir's file system.
func (s *FS) Free(dir string) (int64, error) {
	if s.FreeHook != nil {
		return s.FreeHook(dir)
	}
	return free(dir)
}

// Lock takes an exclusive lock on a file, which it creates if needed, and
// holds it until the returned Closer is closed or the process ends. It does
// not wait: [ErrLocked] means that somebody else has it.
func Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ErrLocked means that a lock is held by somebody else.
var ErrLocked = errors.New("locked by another process")
