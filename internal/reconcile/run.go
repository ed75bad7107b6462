package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
)

// Config says what is compared, and by whose help.
type Config struct {
	Connection string
	Projects   []string // that are looked at; none of them "*"
	Source     Source
	Trail      Trail
	// Append makes an entry durable.
	Append func(ctx context.Context, e *trailgate.Entry) error
	// Lookup returns all entries of the call to which the entry of this very id belongs,
	// in the log's order; none where there is no such entry.
	Lookup func(ctx context.Context, id string) ([]*trailgate.Entry, error)
	// JobOwner returns the entry that opened the call that made a job; nil: none did.
	JobOwner func(ctx context.Context, project, job string) (*trailgate.Entry, error)
	// Deleted returns the entry of a call that deleted a job's record; "": none did.
	Deleted func(ctx context.Context, project, job string) (string, error)
	// Upstream lists as whom calls of the connection went on, says the trail.
	Upstream func(ctx context.Context) ([]string, error)
	// Known lists what was found before, acknowledged or not.
	Known func(ctx context.Context) ([]*Finding, error)
	// Told hears of what this run found and no run before. Optional; it must not block.
	Told func(ctx context.Context, f *Finding)
	// Principals are agents' beside those that the trail names; Ignored are none.
	Principals, Ignored []string
	// SettleBefore is the place in the log before which a call without an outcome has
	// none to come.
	SettleBefore uint64
	// NotBefore is how far back there is anything to compare. Optional.
	NotBefore time.Time
	// Textless: the connection's entries hold no statements, nor do findings.
	Textless bool
	// Run is the id of the run's first entry.
	Run string

	Store *Store
	Now   func() time.Time // Optional.
	// Late is how long BigQuery may take to show a job. Optional: 1 h.
	Late time.Duration
	// MaxInMemory bounds the jobs, and the calls, of a slice. Optional: 20,000.
	MaxInMemory int
	// MaxFindings bounds the entries that a run writes of findings. Optional: 10,000.
	MaxFindings int
}

// Options are of one run.
type Options struct {
	Since, Until time.Time // Since is moved to its hour's beginning
	// Scheduled runs move the connection's cursor.
	Scheduled bool
	// Progress hears now and then how far the run is.
	Progress func(Progress)
	// Found hears of every finding in the window, found before or not.
	Found func(*Finding)
}

// Progress is how far a run is.
type Progress struct {
	Since time.Time `json:"since"`
	Done  time.Time `json:"done"`
	Until time.Time `json:"until"`
	Counts
}

// Report is what a run came to.
type Report struct {
	Connection   string    `json:"connection"`
	Source       string    `json:"source"`
	Since        time.Time `json:"since"`
	Until        time.Time `json:"until"`
	ResumedFrom  time.Time `json:"resumed_from,omitzero"`
	Counts       Counts    `json:"counts"`
	Percent      float64   `json:"percent"` // relative to BigQuery's job list; -1: no jobs
	Findings     int64     `json:"findings"`
	New          int64     `json:"new"`
	Acknowledged int64     `json:"acknowledged"`
	// Omitted is how many findings have no entry, being too many for one run.
	Omitted int64 `json:"omitted"`
	// PrincipalsOfAgents is for how many principals jobs were counted.
	PrincipalsOfAgents int `json:"principals"`
}

const (
	defaultLate     = time.Hour
	defaultInMemory = 20_000
	defaultFindings = 10_000
	leastSlice      = time.Second
	saveEvery       = 2 * time.Second
	maxOthers       = 1_000
	maxRows         = 200_000
)

type run struct {
	cfg    Config
	o      Options
	result Report
	state  *State
	known  map[string]*Finding
	told   map[string]bool // found in this run
	agent  map[string]bool // principals, in lower case
	ignore map[string]bool
	others map[string]map[int64]bool // principals that are none, by hours with jobs of theirs
	many   bool                      // others are more than are remembered
	rows   map[string]string         // reads and writes without a job: the call of each, and which log entry told of it
	saved  time.Time
}

// Run compares the two sides over a window.
func Run(ctx context.Context, cfg Config, o Options) (*Report, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Late <= 0 {
		cfg.Late = defaultLate
	}
	if cfg.MaxInMemory <= 0 {
		cfg.MaxInMemory = defaultInMemory
	}
	if cfg.MaxFindings <= 0 {
		cfg.MaxFindings = defaultFindings
	}
	o.Since, o.Until = o.Since.UTC().Truncate(time.Hour), o.Until.UTC().Truncate(time.Millisecond)
	r := &run{cfg: cfg, o: o, known: map[string]*Finding{}, told: map[string]bool{}, agent: map[string]bool{}, ignore: map[string]bool{}, others: map[string]map[int64]bool{}, rows: map[string]string{}}
	r.result = Report{Connection: cfg.Connection, Source: cfg.Source.Name(), Since: o.Since, Until: o.Until, Percent: -1}
	if !o.Since.Before(o.Until) {
		return &r.result, nil
	}
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	err := r.all(ctx)
	if !r.auditLog() {
		r.state.LastRun, r.state.LastError, r.state.Source = r.now().UTC(), "", cfg.Source.Name()
		if err != nil {
			r.state.LastError = clip(err.Error(), 500)
		}
		err = errors.Join(err, cfg.Store.Save(r.state))
	}
	r.result.PrincipalsOfAgents = len(r.agent)
	return &r.result, errors.Join(err, r.end(context.WithoutCancel(ctx), err))
}

func (r *run) now() time.Time { return r.cfg.Now() }

// auditLog: an export may hold a part of what there was, so its counts are no coverage.
func (r *run) auditLog() bool { return r.cfg.Source.Name() == "audit-log" }

func (r *run) prepare(ctx context.Context) (err error) {
	if r.state, err = r.cfg.Store.Load(r.cfg.Connection); err != nil {
		return err
	}
	upstream, err := r.cfg.Upstream(ctx)
	if err != nil {
		return fmt.Errorf("list the principals of %s: %w", r.cfg.Connection, err)
	}
	for _, p := range r.cfg.Ignored {
		r.ignore[strings.ToLower(p)] = true
	}
	for _, p := range slices.Concat(upstream, r.state.Learned, r.cfg.Principals) {
		r.addAgent(p)
	}
	known, err := r.cfg.Known(ctx)
	if err != nil {
		return fmt.Errorf("list earlier findings: %w", err)
	}
	for _, f := range known {
		r.known[f.Key()] = f
	}
	return r.cfg.Append(ctx, &trailgate.Entry{
		ID: r.cfg.Run, Kind: trailgate.KindGateway, Connection: r.cfg.Connection,
		Event: &trailgate.Event{Action: ActionStart, Target: r.cfg.Connection, Via: "self", Detail: map[string]string{
			"source": r.cfg.Source.Name(), "since": r.o.Since.Format(time.RFC3339), "until": r.o.Until.Format(time.RFC3339),
			"projects": clip(strings.Join(r.cfg.Projects, " "), 2000), "principals": fmt.Sprint(len(r.agent)),
		}},
	})
}

func (r *run) addAgent(principal string) bool {
	p := strings.ToLower(principal)
	if p == "" || r.agent[p] || r.ignore[p] {
		return false
	}
	r.agent[p] = true
	return true
}

// end writes what the run came to. A run without it was cut short.
func (r *run) end(ctx context.Context, failed error) error {
	c := r.result.Counts
	detail := map[string]string{"run": r.cfg.Run, "source": r.cfg.Source.Name(), "since": r.o.Since.Format(time.RFC3339), "until": r.o.Until.Format(time.RFC3339)}
	for name, n := range map[string]int64{
		"both": c.Both, "only_bigquery": c.Direct, "only_trail": c.Missing, "mismatched": c.Mismatched, "forged": c.Forged, "settled": c.Settled,
		"late": c.Late, "waiting": c.Waiting, "others": c.Others, "children": c.Children, "jobless": c.Jobless,
		"findings": r.result.Findings, "new_findings": r.result.New, "omitted_findings": r.result.Omitted,
	} {
		if n != 0 {
			detail[name] = fmt.Sprint(n)
		}
	}
	if failed != nil {
		detail["failed"] = clip(failed.Error(), 500)
	}
	return r.cfg.Append(ctx, &trailgate.Entry{
		Kind: trailgate.KindGateway, Connection: r.cfg.Connection,
		Event: &trailgate.Event{Action: ActionEnd, Target: r.cfg.Connection, Via: "self", Detail: detail},
	})
}

// all goes through the window hour by hour, and again through hours in which there were
// jobs of who turned out to be an agent's principal later.
func (r *run) all(ctx context.Context) error {
	r.saved = r.now()
	from := r.o.Since
	if b := r.state.Begun; !r.auditLog() && b != nil && b.Source == r.cfg.Source.Name() && !b.Since.After(r.o.Since) && b.Done.After(r.o.Since) && b.Done.Before(r.o.Until) {
		from = b.Done.Truncate(time.Hour)
		r.resume(from)
	}
	if err := r.hours(ctx, from, r.o.Until, nil); err != nil {
		return err
	}
	for redo := r.overlooked(); len(redo) > 0; redo = r.overlooked() {
		if err := r.hours(ctx, r.o.Since, r.o.Until, redo); err != nil {
			return err
		}
	}
	r.result.Percent = r.result.Counts.Percent()
	if r.auditLog() {
		return nil
	}
	r.state.Begun = nil
	if r.o.Scheduled {
		r.state.Until = r.o.Until
	}
	return nil
}

// resume takes over what a run that was cut short had come to.
func (r *run) resume(from time.Time) {
	r.result.ResumedFrom = from
	for h := r.o.Since.Unix() / 3600; h < from.Unix()/3600; h++ {
		r.result.Counts.Add(r.state.Hours[h])
	}
	for _, f := range r.known {
		if !f.Created.Before(r.o.Since) && f.Created.Before(from) {
			r.tell(f)
		}
	}
}

// hours looks at each hour from from to until; only those of some, unless that is nil.
func (r *run) hours(ctx context.Context, from, until time.Time, some map[int64]bool) error {
	for ; from.Before(until); from = from.Truncate(time.Hour).Add(time.Hour) {
		hour := from.Unix() / 3600
		if some != nil && !some[hour] {
			continue
		}
		to := from.Truncate(time.Hour).Add(time.Hour)
		if to.After(until) {
			to = until
		}
		begin := from
		if begin.Before(r.cfg.NotBefore) {
			begin = r.cfg.NotBefore
		}
		if !begin.Before(to) {
			continue
		}
		counts, err := r.slice(ctx, begin, to)
		if err != nil {
			return err
		}
		if some != nil { // what was counted before is counted anew
			old := r.state.Hours[hour]
			r.result.Counts.sub(old)
		}
		r.result.Counts.Add(counts)
		r.state.Hours[hour] = counts
		if r.o.Progress != nil {
			r.o.Progress(Progress{Since: r.o.Since, Done: to, Until: r.o.Until, Counts: r.result.Counts})
		}
		if r.auditLog() || some != nil {
			continue
		}
		r.state.Begun = &Begun{Source: r.cfg.Source.Name(), Since: r.o.Since, Until: r.o.Until, Done: to}
		if now := r.now(); now.Sub(r.saved).Abs() > saveEvery {
			r.saved = now
			// The findings of these hours are in the trail already; after a crash here the run
			// goes on behind them, and before it finds them again and knows them.
			if err := r.cfg.Store.Save(r.state); err != nil {
				return err
			}
		}
	}
	return nil
}

// slice looks at a stretch of time, in halves where it holds too much.
func (r *run) slice(ctx context.Context, from, until time.Time) (Counts, error) {
	most := r.cfg.MaxInMemory
	if until.Sub(from) <= leastSlice {
		most = 1 << 30
	}
	s := &slice{run: r, from: from, until: until}
	err := r.load(ctx, s, most)
	if errors.Is(err, errTooMany) {
		middle := from.Add(until.Sub(from) / 2).Truncate(leastSlice)
		if !middle.After(from) {
			middle = from.Add(leastSlice)
		}
		first, err := r.slice(ctx, from, middle)
		if err != nil {
			return first, err
		}
		second, err := r.slice(ctx, middle, until)
		first.Add(second)
		return first, err
	}
	if err == nil {
		err = s.match(ctx)
	}
	return s.counts, err
}

// load reads both sides of a slice. The margins shrink with it, so that a slice that
// was halved has less to hold: what they miss is looked up one by one.
func (r *run) load(ctx context.Context, s *slice, most int) (err error) {
	span := s.until.Sub(s.from)
	before, after := min(beforeJob, max(span, 10*time.Second)), min(afterJob, max(span, 10*time.Second))
	if s.calls, err = collect(ctx, r.cfg.Trail, r.cfg.Connection, s.from.Add(-before), s.until.Add(after), r.auditLog(), 2*most); err != nil {
		return err
	}
	byKey := map[string][]int{}
	for _, project := range r.cfg.Projects {
		err := r.cfg.Source.Jobs(ctx, project, s.from.Add(-after), s.until.Add(after), func(j *Job) error {
			if j.ID != "" {
				for _, i := range byKey[j.key()] {
					if !elsewhere(s.jobs[i].Location, j.Location) {
						s.jobs[i] = merge(s.jobs[i], j)
						return nil
					}
				}
				byKey[j.key()] = append(byKey[j.key()], len(s.jobs))
			}
			if len(s.jobs) >= most {
				return errTooMany
			}
			s.jobs = append(s.jobs, j)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// merge puts two records of one job together: the last state, and what either has.
func merge(a, b *Job) *Job {
	if a.Done && !b.Done {
		a, b = b, a
	}
	j := *b
	if j.Statement == nil {
		j.Statement = a.Statement
	}
	if !j.Labels.any() {
		j.Labels = a.Labels
	}
	if j.Principal == "" {
		j.Principal = a.Principal
	}
	if j.Parent == "" {
		j.Parent = a.Parent
	}
	if j.Location == "" {
		j.Location = a.Location
	}
	j.Processed, j.Billed, j.Affected = max(a.Processed, j.Processed), max(a.Billed, j.Billed), max(a.Affected, j.Affected)
	return &j
}

func (c *Counts) sub(o Counts) {
	c.Both -= o.Both
	c.Direct -= o.Direct
	c.Missing -= o.Missing
	c.Mismatched -= o.Mismatched
	c.Forged -= o.Forged
	c.Settled -= o.Settled
	c.Late -= o.Late
	c.Waiting -= o.Waiting
	c.Others -= o.Others
	c.Children -= o.Children
	c.Own -= o.Own
	c.Jobless -= o.Jobless
}

// agents reports whether a job ran as an agent's principal.
func (r *run) agents(j *Job) bool {
	return r.agent[strings.ToLower(j.Principal)] || j.Subject != "" && r.agent[strings.ToLower(j.Subject)]
}

func (r *run) whose(j *Job) string { return j.who() + ", which is a principal of agents" }

// learn takes the principal of a job that an entry made for an agent's, where the entry
// itself does not know it (a shared credential, and no answer that names it).
func (r *run) learn(c *call, j *Job) {
	if c.principal == "" && c.named && j.Labels.Entry == c.entry && r.addAgent(j.who()) {
		r.state.Learned = append(r.state.Learned, j.who())
	}
}

// other notes a job of somebody who is no agent's principal, as far as is known yet.
func (r *run) other(j *Job, at time.Time) {
	p := strings.ToLower(j.who())
	if r.ignore[p] {
		return
	}
	if r.others[p] == nil {
		if len(r.others) >= maxOthers {
			r.many = true
			return
		}
		r.others[p] = map[int64]bool{}
	}
	r.others[p][at.Unix()/3600] = true
}

// overlooked are the hours with jobs of principals that are agents' by what came later.
func (r *run) overlooked() map[int64]bool {
	hours := map[int64]bool{}
	for p, at := range r.others {
		if r.agent[p] {
			maps.Copy(hours, at)
			delete(r.others, p)
		}
	}
	return hours
}

// report takes a finding in: writes it down, unless that was done before.
func (r *run) report(ctx context.Context, f *Finding) error {
	key := f.Key()
	if r.told[key] {
		return nil // an hour that was looked at again
	}
	if old := r.known[key]; old != nil {
		f.Entry, f.Acknowledged = old.Entry, old.Acknowledged
		r.tell(f)
		return nil
	}
	if r.result.New >= int64(r.cfg.MaxFindings) {
		r.result.Omitted++
		r.tell(f)
		return nil
	}
	e := f.entry(r.cfg.Textless)
	if err := r.cfg.Append(ctx, e); err != nil {
		return fmt.Errorf("record a finding: %w", err)
	}
	// Durable now: the finding. A crash before the state is saved has the hour looked at
	// again, and the finding is known then.
	f.Entry, f.New = e.ID, true
	r.result.New++
	r.tell(f)
	if r.cfg.Told != nil {
		r.cfg.Told(ctx, f)
	}
	return nil
}

func (r *run) tell(f *Finding) {
	key := f.Key()
	if r.told[key] {
		return
	}
	r.told[key] = true
	r.result.Findings++
	if f.Acknowledged {
		r.result.Acknowledged++
	}
	if r.o.Found != nil {
		r.o.Found(f)
	}
}

// lookUp finds the call of an entry that a label names. own: it is a run of the
// reconciliation's, and the job is what such a run makes.
func (r *run) lookUp(ctx context.Context, id string, j *Job) (c *call, own bool, err error) {
	stages, err := r.cfg.Lookup(ctx, id)
	if err != nil {
		return nil, false, fmt.Errorf("look up entry %s: %w", clip(id, 64), err)
	}
	if len(stages) == 0 {
		return nil, false, nil
	}
	if e := stages[0]; e.ID == id && e.Kind == trailgate.KindGateway && e.Event != nil && e.Event.Action == ActionStart {
		text := statementOf(fmt.Sprintf(ViewQuery, strings.ToLower(j.Location)))
		genuine := strings.HasPrefix(j.ID, viewJobs+id+"_") && j.Statement != nil && j.Statement.SHA256 == text.SHA256
		return nil, genuine, nil
	}
	if c = callOf(stages); c == nil || c.entry != id {
		return nil, false, nil
	}
	return c, false, nil
}

// owner finds the call that made a job that is not in memory.
func (r *run) owner(ctx context.Context, project, job string) (*call, error) {
	e, err := r.cfg.JobOwner(ctx, project, job)
	if err != nil {
		return nil, fmt.Errorf("look up job %s: %w", clip(job, 64), err)
	}
	if e == nil {
		return nil, nil
	}
	stages, err := r.cfg.Lookup(ctx, e.ID)
	if err != nil {
		return nil, fmt.Errorf("look up entry %s: %w", e.ID, err)
	}
	return callOf(stages), nil
}

// rowsOf takes a call for the one that read or wrote rows without a job. A call does so
// once, and when it was made: whoever learns an entry's id can send it as the reason of
// requests past the gateway, as often as they like, and for other tables.
func (r *run) rowsOf(c *call, j *Job) bool {
	if at := j.Created.Sub(c.time); at < -afterJob || at > beforeJob {
		return false
	}
	if t := tableOf(j.Resource); t != "" && len(c.tables) > 0 && !slices.ContainsFunc(c.tables, func(s string) bool { return undecorated(s) == t }) {
		return false
	}
	if told := r.rows[c.entry]; told != "" {
		return told == j.Insert // an export may have a log entry twice
	}
	if len(r.rows) >= maxRows {
		clear(r.rows) // those of hours that are done, nearly all
	}
	r.rows[c.entry] = j.Insert
	return true
}

// tableOf is the table that a resource's name is about, as entries write it; "": none.
func tableOf(resource string) string {
	p, d, t := nameAfter(resource, "projects/"), nameAfter(resource, "datasets/"), nameAfter(resource, "tables/")
	if p == "" || d == "" || t == "" {
		return ""
	}
	return undecorated(p + "." + d + "." + t)
}

// undecorated leaves a table's partition and snapshot out ("$20261129", "@-3600000").
func undecorated(table string) string {
	if i := strings.IndexAny(table, "$@"); i >= 0 {
		return table[:i]
	}
	return table
}

func isNoJob(err error) bool { return errors.Is(err, ErrNoJob) }
