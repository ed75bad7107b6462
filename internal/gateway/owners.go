package gateway

import (
	"container/list"
	"context"
	"net/http"
	"slices"
	"sync"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
)

// maxOwners bounds the cache of who made what. What falls out of it is asked
// of the index.
const maxOwners = 100_000

// owner says which agent's entry first used a job id or request id.
type owner struct {
	key, agent, entry string
}

// owners remembers the makers of recent jobs, least recently used out first.
type owners struct {
	mu   sync.Mutex // guards both
	byID map[string]*list.Element
	lru  list.List // of owner
}

func newOwners() *owners { return &owners{byID: map[string]*list.Element{}} }

func (o *owners) get(key string) (owner, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	el, ok := o.byID[key]
	if !ok {
		return owner{}, false
	}
	o.lru.MoveToFront(el)
	return el.Value.(owner), true
}

// claim records the maker of key unless one is known, and returns the one that
// stands and whether it stood before.
func (o *owners) claim(key, agent, entry string) (owner, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if el, ok := o.byID[key]; ok {
		o.lru.MoveToFront(el)
		return el.Value.(owner), true
	}
	w := owner{key, agent, entry}
	o.byID[key] = o.lru.PushFront(w)
	if o.lru.Len() > maxOwners {
		last := o.lru.Back()
		o.lru.Remove(last)
		delete(o.byID, last.Value.(owner).key)
	}
	return w, false
}

func jobKey(project, job string) string { return "job/" + project + "/" + job }

// requestKey is per agent: a request id means something only to its sender.
func requestKey(agent, project, id string) string {
	return "request/" + agent + "/" + project + "/" + id
}

// ownJob fills in who made the job that a call makes or asks about, and
// whether the same job id or request id was sent before.
func (g *Gateway) ownJob(ctx context.Context, e *trailgate.Entry, c *bigquery.Call) {
	agent := e.Principal.Agent
	if c.RequestID != "" {
		if first, seen := g.owners.claim(requestKey(agent, c.Project, c.RequestID), agent, e.ID); seen {
			e.Request.DuplicateOf = first.entry
			e.Flags = append(e.Flags, "duplicate_request_id")
		}
	}
	if e.Job == nil || e.Job.ID == "" {
		return
	}
	key := jobKey(e.Job.Project, e.Job.ID)
	known, ok := g.owners.get(key)
	if !ok && !c.CreatesJob {
		// A new job's id is looked up only once BigQuery says that it is taken.
		known, ok = g.lookUp(ctx, e)
	}
	switch {
	case c.CreatesJob && ok:
		e.Flags = append(e.Flags, "duplicate_job_id")
		if known.agent == agent && e.Request.DuplicateOf == "" {
			e.Request.DuplicateOf = known.entry
		}
	case c.CreatesJob && !c.DryRun:
		known, _ = g.owners.claim(key, agent, e.ID)
		ok = true
	}
	if !ok {
		return
	}
	e.Job.OwnerAgent, e.Job.OwnerEntry = known.agent, known.entry
	if known.agent != agent {
		e.Flags = append(e.Flags, "foreign_job")
	}
}

// lookUp asks the index who made an entry's job. Not knowing is said, not
// guessed: the call goes on, flagged.
func (g *Gateway) lookUp(ctx context.Context, e *trailgate.Entry) (owner, bool) {
	if g.cfg.JobOwner == nil {
		return owner{}, false
	}
	agent, entry, found, err := g.cfg.JobOwner(context.WithoutCancel(ctx), e.Job.Project, e.Job.ID)
	if err != nil {
		g.cfg.Log.WarnContext(ctx, "job owner lookup", "err", err)
		e.Flags = append(e.Flags, "job_owner_unknown")
		return owner{}, false
	}
	if !found {
		return owner{}, false
	}
	w, _ := g.owners.claim(jobKey(e.Job.Project, e.Job.ID), agent, entry)
	return w, true
}

// taken notes on an outcome who has the job id that BigQuery refused as a
// duplicate, where this run of the gateway did not see it given.
func (g *Gateway) taken(ctx context.Context, intent *trailgate.Entry, c *bigquery.Call, result *trailgate.Entry) {
	if !c.CreatesJob || result.Outcome.Status != http.StatusConflict || intent.Job == nil || slices.Contains(intent.Flags, "duplicate_job_id") {
		return
	}
	job := *intent.Job
	job.OwnerAgent, job.OwnerEntry = "", ""
	result.Job = &job
	result.Flags = append(result.Flags, "duplicate_job_id")
	// The cache has this very call as the maker, which BigQuery has just denied.
	g.owners.drop(jobKey(job.Project, job.ID), intent.ID)
	if w, ok := g.lookUp(ctx, result); ok && w.entry != intent.ID {
		job.OwnerAgent, job.OwnerEntry = w.agent, w.entry
		if w.agent != intent.Principal.Agent {
			result.Flags = append(result.Flags, "foreign_job")
		}
	}
}

// drop forgets a maker, if it is the one named.
func (o *owners) drop(key, entry string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if el, ok := o.byID[key]; ok && el.Value.(owner).entry == entry {
		o.lru.Remove(el)
		delete(o.byID, key)
	}
}
