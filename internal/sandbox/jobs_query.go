package sandbox

import (
	"strings"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// jobsQuery is jobs.query: a query job, and the first page of its result.
func (s *Sandbox) jobsQuery(c *call) (answer, error) {
	b := c.body
	for _, name := range []string{"arrowSerializationOptions", "connectionProperties", "continuous", "createSession", "destinationEncryptionConfiguration", "maxSlots", "reservation", "secureContext", "writeIncrementalResults"} {
		if isSet(b[name]) {
			return nil, unsupported("%s in jobs.query", name)
		}
	}
	if f := str(b, "queryResultsFormat"); f != "" && f != "JSON" && f != "ROWS" && f != "QUERY_RESULTS_FORMAT_UNSPECIFIED" {
		return nil, unsupported("queryResultsFormat %s", f)
	}
	format, ferr := formatOf(map[bool]string{true: "true"}[boolean(b, false, "formatOptions", "useInt64Timestamp")], str(b, "formatOptions", "timestampOutputFormat"))
	if ferr != nil {
		return nil, ferr
	}
	query := object{"query": b["query"], "useLegacySql": boolean(b, true, "useLegacySql"), "priority": "INTERACTIVE"}
	for _, k := range []string{"defaultDataset", "queryParameters", "parameterMode", "useQueryCache", "maximumBytesBilled"} {
		if b[k] != nil {
			query[k] = cloneValue(b[k])
		}
	}
	config := object{"query": query, "jobType": "QUERY"}
	if b["labels"] != nil {
		config["labels"] = cloneValue(b["labels"])
	}
	for _, k := range []string{"dryRun", "jobTimeoutMs"} {
		if b[k] != nil {
			config[k] = b[k]
		}
	}
	if err := checkJob(config); err != nil {
		return nil, err
	}
	j, err := s.queryJob(c, config, str(b, "requestId"))
	if err != nil {
		return nil, err
	}
	if !s.await(c.r, j, b) {
		s.jobs.mu.Lock()
		defer s.jobs.mu.Unlock()
		return reply(object{"kind": "bigquery#queryResponse", "jobReference": j.referenceLocked(), "jobComplete": false, "location": j.location, "queryId": j.id})
	}
	return s.resultPage(j, b, "", "", format, "bigquery#queryResponse")
}

// queryJob makes the job of a jobs.query, or finds the one that the same
// requestId made before.
func (s *Sandbox) queryJob(c *call, config object, requestID string) (*job, error) {
	project := c.params["projectId"]
	j := s.newJob(c, project, "", str(c.body, "location"), config)
	j.kind = "QUERY"
	work, err := s.prepareQuery(j, sub(config, "query"))
	if err != nil {
		return nil, err
	}
	if requestID != "" && !j.dryRun {
		if len(requestID) > 36 || strings.ContainsFunc(requestID, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, fail("invalid", "Invalid requestId: it may hold up to 36 ASCII characters")
		}
		key := project + "\n" + c.principal + "\n" + requestID
		s.jobs.mu.Lock()
		old := s.jobs.requests[key]
		if old == nil {
			s.jobs.remember(key, j)
		}
		s.jobs.mu.Unlock()
		if old != nil {
			j.stop()
			if old.statement != j.statement {
				return nil, fail("invalid", "The requestId %s was used for another query before", requestID)
			}
			return old, nil
		}
	}
	if j.dryRun {
		if err := s.rehearse(j, work); err != nil {
			return nil, err
		}
	}
	return j, s.start(j, work)
}

// anonymousDataset is where the results of queries without a destination are,
// as far as names go.
const anonymousDataset = "_anonymous"

// anonymousResult finds the job whose result a made-up table stands for.
func (s *Sandbox) anonymousResult(n googlesql.Name) *job {
	id, ok := strings.CutPrefix(n.Table, "anon_")
	if n.Dataset != anonymousDataset || !ok {
		return nil
	}
	j := s.jobs.byID[n.Project+":"+id]
	if j == nil || j.result == nil {
		return nil
	}
	return j
}

func (s *Sandbox) anonymousRows(n googlesql.Name) rowSource {
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	if j := s.anonymousResult(n); j != nil {
		return j.result
	}
	return nil
}

func (s *Sandbox) anonymousTable(n googlesql.Name) *table {
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	j := s.anonymousResult(n)
	if j == nil {
		return nil
	}
	return &table{name: n, columns: j.result.columns(), rows: j.result.count(), created: j.ended, modified: j.ended, resource: object{}}
}

// isSet reports that a member of a request asks for something.
func isSet(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return v != "" && v != "false" && v != "0"
	case object:
		return len(v) > 0
	case []any:
		return len(v) > 0
	}
	return true
}
