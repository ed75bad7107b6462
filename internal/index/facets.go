package index

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Bounds of what a look around costs: a page that shows it answers at once, and says
// where it counted the newest calls alone.
const (
	glanceRows   = 50_000
	glanceBudget = 60 * time.Millisecond
	maxBuckets   = 400
)

// FacetValue is one value of a facet, and how many calls have it.
type FacetValue struct {
	Value  string `json:"value"`
	Calls  int64  `json:"calls"`
	Errors int64  `json:"errors"`
}

// Facet is how calls spread over a field's values, the most frequent first.
type Facet struct {
	Field  string       `json:"field"`
	Values []FacetValue `json:"values"`
	More   bool         `json:"more"` // there are other values
	// Complete is false where the newest calls alone were counted, those since Since.
	Complete bool       `json:"complete"`
	Since    *time.Time `json:"since,omitempty"`
}

// FacetFields are the fields that there are facets of, the keys of Stats that are values
// of a filter's field.
func FacetFields() []string {
	return []string{"agent", "human", "connection", "class", keyTables, "decision", "state", "method", "statement_type", "session"}
}

// Facets counts the calls that a filter matches by the values of fields, the limit most
// frequent of each. Rollups answer where they can; otherwise it counts the newest
// matches, as many as a bounded time allows, and says so.
func (x *Index) Facets(ctx context.Context, filter string, names []string, limit int) ([]Facet, error) {
	for _, name := range names {
		if !slices.Contains(FacetFields(), name) {
			return nil, &FilterError{Message: fmt.Sprintf("there is no facet %s; %s facets are %s", show(name), didYouMean(name, FacetFields()), strings.Join(FacetFields(), ", "))}
		}
	}
	n, st, release, err := x.look(ctx, filter)
	if err != nil {
		return nil, err
	}
	defer release()
	out := make([]Facet, len(names))
	var rest []int // which of them no rollup has
	var keys []sumKey
	for i, name := range names {
		key, err := parseKeys([]string{name})
		if err != nil {
			return nil, err
		}
		groups, ok, err := x.rolledUp(ctx, st, n, key)
		if err != nil {
			return nil, x.spoiled(ctx, ctx, st, err)
		}
		if out[i] = (Facet{Field: name, Complete: true}); ok {
			out[i].fill(groups, name, limit)
			continue
		}
		rest, keys = append(rest, i), append(keys, key...)
	}
	if len(rest) == 0 {
		return out, nil
	}
	g, err := x.glance(ctx, st, n, keys, 0)
	if err != nil {
		return nil, x.spoiled(ctx, ctx, st, err)
	}
	for j, i := range rest {
		groups := make([]Group, 0, len(g.byKey[j]))
		for value, c := range g.byKey[j] {
			groups = append(groups, Group{Keys: map[string]string{names[i]: value}, Calls: c[0], Errors: c[1]})
		}
		out[i].Complete, out[i].Since = g.complete, g.sinceIfNot()
		out[i].fill(groups, names[i], limit)
	}
	return out, nil
}

func (f *Facet) fill(groups []Group, key string, limit int) {
	f.Values = []FacetValue{}
	for _, g := range groups {
		if v := g.Keys[key]; v != "" {
			f.Values = append(f.Values, FacetValue{v, g.Calls, g.Errors})
		}
	}
	slices.SortFunc(f.Values, func(a, b FacetValue) int {
		if a.Calls != b.Calls {
			return int(max(min(b.Calls-a.Calls, 1), -1))
		}
		return strings.Compare(a.Value, b.Value)
	})
	if len(f.Values) > limit {
		f.Values, f.More = f.Values[:limit], true
	}
}

// look parses a filter and takes hold of the store.
func (x *Index) look(ctx context.Context, filter string) (*node, *store, func(), error) {
	n, err := parseFilter(filter, x.opt.Now())
	if err != nil {
		return nil, nil, nil, err
	}
	st, release, err := x.acquire()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := x.resolveIDs(ctx, st, n); err != nil {
		release()
		return nil, nil, nil, x.spoiled(ctx, ctx, st, err)
	}
	return n, st, release, nil
}

// rolledUp sums by keys where rollups have all that takes.
func (x *Index) rolledUp(ctx context.Context, st *store, n *node, keys []sumKey) ([]Group, bool, error) {
	by := make([]string, len(keys))
	for i, k := range keys {
		by[i] = k.name
	}
	total := map[string]*Group{}
	for _, p := range st.newestFirst() {
		pl, err := st.planner(p)
		if err != nil {
			return nil, false, err
		}
		if _, _, ok, err := pl.rollupQuery(ctx, n, keys); err != nil || !ok {
			return nil, false, err
		}
		groups, err := x.sumPart(ctx, st, p, n, keys)
		if err != nil {
			return nil, false, err
		}
		for i := range groups {
			groups[i].addTo(total, by)
		}
		if len(total) > maxGroups {
			return nil, false, nil
		}
	}
	return sorted(total, by), true, nil
}

// glanced is what a look at the newest matches found.
type glanced struct {
	calls    int64
	byKey    []map[string]*[2]int64 // for each key: calls and errors by value
	byStep   map[int64]*[2]int64    // by time/step, where a step was asked for
	complete bool
	most     int64     // calls that are looked at
	since    time.Time // of the oldest that was looked at
}

func (g *glanced) sinceIfNot() *time.Time {
	if g.complete || g.since.IsZero() {
		return nil
	}
	return &g.since
}

// glance visits matching calls, the newest first, until it has seen enough of them or
// its time is over.
func (x *Index) glance(ctx context.Context, st *store, n *node, keys []sumKey, step int64) (*glanced, error) {
	g := &glanced{complete: true, most: x.opt.glanceRows, byStep: map[int64]*[2]int64{}}
	for range keys {
		g.byKey = append(g.byKey, map[string]*[2]int64{})
	}
	limited, cancel := context.WithTimeout(ctx, x.opt.glanceBudget)
	defer cancel()
	for _, p := range st.newestFirst() {
		if g.calls >= g.most {
			g.complete = false
			break
		}
		pl, err := st.planner(p)
		if err != nil {
			return nil, err
		}
		c, err := pl.plan(limited, n)
		if err == nil && !c.never {
			err = g.visit(limited, ctx, pl, c, keys, step)
		}
		if err != nil && limited.Err() != nil && ctx.Err() == nil {
			g.complete = false
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return g, nil
}

func (g *glanced) visit(limited, ctx context.Context, pl *planner, c clause, keys []sumKey, step int64) error {
	exprs := []string{"c.time", "c.state IN (2, 3, 5)"}
	tableAt := -1
	for i, k := range keys {
		e := k.expr
		if e == stateExpr {
			e = fmt.Sprintf(stateExpr, pl.started)
		}
		if k.name == keyTables {
			tableAt = i
		}
		exprs = append(exprs, e)
	}
	from, order, args := c.from()
	rows, err := pl.db.QueryContext(limited, "SELECT "+strings.Join(exprs, ", ")+from+" AND c.state <> 7 ORDER BY "+order+" DESC LIMIT ?", append(args, g.most-g.calls)...)
	if err != nil {
		return fmt.Errorf("look around: %w", err)
	}
	defer rows.Close()
	names := &namer{planner: pl, ctx: ctx, cache: map[[2]int64]string{}}
	var at int64
	var failed bool
	var tables []byte
	ids := make([]int64, len(keys))
	dst := []any{&at, &failed}
	for i := range keys {
		if i == tableAt {
			dst = append(dst, &tables)
		} else {
			dst = append(dst, &ids[i])
		}
	}
	// Names are looked up behind the rows: few values stand for many rows.
	raw := make([]map[int64]*[2]int64, len(keys))
	for i := range raw {
		raw[i] = map[int64]*[2]int64{}
	}
	count := func(m map[int64]*[2]int64, id int64) {
		v := m[id]
		if v == nil {
			v = &[2]int64{}
			m[id] = v
		}
		v[0]++
		if failed {
			v[1]++
		}
	}
	var visited error
	for rows.Next() {
		if err := rows.Scan(dst...); err != nil {
			return fmt.Errorf("look around: %w", err)
		}
		g.calls++
		g.since = time.Unix(0, at).UTC()
		if step > 0 {
			count(g.byStep, floorDiv(at, step))
		}
		for i := range keys {
			if i != tableAt {
				count(raw[i], ids[i])
				continue
			}
			for _, id := range unpackIDs(tables) {
				count(raw[i], id)
			}
		}
	}
	visited = rows.Err()
	if g.calls >= g.most {
		g.complete = false
	}
	for i, k := range keys {
		for id, c := range raw[i] {
			value, err := k.show(names, id)
			if err != nil {
				return err
			}
			sum := g.byKey[i][value]
			if sum == nil {
				sum = &[2]int64{}
				g.byKey[i][value] = sum
			}
			sum[0] += c[0]
			sum[1] += c[1]
		}
	}
	if visited != nil {
		return fmt.Errorf("look around: %w", visited)
	}
	return nil
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b != 0 && a < 0 {
		q--
	}
	return q
}

// Bucket is the calls of a span of time.
type Bucket struct {
	Time   time.Time `json:"time"` // when it begins
	Calls  int64     `json:"calls"`
	Errors int64     `json:"errors"`
}

// Histogram is how calls spread over time.
type Histogram struct {
	Since    time.Time     `json:"since"`
	Until    time.Time     `json:"until"` // exclusive
	Step     time.Duration `json:"-"`
	Buckets  []Bucket      `json:"buckets"`
	Complete bool          `json:"complete"` // false: buckets before Counted are not counted, or not whole
	Counted  *time.Time    `json:"counted_since,omitempty"`
}

// steps are the widths that a bucket may have.
var steps = []time.Duration{
	time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour,
	24 * time.Hour, 7 * 24 * time.Hour, 28 * 24 * time.Hour, 364 * 24 * time.Hour,
}

// Histogram counts the calls that a filter matches in at most n buckets over a span; a
// zero since is the first entry's time, a zero until is now. Of buckets of whole days
// rollups count all; otherwise it counts as [Index.Facets] does.
func (x *Index) Histogram(ctx context.Context, filter string, since, until time.Time, n int) (*Histogram, error) {
	n = max(1, min(n, maxBuckets))
	now := x.opt.Now()
	if until.IsZero() {
		until = now
	}
	if since.IsZero() {
		first, err := x.first(ctx)
		if err != nil {
			return nil, err
		}
		if since = first; first.IsZero() {
			since = until.Add(-24 * time.Hour)
		}
	}
	if !since.Before(until) {
		return nil, &FilterError{Message: "the span ends before it begins"}
	}
	step := steps[len(steps)-1]
	for _, s := range steps {
		if until.Sub(since)/s < time.Duration(n) {
			step = s
			break
		}
	}
	h := &Histogram{Step: step, Complete: true}
	lo, hi := floorDiv(since.UnixNano(), int64(step)), floorDiv(until.UnixNano()-1, int64(step))
	hi = min(hi, lo+maxBuckets)
	h.Since, h.Until = time.Unix(0, lo*int64(step)).UTC(), time.Unix(0, (hi+1)*int64(step)).UTC()
	counts := map[int64]*[2]int64{}
	span := fmt.Sprintf("time >= %q AND time < %q", h.Since.Format(time.RFC3339Nano), h.Until.Format(time.RFC3339Nano))
	if strings.TrimSpace(filter) != "" {
		if _, err := parseFilter(filter, now); err != nil {
			return nil, err // with its column, before it stands in brackets
		}
		span = "(" + filter + ") AND " + span
	}
	node, st, release, err := x.look(ctx, span)
	if err != nil {
		return nil, err
	}
	defer release()
	var days []Group
	rolled := false
	if step%(24*time.Hour) == 0 {
		key, err := parseKeys([]string{"day"})
		if err != nil {
			return nil, err
		}
		if days, rolled, err = x.rolledUp(ctx, st, node, key); err != nil {
			return nil, x.spoiled(ctx, ctx, st, err)
		}
	}
	if rolled {
		for _, g := range days {
			day, err := time.Parse(time.DateOnly, g.Keys["day"])
			if err != nil {
				continue
			}
			at := floorDiv(day.UnixNano(), int64(step))
			c := counts[at]
			if c == nil {
				c = &[2]int64{}
				counts[at] = c
			}
			c[0] += g.Calls
			c[1] += g.Errors
		}
	} else {
		g, err := x.glance(ctx, st, node, nil, int64(step))
		if err != nil {
			return nil, x.spoiled(ctx, ctx, st, err)
		}
		counts, h.Complete, h.Counted = g.byStep, g.complete, g.sinceIfNot()
	}
	for at := lo; at <= hi; at++ {
		b := Bucket{Time: time.Unix(0, at*int64(step)).UTC()}
		if c := counts[at]; c != nil {
			b.Calls, b.Errors = c[0], c[1]
		}
		h.Buckets = append(h.Buckets, b)
	}
	return h, nil
}

// first is the time of the first row; zero where there is none.
func (x *Index) first(ctx context.Context) (time.Time, error) {
	st, release, err := x.acquire()
	if err != nil {
		return time.Time{}, err
	}
	defer release()
	for _, p := range st.oldestFirst() {
		db, err := p.reader()
		if err != nil {
			return time.Time{}, x.spoiled(ctx, ctx, st, err)
		}
		var at sql.NullInt64
		if err := db.QueryRowContext(ctx, `SELECT time FROM call ORDER BY seq LIMIT 1`).Scan(&at); err == nil && at.Valid {
			return time.Unix(0, at.Int64).UTC(), nil
		}
	}
	return time.Time{}, nil
}

// Values are texts that the index has of a field, or of tables, beginning with prefix: at
// most limit of them, of the newest files first, sorted. Where a field has few values
// they are those; where it has none that can be told, there are none.
func (x *Index) Values(ctx context.Context, name, prefix string, limit int) ([]string, error) {
	f := fieldByName(name)
	if f == nil {
		return nil, &FilterError{Message: "there is no field " + show(name)}
	}
	var out []string
	if len(f.Values) > 0 {
		for _, v := range f.Values {
			if strings.HasPrefix(v, strings.ToLower(prefix)) {
				out = append(out, v)
			}
		}
		return out[:min(len(out), limit)], nil
	}
	st, release, err := x.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	limited, cancel := context.WithTimeout(ctx, x.opt.glanceBudget)
	defer cancel()
	for _, p := range st.newestFirst() {
		db, err := p.reader()
		if err != nil {
			return nil, x.spoiled(ctx, ctx, st, err)
		}
		var more []string
		switch {
		case f.kind == kindTable:
			more, err = tablesLike(limited, db, prefix, limit)
		case f.kind == kindText && f.letter != 0:
			more, err = textsLike(limited, db, f.letter, prefix, limit)
		default:
			return nil, nil
		}
		if err != nil {
			break // what there is so far
		}
		for _, v := range more {
			if !slices.Contains(out, v) && len(out) < limit {
				out = append(out, v)
			}
		}
		if len(out) >= limit {
			break
		}
	}
	slices.Sort(out)
	return out, nil
}

// after is the least text behind all that begin with prefix.
func after(prefix string) string { return prefix + "\U0010ffff" }

func textsLike(ctx context.Context, db *sql.DB, letter byte, prefix string, limit int) ([]string, error) {
	rows, err := db.QueryContext(ctx, `SELECT text FROM dict WHERE field = ? AND text >= ? AND text < ? ORDER BY text LIMIT ?`, letter, prefix, after(prefix), limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

// tablesLike finds tables by the beginning of "dataset.table".
func tablesLike(ctx context.Context, db *sql.DB, prefix string, limit int) ([]string, error) {
	dataset, table, dotted := strings.Cut(prefix, ".")
	query, args := `SELECT project, dataset, name FROM tbl WHERE dataset >= ? AND dataset < ? ORDER BY dataset, name LIMIT ?`, []any{dataset, after(dataset), limit}
	if dotted {
		query, args = `SELECT project, dataset, name FROM tbl WHERE dataset = ? AND name >= ? AND name < ? ORDER BY name LIMIT ?`, []any{dataset, table, after(table), limit}
	}
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var project, dataset, name string
		if err := rows.Scan(&project, &dataset, &name); err != nil {
			return nil, err
		}
		if s := joinTable("", dataset, name); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out, rows.Err()
}
