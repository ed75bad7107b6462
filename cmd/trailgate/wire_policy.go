package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/approval"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/gateway"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/policy"
	"github.com/trailgate/trailgate/internal/suspend"
)

// Names in the data directory of what decisions need.
const (
	approvalsName = "approvals"
	suspendedName = "suspended.json"
)

// decider is the policy in force. Set is nil where everything is allowed.
type decider struct {
	gateway.Policy
	set    *policy.Set
	files  []string // as they were read; none for the starter policy
	loaded time.Time
}

// loadPolicy reads what the configuration names, whole or not at all.
func loadPolicy(cfg *config.Config) (*decider, error) {
	d := &decider{loaded: time.Now()}
	if cfg.Policy.RecordOnly {
		d.Policy = gateway.RecordOnly{}
		return d, nil
	}
	files := []policy.File{{Name: "starter policy", Data: policy.Starter()}}
	if len(cfg.Policy.Files) > 0 || cfg.Policy.Rules != "" {
		files = nil
	}
	if cfg.Policy.Rules != "" {
		files = append(files, policy.File{Name: cfg.Path, Data: []byte(cfg.Policy.Rules)})
		d.files = append(d.files, cfg.Path)
	}
	for _, path := range cfg.Policy.Files {
		raw, err := readPolicyFile(path.String())
		if err != nil {
			return nil, hinted(fmt.Errorf("read the policy: %w", err), "policy.files in %s names it; \"trailgate policy starter\" prints one to begin with", cfg.Path)
		}
		files = append(files, policy.File{Name: path.String(), Data: raw})
		d.files = append(d.files, path.String())
	}
	set, err := policy.Load(files)
	if err != nil {
		return nil, err
	}
	d.Policy, d.set = set, set
	return d, nil
}

func readPolicyFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > policy.MaxFileBytes {
		return nil, fmt.Errorf("%s must be a file of at most %d bytes", path, policy.MaxFileBytes)
	}
	return os.ReadFile(path)
}

// describe says for entries and messages which policy that is.
func (d *decider) describe() string {
	switch {
	case d.set == nil:
		return "record_only"
	case len(d.files) == 0:
		return fmt.Sprintf("starter, %d rules", len(d.set.Rules()))
	}
	return fmt.Sprintf("%d rules of %d files", len(d.set.Rules()), len(d.files))
}

// openDecisions opens what decisions rest on: the questions that humans were asked,
// and who is suspended.
func (p *parts) openDecisions(ctx context.Context) (err error) {
	dir := p.cfg.DataDir.String()
	if p.suspensions, err = suspend.OpenAt(filepath.Join(dir, suspendedName), p.now); err != nil {
		return err
	}
	p.approvals, err = approval.Open(ctx, filepath.Join(dir, approvalsName), approval.Options{
		Now:      p.now,
		Window:   p.cfg.Approval.ReleaseWindow,
		Consumed: p.recorded,
		StillMay: func(v approval.Vote, from []string) bool {
			api := p.api.Load()
			return api == nil || api.StillMay(v, from)
		},
		Failed: func(err error) {
			p.log.ErrorContext(context.WithoutCancel(ctx), "keeping approvals", "err", err)
		},
	})
	if err != nil {
		return fmt.Errorf("open approvals: %w", err)
	}
	if p.webhooks, err = p.newWebhooks(); err != nil {
		return err
	}
	return p.openBudgets(ctx)
}

// recorded tells whether the trail holds an entry. The index must have all of it.
func (p *parts) recorded(ctx context.Context, id string) (bool, error) {
	if err := p.index.CatchUp(ctx, nil); err != nil {
		return false, err
	}
	switch _, err := p.index.Lookup(ctx, id); {
	case errors.Is(err, index.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, nil
}

// suspended is what the gateway asks about each call.
func (p *parts) suspended(agent, connection string) (what, reason string, is bool) {
	x, is := p.suspensions.Check(agent, connection)
	return x.What(), x.Reason, is
}

// jobOwner asks the index who made a job, and under which limits.
func (p *parts) jobOwner(ctx context.Context, project, job string) (gateway.Owner, bool, error) {
	e, err := p.index.JobOwner(ctx, project, job)
	if err != nil || e == nil {
		return gateway.Owner{}, false, err
	}
	owner := gateway.Owner{Entry: e.ID}
	if e.Principal != nil {
		owner.Agent = e.Principal.Agent
	}
	if e.Decision != nil {
		owner.Limits = e.Decision.Limits
	}
	if e.Tables != nil && e.Tables.Omitted == 0 {
		owner.Read = e.Tables.Read
	}
	return owner, true, nil
}

// maxBegun bounds how many calls are looked through for whose jobs may still run.
const maxBegun = 20_000

// begunWait bounds the wait for an index that has not all of the log yet.
const begunWait = 20 * time.Second

// begun asks the index which suspended principals began jobs between two moments, the
// newest first, once it has what is in the log by now: a gateway that has just started is
// behind by what the last one wrote in the end.
func (p *parts) begun(ctx context.Context, from, to time.Time, which func(agent, connection string) bool, n int) ([]*trailgate.Entry, error) {
	if size := p.trail.Size(); size > 0 {
		ctx, cancel := context.WithTimeout(ctx, begunWait)
		defer cancel()
		if err := p.index.Wait(ctx, size-1); err != nil {
			return nil, fmt.Errorf("the index is behind the log: %w", err)
		}
	}
	q := index.Query{
		Filter: fmt.Sprintf(`kind = "intent" AND method = ("bigquery.jobs.insert" OR "bigquery.jobs.query") AND time >= %q AND time <= %q`,
			from.UTC().Format(time.RFC3339Nano), to.UTC().Format(time.RFC3339Nano)),
		PageSize: 1000,
	}
	var out []*trailgate.Entry
	seen := map[string]bool{}
	for looked := 0; looked < maxBegun && len(out) < n; {
		rows, next, err := p.index.Search(ctx, q)
		if err != nil {
			return out, err
		}
		looked += len(rows)
		for _, row := range rows {
			e := row.Entry
			if e.Principal == nil || e.Request != nil && e.Request.DryRun || !which(e.Principal.Agent, e.Connection) {
				continue
			}
			who := e.Principal
			key := strings.Join(append([]string{e.Connection, e.Project, who.Agent, who.Issuer, who.Subject, who.Human}, who.Actors...), "\x00")
			if !seen[key] && len(out) < n {
				seen[key] = true
				out = append(out, e)
			}
		}
		if next == "" {
			break
		}
		q.PageToken = next
	}
	return out, nil
}

// adminDecisions hands the admin API what it needs to decide, suspend and reload.
func (p *parts) adminDecisions(cfg *admin.Config) {
	cfg.Approvals, cfg.Suspensions, cfg.Voted = p.approvals, p.suspensions, p.voted
	cfg.CutSuspended = p.proxy.CutSuspended
	cfg.CancelSuspended = func(ctx context.Context) ([]admin.Cancelled, error) {
		list, err := p.proxy.CancelSuspended(ctx)
		out := make([]admin.Cancelled, 0, len(list))
		for _, x := range list {
			out = append(out, admin.Cancelled(x))
		}
		return out, err
	}
	cfg.Reload = p.reload
	cfg.Policy = func() admin.Policy {
		d := p.decider.Load()
		out := admin.Policy{Digest: d.Digest(), Source: "files", Files: d.files, Loaded: d.loaded.UTC(), Rules: []admin.PolicyRule{}}
		switch {
		case d.set == nil:
			out.Source = "record_only"
		case len(d.files) == 0:
			out.Source = "starter"
		}
		if out.Files == nil {
			out.Files = []string{}
		}
		if d.set != nil {
			out.DryRuns = d.set.ReadsDryRun()
			for _, r := range d.set.Rules() {
				out.Rules = append(out.Rules, admin.PolicyRule{Name: r.Name, Effect: r.Effect, When: r.When})
			}
		}
		return out
	}
	if p.budgets != nil {
		cfg.Budgets = func() []admin.Budget {
			var out []admin.Budget
			for _, s := range p.budgets.All() {
				out = append(out, admin.Budget{
					Budget: s.Budget, Scope: s.Scope, Limit: s.Limit, Used: s.Used, Reserved: s.Reserved,
					Period: s.Period, Turns: s.Turns.UTC(), Warning: s.Warning,
				})
			}
			return out
		}
	}
}
