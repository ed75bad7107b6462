package gateway

import (
	"context"
	"net/http"
	"slices"
	"sync"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
)

// Bounds of the cache of who made what: how many, and what they take, bytes. What
// falls out of it is asked of the index.
const (
	maxOwners  = 100_000
	ownersRoom = 32 << 20
)

// Owner says who made a job, under which limits of the rule that let it run, and which
// tables it reads; nil where that is not known.
type Owner struct {
	Agent, Entry string
	Limits       map[string]string
	Read         []string
}

// owner says which agent's entry first used a job id or request id.
type owner struct {
	agent, entry string
	limits       map[string]string // of the decision; never changed
	read         []string          // tables; nil: not known; never changed
}

// owners remembers the makers of recent jobs, least recently used out first.
type owners struct {
	mu  sync.Mutex // guards all
	all recent[owner]
}

func newOwners() *owners {
	return &owners{all: recent[owner]{most: maxOwners, room: ownersRoom, size: owner.bytes}}
}

// bytes is about what one takes.
func (w owner) bytes() int {
	const fixed, pair = 128, 64
	n := fixed + len(w.agent) + len(w.entry) + stringsBytes(w.read)
	for k, v := range w.limits {
		n += pair + len(k) + len(v)
	}
	return n
}

func (o *owners) get(key string) (owner, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.look(key)
}

// claim records the maker of key unless one is known, and returns the one that
// stands and whether it stood before.
func (o *owners) claim(key string, w owner) (owner, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if old, ok := o.all.look(key); ok {
		return old, true
	}
	o.all.put(key, w)
	return w, false
}

func jobKey(project, job string) string { return "job/" + project + "/" + job }

// requestKey is per agent: a request id means something only to its sender.
func requestKey(agent, project, id string) string {
	return "request/" + agent + "/" + project + "/" + id
}

// ownerOf is the maker of the job that an intent makes.
func ownerOf(e *trailgate.Entry) owner {
	w := owner{agent: e.Principal.Agent, entry: e.ID, limits: e.Decision.Limits}
	if e.Tables != nil && e.Tables.Omitted == 0 {
		w.read = e.Tables.Read
	}
	return w
}

// learn adds tables that BigQuery says a job reads.
func (o *owners) learn(key string, read []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w, ok := o.all.look(key); ok {
		w.read = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(read), w.read...))))
		o.all.put(key, w)
	}
}

// limits are those of the decision that let a job run, as far as it is known.
func (o *owners) limits(key string) map[string]string {
	w, _ := o.get(key)
	return w.limits
}

// jobMaker fills in who made the job that a call asks about: rules look at that.
func (g *Gateway) jobMaker(ctx context.Context, e *trailgate.Entry, c *bigquery.Call) {
	if c.CreatesJob || e.Job == nil || e.Job.ID == "" {
		return
	}
	known, ok := g.owners.get(jobKey(e.Job.Project, e.Job.ID))
	if !ok {
		known, ok = g.lookUp(ctx, e)
	}
	if ok {
		madeBy(e, known)
	}
}

func madeBy(e *trailgate.Entry, w owner) {
	e.Job.OwnerAgent, e.Job.OwnerEntry = w.agent, w.entry
	if w.agent != e.Principal.Agent {
		e.Flags = append(e.Flags, "foreign_job")
	}
}

// newJob remembers who makes the job that a call makes, and marks a job id or a
// request id that was sent before.
func (g *Gateway) newJob(e *trailgate.Entry, c *bigquery.Call) {
	agent := e.Principal.Agent
	if c.RequestID != "" {
		if first, seen := g.owners.claim(requestKey(agent, c.Project, c.RequestID), owner{agent: agent, entry: e.ID}); seen {
			e.Request.DuplicateOf = first.entry
			e.Flags = append(e.Flags, "duplicate_request_id")
		}
	}
	if !c.CreatesJob || e.Job == nil || e.Job.ID == "" {
		return
	}
	key := jobKey(e.Job.Project, e.Job.ID)
	known, ok := g.owners.get(key) // the index is asked only once BigQuery says that the id is taken
	switch {
	case ok && known.entry == e.IntentID && e.IntentID != "":
		// The call was held, and is this very one: now its limits are known.
		g.owners.drop(key, known.entry)
		known, _ = g.owners.claim(key, ownerOf(e))
	case ok:
		e.Flags = append(e.Flags, "duplicate_job_id")
		if known.agent == agent && e.Request.DuplicateOf == "" {
			e.Request.DuplicateOf = known.entry
		}
	case !c.DryRun:
		known, _ = g.owners.claim(key, ownerOf(e))
		ok = true
	}
	if ok {
		madeBy(e, known)
	}
}

// lookUp asks the index who made an entry's job. Not knowing is said, not
// guessed: the call goes on, flagged.
func (g *Gateway) lookUp(ctx context.Context, e *trailgate.Entry) (owner, bool) {
	if g.cfg.JobOwner == nil {
		return owner{}, false
	}
	of, found, err := g.cfg.JobOwner(context.WithoutCancel(ctx), e.Job.Project, e.Job.ID)
	if err != nil {
		g.cfg.Log.WarnContext(ctx, "job owner lookup", "err", err)
		e.Flags = append(e.Flags, "job_owner_unknown")
		return owner{}, false
	}
	if !found {
		return owner{}, false
	}
	w, _ := g.owners.claim(jobKey(e.Job.Project, e.Job.ID), owner{agent: of.Agent, entry: of.Entry, limits: of.Limits, read: of.Read})
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
	if w, ok := o.all.peek(key); ok && w.entry == entry {
		o.all.drop(key)
	}
}
