// Package mailout sends a log's checkpoints to places that are not the gateway's,
// so that somebody else remembers them: what was sent cannot be taken back, and
// "trailgate verify --head" finds a log that does not extend it.
//
// One place gets one checkpoint in a while, the newest; those between say nothing
// that it does not. Each place has a goroutine of its own, so that one that is away
// holds up no other, and none of them anything else. What was sent last is kept in a
// file; a crash between sending and writing that down sends the same once more.
package mailout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

const (
	firstRetry = 5 * time.Second
	lastRetry  = 10 * time.Minute
	look       = time.Second // how often a place looks for a newer checkpoint
	sendTime   = 30 * time.Second
)

// Place is where checkpoints go.
type Place struct {
	Name string
	// Send delivers one. It is called by one goroutine at a time. Its error repeats no secret.
	Send func(ctx context.Context, cp *trailgate.Checkpoint) error
}

// Config of a [Sender].
type Config struct {
	Places []Place
	// Every is the least time between two checkpoints at one place.
	Every time.Duration
	// State is the file that remembers what was sent.
	State string
	// Newest is the newest published checkpoint.
	Newest func() (*trailgate.Checkpoint, error)
	// Changed hears when a place begins to fail (err is set), and when it takes
	// checkpoints again. It may block, which holds up that place alone.
	Changed func(ctx context.Context, place string, cp *trailgate.Checkpoint, err error)
	Log     *slog.Logger     // Optional.
	Now     func() time.Time // Optional.
	// Retry and Look shorten the pauses, for tests. Optional.
	Retry, Look time.Duration
}

// Status is how it goes at one place.
type Status struct {
	Place    string
	Size     uint64    // of the checkpoint that was sent last
	At       time.Time // when that was; zero: never
	Error    string    // of the last try; "": it went well
	Failures uint64    // since the start
}

// Sender sends. Its methods are safe for concurrent use.
type Sender struct {
	cfg Config

	mu    sync.Mutex // guards all below, and the file
	state map[string]sent
	notes map[string]*Status
}

// sent is what a place has got.
type sent struct {
	Size   uint64    `json:"size"`
	At     time.Time `json:"at"`
	Failed bool      `json:"failed,omitempty"` // since, and that is on record
}

// New reads what was sent before. A state that cannot be read is begun anew: then
// places get the newest checkpoint once more.
func New(cfg Config) (*Sender, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Retry <= 0 {
		cfg.Retry = firstRetry
	}
	if cfg.Look <= 0 {
		cfg.Look = look
	}
	s := &Sender{cfg: cfg, state: map[string]sent{}, notes: map[string]*Status{}}
	raw, err := os.ReadFile(cfg.State)
	if err == nil {
		err = json.Unmarshal(raw, &s.state)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		cfg.Log.Warn("what was sent of checkpoints is not known any more; they are sent again", "err", err)
	}
	if s.state == nil {
		s.state = map[string]sent{}
	}
	for _, p := range cfg.Places {
		was := s.state[p.Name]
		s.notes[p.Name] = &Status{Place: p.Name, Size: was.Size, At: was.At}
	}
	return s, nil
}

// Run sends until ctx ends.
func (s *Sender) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, p := range s.cfg.Places {
		all.Go(func() { s.serve(ctx, p) })
	}
	all.Wait()
}

// Status is how it goes at each place.
func (s *Sender) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Status, 0, len(s.cfg.Places))
	for _, p := range s.cfg.Places {
		out = append(out, *s.notes[p.Name])
	}
	return out
}

func (s *Sender) serve(ctx context.Context, p Place) {
	pause := s.cfg.Retry
	var notBefore time.Time // after a failure
	for wait(ctx, s.cfg.Look) {
		was := s.was(p.Name)
		now := s.cfg.Now()
		// A clock that was set back must not stop the sending for as long.
		if since := now.Sub(was.At); !was.At.IsZero() && since >= 0 && since < s.cfg.Every {
			continue
		}
		if d := notBefore.Sub(now); d > 0 && d <= lastRetry {
			continue
		}
		cp, err := s.cfg.Newest()
		if err != nil || cp.Size == 0 || cp.Size == was.Size {
			continue
		}
		if err := s.send(ctx, p, cp); ctx.Err() != nil {
			return
		} else if err != nil {
			notBefore = now.Add(pause)
			pause = min(2*pause, lastRetry)
		} else {
			notBefore, pause = time.Time{}, s.cfg.Retry
		}
	}
}

func (s *Sender) was(place string) sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state[place]
}

func (s *Sender) send(ctx context.Context, p Place, cp *trailgate.Checkpoint) error {
	tctx, cancel := context.WithTimeout(ctx, sendTime)
	err := p.Send(tctx, cp)
	cancel()
	if ctx.Err() != nil {
		return ctx.Err() // whatever came of it, the next start sends it again
	}
	s.mu.Lock()
	was, note := s.state[p.Name], s.notes[p.Name]
	next := was
	if err != nil {
		next.Failed = true
		note.Error = err.Error()
		note.Failures++
	} else {
		next = sent{Size: cp.Size, At: s.cfg.Now().UTC()}
		note.Size, note.At, note.Error = next.Size, next.At, ""
	}
	s.state[p.Name] = next
	changed := next != was
	var serr error
	if changed {
		serr = s.saveLocked()
	}
	s.mu.Unlock()
	if serr != nil {
		s.cfg.Log.WarnContext(ctx, "what was sent of checkpoints cannot be written down", "err", serr)
	}
	switch {
	case err != nil && !was.Failed:
		s.cfg.Log.ErrorContext(ctx, "a checkpoint could not be sent; it is tried again", "place", p.Name, "size", cp.Size, "err", err)
		s.cfg.Changed(ctx, p.Name, cp, err)
	case err == nil && was.Failed:
		s.cfg.Log.InfoContext(ctx, "checkpoints can be sent again", "place", p.Name, "size", cp.Size)
		s.cfg.Changed(ctx, p.Name, cp, nil)
	}
	return err
}

func (s *Sender) saveLocked() error {
	raw, err := json.MarshalIndent(s.state, "", "  ")
	if err != nil {
		return err
	}
	return (&durable.FS{}).WriteFile(s.cfg.State, append(raw, '\n'), 0o600)
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errStatus is an answer that is no success.
func errStatus(code int) error {
	if code >= 300 && code < 400 {
		return fmt.Errorf("it answers %d, a redirect, which is not followed", code)
	}
	return fmt.Errorf("it answers %d", code)
}
