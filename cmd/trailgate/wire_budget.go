package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/budget"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/policy"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

// budgetsName is the budgets' snapshot in the data directory.
const budgetsName = "budgets.json"

// saveBudgetsEvery bounds how much of the log a start has to count again.
const saveBudgetsEvery = 10 * time.Second

func budgetsOf(cfg *config.Config) []budget.Budget {
	list := make([]budget.Budget, 0, len(cfg.Budgets))
	for _, b := range cfg.Budgets {
		list = append(list, budget.Budget{
			Name: b.Name, Per: b.Per, Agents: b.Agents, Humans: b.Humans, Connections: b.Connections,
			Limit: int64(b.Limit), Period: b.Period, Zone: b.Location(), Warn: b.WarnShare(),
		})
	}
	return list
}

// describeBudgets says for entries which budgets hold.
func describeBudgets(cfg *config.Config) string {
	words := make([]string, 0, len(cfg.Budgets))
	for _, b := range cfg.Budgets {
		words = append(words, fmt.Sprintf("%s %d/%s per %s", b.Name, b.Limit, b.Period, b.Per))
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

// openBudgets counts what was billed in the present periods, from the snapshot and
// what the log has beyond it. Until that is done no call is answered: a budget that
// does not know what was used would let through what it should not.
func (p *parts) openBudgets(ctx context.Context) (err error) {
	if len(p.cfg.Budgets) == 0 {
		return nil
	}
	path := filepath.Join(p.cfg.DataDir.String(), budgetsName)
	if p.budgets, err = budget.Load(path, budgetsOf(p.cfg), p.now); err != nil {
		return err
	}
	if p.budgets.Next() > p.trail.Size() {
		return hinted(fmt.Errorf("%s counts entries that the log does not have", path), "if the log was restored from a backup, remove the file; the budgets are counted from the log again")
	}
	from, err := p.firstSince(ctx, p.budgets.Oldest())
	if err != nil {
		return fmt.Errorf("count budgets: %w", err)
	}
	p.budgets.Skip(from)
	if n := p.trail.Size() - p.budgets.Next(); n > 100_000 {
		p.log.InfoContext(ctx, "counting the budgets from the log", "entries", n)
	}
	return p.countTo(ctx, p.trail.Size())
}

// firstSince is the sequence of the first entry that is not older than t: entries'
// times never go back.
func (p *parts) firstSince(ctx context.Context, t time.Time) (uint64, error) {
	size := int(p.trail.Size())
	var failed error
	i := sort.Search(size, func(i int) bool {
		raw, err := p.trail.Get(ctx, uint64(i))
		if err != nil {
			failed = err
			return true
		}
		e, err := trailgate.Decode(raw)
		if err != nil {
			failed = fmt.Errorf("entry %d: %w", i, err)
			return true
		}
		return !e.Time.Before(t)
	})
	return uint64(i), failed
}

var errCounted = errors.New("counted")

// countTo applies the entries below size.
func (p *parts) countTo(ctx context.Context, size uint64) error {
	from := p.budgets.Next()
	if from >= size {
		return nil
	}
	err := p.trail.Scan(ctx, from, func(seq uint64, raw []byte) error {
		if seq >= size {
			return errCounted
		}
		e, err := trailgate.Decode(raw)
		if err != nil {
			return fmt.Errorf("entry %d: %w", seq, err)
		}
		p.budgets.Apply(e)
		return nil
	})
	if err != nil && !errors.Is(err, errCounted) {
		return fmt.Errorf("count budgets: %w", err)
	}
	return nil
}

// countBudgets follows the log until ctx ends. What it has not counted yet is held by
// reservations, so that it may lag.
func (p *parts) countBudgets(ctx context.Context) error {
	if p.budgets == nil {
		return nil
	}
	path := filepath.Join(p.cfg.DataDir.String(), budgetsName)
	disk := &durable.FS{}
	saved := time.Now()
	for ctx.Err() == nil {
		wait, cancel := context.WithTimeout(ctx, saveBudgetsEvery)
		err := p.trail.Wait(wait, p.budgets.Next())
		cancel()
		if err == nil {
			err = p.countTo(ctx, p.trail.Size())
		} else if wait.Err() != nil {
			err = nil
		}
		if err != nil && ctx.Err() == nil {
			p.log.ErrorContext(ctx, "budgets cannot follow the log; trying again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
		if time.Since(saved) >= saveBudgetsEvery || ctx.Err() != nil {
			if err := p.budgets.Save(path, disk); err != nil {
				p.log.WarnContext(ctx, "the budgets' snapshot cannot be written; the next start counts more of the log", "err", err)
			}
			saved = time.Now()
		}
		select { // entries come in groups: a moment spares a scan for each
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// budgets are the ledger as the gateway asks it.
type budgets struct{ *budget.Ledger }

// Peek implements gateway.Budgets.
func (b budgets) Peek(agent, human, connection string) policy.Budget {
	s, held := b.Ledger.Peek(budget.Call{Agent: agent, Human: human, Connection: connection})
	if !held {
		return policy.Budget{}
	}
	return policy.Budget{Limited: true, Name: s.Budget, Limit: s.Limit, Used: s.Used, Reserved: s.Reserved, Warning: s.Warning}
}

// Reserve implements gateway.Budgets.
func (b budgets) Reserve(entry, agent, human, connection string, want int64) (amount int64, held bool, warned []string, err error) {
	return b.Ledger.Reserve(entry, budget.Call{Agent: agent, Human: human, Connection: connection}, want)
}
