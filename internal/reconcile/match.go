package reconcile

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Counts is what a stretch of time held.
type Counts struct {
	// Both is how many jobs have an entry and a job that belong together; those that
	// differ are among them.
	Both int64 `json:"both"`
	// Direct is how many jobs of agents' principals have no entry of their own:
	// findings bypassed, and forged ones of such principals.
	Direct int64 `json:"only_bigquery"`
	// Missing is how many calls BigQuery has no job of, though it named one.
	Missing    int64 `json:"only_trail"`
	Mismatched int64 `json:"mismatched"`
	Forged     int64 `json:"forged"`
	Settled    int64 `json:"settled"`
	// Late is how many jobs were there when asked for, and not in the list.
	Late int64 `json:"late"`
	// Waiting is how many calls have no job yet in a source that may show them late.
	Waiting int64 `json:"waiting"`
	// Others is how many jobs belong to principals that are no agent's, Children how
	// many are statements of scripts, Own how many are the reconciliation's.
	Others   int64 `json:"others"`
	Children int64 `json:"children"`
	Own      int64 `json:"own"`
	// Jobless is how many reads and writes without a job were matched (audit logs alone);
	// those that were not are among Direct.
	Jobless int64 `json:"jobless"`
}

// Add adds other counts to these.
func (c *Counts) Add(o Counts) {
	c.Both += o.Both
	c.Direct += o.Direct
	c.Missing += o.Missing
	c.Mismatched += o.Mismatched
	c.Forged += o.Forged
	c.Settled += o.Settled
	c.Late += o.Late
	c.Waiting += o.Waiting
	c.Others += o.Others
	c.Children += o.Children
	c.Own += o.Own
	c.Jobless += o.Jobless
}

// Margins around a slice: a job is made moments after its call was recorded, and
// BigQuery's clock is not the gateway's.
const (
	beforeJob = 10 * time.Minute // how long before its job a call may have been recorded
	afterJob  = 2 * time.Minute  // how long after it, by clocks that differ
)

// slice is a stretch of time with both sides of it in memory.
type slice struct {
	run         *run
	from, until time.Time // whose jobs and calls are judged
	calls       []*call   // and some around it
	jobs        []*Job    // and some around it

	byJob   map[string][]*call
	byEntry map[string]*call
	claimed map[string]string // call → the place of the job that it was matched with
	listed  map[string]bool   // jobs at the top
	counts  Counts
}

func (s *slice) within(t time.Time) bool { return !t.Before(s.from) && t.Before(s.until) }

// match judges the slice: every job, then every call that no job was found for.
func (s *slice) match(ctx context.Context) error {
	s.byJob, s.byEntry, s.claimed, s.listed = map[string][]*call{}, map[string]*call{}, map[string]string{}, map[string]bool{}
	for _, c := range s.calls {
		s.byEntry[c.entry] = c
		if k := c.key(); k != "" {
			s.byJob[k] = append(s.byJob[k], c)
		}
	}
	// In the order of their making, so that of two that claim one call the first has it.
	slices.SortStableFunc(s.jobs, func(a, b *Job) int { return a.Created.Compare(b.Created) })
	for _, j := range s.jobs {
		if j.Parent == "" && j.ID != "" {
			s.listed[j.key()] = true
		}
	}
	for _, j := range s.jobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.job(ctx, j); err != nil {
			return err
		}
	}
	for _, c := range s.calls {
		if c.matched || !s.within(c.time) || !makesJob(c.method) {
			continue
		}
		if err := s.missing(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// job judges one job. Those around the slice are matched with its calls and not
// judged: that is their own slice's to do.
func (s *slice) job(ctx context.Context, j *Job) error {
	own := s.within(j.Created)
	if j.Method != "" {
		if !own {
			return nil
		}
		return s.jobless(ctx, j)
	}
	if j.Parent != "" {
		if own {
			s.counts.Children++
		}
		known, err := s.parentKnown(ctx, j)
		if known || err != nil {
			return err
		}
		// A statement whose script is in nobody's records stands for it.
	}
	c, why, err := s.callFor(ctx, j, own)
	if err != nil {
		return err
	}
	if c != nil && c.connection != s.run.cfg.Connection {
		why = "the label names an entry of another connection"
	}
	switch {
	case c != nil && why == "":
		return s.found(ctx, c, j, own)
	case !own:
		return nil
	case why == ownJob:
		s.counts.Own++
		return nil
	case why != "":
		s.counts.Forged++
		if s.run.agents(j) {
			s.counts.Direct++
		}
		f := s.finding(Forged, j, why)
		if c != nil {
			f.Call, f.Agent = c.entry, c.agent
		}
		return s.run.report(ctx, f)
	case s.run.agents(j):
		s.counts.Direct++
		return s.run.report(ctx, s.finding(Bypassed, j, "BigQuery ran this job for "+s.run.whose(j)+"; the trail has no entry of it"))
	}
	s.counts.Others++
	s.run.other(j, s.from)
	return nil
}

func (s *slice) finding(kind string, j *Job, why string) *Finding {
	return &Finding{
		Kind: kind, Connection: s.run.cfg.Connection, Project: j.Project, Job: j.ID, Location: j.Location, Method: j.Method, Created: j.Created,
		Principal: j.who(), Why: why, Statement: j.Statement, Type: j.StatementType, Processed: max(j.Processed, 0), Source: s.run.cfg.Source.Name(),
	}
}

// ownJob is what callFor says of the reconciliation's own jobs.
const ownJob = "own"

// callFor finds the call that made a job. With a call and without why they belong
// together; with why the job's labels say what is not so.
func (s *slice) callFor(ctx context.Context, j *Job, judged bool) (c *call, why string, err error) {
	l := j.Labels
	same := s.sameJob(j)
	if l.Entry == "" {
		if len(same) == 0 && judged {
			// The call may be older than what is in memory: an upload's last chunk makes the
			// job, which may come a week after the first.
			older, err := s.run.owner(ctx, j.Project, j.ID)
			if err != nil {
				return nil, "", err
			}
			if older != nil && !elsewhere(older.location, j.Location) {
				same = []*call{older}
			}
		}
		for _, c := range same {
			if other := s.claimed[c.entry]; !c.failed && c.connection == s.run.cfg.Connection && (other == "" || other == j.place()) {
				return c, "", nil // without its label, which found tells
			}
		}
		if l.any() && judged {
			return nil, "it carries labels of the gateway's and names no entry", nil
		}
		return nil, "", nil
	}
	c = s.byEntry[l.Entry]
	if c == nil {
		if !judged && len(same) == 0 {
			return nil, "", nil
		}
		found, own, err := s.run.lookUp(ctx, l.Entry, j)
		switch {
		case err != nil:
			return nil, "", err
		case own:
			return nil, ownJob, nil
		case found == nil:
			return nil, fmt.Sprintf("its label names the entry %s, which is none of the trail's that made a job", clip(l.Entry, 64)), nil
		}
		c = found
		s.byEntry[c.entry] = c
		if k := c.key(); k != "" {
			s.byJob[k] = append(s.byJob[k], c)
		}
	}
	switch k := c.key(); {
	case !makesJob(c.method):
		return c, "its label names the entry " + c.entry + ", whose call makes no job", nil
	case k != "" && k != j.key():
		return c, "its label names the entry " + c.entry + ", which made the job " + k, nil
	case k != "" && elsewhere(c.location, j.Location):
		return c, "its label names the entry " + c.entry + ", which made the job of that name in " + c.location, nil
	case k == "" && c.project != j.Project:
		return c, "its label names the entry " + c.entry + ", whose call was for project " + c.project, nil
	case k == "" && c.hasStatement && j.Statement != nil && j.Statement.SHA256 != c.statement:
		return c, "its label names the entry " + c.entry + ", whose statement is another", nil
	case k == "" && c.failed && !c.settled:
		return c, "its label names the entry " + c.entry + ", whose call made no job", nil
	}
	if other := s.claimed[c.entry]; other != "" && other != j.place() {
		return c, "its label names the entry " + c.entry + ", which belongs to the job " + other + " already", nil
	}
	return c, "", nil
}

// sameJob are the calls that made a job of that name, in that location as far as theirs
// is known: BigQuery lets another location have a job of the same name.
func (s *slice) sameJob(j *Job) (list []*call) {
	for _, c := range s.byJob[j.key()] {
		if !elsewhere(c.location, j.Location) {
			list = append(list, c)
		}
	}
	return list
}

// found is a job with its call.
func (s *slice) found(ctx context.Context, c *call, j *Job, own bool) error {
	s.claimed[c.entry] = j.place()
	c.matched = true
	for _, again := range s.sameJob(j) { // the same job id, sent again
		again.matched = true
	}
	if !own {
		return nil
	}
	s.counts.Both++
	s.run.learn(c, j)
	list := differences(c, j)
	switch l := j.Labels; {
	case l.Entry == "":
		list = append([]Difference{{"label", "trailgate_entry=" + c.entry, "none"}}, list...)
	default:
		if l.Agent != c.agent {
			list = append(list, Difference{"agent", c.agent, l.Agent})
		}
		if l.Session != c.session {
			list = append(list, Difference{"session", c.session, l.Session})
		}
	}
	if len(list) > 0 {
		slices.SortStableFunc(list, func(a, b Difference) int {
			return slices.Index(differenceFields, a.Field) - slices.Index(differenceFields, b.Field)
		})
		s.counts.Mismatched++
		f := s.finding(Mismatched, j, mismatchText(list))
		f.Call, f.Agent, f.Differences = c.entry, c.agent, list
		if err := s.run.report(ctx, f); err != nil {
			return err
		}
	}
	if c.open() {
		return s.settle(ctx, c, j)
	}
	return nil
}

func mismatchText(list []Difference) string {
	fields := make([]string, len(list))
	for i, d := range list {
		fields[i] = d.Field
	}
	return "the trail and BigQuery differ in " + strings.Join(fields, ", ")
}

// settle writes what became of a call that had no end.
func (s *slice) settle(ctx context.Context, c *call, j *Job) error {
	done, err := s.run.settle(ctx, c, j)
	if done {
		s.counts.Settled++
	}
	return err
}

// missing judges a call for which there is no job.
func (s *slice) missing(ctx context.Context, c *call) error {
	expected := c.named && !c.failed
	if !expected && !c.open() {
		return nil
	}
	get, final := s.run.cfg.Source.(Getter)
	if final && c.job != "" {
		j, err := get.Get(ctx, c.project, c.job, c.location)
		switch {
		case err == nil:
			return s.late(ctx, c, j)
		case !isNoJob(err):
			return err
		}
	}
	young := s.run.now().Sub(c.time) < s.run.cfg.Late
	switch {
	case young && (!final || c.job == ""):
		s.counts.Waiting++
		return nil
	case c.open():
		if s.run.cfg.Source.Name() == "audit-log" {
			return nil // what was exported is not known to be all there is
		}
		return s.settle(ctx, c, nil)
	}
	f := &Finding{
		Kind: Unseen, Connection: s.run.cfg.Connection, Project: c.project, Job: c.job, Location: c.location, Created: c.time, Agent: c.agent, Call: c.entry,
		Principal: c.principal, Source: s.run.cfg.Source.Name(), Why: "BigQuery named this job when it answered, and has none of that name now",
	}
	if s.run.cfg.Deleted != nil {
		by, err := s.run.cfg.Deleted(ctx, c.project, c.job)
		if err != nil {
			return err
		}
		if by != "" {
			return nil // its record was deleted by a call that is in the trail
		}
	}
	s.counts.Missing++
	return s.run.report(ctx, f)
}

// late is a job that is there and was not listed where it was looked for.
func (s *slice) late(ctx context.Context, c *call, j *Job) error {
	if j.Labels.Entry != "" && j.Labels.Entry != c.entry {
		// The same job id was sent twice; the other call has it.
		if other := s.byEntry[j.Labels.Entry]; other != nil && other.key() == j.key() {
			c.matched = true
			return nil
		}
	}
	if !s.within(j.Created) {
		c.matched = true // by a clock that is far from ours; its own slice judges it
		return nil
	}
	s.counts.Late++
	return s.found(ctx, c, j, true)
}

// parentKnown reports whether a statement's script is judged by itself, or is a call's.
func (s *slice) parentKnown(ctx context.Context, j *Job) (bool, error) {
	parent := j.Project + ":" + j.Parent
	if s.listed[parent] || len(s.byJob[parent]) > 0 {
		return true, nil
	}
	c, err := s.run.owner(ctx, j.Project, j.Parent)
	return c != nil, err
}

// jobless judges a read or write of rows that made no job: the reason that went with
// the request is all that ties it to an entry.
func (s *slice) jobless(ctx context.Context, j *Job) error {
	c := s.byEntry[j.Reason]
	if c == nil && j.Reason != "" {
		found, _, err := s.run.lookUp(ctx, j.Reason, j)
		if err != nil {
			return err
		}
		c = found
	}
	switch {
	case c != nil && c.method == "bigquery."+j.Method && (c.principal == "" || j.ranAs(c.principal)) && s.run.rowsOf(c, j):
		s.counts.Jobless++
	case s.run.agents(j):
		s.counts.Direct++
		why := "an agent's principal did this (" + j.Method + ", " + clip(j.Resource, 200) + ") and the trail has no entry of it"
		return s.run.report(ctx, s.finding(Bypassed, j, why))
	default:
		s.counts.Others++
		s.run.other(j, s.from)
	}
	return nil
}
