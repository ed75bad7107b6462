package recording

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/trailgate/trailgate/internal/trail/durable"
)

const (
	maxHolds  = 1_000
	maxReason = 1 << 10
)

// Hold says that recordings must not be erased.
type Hold struct {
	ID         string    `json:"id"`
	Connection string    `json:"connection,omitempty"` // "": all
	From       time.Time `json:"from,omitzero"`        // of the months that it touches; zero: from the first on
	Until      time.Time `json:"until,omitzero"`       // exclusive; zero: without end
	Reason     string    `json:"reason"`
	By         string    `json:"by"`
	At         time.Time `json:"at"`
}

var (
	holdForm       = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	connectionForm = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
)

// Valid is nil for a hold that can be kept.
func (h Hold) Valid() error {
	switch {
	case !holdForm.MatchString(h.ID):
		return fmt.Errorf("hold: %w: the name must be lower-case letters, digits, '_' and '-', at most 63", ErrInvalid)
	case h.Connection != "" && !connectionForm.MatchString(h.Connection):
		return fmt.Errorf("hold: %w: %q is no connection", ErrInvalid, h.Connection)
	case !h.From.IsZero() && !h.Until.IsZero() && !h.From.Before(h.Until):
		return fmt.Errorf("hold: %w: it ends before it begins", ErrInvalid)
	case strings.TrimSpace(h.Reason) == "" || len(h.Reason) > maxReason || !utf8.ValidString(h.Reason) || strings.ContainsFunc(h.Reason, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("hold: %w: say why, in one line of at most %d bytes", ErrInvalid, maxReason)
	}
	return nil
}

// touches reports whether a hold is for a connection's month.
func (h Hold) touches(connection, month string) bool {
	begins, err := time.Parse("2006-01", month)
	if err != nil {
		return true
	}
	ends := begins.AddDate(0, 1, 0)
	return (h.Connection == "" || h.Connection == connection) && (h.From.IsZero() || h.From.Before(ends)) && (h.Until.IsZero() || h.Until.After(begins))
}

// holds are kept in one file that is replaced whole at each change.
type holds struct {
	path string
	fs   *durable.FS

	mu   sync.Mutex // guards list, and the file
	list []Hold
}

// open reads the holds. A file that cannot be read is an error: what is held must not
// be erased by it.
func (h *holds) open(path string, fsys *durable.FS) error {
	h.path, h.fs = path, fsys
	raw, err := readSmallish(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read holds: %w", err)
	}
	var in struct {
		Holds []Hold `json:"holds"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return fmt.Errorf("read holds: %w; restore %s from a backup: what it holds back must not be erased", err, path)
	}
	h.list = in.Holds
	return nil
}

// saveLocked makes a list the one that holds. A crash leaves it or the one before.
func (h *holds) saveLocked(list []Hold) error {
	raw, err := json.MarshalIndent(struct {
		Holds []Hold `json:"holds"`
	}{list}, "", "  ")
	if err != nil {
		return err
	}
	if err := h.fs.WriteFile(h.path, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep holds: %w", err)
	}
	h.list = list
	return nil
}

// Hold keeps recordings from being erased. It is in force on return.
func (s *Store) Hold(x Hold) error {
	if err := x.Valid(); err != nil {
		return err
	}
	h := &s.holds
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case slices.ContainsFunc(h.list, func(y Hold) bool { return y.ID == x.ID }):
		return fmt.Errorf("hold %s: %w", x.ID, ErrExists)
	case len(h.list) >= maxHolds:
		return fmt.Errorf("%w: %d holds are as many as there can be; release some", ErrInvalid, maxHolds)
	}
	return h.saveLocked(append(slices.Clone(h.list), x))
}

// Release ends a hold.
func (s *Store) Release(id string) error {
	h := &s.holds
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.list, func(x Hold) bool { return x.ID == id })
	if i < 0 {
		return fmt.Errorf("hold %q: %w", id, ErrNoHold)
	}
	return h.saveLocked(slices.Delete(slices.Clone(h.list), i, i+1))
}

// ErrNoHold means that there is no hold of a name.
var ErrNoHold = errors.New("there is none of that name")

// Holds lists the holds, as they were made.
func (s *Store) Holds() []Hold {
	s.holds.mu.Lock()
	defer s.holds.mu.Unlock()
	return slices.Clone(s.holds.list)
}

// Held reports whether a key is under one of the holds.
func Held(k KeyInfo, holds []Hold) bool {
	return slices.ContainsFunc(holds, func(h Hold) bool { return h.touches(k.Connection, k.Month) })
}
