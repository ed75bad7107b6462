package index

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxGroups bounds a sum's answer.
const maxGroups = 100_000

// Group is a sum over the calls that have some keys in common.
type Group struct {
	// Keys has the value of each key that was summed by, "" where a call has
	// none.
	Keys map[string]string `json:"keys"`
	// Calls counts calls: entries that opened one, denied and refused included.
	Calls int64 `json:"calls"`
	// Errors counts those that failed, were denied or refused.
	Errors int64 `json:"errors"`
	// What BigQuery billed and processed, and what was answered.
	BytesBilled    int64 `json:"bytes_billed"`
	BytesProcessed int64 `json:"bytes_processed"`
	Rows           int64 `json:"rows"`
	ResponseBytes  int64 `json:"response_bytes"`
}

// sumKey is what can be summed by.
type sumKey struct {
	name   string
	expr   string // SQL on c
	rollup string // the rollups' column; "" if none has it
	show   func(*namer, int64) (string, error)
}

// keyTables is the key that a call may have several values of.
const keyTables = "table"

const stateExpr = "(c.state * 2 + (c.state = 0 AND c.seq < %d))"

var sumKeys = []sumKey{
	{"agent", "c.agent", "agent", (*namer).dict},
	{"human", "c.human", "human", (*namer).dict},
	{"day", "c.time / 86400000000000", "day", (*namer).day},
	{"hour", "c.time / 3600000000000", "", (*namer).hour},
	{keyTables, "c.tables", "tbl", (*namer).table},
	{"class", "c.classes", "classes", (*namer).class},
	{"method", "c.method", "method", (*namer).dict},
	{"connection", "c.connection", "connection", (*namer).dict},
	{"decision", "c.decision", "decision", (*namer).dict},
	{"state", stateExpr, "", (*namer).state},
	{"session", "c.session", "", (*namer).dict},
	{"statement_type", "c.statement_type", "", (*namer).dict},
}

// SumKeys are the names that Stats can sum by.
func SumKeys() []string {
	names := make([]string, len(sumKeys))
	for i, k := range sumKeys {
		names[i] = k.name
	}
	return names
}

// Stats sums up the calls that the filter matches, by keys out of [SumKeys];
// no key gives one group, or none where no call matches. What is not a call
// does not count. By "table", a call counts once for each of its tables, and
// not at all if it has none. Groups are sorted by their keys.
//
// Where keys and filter allow it, rollups answer; otherwise each matching row
// is visited. Bad keys and filters are *FilterError, too much work is
// [ErrTooSlow].
func (x *Index) Stats(ctx context.Context, by []string, filter string) ([]Group, error) {
	keys, err := parseKeys(by)
	if err != nil {
		return nil, err
	}
	n, err := parseFilter(filter, x.opt.Now())
	if err != nil {
		return nil, err
	}
	st, release, err := x.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	limited, cancel := context.WithTimeout(ctx, x.opt.StatsBudget)
	defer cancel()
	if err := x.resolveIDs(limited, st, n); err != nil {
		return nil, x.spoiled(limited, ctx, st, err)
	}
	total := map[string]*Group{}
	for _, p := range st.newestFirst() {
		groups, err := x.sumPart(limited, st, p, n, keys)
		if err != nil {
			return nil, x.spoiled(limited, ctx, st, err)
		}
		for i := range groups {
			groups[i].addTo(total, by)
		}
		if len(total) > maxGroups {
			return nil, errTooManyGroups()
		}
	}
	return sorted(total, by), nil
}

func parseKeys(by []string) ([]sumKey, error) {
	var keys []sumKey
	for i, name := range by {
		j := slices.IndexFunc(sumKeys, func(k sumKey) bool { return k.name == name })
		if j < 0 {
			return nil, &FilterError{Message: fmt.Sprintf("calls cannot be summed by %s; %s keys are %s",
				show(name), didYouMean(name, SumKeys()), strings.Join(SumKeys(), ", "))}
		}
		if slices.Contains(by[:i], name) {
			return nil, &FilterError{Message: fmt.Sprintf("the key %q is named twice", name)}
		}
		keys = append(keys, sumKeys[j])
	}
	return keys, nil
}

// addTo adds g to the group in total that has its keys.
func (g *Group) addTo(total map[string]*Group, by []string) {
	var b strings.Builder
	for _, k := range by {
		b.WriteString(g.Keys[k])
		b.WriteByte(0)
	}
	t := total[b.String()]
	if t == nil {
		t = &Group{Keys: g.Keys}
		total[b.String()] = t
	}
	t.Calls += g.Calls
	t.Errors += g.Errors
	t.BytesBilled += g.BytesBilled
	t.BytesProcessed += g.BytesProcessed
	t.Rows += g.Rows
	t.ResponseBytes += g.ResponseBytes
}

func sorted(total map[string]*Group, by []string) []Group {
	list := make([]Group, 0, len(total))
	for _, g := range total {
		list = append(list, *g)
	}
	slices.SortFunc(list, func(a, b Group) int {
		for _, k := range by {
			if c := strings.Compare(a.Keys[k], b.Keys[k]); c != 0 {
				return c
			}
		}
		return 0
	})
	return list
}

// sumPart sums up one file. The result may be shared: it is not to be changed.
func (x *Index) sumPart(ctx context.Context, st *store, p *part, n *node, keys []sumKey) ([]Group, error) {
	version := p.version.Load()
	pl, err := st.planner(p)
	if err != nil {
		return nil, err
	}
	query, args, ok, err := pl.rollupQuery(ctx, n, keys)
	if err != nil {
		return nil, err
	}
	if !ok {
		c, err := pl.plan(ctx, n)
		if err != nil || c.never {
			return nil, err
		}
		query, args = rowsQuery(c, keys, pl.started)
	}
	// What a file had to say to a query holds until its next commit; for most
	// files that is for good.
	id := fmt.Sprintf("%s\x00%s\x00%v", p.path, query, args)
	if groups, ok := x.cache.get(id, version); ok {
		return groups, nil
	}
	groups, err := pl.sum(ctx, keys, !ok, query, args)
	if err == nil {
		x.cache.put(id, version, groups)
	}
	return groups, err
}

// rowsQuery sums up rows.
func rowsQuery(c clause, keys []sumKey, started uint64) (string, []any) {
	var exprs []string
	for _, k := range keys {
		e := k.expr
		if e == stateExpr {
			e = fmt.Sprintf(stateExpr, started)
		}
		exprs = append(exprs, e)
	}
	from, _, args := c.from()
	query := "SELECT " + strings.Join(append(slices.Clone(exprs),
		"count(*), sum(c.state IN (2, 3, 5)), total(c.billed), total(c.processed), total(c.rows), total(c.bytes)"), ", ") +
		from + " AND c.state <> 7"
	if len(exprs) > 0 {
		query += " GROUP BY " + strings.Join(exprs, ", ")
	}
	return query + " HAVING count(*) > 0", args
}

// rawGroup is a group whose keys are still a file's numbers.
type rawGroup struct {
	keys   []int64
	tables []int64 // where a key is a call's list of tables
	Group
}

// maxRawGroups bounds what one file's answer takes in memory.
const maxRawGroups = 4 * maxGroups

// sum runs a query and gives the keys their names. Where packed, a table key
// is a call's whole list.
func (p *planner) sum(ctx context.Context, keys []sumKey, packed bool, query string, args []any) ([]Group, error) {
	tableAt := slices.IndexFunc(keys, func(k sumKey) bool { return packed && k.name == keyTables })
	raw, err := p.rawGroups(ctx, len(keys), tableAt, query, args)
	if err != nil {
		return nil, err
	}
	by := make([]string, len(keys))
	for i, k := range keys {
		by[i] = k.name
	}
	total := map[string]*Group{}
	names := &namer{planner: p, ctx: ctx, cache: map[[2]int64]string{}}
	for _, r := range raw {
		tables := []int64{0}
		if tableAt >= 0 {
			tables = r.tables
		}
		for _, t := range tables {
			if tableAt >= 0 {
				r.keys[tableAt] = t
			}
			g := r.Group
			g.Keys = make(map[string]string, len(keys))
			for i, k := range keys {
				if g.Keys[k.name], err = k.show(names, r.keys[i]); err != nil {
					return nil, err
				}
			}
			g.addTo(total, by)
		}
	}
	return sorted(total, by), nil
}

func (p *planner) rawGroups(ctx context.Context, keys, tableAt int, query string, args []any) ([]rawGroup, error) {
	rows, err := p.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("sum up: %w", err)
	}
	defer rows.Close()
	var list []rawGroup
	for rows.Next() {
		g := rawGroup{keys: make([]int64, keys)}
		var tables []byte
		var f [4]float64
		var dst []any
		for i := range keys {
			if i == tableAt {
				dst = append(dst, &tables)
			} else {
				dst = append(dst, &g.keys[i])
			}
		}
		if err := rows.Scan(append(dst, &g.Calls, &g.Errors, &f[0], &f[1], &f[2], &f[3])...); err != nil {
			return nil, fmt.Errorf("sum up: %w", err)
		}
		g.BytesBilled, g.BytesProcessed, g.Rows, g.ResponseBytes = int64(f[0]), int64(f[1]), int64(f[2]), int64(f[3])
		g.tables = unpackIDs(tables)
		if list = append(list, g); len(list) > maxRawGroups {
			return nil, errTooManyGroups()
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sum up: %w", err)
	}
	return list, nil
}

func errTooManyGroups() error {
	return &FilterError{Message: fmt.Sprintf("more than %d groups; narrow the filter, or sum by fewer keys", maxGroups)}
}

// namer gives the numbers of a file their texts. It is for one query.
type namer struct {
	*planner
	ctx   context.Context //nolint:containedctx // lives as long as the query
	cache map[[2]int64]string
}

func (n *namer) lookup(kind, id int64, query string) (string, error) {
	if id == 0 {
		return "", nil
	}
	if s, ok := n.cache[[2]int64{kind, id}]; ok {
		return s, nil
	}
	var project, dataset, name string
	dst := []any{&name}
	if kind == 1 {
		dst = []any{&name, &dataset, &project}
	}
	err := n.db.QueryRowContext(n.ctx, query, id).Scan(dst...)
	if errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("%w: a row has a text that is not there", ErrDamaged)
	}
	if err != nil {
		return "", fmt.Errorf("look up text in index: %w", err)
	}
	s := joinTable(project, dataset, name)
	n.cache[[2]int64{kind, id}] = s
	return s, nil
}

func (n *namer) dict(id int64) (string, error) {
	return n.lookup(0, id, `SELECT text FROM dict WHERE id = ?`)
}

func (n *namer) table(id int64) (string, error) {
	return n.lookup(1, id, `SELECT name, dataset, project FROM tbl WHERE id = ?`)
}

func (n *namer) class(mask int64) (string, error) { return gravest(mask), nil }

func (n *namer) state(code int64) (string, error) {
	return state(code/2).name(0, uint64(code%2)), nil
}

func (n *namer) day(d int64) (string, error) {
	return time.Unix(d*24*60*60, 0).UTC().Format(time.DateOnly), nil
}

func (n *namer) hour(h int64) (string, error) {
	return time.Unix(h*60*60, 0).UTC().Format(time.RFC3339), nil
}
