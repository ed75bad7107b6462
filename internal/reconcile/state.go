package reconcile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/trailgate/trailgate/internal/trail/durable"
)

// State is what is remembered of one connection between runs: counts by hour, and how
// far they go. It is derived: without it the next run looks at its whole window again.
type State struct {
	Version    int    `json:"version"`
	Connection string `json:"connection"`
	// Until is how far the scheduled runs have come: the next goes on a little before it.
	Until time.Time `json:"until,omitzero"`
	// Hours has the counts of each hour, by its number since 1970.
	Hours map[int64]Counts `json:"hours"`
	// Learned are principals that jobs of the trail ran as, beyond those that its
	// entries name.
	Learned []string `json:"learned,omitempty"`
	// Begun is a run that has not come to its end: the next over the same window goes on
	// from its Done.
	Begun *Begun `json:"begun,omitempty"`
	// LastRun is when the last run ended, LastError why it failed, if it did.
	LastRun   time.Time `json:"last_run,omitzero"`
	LastError string    `json:"last_error,omitempty"`
	Source    string    `json:"source,omitempty"`
}

// Begun is a run that was not finished.
type Begun struct {
	Source             string    `json:"source"`
	Since, Until, Done time.Time `json:",omitzero"`
	Counts             Counts    `json:"counts"`
}

const (
	stateVersion = 1
	maxHours     = 200 * 24 // BigQuery shows 180 days
	maxLearned   = 10_000
)

// Store keeps the states of all connections in a directory. It is safe for concurrent
// use.
type Store struct {
	dir string
	mu  sync.Mutex // held by who reads or writes a file
}

// OpenStore keeps states in dir, which is made when it is needed.
func OpenStore(dir string) *Store { return &Store{dir: dir} }

// Load reads a connection's state; an empty one where there is none, or none that can be
// read: it is derived, and a run makes it anew.
func (s *Store) Load(connection string) (*State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	empty := &State{Version: stateVersion, Connection: connection, Hours: map[int64]Counts{}}
	raw, err := os.ReadFile(s.path(connection))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return empty, nil
	case err != nil:
		return nil, fmt.Errorf("read what was reconciled: %w", err)
	}
	st := &State{}
	if json.Unmarshal(raw, st) != nil || st.Version != stateVersion || st.Connection != connection {
		return empty, nil
	}
	if st.Hours == nil {
		st.Hours = map[int64]Counts{}
	}
	return st, nil
}

func (s *Store) path(connection string) string { return filepath.Join(s.dir, connection+".json") }

// Save makes a state durable. A crash within leaves the one before, and the hours in
// between are looked at again.
func (s *Store) Save(st *State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if over := len(st.Hours) - maxHours; over > 0 {
		for _, h := range slices.Sorted(maps.Keys(st.Hours))[:over] {
			delete(st.Hours, h)
		}
	}
	if len(st.Learned) > maxLearned {
		st.Learned = st.Learned[:maxLearned]
	}
	raw, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("save what was reconciled: %w", err)
	}
	files := &durable.FS{}
	if err := files.Mkdir(s.dir, 0o700); err != nil {
		return fmt.Errorf("save what was reconciled: %w", err)
	}
	if err := files.WriteFile(s.path(st.Connection), append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("save what was reconciled: %w", err)
	}
	return nil
}

// Day is the counts of one day, UTC.
type Day struct {
	Date  string `json:"date"`  // 2026-11-29
	Hours int    `json:"hours"` // how many of its hours were looked at
	Counts
	// Percent is how many of a hundred jobs of agents' principals in BigQuery's job list
	// have their entry; -1 where there were none.
	Percent float64 `json:"percent"`
}

// Percent is the share of jobs that have their entry, relative to BigQuery's job list.
func (c Counts) Percent() float64 {
	all := c.Both + c.Direct
	if all == 0 {
		return -1
	}
	return 100 * float64(c.Both) / float64(all)
}

// Days sums the hours up, the newest day first.
func (st *State) Days() []Day {
	days := map[string]*Day{}
	for h, c := range st.Hours {
		date := time.Unix(h*3600, 0).UTC().Format(time.DateOnly)
		d := days[date]
		if d == nil {
			d = &Day{Date: date}
			days[date] = d
		}
		d.Hours++
		d.Add(c)
	}
	out := make([]Day, 0, len(days))
	for _, date := range slices.Backward(slices.Sorted(maps.Keys(days))) {
		d := days[date]
		d.Percent = d.Counts.Percent()
		out = append(out, *d)
	}
	return out
}
