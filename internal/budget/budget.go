// Package budget bounds the bytes that BigQuery bills for what agents ask, in a day
// or a month.
//
// It counts from the trail and from nothing else: entries are applied in the log's
// order, each once ([Ledger.Apply]). What a call may be billed is reserved before its
// intent is committed, so that calls at the same time cannot together go beyond a
// limit; the reservation stands in the intent ("budget_reserved" among the limits of
// its decision), and is replaced by what BigQuery billed once an entry tells that.
//
// Which entries count:
//
//   - An intent of jobs.insert or jobs.query with a statement, not a dry run, holds its
//     reservation (nothing, where no budget held for it) in the period of its time.
//   - Its outcome gives it back where BigQuery refused the call, and names its job.
//   - Any entry that tells that a job is DONE, and what it was billed, settles the call
//     that made it; a result from the cache settles it with nothing. That a job is DONE
//     does not tell its bill by itself: jobs.getQueryResults never says it, and an answer
//     that should and did not is flagged "bill_unknown".
//   - A script that fails has been billed for what it did before ("script_failed"): it
//     keeps its reservation until its job tells.
//   - The gateway's own question about a job names the call for which it asks
//     (request.for), which so gets to know its job.
//
// A client may never ask about its job again, so that no entry tells its end. Such a
// call is charged with its reservation for good, after [AssumeAfter].
package budget

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/trailgate/trailgate"
)

// Bounds of a ledger.
const (
	MaxBudgets = 1000
	maxCalls   = 200_000 // calls whose bill is not known; beyond, the oldest are taken at their reservation
	maxCounts  = 200_000 // counters; beyond, no further scope is let in
	// AssumeAfter is how long a call's bill is waited for.
	AssumeAfter = 24 * time.Hour
)

// Whose calls a budget counts together.
const (
	PerAgent      = "agent"
	PerHuman      = "human"
	PerConnection = "connection"
	PerAll        = "all"
)

// How long a period is.
const (
	Day   = "day"
	Month = "month"
)

// Budget is a limit, with the calls that it holds for.
type Budget struct {
	Name string
	// Per is whose calls are counted together: each agent, human or connection has a
	// count of its own, or all share one. Calls on nobody's behalf share one count Per
	// human.
	Per string
	// Agents, Humans and Connections say for which calls the budget holds, as patterns
	// in which "*" stands for any characters. None: for all.
	Agents, Humans, Connections []string
	Limit                       int64 // bytes billed
	Period                      string
	Zone                        *time.Location // whose clock begins a period; nil: UTC
	Warn                        float64        // share of Limit at which the warning level is reached
}

// Call is whose call it is. A human's name is compared without regard to case.
type Call struct{ Agent, Human, Connection string }

// Status is how a budget stands in one scope.
type Status struct {
	Budget, Scope string
	Limit         int64
	Used          int64 // by calls whose bill is known, or taken as known
	Reserved      int64 // by those whose bill is not known yet
	Period        string
	Turns         time.Time // when the period ends
	Warning       bool      // the warning level is reached
}

// OverError says that a budget does not have what a call may be billed. Its text is
// for the agent.
type OverError struct {
	Status
	Want int64 // bytes; negative: not known
}

func (e *OverError) Error() string {
	left := max(e.Limit-e.Used-e.Reserved, 0)
	wants := "what this call would be billed cannot be told beforehand"
	if e.Want >= 0 {
		wants = "this call may be billed " + size(e.Want)
	}
	return fmt.Sprintf("budget %s has %s of %s left until %s, and %s; wait until then, read less, or ask whoever runs the gateway",
		e.Budget, size(left), size(e.Limit), e.Turns.Format(time.RFC3339), wants)
}

// size writes bytes as BigQuery's prices have them, in powers of 1,024.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return strconv.FormatInt(n, 10) + " B"
	}
	return strconv.FormatFloat(f, 'f', 2, 64) + " " + units[i]
}

// countKey is a counter: of one budget, one scope, one period.
type countKey struct {
	budget, scope string
	start         int64 // of the period, Unix seconds
}

type count struct{ used, reserved int64 }

// charge is what one call holds.
type charge struct {
	keys   []countKey
	amount int64
	job    string // "": not known
	at     time.Time
}

// Ledger is the count of all budgets. It is safe for concurrent use.
type Ledger struct {
	now func() time.Time

	mu      sync.Mutex // guards what follows
	budgets []Budget
	counts  map[countKey]*count
	pending map[string]*charge // reserved, their intents not applied yet; by entry id
	calls   map[string]*charge // their intents applied, their bills not known; by entry id
	jobs    map[string]string  // of calls: job to entry id
	next    uint64             // the sequence of the next entry to apply
	changed bool               // since the last snapshot
}

// New makes an empty ledger that counts from the trail's first entry on. now may be nil.
func New(budgets []Budget, now func() time.Time) (*Ledger, error) {
	if now == nil {
		now = time.Now
	}
	l := &Ledger{now: now, counts: map[countKey]*count{}, pending: map[string]*charge{}, calls: map[string]*charge{}, jobs: map[string]string{}}
	return l, l.Set(budgets)
}

// Set puts other budgets in place. What was counted stays with the budget's name: a
// limit that is raised gives the rest of the period more, a new budget begins with
// nothing used.
func (l *Ledger) Set(budgets []Budget) error {
	if len(budgets) > MaxBudgets {
		return fmt.Errorf("more than %d budgets", MaxBudgets)
	}
	names := map[string]bool{}
	for _, b := range budgets {
		if err := b.check(); err != nil {
			return err
		}
		if names[b.Name] {
			return fmt.Errorf("budget %s stands twice", b.Name)
		}
		names[b.Name] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.budgets = slices.Clone(budgets)
	return nil
}

func (b *Budget) check() error {
	switch {
	case b.Name == "" || b.Limit <= 0:
		return fmt.Errorf("budget %q needs a name and a limit", b.Name)
	case !slices.Contains([]string{PerAgent, PerHuman, PerConnection, PerAll}, b.Per):
		return fmt.Errorf("budget %s: per %q is none of agent, human, connection, all", b.Name, b.Per)
	case b.Period != Day && b.Period != Month:
		return fmt.Errorf("budget %s: period %q is neither day nor month", b.Name, b.Period)
	}
	for _, list := range [][]string{b.Agents, b.Humans, b.Connections} {
		for _, p := range list {
			if _, err := path.Match(pattern(p), ""); err != nil {
				return fmt.Errorf("budget %s: pattern %q: %w", b.Name, p, err)
			}
		}
	}
	return nil
}

// pattern leaves "*" alone its meaning.
func pattern(p string) string {
	return strings.NewReplacer(`\`, `\\`, `?`, `\?`, `[`, `\[`, "/", "\x00").Replace(strings.ToLower(p))
}

func fits(patterns []string, name string) bool {
	if len(patterns) == 0 {
		return true
	}
	name = strings.ReplaceAll(strings.ToLower(name), "/", "\x00") // which "*" may take, too
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(pattern(p), name)
		return ok && err == nil
	})
}

func (b *Budget) holds(c Call) bool {
	return fits(b.Agents, c.Agent) && fits(b.Humans, c.Human) && fits(b.Connections, c.Connection)
}

func (b *Budget) scope(c Call) string {
	switch b.Per {
	case PerAgent:
		return c.Agent
	case PerHuman:
		return strings.ToLower(c.Human)
	case PerConnection:
		return c.Connection
	}
	return ""
}

// period is the one that t is in.
func (b *Budget) period(t time.Time) (start, end time.Time) {
	zone := b.Zone
	if zone == nil {
		zone = time.UTC
	}
	y, m, d := t.In(zone).Date()
	if b.Period == Month {
		return time.Date(y, m, 1, 0, 0, 0, 0, zone), time.Date(y, m+1, 1, 0, 0, 0, 0, zone)
	}
	return time.Date(y, m, d, 0, 0, 0, 0, zone), time.Date(y, m, d+1, 0, 0, 0, 0, zone)
}

func (b *Budget) key(c Call, t time.Time) countKey {
	start, _ := b.period(t)
	return countKey{b.Name, b.scope(c), start.Unix()}
}

// keysLocked are the counters that a call counts in.
func (l *Ledger) keysLocked(c Call, t time.Time) []countKey {
	var keys []countKey
	for i := range l.budgets {
		if l.budgets[i].holds(c) {
			keys = append(keys, l.budgets[i].key(c, t))
		}
	}
	return keys
}

func (l *Ledger) countLocked(k countKey) *count {
	c := l.counts[k]
	if c == nil {
		c = &count{}
		l.counts[k] = c
	}
	return c
}

func (l *Ledger) statusLocked(b *Budget, scope string, t time.Time) Status {
	start, end := b.period(t)
	s := Status{Budget: b.Name, Scope: scope, Limit: b.Limit, Period: b.Period, Turns: end}
	if c := l.counts[countKey{b.Name, scope, start.Unix()}]; c != nil {
		s.Used, s.Reserved = c.used, c.reserved
	}
	s.Warning = float64(s.Used+s.Reserved) >= b.Warn*float64(b.Limit)
	return s
}

// left is what may still be reserved; it may be negative where a bill was higher than
// its reservation.
func (s *Status) left() int64 { return s.Limit - s.Used - s.Reserved }

// Peek gives the budget with the least left of those that hold for a call, and false
// where none does.
func (l *Ledger) Peek(c Call) (Status, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.holdingLocked(c, l.now())
	if len(all) == 0 {
		return Status{}, false
	}
	return slices.MinFunc(all, func(a, b Status) int { return cmp.Compare(a.left(), b.left()) }), true
}

func (l *Ledger) holdingLocked(c Call, t time.Time) []Status {
	var all []Status
	for i := range l.budgets {
		if b := &l.budgets[i]; b.holds(c) {
			all = append(all, l.statusLocked(b, b.scope(c), t))
		}
	}
	return all
}

// All is how every budget stands in every scope that has used some of it.
func (l *Ledger) All() []Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.now()
	var all []Status
	for i := range l.budgets {
		b := &l.budgets[i]
		start, _ := b.period(t)
		n := len(all)
		for k := range l.counts {
			if k.budget == b.Name && k.start == start.Unix() {
				all = append(all, l.statusLocked(b, k.scope, t))
			}
		}
		if len(all) == n {
			all = append(all, l.statusLocked(b, "", t))
		}
	}
	slices.SortFunc(all, func(a, b Status) int {
		return cmp.Or(cmp.Compare(a.Budget, b.Budget), cmp.Compare(a.Scope, b.Scope))
	})
	return all
}

// Reserve takes what a call may be billed out of all budgets that hold for it, or out
// of none: an [*OverError] names the one that has least left. want below 0: it is not
// known, and all that is left is taken. Held is false where no budget holds. warned
// names the budgets whose warning level is reached by this.
//
// The caller then commits the intent with amount in it, which [Ledger.Apply] must be
// given, or calls [Ledger.Release].
func (l *Ledger) Reserve(entry string, c Call, want int64) (amount int64, held bool, warned []string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.now()
	all := l.holdingLocked(c, t)
	if len(all) == 0 {
		return 0, false, nil, nil
	}
	least := slices.MinFunc(all, func(a, b Status) int { return cmp.Compare(a.left(), b.left()) })
	amount = want
	if want < 0 {
		amount = least.left()
	}
	if amount > least.left() || want < 0 && amount <= 0 || len(l.counts) >= maxCounts && l.prunedLocked(t) >= maxCounts {
		return 0, true, nil, &OverError{Status: least, Want: want}
	}
	for _, s := range all {
		for i := range l.budgets {
			b := &l.budgets[i]
			if b.Name == s.Budget && !s.Warning && float64(s.Used+s.Reserved+amount) >= b.Warn*float64(b.Limit) {
				warned = append(warned, s.Budget)
			}
		}
	}
	x := &charge{keys: l.keysLocked(c, t), amount: amount, at: t}
	for _, k := range x.keys {
		l.countLocked(k).reserved += amount
	}
	l.pending[entry] = x
	return amount, true, warned, nil
}

// Release gives back what a call had reserved whose intent is not in the trail.
func (l *Ledger) Release(entry string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x := l.pending[entry]; x != nil {
		delete(l.pending, entry)
		l.giveLocked(x)
	}
}

func (l *Ledger) giveLocked(x *charge) {
	for _, k := range x.keys {
		l.countLocked(k).reserved -= x.amount
	}
}

// Next is the sequence of the entry that is to be applied next.
func (l *Ledger) Next() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// Skip says that the entries before seq do not count: they are older than every
// period that matters. It does nothing on a ledger that is further.
func (l *Ledger) Skip(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = max(l.next, seq)
}

// Oldest is from when on entries matter: the beginning of the earliest present period,
// with room for calls whose bill comes late.
func (l *Ledger) Oldest() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.now()
	oldest := t
	for i := range l.budgets {
		start, _ := l.budgets[i].period(t)
		if start.Before(oldest) {
			oldest = start
		}
	}
	return oldest.Add(-AssumeAfter)
}

const (
	methodInsert  = "bigquery.jobs.insert"
	methodQuery   = "bigquery.jobs.query"
	methodResults = "bigquery.jobs.getQueryResults"
	methodJob     = "bigquery.jobs.get"
	// FlagBillUnknown is on an outcome that tells that a job is DONE, and not its bill.
	FlagBillUnknown = "bill_unknown"
	// FlagScriptFailed is on an outcome of a script that failed underway.
	FlagScriptFailed = "script_failed"
	// Limit is the name of the reservation among the limits of an intent's decision.
	Limit = "budget_reserved"

	endNotForwarded = trailgate.EndNotForwarded
	endJobAbsent    = "job_absent" // of a settled entry
)

// Apply counts an entry. Entries come in the order of the log; one that was applied
// is passed over.
func (l *Ledger) Apply(e *trailgate.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Seq < l.next {
		return
	}
	l.next, l.changed = e.Seq+1, true
	switch e.Kind {
	case trailgate.KindIntent:
		l.intentLocked(e)
	case trailgate.KindOutcome, trailgate.KindSettled:
		l.outcomeLocked(e)
	}
	if e.Seq%1024 == 0 {
		l.prunedLocked(e.Time)
	}
}

func (l *Ledger) intentLocked(e *trailgate.Entry) {
	if x := l.pending[e.ID]; x != nil {
		delete(l.pending, e.ID)
		l.giveLocked(x)
	}
	if e.Method == methodJob && e.Request != nil && e.Request.For != "" {
		if x := l.calls[e.Request.For]; x != nil {
			l.bindLocked(e.Request.For, x, e.Job)
		}
		return
	}
	if e.Method != methodInsert && e.Method != methodQuery || e.Request == nil || e.Request.DryRun || len(e.Statements) == 0 || e.Principal == nil {
		return
	}
	x := &charge{at: e.Time}
	if e.Decision != nil {
		if n, err := strconv.ParseInt(e.Decision.Limits[Limit], 10, 64); err == nil && n > 0 {
			x.amount = n
		}
	}
	x.keys = l.keysLocked(Call{e.Principal.Agent, e.Principal.Human, e.Connection}, e.Time)
	if len(x.keys) == 0 {
		return
	}
	for _, k := range x.keys {
		l.countLocked(k).reserved += x.amount
	}
	l.calls[e.ID] = x
	l.bindLocked(e.ID, x, e.Job)
}

// bindLocked remembers which job a call made; the first to name a job has it.
func (l *Ledger) bindLocked(id string, x *charge, job *trailgate.Job) {
	if x.job != "" || job == nil || job.ID == "" {
		return
	}
	key := job.Project + "\x00" + job.ID
	if _, taken := l.jobs[key]; !taken {
		x.job, l.jobs[key] = key, id
	}
}

func (l *Ledger) outcomeLocked(e *trailgate.Entry) {
	o := e.Outcome
	if o == nil {
		return
	}
	if x := l.calls[e.IntentID]; x != nil {
		refused := o.Status >= 400 || o.End == endNotForwarded || o.End == endJobAbsent
		if refused && !slices.Contains(e.Flags, "effect_unknown") && !slices.Contains(e.Flags, FlagScriptFailed) {
			l.settleLocked(e.IntentID, 0)
			return
		}
		l.bindLocked(e.IntentID, x, e.Job)
		if e.Method == methodQuery && (o.CacheHit || o.BytesBilled > 0) {
			l.settleLocked(e.IntentID, o.BytesBilled)
			return
		}
	}
	if e.Job == nil || e.Job.ID == "" {
		return
	}
	told := o.JobState == "DONE" && e.Method != methodResults && !slices.Contains(e.Flags, FlagBillUnknown)
	if id, known := l.jobs[e.Job.Project+"\x00"+e.Job.ID]; known && (told || o.CacheHit) {
		billed := o.BytesBilled
		if o.CacheHit {
			billed = 0
		}
		l.settleLocked(id, billed)
	}
}

// settleLocked puts a bill in place of a reservation.
func (l *Ledger) settleLocked(id string, billed int64) {
	x := l.calls[id]
	if x == nil {
		return
	}
	l.giveLocked(x)
	for _, k := range x.keys {
		l.countLocked(k).used += billed
	}
	delete(l.calls, id)
	if x.job != "" {
		delete(l.jobs, x.job)
	}
}

// prunedLocked drops what does not matter any more, and says how many counters stay:
// bills that did not come are taken at their reservation, counters of periods that
// ended two months ago go.
func (l *Ledger) prunedLocked(t time.Time) int {
	for id, x := range l.calls {
		if t.Sub(x.at) > AssumeAfter {
			l.settleLocked(id, x.amount)
		}
	}
	if len(l.calls) > maxCalls {
		ids := make([]string, 0, len(l.calls))
		for id := range l.calls {
			ids = append(ids, id)
		}
		slices.SortFunc(ids, func(a, b string) int { return l.calls[a].at.Compare(l.calls[b].at) })
		for _, id := range ids[:len(ids)-maxCalls*3/4] {
			l.settleLocked(id, l.calls[id].amount)
		}
	}
	old := t.AddDate(0, -2, 0).Unix()
	for k, c := range l.counts {
		if k.start < old && c.reserved == 0 {
			delete(l.counts, k)
		}
	}
	return len(l.counts)
}
