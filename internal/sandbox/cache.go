package sandbox

import (
	"slices"
)

// maxCached bounds how many results are remembered for queries to come.
const maxCached = 256

// resultCache remembers the results of SELECTs, as BigQuery does for queries
// whose tables have not changed since. Whoever uses it holds the engine.
type resultCache struct {
	entries map[string]*cached
	order   []string
}

// cached is the outcome of a SELECT and what it depends on.
type cached struct {
	outcome  *outcome
	versions map[*table]int64
}

// lookup finds an outcome that still holds.
func (c *resultCache) lookup(cat *catalog, key string) *outcome {
	e := c.entries[key]
	if e == nil {
		return nil
	}
	for t, v := range e.versions {
		if now, err := cat.tableLocked(t.name); err != nil || now != t || t.version != v {
			return nil
		}
	}
	return e.outcome
}

func (c *resultCache) store(key string, o *outcome) {
	if o.volatile || cells(o.rows) > maxStoredCells/maxCached {
		return
	}
	e := &cached{outcome: o, versions: map[*table]int64{}}
	for _, t := range slices.Concat(o.reads, o.views) {
		if t.generated == 0 {
			e.versions[t] = t.version
		}
	}
	if _, ok := c.entries[key]; !ok {
		c.order = append(c.order, key)
	}
	c.entries[key] = e
	if len(c.order) > maxCached {
		delete(c.entries, c.order[0])
		c.order = slices.Delete(c.order, 0, 1)
	}
}
