package sandbox

import (
	"net/http"
	"strings"
)

func (s *Sandbox) projectsList(c *call) (answer, error) {
	maxResults, _ := integer(object{"n": c.query("maxResults")}, "n")
	page, next, err := pageOf(s.cfg.Projects, maxResults, c.query("pageToken"))
	if err != nil {
		return nil, err
	}
	items := make([]any, len(page))
	for i, id := range page {
		items[i] = object{
			"kind": "bigquery#project", "id": id, "numericId": decimal(projectNumber(id)), "friendlyName": id,
			"projectReference": object{"projectId": id},
		}
	}
	o := object{"kind": "bigquery#projectList", "projects": items, "totalItems": len(s.cfg.Projects)}
	o["etag"] = etagOf(o)
	if next != "" {
		o["nextPageToken"] = next
	}
	return reply(o)
}

// projectNumber makes up the number that a project is also known by.
func projectNumber(id string) int64 {
	var n int64 = 5381
	for i := range len(id) {
		n = (n*33 + int64(id[i])) % 1_000_000_000_000
	}
	return n
}

func (s *Sandbox) projectsGetServiceAccount(c *call) (answer, error) {
	return reply(object{"kind": "bigquery#getServiceAccountResponse", "email": "bq-" + decimal(projectNumber(c.params["projectId"])) + "@sandbox.invalid"})
}

// storedDatasetFields may be set on a dataset; they are kept and shown. What
// else the schema allows is refused.
var storedDatasetFields = map[string]bool{
	"description": true, "friendlyName": true, "labels": true, "access": true, "location": true, "defaultTableExpirationMs": true,
	"defaultPartitionExpirationMs": true, "defaultCollation": true, "isCaseInsensitive": true, "maxTimeTravelHours": true, "storageBillingModel": true,
	"defaultEncryptionConfiguration": true, "defaultRoundingMode": true, "resourceTags": true,
}

// outputFields are computed; what a client sends there is ignored, as BigQuery
// does, since clients send back what they were given.
var outputFields = map[string]bool{
	"kind": true, "id": true, "etag": true, "selfLink": true, "creationTime": true, "lastModifiedTime": true, "datasetReference": true, "tableReference": true,
	"type": true, "numBytes": true, "numRows": true, "numLongTermBytes": true, "numTimeTravelPhysicalBytes": true, "numTotalLogicalBytes": true, "numActiveLogicalBytes": true,
	"numLongTermLogicalBytes": true, "numTotalPhysicalBytes": true, "numActivePhysicalBytes": true, "numLongTermPhysicalBytes": true, "numCurrentPhysicalBytes": true, "numPartitions": true, "streamingBuffer": true,
}

// storable keeps of a request's body what may be stored.
func storable(body object, allowed map[string]bool, kind string) (object, *apiError) {
	out := object{}
	for k, v := range body {
		switch {
		case allowed[k]:
			out[k] = cloneValue(v)
		case outputFields[k]:
		case v == nil || v == false || v == "":
		default:
			return nil, unsupported("%s of a %s", k, kind)
		}
	}
	if labels, ok := out["labels"].(object); ok {
		plain := object{}
		for k, v := range labels {
			if v != nil {
				plain[k] = v
			}
		}
		if err := validateLabels(plain); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *Sandbox) datasetObject(c *call, d *dataset) object {
	o := clone(d.resource)
	o["kind"], o["id"] = "bigquery#dataset", d.project+":"+d.id
	o["datasetReference"] = object{"projectId": d.project, "datasetId": d.id}
	o["selfLink"] = c.host + servicePath + "projects/" + d.project + "/datasets/" + d.id
	o["creationTime"], o["lastModifiedTime"], o["type"] = millis(d.created), millis(d.modified), "DEFAULT"
	o["etag"] = etagOf(object{"r": d.resource, "m": millis(d.modified), "id": o["id"]})
	return o
}

func (s *Sandbox) datasetsList(c *call) (answer, error) {
	s.catalog.mu.RLock()
	defer s.catalog.mu.RUnlock()
	var filter [][2]string
	for _, term := range strings.Fields(c.query("filter")) {
		kv, ok := strings.CutPrefix(term, "labels.")
		if !ok {
			return nil, fail("invalid", "Invalid filter %q; use labels.name:value", term)
		}
		k, v, _ := strings.Cut(kv, ":")
		filter = append(filter, [2]string{k, v})
	}
	var found []*dataset
	for _, d := range sortedDatasets(s.catalog.projects[c.params["projectId"]]) {
		keep := true
		for _, f := range filter {
			v, ok := sub(d.resource, "labels")[f[0]]
			keep = keep && ok && (f[1] == "" || v == f[1])
		}
		if keep {
			found = append(found, d)
		}
	}
	n, _ := integer(object{"n": c.query("maxResults")}, "n")
	page, next, err := pageOf(found, n, c.query("pageToken"))
	if err != nil {
		return nil, err
	}
	o := object{"kind": "bigquery#datasetList"}
	if len(page) > 0 {
		items := make([]any, len(page))
		for i, d := range page {
			item := object{
				"kind": "bigquery#dataset", "id": d.project + ":" + d.id, "location": d.resource["location"],
				"datasetReference": object{"projectId": d.project, "datasetId": d.id}, "type": "DEFAULT",
			}
			for _, k := range []string{"labels", "friendlyName"} {
				if v := d.resource[k]; v != nil {
					item[k] = v
				}
			}
			items[i] = item
		}
		o["datasets"] = items
	}
	o["etag"] = etagOf(o)
	if next != "" {
		o["nextPageToken"] = next
	}
	return reply(o)
}

func (s *Sandbox) datasetsGet(c *call) (answer, error) {
	s.catalog.mu.RLock()
	defer s.catalog.mu.RUnlock()
	d, err := s.catalog.datasetLocked(c.params["projectId"], c.params["datasetId"])
	if err != nil {
		return nil, err
	}
	return reply(s.datasetObject(c, d))
}

func (s *Sandbox) datasetsInsert(c *call) (answer, error) {
	id := str(c.body, "datasetReference", "datasetId")
	if p := str(c.body, "datasetReference", "projectId"); p != "" && p != c.params["projectId"] {
		return nil, fail("invalid", "The project of the datasetReference is %s, that of the address %s", p, c.params["projectId"])
	}
	release, err := s.engine.hold(c.r.Context())
	if err != nil {
		return nil, err
	}
	defer release()
	d, aerr := s.createDataset(c.params["projectId"], id, c.body)
	if aerr != nil {
		return nil, aerr
	}
	return reply(s.datasetObject(c, d))
}

// createDataset makes a dataset; the caller holds the engine.
func (s *Sandbox) createDataset(projectID, id string, body object) (*dataset, *apiError) {
	if err := validID("dataset", id); err != nil {
		return nil, err
	}
	resource, err := storable(body, storedDatasetFields, "dataset")
	if err != nil {
		return nil, err
	}
	if str(resource, "location") == "" {
		resource["location"] = defaultLocation
	}
	if resource["access"] == nil {
		resource["access"] = []any{
			object{"role": "WRITER", "specialGroup": "projectWriters"},
			object{"role": "OWNER", "specialGroup": "projectOwners"},
			object{"role": "READER", "specialGroup": "projectReaders"},
		}
	}
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	p, ok := s.catalog.projects[projectID]
	if !ok {
		return nil, notFound("Project", projectID)
	}
	if _, ok := p.datasets[id]; ok || id == benchDataset {
		return nil, alreadyExists("Dataset", projectID+":"+id)
	}
	now := s.now()
	d := &dataset{project: projectID, id: id, resource: resource, tables: map[string]*table{}, created: now, modified: now}
	p.datasets[id] = d
	return d, nil
}

func (s *Sandbox) datasetsPatch(c *call) (answer, error)  { return s.changeDataset(c, true) }
func (s *Sandbox) datasetsUpdate(c *call) (answer, error) { return s.changeDataset(c, false) }

func (s *Sandbox) changeDataset(c *call, patch bool) (answer, error) {
	change, err := storable(c.body, storedDatasetFields, "dataset")
	if err != nil {
		return nil, err
	}
	if m := c.query("updateMode"); m != "" && m != "UPDATE_FULL" && m != "UPDATE_MODE_UNSPECIFIED" {
		return nil, unsupported("updateMode=%s", m)
	}
	release, herr := s.engine.hold(c.r.Context())
	if herr != nil {
		return nil, herr
	}
	defer release()
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	d, err := s.catalog.datasetLocked(c.params["projectId"], c.params["datasetId"])
	if err != nil {
		return nil, err
	}
	if err := matchEtag(c.r, str(s.datasetObject(c, d), "etag")); err != nil {
		return nil, err
	}
	next := clone(d.resource)
	if patch {
		merge(next, change)
	} else {
		location := next["location"]
		next = change
		if next["location"] == nil {
			next["location"] = location
		}
	}
	if next["location"] != d.resource["location"] {
		return nil, fail("invalid", "Dataset's location cannot be changed")
	}
	d.resource, d.modified = next, s.now()
	return reply(s.datasetObject(c, d))
}

// matchEtag holds a change to what the client last saw, where it says so.
func matchEtag(r *http.Request, etag string) *apiError {
	want := r.Header.Get("If-Match")
	if want == "" || want == "*" || strings.Trim(want, `"`) == strings.Trim(etag, `"`) {
		return nil
	}
	return &apiError{status: http.StatusPreconditionFailed, reason: "conditionNotMet", message: "Precondition Failed", location: "If-Match", locationType: "header"}
}

func (s *Sandbox) datasetsDelete(c *call) (answer, error) {
	release, err := s.engine.hold(c.r.Context())
	if err != nil {
		return nil, err
	}
	defer release()
	if err := s.dropDataset(c.params["projectId"], c.params["datasetId"], c.query("deleteContents") == "true"); err != nil {
		return nil, err
	}
	return noContent{}, nil
}

// dropDataset removes a dataset; the caller holds the engine.
func (s *Sandbox) dropDataset(projectID, id string, contents bool) error {
	d, err := s.catalog.datasetLocked(projectID, id)
	if err != nil {
		return err
	}
	if len(d.tables) > 0 && !contents {
		return fail("resourceInUse", "Dataset %s:%s is still in use", projectID, id)
	}
	for _, t := range sortedTables(d) {
		if err := s.dropTable(t); err != nil {
			return err
		}
	}
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	delete(s.catalog.projects[projectID].datasets, id)
	return nil
}
