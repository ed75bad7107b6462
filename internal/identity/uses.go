package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	usesSuffix = ".uses"     // of the file beside the store's
	usesEvery  = time.Minute // how often it is written, and so how much a crash forgets
	useStep    = time.Second // a use sooner after the last one is not noted
	maxUses    = 2 * maxTokens
)

// uses is when tokens were used last, and from where. It is for people who tidy
// up; the trail has each use. So it is kept apart from the store: noting a use
// waits for nothing, and what a crash forgets (a minute) or a damaged file loses
// is no loss of record.
type uses struct {
	path    string
	byToken sync.Map // token id to *use
	count   atomic.Int64
	changed atomic.Bool
}

// use is one token's.
type use struct {
	at   atomic.Int64 // Unix seconds
	from atomic.Pointer[netip.Addr]
}

type usesFile struct {
	Version int       `json:"version"`
	Uses    []usedRow `json:"uses"`
}

type usedRow struct {
	Token   string    `json:"token_id"`
	At      time.Time `json:"last_used"`
	Address string    `json:"address,omitempty"`
}

// openUses reads the file, or begins anew where there is none that can be read.
func openUses(path string) (*uses, error) {
	u := &uses{path: path}
	raw, err := readFile(path, maxFileBytes+1)
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read when tokens were used: %w", err)
	}
	var f usesFile
	if len(raw) > maxFileBytes || json.Unmarshal(raw, &f) != nil || f.Version != fileVersion || len(f.Uses) > maxUses {
		return u, nil
	}
	for _, row := range f.Uses {
		addr, _ := netip.ParseAddr(row.Address) // the zero address is "not known"
		u.note(row.Token, row.At, addr)
	}
	u.changed.Store(false)
	return u, nil
}

// note keeps a use. It takes no lock where the token was used before.
func (u *uses) note(token string, at time.Time, from netip.Addr) {
	v, ok := u.byToken.Load(token)
	if !ok {
		if u.count.Load() >= maxUses {
			return
		}
		if v, ok = u.byToken.LoadOrStore(token, &use{}); !ok {
			u.count.Add(1)
		}
	}
	one := v.(*use)
	last, now := one.at.Load(), at.Unix()
	if now-last < int64(useStep/time.Second) || !one.at.CompareAndSwap(last, now) {
		return
	}
	if old := one.from.Load(); old == nil || *old != from {
		one.from.Store(&from)
	}
	u.changed.Store(true)
}

// fill tells when a token was used.
func (u *uses) fill(t Token) Token {
	if v, ok := u.byToken.Load(t.ID); ok {
		one := v.(*use)
		at := time.Unix(one.at.Load(), 0).UTC()
		t.LastUsed = &at
		if from := one.from.Load(); from != nil && from.IsValid() {
			t.LastAddress = from.String()
		}
	}
	return t
}

// Run writes down, each minute and at the end of ctx, when tokens were used. It
// returns ctx's error, or what kept the last write from the disk.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(usesEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			// A full disk is the trail's to complain of; the next write may succeed.
			_ = s.writeUses()
		case <-ctx.Done():
			if err := s.writeUses(); err != nil {
				return err
			}
			return ctx.Err()
		}
	}
}

// writeUses puts what is known in place of the file. Uses of tokens that the
// store has forgotten are forgotten too.
func (s *Store) writeUses() error {
	u := s.uses
	if !u.changed.Swap(false) {
		return nil
	}
	f := usesFile{Version: fileVersion, Uses: []usedRow{}}
	s.mu.RLock()
	tokens := s.tokens // never changed in place
	s.mu.RUnlock()
	u.byToken.Range(func(key, v any) bool {
		t := tokens[key.(string)]
		if t == nil {
			u.byToken.Delete(key)
			u.count.Add(-1)
			return true
		}
		with := u.fill(t.Token)
		f.Uses = append(f.Uses, usedRow{t.ID, *with.LastUsed, with.LastAddress})
		return true
	})
	raw, err := json.Marshal(f)
	if err == nil {
		err = replaceFile(u.path, append(raw, '\n'), nil)
	}
	if err != nil {
		u.changed.Store(true)
		return fmt.Errorf("write when tokens were used: %w", err)
	}
	return nil
}
