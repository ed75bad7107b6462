package index

import (
	"context"
	"math"
	"slices"
	"strings"
	"sync"
)

// rollup is a table of sums, kept with the rows they are of.
type rollup struct {
	name    string
	columns []string
}

// rollups, narrow ones first. One by table counts a call once for each table,
// and so serves sums by table and no others.
var rollups = []rollup{
	{"rollup_day_table", []string{"day", "tbl"}},
	{"rollup_table", []string{"day", "agent", "classes", "tbl"}},
	{"rollup", []string{"day", "agent", "human", "connection", "method", "classes", "decision"}},
}

// total, unlike sum, does not fail on overflow; it is exact up to 2^53.
const sumColumns = `sum(r.calls), sum(r.errors), total(r.billed), total(r.processed), total(r.rows), total(r.bytes)`

// rollupQuery sums up a rollup, where one has all keys and all of the filter.
func (p *planner) rollupQuery(ctx context.Context, n *node, keys []sumKey) (query string, args []any, ok bool, err error) {
	byTable := slices.ContainsFunc(keys, func(k sumKey) bool { return k.name == keyTables })
	for _, r := range rollups {
		if byTable != slices.Contains(r.columns, "tbl") || slices.ContainsFunc(keys, func(k sumKey) bool { return !slices.Contains(r.columns, k.rollup) }) {
			continue
		}
		cond, args, ok, err := rollupFilter{p, r.columns}.cond(ctx, n)
		if err != nil {
			return "", nil, false, err
		}
		if !ok {
			continue
		}
		var exprs []string
		for _, k := range keys {
			exprs = append(exprs, "r."+k.rollup)
		}
		query = "SELECT " + strings.Join(append(slices.Clone(exprs), sumColumns), ", ") + " FROM " + r.name + " r WHERE " + cond
		if len(exprs) > 0 {
			query += " GROUP BY " + strings.Join(exprs, ", ")
		}
		return query + " HAVING sum(r.calls) > 0", args, true, nil
	}
	return "", nil, false, nil
}

// rollupFilter turns a filter into a condition on a rollup, where the rollup
// has what the filter asks for.
type rollupFilter struct {
	*planner
	columns []string
}

// cond returns the condition on r; ok is false where there is none.
func (f rollupFilter) cond(ctx context.Context, n *node) (sql string, args []any, ok bool, err error) {
	if n.op == opTest {
		return f.test(ctx, n.test)
	}
	var parts []string
	for _, k := range n.kids {
		s, more, ok, err := f.cond(ctx, k)
		if !ok || err != nil {
			return "", nil, false, err
		}
		parts, args = append(parts, s), append(args, more...)
	}
	switch {
	case n.op == opNot:
		return "NOT " + parts[0], args, true, nil
	case n.op == opAnd && len(parts) == 0:
		return "1", nil, true, nil
	case n.op == opAnd:
		return "(" + strings.Join(parts, " AND ") + ")", args, true, nil
	default:
		return "(" + strings.Join(parts, " OR ") + ")", args, true, nil
	}
}

func (f rollupFilter) test(ctx context.Context, t *test) (sql string, args []any, ok bool, err error) {
	if t.field.kind == kindTime {
		sql, args, ok = days(t)
		return sql, args, ok, nil
	}
	column := columns[t.field.letter]
	if t.field.kind == kindClass {
		column = "classes"
	}
	if column == "" || !slices.Contains(f.columns, column) {
		return "", nil, false, nil
	}
	if t.field.kind == kindClass {
		mask := int64(0)
		for i, c := range classesByGravity {
			if slices.Contains(t.values, string(c)) {
				mask |= 1 << i
			}
		}
		return "(r.classes & ?) <> 0", []any{mask}, true, nil
	}
	ids, err := f.dictMatches(ctx, t.field.letter, t.pat.prefix(), t.pat.match)
	if err != nil {
		return "", nil, false, t.expansionError(err)
	}
	if len(ids) == 0 {
		return "0", nil, true, nil
	}
	for _, id := range ids {
		args = append(args, id)
	}
	return "r." + column + " IN (?" + strings.Repeat(",?", len(ids)-1) + ")", args, true, nil
}

// days is an interval of time, where it is made of whole days.
func days(t *test) (string, []any, bool) {
	var parts []string
	var args []any
	if t.lo != math.MinInt64 {
		if mod(t.lo, nanosPerDay) != 0 {
			return "", nil, false
		}
		parts, args = append(parts, "r.day >= ?"), append(args, t.lo/nanosPerDay)
	}
	if t.hi != math.MaxInt64 {
		if mod(t.hi+1, nanosPerDay) != 0 {
			return "", nil, false
		}
		parts, args = append(parts, "r.day < ?"), append(args, (t.hi+1)/nanosPerDay)
	}
	if len(parts) == 0 {
		return "1", nil, true
	}
	return "(" + strings.Join(parts, " AND ") + ")", args, true
}

func mod(n, m int64) int64 { return (n%m + m) % m }

// sumCache remembers what files answered, as long as they do not change.
type sumCache struct {
	mu     sync.Mutex // guards both
	byID   map[string]cachedSum
	groups int // in byID
}

type cachedSum struct {
	version uint64
	groups  []Group
}

// maxCachedGroups bounds the cache; a group takes some 500 bytes.
const maxCachedGroups = 50_000

func (c *sumCache) get(id string, version uint64) ([]Group, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.byID[id]
	return s.groups, ok && s.version == version
}

func (c *sumCache) put(id string, version uint64, groups []Group) {
	size := len(groups) + 1
	if size > maxCachedGroups/4 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.byID[id]; ok {
		c.groups -= len(old.groups) + 1
	}
	if c.byID == nil || c.groups+size > maxCachedGroups {
		c.byID, c.groups = map[string]cachedSum{}, 0
	}
	c.byID[id] = cachedSum{version, groups}
	c.groups += size
}

func (c *sumCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byID, c.groups = nil, 0
}
