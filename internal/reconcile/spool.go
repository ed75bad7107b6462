package reconcile

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// Spool is a [Source] of what was exported from Cloud Audit Logs. Entries are in no
// order to rely on, and tell of a job several times: so each goes into a file of the
// hour in which the job was made, on disk, and an hour is read when it is its turn.
type Spool struct {
	dir     string
	open    map[int64]*os.File
	buffers map[int64]*bufio.Writer
	seen    map[string]bool // projects

	// Entries is how many log entries were read, Told how many of them told of a job or
	// of rows; Earliest and Latest are when those jobs were made.
	Entries, Told    int64
	Earliest, Latest time.Time
}

// maxSpoolFiles bounds the files that are open at once.
const maxSpoolFiles = 32

const maxSpoolProjects = 1_000

// Projects are those that the export tells of.
func (s *Spool) Projects() []string { return slices.Sorted(maps.Keys(s.seen)) }

// NewSpool makes an empty one in a new directory below dir. Close removes it.
func NewSpool(dir string) (*Spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("spool audit logs: %w", err)
	}
	own, err := os.MkdirTemp(dir, "spool-*")
	if err != nil {
		return nil, fmt.Errorf("spool audit logs: %w", err)
	}
	return &Spool{dir: own, open: map[int64]*os.File{}, buffers: map[int64]*bufio.Writer{}, seen: map[string]bool{}}, nil
}

// Name implements [Source].
func (*Spool) Name() string { return "audit-log" }

// Add reads an export. All of it must be added before the first Jobs.
func (s *Spool) Add(r io.Reader) error {
	entries, told, err := ReadAuditLog(r, s.put)
	s.Entries += entries
	s.Told += told
	return err
}

func (s *Spool) put(j *Job) error {
	if s.Earliest.IsZero() || j.Created.Before(s.Earliest) {
		s.Earliest = j.Created
	}
	if j.Created.After(s.Latest) {
		s.Latest = j.Created
	}
	if len(s.seen) < maxSpoolProjects {
		s.seen[j.Project] = true
	}
	w, err := s.writer(j.Created.Unix() / 3600)
	if err != nil {
		return fmt.Errorf("spool audit logs: %w", err)
	}
	raw, err := json.Marshal(j)
	if err == nil {
		_, err = w.Write(append(raw, '\n'))
	}
	if err != nil {
		return fmt.Errorf("spool audit logs: %w", err)
	}
	return nil
}

func (s *Spool) path(hour int64) string {
	return filepath.Join(s.dir, strconv.FormatInt(hour, 10)+".jsonl")
}

func (s *Spool) writer(hour int64) (*bufio.Writer, error) {
	if w := s.buffers[hour]; w != nil {
		return w, nil
	}
	if len(s.open) >= maxSpoolFiles {
		if err := s.flush(); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(s.path(hour), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	s.open[hour], s.buffers[hour] = f, bufio.NewWriterSize(f, 64<<10)
	return s.buffers[hour], nil
}

func (s *Spool) flush() error {
	var errs []error
	for hour, w := range s.buffers {
		errs = append(errs, w.Flush(), s.open[hour].Close())
	}
	clear(s.open)
	clear(s.buffers)
	return errors.Join(errs...)
}

// Jobs implements [Source].
func (s *Spool) Jobs(ctx context.Context, project string, from, until time.Time, fn func(*Job) error) error {
	if err := s.flush(); err != nil {
		return fmt.Errorf("spool audit logs: %w", err)
	}
	for hour := from.Unix() / 3600; hour <= until.Add(-1).Unix()/3600; hour++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.hour(hour, project, from, until, fn); err != nil {
			return err
		}
	}
	return nil
}

func (s *Spool) hour(hour int64, project string, from, until time.Time, fn func(*Job) error) error {
	f, err := os.Open(s.path(hour))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read spooled audit logs: %w", err)
	}
	defer f.Close()
	d := json.NewDecoder(bufio.NewReaderSize(f, 256<<10))
	for {
		var j Job
		if err := d.Decode(&j); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read spooled audit logs: %w", err)
		}
		if j.Project != project || j.Created.Before(from) || !j.Created.Before(until) {
			continue
		}
		if err := fn(&j); err != nil {
			return err
		}
	}
}

// Close removes the files.
func (s *Spool) Close() error {
	return errors.Join(s.flush(), os.RemoveAll(s.dir))
}
