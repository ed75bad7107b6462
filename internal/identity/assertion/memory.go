package assertion

import (
	"container/list"
	"crypto/sha256"
	"slices"
	"sync"
	"time"
)

// Bounds of what is remembered: how many verified credentials, and how much.
const (
	maxRemembered      = 20_000
	maxRememberedBytes = 64 << 20
)

// memory remembers credentials that were verified, by their hash, so that a call
// costs one. What it remembers ends with the credential, after a while, and when
// the keys that it was verified by change.
type memory struct {
	most, mostBytes int

	mu    sync.Mutex // guards the rest
	at    map[[sha256.Size]byte]*list.Element
	used  list.List // of *remembered, the latest used first
	bytes int       // about what they take
}

// remembered is never changed.
type remembered struct {
	sum        [sha256.Size]byte
	assertion  Assertion
	keys       versioned
	generation uint64
	until      time.Time
	bytes      int
}

// versioned are an issuer's keys or an authority's certificates.
type versioned interface{ version() uint64 }

func newMemory(most, mostBytes int) *memory {
	return &memory{most: most, mostBytes: mostBytes, at: map[[sha256.Size]byte]*list.Element{}}
}

func (m *memory) get(sum [sha256.Size]byte, now time.Time) (Assertion, bool) {
	m.mu.Lock()
	el := m.at[sum]
	if el == nil {
		m.mu.Unlock()
		return Assertion{}, false
	}
	r := el.Value.(*remembered)
	m.used.MoveToFront(el)
	m.mu.Unlock()
	// Asking for the version may look at a file, for which nobody else shall wait.
	if !now.Before(r.until) || r.generation != r.keys.version() {
		m.forget(r)
		return Assertion{}, false
	}
	return r.assertion.clone(), true
}

// forget drops what is remembered, unless something newer is in its place.
func (m *memory) forget(r *remembered) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if el := m.at[r.sum]; el != nil && el.Value.(*remembered) == r {
		m.dropLocked(el)
	}
}

func (m *memory) put(sum [sha256.Size]byte, a Assertion, keys versioned, generation uint64, until time.Time) {
	r := &remembered{sum: sum, assertion: a.clone(), keys: keys, generation: generation, until: until, bytes: a.bytes()}
	m.mu.Lock()
	defer m.mu.Unlock()
	if el := m.at[sum]; el != nil {
		m.dropLocked(el)
	}
	m.at[sum] = m.used.PushFront(r)
	m.bytes += r.bytes
	for m.used.Len() > m.most || m.bytes > m.mostBytes && m.used.Len() > 0 {
		m.dropLocked(m.used.Back())
	}
}

func (m *memory) dropLocked(el *list.Element) {
	r := m.used.Remove(el).(*remembered)
	delete(m.at, r.sum)
	m.bytes -= r.bytes
}

// clone shares nothing that can be changed.
func (a Assertion) clone() Assertion {
	a.Actors, a.MayAct, a.Connections = slices.Clone(a.Actors), slices.Clone(a.MayAct), slices.Clone(a.Connections)
	return a
}

// bytes is about what an assertion takes in memory.
func (a *Assertion) bytes() int {
	n := 512 + len(a.Token) + len(a.Subject) + len(a.Agent) + len(a.Human) + len(a.ID) // the structures and the hashes
	for _, list := range [][]string{a.Actors, a.MayAct, a.Connections} {
		for _, s := range list {
			n += 16 + len(s)
		}
	}
	return n
}
