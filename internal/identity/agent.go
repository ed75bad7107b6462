package identity

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	maxAgents = 10_000
	maxNote   = 500 // bytes
)

var (
	// ErrNoAgent means that there is no agent of that name.
	ErrNoAgent = errors.New("no such agent")
	// ErrExists means that the name is taken, by a revoked agent too: a name in
	// the trail must mean one agent for ever.
	ErrExists = errors.New("an agent of that name exists")
	// ErrInvalid means that what was asked for cannot be had; the message says why.
	ErrInvalid = errors.New("not valid")
	// ErrBadName is the [ErrInvalid] of a name that no agent can have.
	ErrBadName = fmt.Errorf("%w: an agent's name is a lower-case letter followed by up to 62 lower-case letters, digits, '-' or '_'", ErrInvalid)
	// ErrFull means that one gateway keeps no more agents, or no more tokens.
	ErrFull = errors.New("no room")
)

// nameForm keeps names fit for BigQuery job labels, host names and terminals.
var nameForm = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

// Agent is an audited party.
type Agent struct {
	Name    string     `json:"name"`
	Note    string     `json:"note,omitempty"`
	Created time.Time  `json:"created"`
	Revoked *time.Time `json:"revoked,omitempty"`
}

// AddAgent makes an agent; the note, up to 500 bytes, is for people. Names are
// never reused. Errors are [ErrExists], [ErrBadName], [ErrInvalid], [ErrFull], or
// tell that nothing could be written.
func (s *Store) AddAgent(name, note string) (Agent, error) {
	if !nameForm.MatchString(name) {
		return Agent{}, ErrBadName
	}
	if len(note) > maxNote {
		return Agent{}, fmt.Errorf("%w: the note is longer than %d bytes", ErrInvalid, maxNote)
	}
	s.change.Lock()
	defer s.change.Unlock()
	switch old := s.agents[name]; {
	case old == nil:
	case old.Revoked != nil:
		return Agent{}, fmt.Errorf("%w: %s, revoked on %s; a name is not given again, take another", ErrExists, name, old.Revoked.UTC().Format(time.DateOnly))
	default:
		return Agent{}, fmt.Errorf("%w: %s; 'trailgate agent token %s' gives it a token", ErrExists, name, name)
	}
	if err := s.room(); err != nil {
		return Agent{}, err
	}
	a := &Agent{Name: name, Note: strings.ToValidUTF8(note, "�"), Created: s.now().UTC()}
	if err := s.commitLocked(edit{agent: a}); err != nil {
		return Agent{}, err
	}
	return *a, nil
}

// room tells whether one more agent fits: nil or [ErrFull]. The caller holds
// s.change or s.mu.
func (s *Store) room() error {
	if len(s.agents) >= maxAgents {
		return fmt.Errorf("%w: there are %d agents, which is the most that one gateway keeps", ErrFull, maxAgents)
	}
	return nil
}

// Provision makes an agent that an issuer named who may do so, unless there is
// one of that name already. Errors are those of [Store.AddAgent] but for
// [ErrExists], and [ErrRevoked] of an agent that was.
func (s *Store) Provision(name, note string) (a Agent, made bool, err error) {
	a, err = s.AddAgent(name, note)
	if errors.Is(err, ErrExists) {
		if a, err = s.Agent(name); err == nil && a.Revoked != nil {
			err = fmt.Errorf("agent %s: %w", name, ErrRevoked)
		}
		return a, false, err
	}
	return a, err == nil, err
}

// RevokeAgent ends an agent: none of its tokens works from now on, and none can
// be issued. It is not undone, and not an error twice.
func (s *Store) RevokeAgent(name string) error {
	s.change.Lock()
	defer s.change.Unlock()
	old := s.agents[name]
	if old == nil {
		return fmt.Errorf("%w: %s", ErrNoAgent, name)
	}
	if old.Revoked != nil {
		return nil
	}
	a, now := *old, s.now().UTC()
	a.Revoked = &now
	return s.commitLocked(edit{agent: &a})
}

// Agents lists all agents by name, revoked ones included.
func (s *Store) Agents() []Agent {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Agent, 0, len(s.agents))
	for _, a := range s.agents {
		out = append(out, *a)
	}
	slices.SortFunc(out, func(a, b Agent) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Agent returns one agent, or [ErrNoAgent].
func (s *Store) Agent(name string) (Agent, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	a := s.agents[name]
	if a == nil {
		return Agent{}, fmt.Errorf("%w: %s", ErrNoAgent, name)
	}
	return *a, nil
}
