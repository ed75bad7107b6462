package approval

import (
	"cmp"
	"fmt"
)

// Retention is how long ended requests are kept.
const Retention = retention

// MaxPerAgent is how many open requests an agent may have.
var MaxPerAgent = defaultLimits.perAgent

// SetLimits gives the store other bounds; 0 leaves one as it is.
func (s *Store) SetLimits(done, donePerAgent int, doneBytes, openBytes, bodyBytes int64) {
	s.max.done = cmp.Or(done, s.max.done)
	s.max.donePerAgent = cmp.Or(donePerAgent, s.max.donePerAgent)
	s.max.doneBytes = cmp.Or(doneBytes, s.max.doneBytes)
	s.max.openBytes = cmp.Or(openBytes, s.max.openBytes)
	s.max.bodyBytes = cmp.Or(bodyBytes, s.max.bodyBytes)
}

// Usage is what the store counts and indexes.
func (s *Store) Usage() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	jobs := 0
	for _, list := range s.jobs {
		jobs += len(list)
	}
	agents := map[string]tally{}
	for name, t := range s.agents {
		agents[name] = *t
	}
	return fmt.Sprintf("slots %d keys %d jobs %d done %d active %d agents %v bytes %v", len(s.slots), len(s.keys), jobs, len(s.done), s.active, agents, s.bytes)
}

// ErrDamaged is what a file is that this program would not have written.
var ErrDamaged = errDamaged

// WriteSteps are the steps of a write, in order.
var WriteSteps = []string{"create", "write", "sync", "rename", "sync directory"}

// SetFault has fault called before each step of a write or removal; its error
// becomes the step's.
func (s *Store) SetFault(fault func(step, path string) error) {
	if fault == nil {
		s.fault.Store(nil)
		return
	}
	s.fault.Store(&fault)
}

// Decode reads a request's file, and Encode writes it.
func Decode(raw []byte) (uint64, *Request, error)      { return decode(raw) }
func Encode(number uint64, r *Request) ([]byte, error) { return encode(number, r) }
