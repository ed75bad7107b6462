package connector

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/trailgate/trailgate"
)

// How connectors stand.

// Status is a connector as it stands.
type Status struct {
	Name         string     `json:"name"`
	State        string     `json:"state"` // "connected", "draining", "away", "revoked", "not_enrolled"
	Connections  []string   `json:"connections"`
	Address      string     `json:"address,omitempty"`
	Build        string     `json:"build,omitempty"`
	Since        *time.Time `json:"since,omitempty"`     // connected
	LastBeat     *time.Time `json:"last_beat,omitempty"` // sign of life
	Streams      int        `json:"streams"`             // calls under way
	Calls        int64      `json:"calls"`               // since it connected
	Bytes        int64      `json:"bytes"`               // of answers
	Failed       int64      `json:"failed"`
	KeySHA256    string     `json:"key_sha256,omitempty"`
	CertExpires  *time.Time `json:"certificate_expires,omitempty"`
	TokenExpires *time.Time `json:"token_expires,omitempty"` // of one that is to enrol
	Revoked      *time.Time `json:"revoked,omitempty"`
	By           string     `json:"by,omitempty"` // who vouches for it, where the gateway does not
}

// Status tells of every connector that is connected, enrolled, or to be.
func (h *Hub) Status() []Status {
	h.mu.Lock()
	var out []Status
	live := map[string]bool{}
	for t := range h.tunnels {
		live[t.name] = true
		since, last, ends := t.since, t.lastBeat.UTC(), t.certEnds.UTC()
		s := Status{
			Name: t.name, State: "connected", Connections: t.serves, Address: t.address, Build: t.build, Since: &since, LastBeat: &last,
			Streams: t.inFlight, Calls: t.calls, Bytes: t.bytes.Load(), Failed: t.failures, KeySHA256: t.keySum, CertExpires: &ends, By: t.by,
		}
		if t.draining {
			s.State = "draining"
		}
		out = append(out, s)
	}
	h.mu.Unlock()
	for _, s := range h.cfg.Registry.Status() {
		if !live[s.Name] || s.State == "revoked" {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address)) })
	return out
}

// Status tells of every connector that is enrolled or to be, as if none were connected.
func (r *Registry) Status() (out []Status) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, c := range r.connectors {
		s := Status{Name: c.Name, State: "away", Connections: c.Connections, Revoked: c.Revoked}
		if c.Revoked != nil {
			s.State = "revoked"
		} else {
			s.CertExpires = &c.Expires
		}
		out = append(out, s)
	}
	now := r.now()
	for _, t := range r.tokens {
		if _, there := r.connectors[t.Name]; !there && t.Used == nil && now.Before(t.Expires) {
			out = append(out, Status{Name: t.Name, State: "not_enrolled", Connections: t.Connections, TokenExpires: &t.Expires})
		}
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Serving reports how many connectors take calls of a connection.
func (h *Hub) Serving(connection string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for t := range h.tunnels {
		if t.takes(connection) {
			n++
		}
	}
	return n
}

// Connections are the names of those that go through connectors, sorted.
func (h *Hub) Connections() []string { return slices.Sorted(maps.Keys(h.cfg.Connections)) }

// Counts are sums since the hub was made.
type Counts struct{ Calls, Lost, BadReceipts, MissingReceipts, Refused int64 }

// Counts tells them.
func (h *Hub) Counts() Counts {
	c := &h.counters
	return Counts{c.calls.Load(), c.lost.Load(), c.badReceipts.Load(), c.missingReceipts.Load(), c.refused.Load()}
}

// Credential is who mints the credential of a connection's calls.
func (h *Hub) Credential(connection string) string {
	return cmp.Or(h.cfg.Connections[connection], trailgate.CredentialGateway)
}
