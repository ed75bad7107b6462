package sandbox

import (
	"context"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// storedTableFields may be set on a table besides schema and view; they are
// kept and shown, and change nothing.
var storedTableFields = map[string]bool{
	"description": true, "friendlyName": true, "labels": true, "expirationTime": true, "timePartitioning": true, "rangePartitioning": true, "clustering": true,
	"requirePartitionFilter": true, "encryptionConfiguration": true, "maxStaleness": true, "resourceTags": true, "location": true, "defaultCollation": true,
}

func nameOf(c *call) googlesql.Name {
	return googlesql.Name{Project: c.params["projectId"], Dataset: c.params["datasetId"], Table: c.params["tableId"]}
}

func tableReference(n googlesql.Name) object {
	return object{"projectId": n.Project, "datasetId": n.Dataset, "tableId": n.Table}
}

// nameFrom reads a TableReference; the project may be missing from it.
func nameFrom(ref object, project string) googlesql.Name {
	n := googlesql.Name{Project: str(ref, "projectId"), Dataset: str(ref, "datasetId"), Table: str(ref, "tableId")}
	if n.Project == "" {
		n.Project = project
	}
	return n
}

func (s *Sandbox) tableObject(c *call, t *table) object {
	o := clone(t.resource)
	o["kind"], o["id"], o["type"] = "bigquery#table", tableID(t.name), t.kind()
	o["tableReference"] = tableReference(t.name)
	o["selfLink"] = c.host + servicePath + "projects/" + t.name.Project + "/datasets/" + t.name.Dataset + "/tables/" + t.name.Table
	o["creationTime"], o["lastModifiedTime"] = millis(t.created), millis(t.modified)
	o["schema"] = schemaObject(t.columns, false)
	if o["location"] == nil {
		o["location"] = defaultLocation
	}
	if t.view != "" {
		o["view"] = object{"query": t.view, "useLegacySql": t.viewLegacy}
	}
	o["numRows"], o["numBytes"], o["numLongTermBytes"] = decimal(t.rows), decimal(t.bytes), "0"
	o["numTotalLogicalBytes"], o["numActiveLogicalBytes"] = decimal(t.bytes), decimal(t.bytes)
	o["etag"] = etagOf(object{"r": t.resource, "s": o["schema"], "v": t.view, "m": millis(t.modified), "id": o["id"]})
	return o
}

func (s *Sandbox) tablesList(c *call) (answer, error) {
	s.catalog.mu.RLock()
	defer s.catalog.mu.RUnlock()
	d, err := s.catalog.datasetLocked(c.params["projectId"], c.params["datasetId"])
	if err != nil {
		return nil, err
	}
	all := sortedTables(d)
	n, _ := integer(object{"n": c.query("maxResults")}, "n")
	page, next, err := pageOf(all, n, c.query("pageToken"))
	if err != nil {
		return nil, err
	}
	o := object{"kind": "bigquery#tableList", "totalItems": len(all)}
	if len(page) > 0 {
		items := make([]any, len(page))
		for i, t := range page {
			item := object{"kind": "bigquery#table", "id": tableID(t.name), "type": t.kind(), "tableReference": tableReference(t.name), "creationTime": millis(t.created)}
			for _, k := range []string{"labels", "friendlyName", "timePartitioning", "rangePartitioning", "clustering", "expirationTime"} {
				if v := t.resource[k]; v != nil {
					item[k] = v
				}
			}
			if t.view != "" {
				item["view"] = object{"useLegacySql": t.viewLegacy}
			}
			items[i] = item
		}
		o["tables"] = items
	}
	o["etag"] = etagOf(o)
	if next != "" {
		o["nextPageToken"] = next
	}
	return reply(o)
}

func (s *Sandbox) tablesGet(c *call) (answer, error) {
	if t := s.anonymousTable(nameOf(c)); t != nil {
		return reply(s.tableObject(c, t))
	}
	s.catalog.mu.RLock()
	defer s.catalog.mu.RUnlock()
	t, err := s.catalog.tableLocked(nameOf(c))
	if err != nil {
		return nil, err
	}
	return reply(s.tableObject(c, t))
}

func (s *Sandbox) tablesInsert(c *call) (answer, error) {
	n := googlesql.Name{Project: c.params["projectId"], Dataset: c.params["datasetId"], Table: str(c.body, "tableReference", "tableId")}
	if p, d := str(c.body, "tableReference", "projectId"), str(c.body, "tableReference", "datasetId"); p != "" && p != n.Project || d != "" && d != n.Dataset {
		return nil, fail("invalid", "The tableReference names %s:%s, the address %s:%s", p, d, n.Project, n.Dataset)
	}
	release, err := s.engine.hold(c.r.Context())
	if err != nil {
		return nil, err
	}
	defer release()
	body := object{}
	for k, v := range c.body {
		if k != "schema" && k != "view" {
			body[k] = v
		}
	}
	resource, aerr := storable(body, storedTableFields, "table")
	if aerr != nil {
		return nil, aerr
	}
	spec := tableSpec{name: n, resource: resource}
	if view := sub(c.body, "view"); view != nil {
		for k, v := range view {
			if k != "query" && k != "useLegacySql" && k != "useExplicitColumnNames" && v != nil && v != false {
				return nil, unsupported("%s of a view", k)
			}
		}
		spec.view = str(view, "query")
		spec.viewLegacy = googlesql.UsesLegacy(spec.view, boolean(view, true, "useLegacySql"))
		if spec.view == "" {
			return nil, fail("required", "Required parameter is missing: view.query")
		}
		if spec.columns, aerr = s.viewColumns(c.r.Context(), n, spec.view, spec.viewLegacy, c.principal); aerr != nil {
			return nil, aerr
		}
	} else if spec.columns, aerr = columnsOf(sub(c.body, "schema")); aerr != nil {
		return nil, aerr
	}
	t, err := s.createTable(c.r.Context(), spec)
	if err != nil {
		return nil, err
	}
	return reply(s.tableObject(c, t))
}

// viewColumns finds what a view's query gives, by running none of it; the
// caller holds the engine.
func (s *Sandbox) viewColumns(ctx context.Context, n googlesql.Name, query string, legacy bool, principal string) ([]googlesql.Column, *apiError) {
	x := &execution{s: s, project: n.Project, principal: principal, legacy: legacy, now: s.now()}
	r, err := x.describe(ctx, query)
	if err != nil {
		return nil, asAPIError(err)
	}
	return r, nil
}

// tableSpec is what a new table or view is made of.
type tableSpec struct {
	name       googlesql.Name
	columns    []googlesql.Column
	view       string
	viewLegacy bool
	resource   object
}

// createTable makes a table or view; the caller holds the engine.
func (s *Sandbox) createTable(ctx context.Context, spec tableSpec) (*table, error) {
	d, err := s.catalog.datasetLocked(spec.name.Project, spec.name.Dataset)
	if err != nil {
		return nil, err
	}
	if err := validID("table", spec.name.Table); err != nil {
		return nil, err
	}
	if _, ok := d.tables[spec.name.Table]; ok || benchTable(spec.name) != nil {
		return nil, alreadyExists("Table", tableID(spec.name))
	}
	now := s.now()
	t := &table{
		name: spec.name, columns: spec.columns, view: spec.view, viewLegacy: spec.viewLegacy, resource: spec.resource,
		created: now, modified: now, insertIDs: map[string]struct{}{},
	}
	if t.resource == nil {
		t.resource = object{}
	}
	if v := d.resource["location"]; v != nil {
		t.resource["location"] = v
	}
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	if t.view == "" {
		t.storage = s.catalog.newStorageLocked()
		if err := s.engine.createStorage(ctx, t); err != nil {
			return nil, err
		}
	}
	d.tables[t.name.Table] = t
	return t, nil
}

// dropTable removes a table or view; the caller holds the engine.
func (s *Sandbox) dropTable(t *table) error {
	if t.storage != "" {
		if err := s.engine.exec(s.ctx, `DROP TABLE "`+t.storage+`"`); err != nil {
			return err
		}
	}
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	if d, err := s.catalog.datasetLocked(t.name.Project, t.name.Dataset); err == nil && d.tables[t.name.Table] == t {
		delete(d.tables, t.name.Table)
	}
	return nil
}

func (s *Sandbox) tablesDelete(c *call) (answer, error) {
	release, err := s.engine.hold(c.r.Context())
	if err != nil {
		return nil, err
	}
	defer release()
	t, aerr := s.catalog.tableLocked(nameOf(c))
	if aerr != nil {
		return nil, aerr
	}
	if t.generated > 0 {
		return nil, fail("accessDenied", "Access Denied: Table %s: it is computed and cannot be changed", tableID(t.name))
	}
	if err := s.dropTable(t); err != nil {
		return nil, err
	}
	return noContent{}, nil
}

func (s *Sandbox) tablesPatch(c *call) (answer, error)  { return s.changeTable(c, true) }
func (s *Sandbox) tablesUpdate(c *call) (answer, error) { return s.changeTable(c, false) }

func (s *Sandbox) changeTable(c *call, patch bool) (answer, error) {
	if c.query("autodetect_schema") == "true" {
		return nil, unsupported("autodetect_schema")
	}
	body := object{}
	for k, v := range c.body {
		if k != "schema" && k != "view" {
			body[k] = v
		}
	}
	change, err := storable(body, storedTableFields, "table")
	if err != nil {
		return nil, err
	}
	release, herr := s.engine.hold(c.r.Context())
	if herr != nil {
		return nil, herr
	}
	defer release()
	t, err := s.catalog.tableLocked(nameOf(c))
	if err != nil {
		return nil, err
	}
	if t.generated > 0 {
		return nil, fail("accessDenied", "Access Denied: Table %s: it is computed and cannot be changed", tableID(t.name))
	}
	if err := matchEtag(c.r, str(s.tableObject(c, t), "etag")); err != nil {
		return nil, err
	}
	columns, view, legacy := t.columns, t.view, t.viewLegacy
	if v := sub(c.body, "view"); v != nil {
		if t.view == "" {
			return nil, fail("invalid", "Cannot add a view query to the table %s", tableID(t.name))
		}
		view = str(v, "query")
		legacy = googlesql.UsesLegacy(view, boolean(v, true, "useLegacySql"))
		if columns, err = s.viewColumns(c.r.Context(), t.name, view, legacy, c.principal); err != nil {
			return nil, err
		}
	} else if sc := sub(c.body, "schema"); sc != nil {
		if columns, err = s.changeColumns(c.r.Context(), t, sc); err != nil {
			return nil, err
		}
	}
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	if patch {
		next := clone(t.resource)
		merge(next, change)
		t.resource = next
	} else {
		if change["location"] == nil {
			change["location"] = t.resource["location"]
		}
		t.resource = change
	}
	t.columns, t.view, t.viewLegacy = columns, view, legacy
	t.touch(s.now())
	return reply(s.tableObject(c, t))
}

// changeColumns gives a table the columns of a schema. As in BigQuery, columns
// may be added, relaxed and described, no more.
func (s *Sandbox) changeColumns(ctx context.Context, t *table, schema object) ([]googlesql.Column, *apiError) {
	next, err := columnsOf(schema)
	if err != nil || t.view != "" {
		return next, err
	}
	for _, old := range t.columns {
		c, ok := column(next, old.Name)
		switch {
		case !ok:
			return nil, fail("invalid", "Provided Schema does not match Table %s. Field %s is missing in new schema", tableID(t.name), old.Name)
		case c.Type != old.Type:
			return nil, fail("invalid", "Provided Schema does not match Table %s. Field %s has changed type from %s to %s", tableID(t.name), old.Name, old.Type, c.Type)
		case c.Mode != old.Mode && old.Mode != "REQUIRED":
			return nil, fail("invalid", "Provided Schema does not match Table %s. Field %s has changed mode from %s to %s", tableID(t.name), old.Name, modeOf(old), modeOf(c))
		case c.Mode != old.Mode:
			return nil, unsupported("relaxing REQUIRED columns")
		}
	}
	for _, c := range next {
		if _, ok := column(t.columns, c.Name); ok {
			continue
		}
		if c.Mode == "REQUIRED" {
			return nil, fail("invalid", "Provided Schema does not match Table %s. Cannot add required fields to an existing schema. (field: %s)", tableID(t.name), c.Name)
		}
		if err := s.engine.addColumn(ctx, t, c); err != nil {
			return nil, asAPIError(err)
		}
	}
	// The order in storage is that of creation; rows are read by name.
	return next, nil
}

func modeOf(c googlesql.Column) string {
	if c.Mode == "" {
		return "NULLABLE"
	}
	return c.Mode
}
