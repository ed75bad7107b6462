package assertion

import (
	"container/list"
	"crypto/sha256"
	"slices"
	"sync"
	"time"
)

// maxRemembered bounds how many verified credentials are remembered, some kilobytes each.
const maxRemembered = 20_000

// memory remembers credentials that were verified, by their hash, so that a call
// costs one. What it remembers ends with the credential, after a while, and when
// the keys that it was verified by change.
type memory struct {
	mu   sync.Mutex // guards the rest
	at   map[[sha256.Size]byte]*list.Element
	used list.List // of *remembered, the latest used first
}

type remembered struct {
	sum        [sha256.Size]byte
	assertion  Assertion
	keys       versioned
	generation uint64
	until      time.Time
}

// versioned are an issuer's keys or an authority's certificates.
type versioned interface{ version() uint64 }

func newMemory() *memory { return &memory{at: map[[sha256.Size]byte]*list.Element{}} }

func (m *memory) get(sum [sha256.Size]byte, now time.Time) (Assertion, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	el := m.at[sum]
	if el == nil {
		return Assertion{}, false
	}
	r := el.Value.(*remembered)
	if !now.Before(r.until) || r.generation != r.keys.version() {
		m.used.Remove(el)
		delete(m.at, sum)
		return Assertion{}, false
	}
	m.used.MoveToFront(el)
	a := r.assertion
	a.Actors, a.MayAct, a.Connections = slices.Clone(a.Actors), slices.Clone(a.MayAct), slices.Clone(a.Connections)
	return a, true
}

func (m *memory) put(sum [sha256.Size]byte, a Assertion, keys versioned, generation uint64, until time.Time) {
	r := &remembered{sum: sum, assertion: a, keys: keys, generation: generation, until: until}
	m.mu.Lock()
	defer m.mu.Unlock()
	if el := m.at[sum]; el != nil {
		el.Value = r
		return
	}
	m.at[sum] = m.used.PushFront(r)
	for m.used.Len() > maxRemembered {
		delete(m.at, m.used.Remove(m.used.Back()).(*remembered).sum)
	}
}
