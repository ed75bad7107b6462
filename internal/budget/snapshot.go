package budget

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/trailgate/trailgate/internal/trail/durable"
)

const (
	fileVersion  = 1
	maxFileBytes = 256 << 20
)

// A snapshot spares a start from counting a whole month of the log again. It holds
// nothing that the log does not: one that is lost costs time, one that is older than
// the log is made up for by applying what came after.

type snapshotFile struct {
	Version int             `json:"version"`
	Next    uint64          `json:"next"`
	Counts  []snapshotCount `json:"counts"`
	Calls   []snapshotCall  `json:"calls"`
}

type snapshotCount struct {
	Budget string `json:"budget"`
	Scope  string `json:"scope,omitempty"`
	Start  int64  `json:"start"`
	Used   int64  `json:"used"`
}

type snapshotCall struct {
	Entry  string          `json:"entry"`
	Job    string          `json:"job,omitempty"`
	At     time.Time       `json:"at"`
	Amount int64           `json:"amount"`
	Keys   []snapshotCount `json:"keys"`
}

// Load makes a ledger from a snapshot, or an empty one where there is no file. A file
// that cannot be read whole is an error that says what to do.
func Load(path string, budgets []Budget, now func() time.Time) (*Ledger, error) {
	l, err := New(budgets, now)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read budgets: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read budgets: %w", err)
	}
	if err := l.load(raw); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; remove it, and the budgets are counted from the log again", path, err)
	}
	return l, nil
}

func (l *Ledger) load(raw []byte) error {
	if len(raw) > maxFileBytes {
		return fmt.Errorf("larger than %d bytes", maxFileBytes)
	}
	var f snapshotFile
	if err := json.Unmarshal(raw, &f, json.RejectUnknownMembers(true)); err != nil {
		return err
	}
	if f.Version != fileVersion {
		return fmt.Errorf("version %d, this program reads version %d", f.Version, fileVersion)
	}
	if len(f.Counts) > maxCounts || len(f.Calls) > 2*maxCalls {
		return errors.New("it holds more than is kept")
	}
	l.next = f.Next
	for _, c := range f.Counts {
		k := countKey{c.Budget, c.Scope, c.Start}
		if l.counts[k] != nil || c.Used < 0 {
			return fmt.Errorf("the count of %s stands twice, or is negative", c.Budget)
		}
		l.counts[k] = &count{used: c.Used}
	}
	for _, c := range f.Calls {
		if c.Entry == "" || l.calls[c.Entry] != nil || c.Amount < 0 {
			return errors.New("a call has no name, stands twice, or holds less than nothing")
		}
		x := &charge{amount: c.Amount, job: c.Job, at: c.At}
		for _, k := range c.Keys {
			x.keys = append(x.keys, countKey{k.Budget, k.Scope, k.Start})
			l.countLocked(x.keys[len(x.keys)-1]).reserved += c.Amount
		}
		if c.Job != "" {
			if _, twice := l.jobs[c.Job]; twice {
				return errors.New("two calls made one job")
			}
			l.jobs[c.Job] = c.Entry
		}
		l.calls[c.Entry] = x
	}
	return nil
}

// Save writes a snapshot, durably, if anything has changed since the last. Reservations
// whose intents were not applied yet are not in it: whether these are in the log is
// what the log tells.
func (l *Ledger) Save(path string, disk *durable.FS) error {
	l.mu.Lock()
	if !l.changed {
		l.mu.Unlock()
		return nil
	}
	f := snapshotFile{Version: fileVersion, Next: l.next}
	for k, c := range l.counts {
		if c.used != 0 {
			f.Counts = append(f.Counts, snapshotCount{k.budget, k.scope, k.start, c.used})
		}
	}
	for id, x := range l.calls {
		s := snapshotCall{Entry: id, Job: x.job, At: x.at.UTC(), Amount: x.amount}
		for _, k := range x.keys {
			s.Keys = append(s.Keys, snapshotCount{k.budget, k.scope, k.start, 0})
		}
		f.Calls = append(f.Calls, s)
	}
	l.changed = false
	l.mu.Unlock()
	slices.SortFunc(f.Counts, func(a, b snapshotCount) int {
		return cmp.Or(cmp.Compare(a.Budget, b.Budget), cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Start, b.Start))
	})
	slices.SortFunc(f.Calls, func(a, b snapshotCall) int { return cmp.Compare(a.Entry, b.Entry) })
	var b bytes.Buffer
	err := json.MarshalWrite(&b, f)
	if err == nil {
		err = disk.WriteFile(path, append(b.Bytes(), '\n'), 0o600)
	}
	if err != nil {
		l.mu.Lock()
		l.changed = true
		l.mu.Unlock()
		return fmt.Errorf("write budgets: %w", err)
	}
	return nil
}
