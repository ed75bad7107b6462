// Package suspend is the kill switch: who may make no calls for now. What is
// suspended is an agent, a connection, or everything; credentials stay as they are,
// and resuming brings all back.
//
// It holds nothing but that list, in memory and in one small file that is replaced
// whole at each change; a change is in force when the method that makes it returns
// nil. Cutting what is under way is the gateway's work.
package suspend

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/trailgate/trailgate/internal/trail/durable"
)

// What can be suspended.
const (
	Agent      = "agent"
	Connection = "connection"
	All        = "all"
)

// Bounds of the list.
const (
	Max            = 10_000
	maxFileBytes   = 16 << 20
	maxReasonBytes = 1 << 10
	fileVersion    = 1
)

// Errors that callers tell apart.
var (
	ErrInvalid   = errors.New("not a suspension")
	ErrSuspended = errors.New("already suspended")
	ErrNot       = errors.New("not suspended")
	ErrTooMany   = errors.New("too many suspensions; resume some, or suspend all")
)

// Suspension says that somebody may make no calls.
type Suspension struct {
	Scope  string    `json:"scope"`          // Agent, Connection or All
	Name   string    `json:"name,omitempty"` // of the agent or connection; "" for All
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by"`
	Since  time.Time `json:"since"`
}

// What is it that is suspended, for messages: "agent etl-bot", "all agents".
func (s Suspension) What() string {
	if s.Scope == All {
		return "all agents"
	}
	return s.Scope + " " + s.Name
}

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

func (s Suspension) check() error {
	switch {
	case s.Scope == All && s.Name != "":
		return fmt.Errorf("%w: %q has no name", ErrInvalid, All)
	case s.Scope != All && (s.Scope != Agent && s.Scope != Connection || !nameForm.MatchString(s.Name)):
		return fmt.Errorf("%w: name an agent, a connection, or all", ErrInvalid)
	case len(s.Reason) > maxReasonBytes || !utf8.ValidString(s.Reason) || strings.ContainsFunc(s.Reason, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("%w: the reason must be one line of at most %d bytes", ErrInvalid, maxReasonBytes)
	}
	return nil
}

type key struct{ scope, name string }

// Store is the list. It is safe for concurrent use by one process.
type Store struct {
	path string
	fs   durable.FS
	now  func() time.Time

	change sync.Mutex   // held by who changes something, over the write to the disk
	mu     sync.RWMutex // guards what follows
	list   map[key]Suspension
}

type file struct {
	Version     int          `json:"version"`
	Suspensions []Suspension `json:"suspensions"`
}

// Open reads the list, or begins an empty one where there is no file. A file that
// cannot be read whole is an error: who was suspended must not come back by it.
func Open(path string) (*Store, error) { return OpenAt(path, time.Now) }

// OpenAt is Open with another clock.
func OpenAt(path string, now func() time.Time) (*Store, error) {
	s := &Store{path: path, now: now, list: map[key]Suspension{}}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read suspensions: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read suspensions: %w", err)
	}
	if err := s.load(raw); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; restore it from a backup, or remove it if nobody is to be suspended", path, err)
	}
	return s, nil
}

func (s *Store) load(raw []byte) error {
	if len(raw) > maxFileBytes {
		return fmt.Errorf("larger than %d bytes", maxFileBytes)
	}
	var f file
	if err := json.Unmarshal(raw, &f, json.RejectUnknownMembers(true)); err != nil {
		return err
	}
	if f.Version != fileVersion {
		return fmt.Errorf("version %d, this program reads version %d", f.Version, fileVersion)
	}
	if len(f.Suspensions) > Max {
		return ErrTooMany
	}
	for i, x := range f.Suspensions {
		if err := x.check(); err != nil {
			return fmt.Errorf("suspension %d: %w", i, err)
		}
		if _, twice := s.list[key{x.Scope, x.Name}]; twice {
			return fmt.Errorf("suspension %d: stands twice", i)
		}
		s.list[key{x.Scope, x.Name}] = x
	}
	return nil
}

// Check tells whether calls of an agent over a connection are suspended, and by
// which suspension: the widest. An empty connection is none.
func (s *Store) Check(agent, connection string) (Suspension, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.list) == 0 {
		return Suspension{}, false
	}
	for _, k := range []key{{All, ""}, {Agent, agent}, {Connection, connection}} {
		if x, ok := s.list[k]; ok {
			return x, true
		}
	}
	return Suspension{}, false
}

// List is all of it, the oldest first.
func (s *Store) List() []Suspension {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return sorted(s.list)
}

func sorted(list map[key]Suspension) []Suspension {
	out := make([]Suspension, 0, len(list))
	for _, x := range list {
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b Suspension) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Add suspends. record writes the trail's entry about it, first: an error of it
// changes nothing. A crash after it leaves an entry about a suspension that is not
// in force, so whoever gave the order got no answer and gives it again.
func (s *Store) Add(x Suspension, record func(Suspension) error) (Suspension, error) {
	x.Since = s.now().UTC()
	if err := x.check(); err != nil {
		return Suspension{}, err
	}
	s.change.Lock()
	defer s.change.Unlock()
	next := s.copied()
	switch _, there := next[key{x.Scope, x.Name}]; {
	case there:
		return next[key{x.Scope, x.Name}], fmt.Errorf("%s: %w", x.What(), ErrSuspended)
	case len(next) >= Max:
		return Suspension{}, ErrTooMany
	}
	if err := record(x); err != nil {
		return Suspension{}, err
	}
	next[key{x.Scope, x.Name}] = x
	return x, s.replace(next)
}

// Remove resumes, with record as [Store.Add] has it. A crash after the entry leaves
// the suspension in force.
func (s *Store) Remove(scope, name string, record func(Suspension) error) (Suspension, error) {
	s.change.Lock()
	defer s.change.Unlock()
	next := s.copied()
	x, there := next[key{scope, name}]
	if !there {
		return Suspension{}, fmt.Errorf("%s: %w", Suspension{Scope: scope, Name: name}.What(), ErrNot)
	}
	if err := record(x); err != nil {
		return Suspension{}, err
	}
	delete(next, key{scope, name})
	return x, s.replace(next)
}

func (s *Store) copied() map[key]Suspension {
	next := make(map[key]Suspension, len(s.list)+1)
	for k, x := range s.list {
		next[k] = x
	}
	return next
}

// replace makes a list durable, then puts it in force.
func (s *Store) replace(next map[key]Suspension) error {
	var b bytes.Buffer
	if err := json.MarshalWrite(&b, file{fileVersion, sorted(next)}, jsontext.WithIndent(" ")); err != nil {
		return fmt.Errorf("encode suspensions: %w", err)
	}
	if err := s.fs.WriteFile(s.path, append(b.Bytes(), '\n'), 0o600); err != nil {
		return fmt.Errorf("write suspensions: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = next
	return nil
}
