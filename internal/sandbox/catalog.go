package sandbox

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// catalog is what exists: projects, datasets, tables and views. Rows are in the
// engine, under the tables' storage names.
//
// Who changes it holds the engine first, then mu: so whoever holds the engine
// may read without mu, and whoever only looks takes mu alone.
type catalog struct {
	mu       sync.RWMutex
	projects map[string]*project
	storages int // how many storage names were given
}

type project struct {
	id       string
	datasets map[string]*dataset
}

type dataset struct {
	project, id       string
	resource          object // what clients set: description, labels, access, …
	tables            map[string]*table
	created, modified time.Time
	policy            object
}

type table struct {
	name              googlesql.Name
	storage           string // in SQLite, unquoted; "" for a view
	view              string // query of a view; "" for a table
	viewLegacy        bool
	resource          object // what clients set: description, labels, timePartitioning, …
	columns           []googlesql.Column
	rows, bytes       int64
	created, modified time.Time
	version           int64 // grows with every change of rows or columns
	policy            object
	insertIDs         map[string]struct{} // of insertAll, for best-effort deduplication
	generated         int64               // rows of a table that is computed; see bench.go
}

func newCatalog(projects []string) *catalog {
	c := &catalog{projects: map[string]*project{}}
	for _, id := range projects {
		c.projects[id] = &project{id: id, datasets: map[string]*dataset{}}
	}
	return c
}

func (c *catalog) hasProject(id string) bool {
	_, ok := c.projects[id] // the set of projects never changes
	return ok
}

func (c *catalog) datasetLocked(projectID, id string) (*dataset, *apiError) {
	p, ok := c.projects[projectID]
	if !ok {
		return nil, notFound("Project", projectID)
	}
	d, ok := p.datasets[id]
	if !ok {
		return nil, notFound("Dataset", projectID+":"+id)
	}
	return d, nil
}

// tableLocked finds a table, a view, or one of the computed tables.
func (c *catalog) tableLocked(n googlesql.Name) (*table, *apiError) {
	if t := benchTable(n); t != nil && c.hasProject(n.Project) {
		return t, nil
	}
	d, err := c.datasetLocked(n.Project, n.Dataset)
	if err != nil {
		return nil, err
	}
	t, ok := d.tables[n.Table]
	if !ok {
		return nil, notFound("Table", tableID(n))
	}
	return t, nil
}

// tableID writes a name as BigQuery's ids and messages do.
func tableID(n googlesql.Name) string { return n.Project + ":" + n.Dataset + "." + n.Table }

// newStorageLocked gives a name that no table in SQLite has had.
func (c *catalog) newStorageLocked() string {
	c.storages++
	return fmt.Sprintf("t%d", c.storages)
}

func sortedDatasets(p *project) []*dataset {
	out := make([]*dataset, 0, len(p.datasets))
	for _, d := range p.datasets {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b *dataset) int { return cmp.Compare(a.id, b.id) })
	return out
}

func sortedTables(d *dataset) []*table {
	out := make([]*table, 0, len(d.tables))
	for _, t := range d.tables {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b *table) int { return cmp.Compare(a.name.Table, b.name.Table) })
	return out
}

// touch notes a change of rows or columns.
func (t *table) touch(now time.Time) {
	t.version++
	t.modified = now
}

func (t *table) kind() string {
	if t.view != "" {
		return "VIEW"
	}
	return "TABLE"
}

// column finds a column by name, in any case.
func column(cols []googlesql.Column, name string) (googlesql.Column, bool) {
	for _, c := range cols {
		if strings.EqualFold(c.Name, name) {
			return c, true
		}
	}
	return googlesql.Column{}, false
}

// validID holds the ids of datasets and tables to BigQuery's rules.
func validID(kind, id string) *apiError {
	if id == "" || len(id) > 1024 {
		return fail("invalid", "Invalid %s ID %q.", kind, id)
	}
	for _, r := range id {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_'
		if !ok && (kind != "table" || r != '-' && r != ' ' && r < 0x80) {
			return fail("invalid", "Invalid %s ID %q. %s IDs must be alphanumeric (plus underscores) and must be at most 1024 characters long.", kind, id, strings.ToUpper(kind[:1])+kind[1:])
		}
	}
	return nil
}

// columnsOf reads a TableSchema.
func columnsOf(schema object) ([]googlesql.Column, *apiError) {
	return fieldsOf(list(schema, "fields"), 0)
}

func fieldsOf(fields []any, depth int) ([]googlesql.Column, *apiError) {
	if depth > 15 {
		return nil, fail("invalid", "Schema has too many levels of RECORD; 15 are allowed")
	}
	var out []googlesql.Column
	seen := map[string]bool{}
	for _, f := range fields {
		o, _ := f.(object)
		c := googlesql.Column{Name: str(o, "name"), Type: googlesql.RESTType(str(o, "type")), Mode: strings.ToUpper(str(o, "mode")), Description: str(o, "description")}
		switch {
		case c.Name == "" || len(c.Name) > 300:
			return nil, fail("invalid", "Invalid field name %q.", c.Name)
		case str(o, "type") == "":
			return nil, fail("invalid", "Field %s is missing its type", c.Name)
		case c.Type == "":
			return nil, unsupported("columns of the type %s", str(o, "type"))
		case seen[strings.ToLower(c.Name)]:
			return nil, fail("invalid", "Duplicate field name: %s", c.Name)
		}
		for _, name := range []string{"defaultValueExpression", "policyTags", "dataPolicies", "generatedColumn", "rangeElementType", "foreignTypeDefinition"} {
			if o[name] != nil {
				return nil, unsupported("%s of a column", name)
			}
		}
		seen[strings.ToLower(c.Name)] = true
		switch c.Mode {
		case "", "NULLABLE":
			c.Mode = ""
		case "REQUIRED", "REPEATED":
		default:
			return nil, fail("invalid", "Invalid mode %q of the field %s", c.Mode, c.Name)
		}
		if c.Type == "RECORD" {
			var err *apiError
			if c.Fields, err = fieldsOf(list(o, "fields"), depth+1); err != nil {
				return nil, err
			}
			if len(c.Fields) == 0 {
				return nil, fail("invalid", "Field %s is type RECORD but has no schema", c.Name)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// schemaObject writes columns as a TableSchema. Query results have a mode in
// every field, tables only where it was set; BigQuery does so too.
func schemaObject(cols []googlesql.Column, modes bool) object {
	fields := make([]any, len(cols))
	for i, c := range cols {
		o := object{"name": c.Name, "type": c.Type}
		if c.Mode != "" {
			o["mode"] = c.Mode
		} else if modes {
			o["mode"] = "NULLABLE"
		}
		if c.Description != "" {
			o["description"] = c.Description
		}
		if len(c.Fields) > 0 {
			o["fields"] = schemaObject(c.Fields, modes)["fields"]
		}
		fields[i] = o
	}
	return object{"fields": fields}
}

func millis(t time.Time) string { return decimal(t.UnixMilli()) }
