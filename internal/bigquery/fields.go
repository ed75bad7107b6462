package bigquery

// recorded are the parts of an answer that the record needs, as a "fields" parameter
// names them
// (https://cloud.google.com/bigquery/docs/reference/rest#query-parameters). Each is in
// the discovery document: BigQuery refuses a name that it does not know.
var recorded = map[string]string{
	"bigquery.jobs.insert":          recordedJob,
	"bigquery.jobs.get":             recordedJob,
	"bigquery.jobs.query":           "jobReference,jobComplete,statementType,totalBytesBilled,totalBytesProcessed,totalSlotMs,cacheHit,numDmlAffectedRows,totalRows",
	"bigquery.jobs.getQueryResults": "jobReference,jobComplete,totalBytesProcessed,cacheHit,numDmlAffectedRows,totalRows",
}

const recordedJob = "jobReference,user_email,status(state,errorResult)," +
	"configuration(jobType,load/destinationTable,copy(destinationTable,sourceTable,sourceTables),extract/sourceTable)," +
	"statistics(totalBytesProcessed,totalSlotMs,load/outputRows," +
	"query(statementType,totalBytesBilled,totalBytesProcessed,cacheHit,numDmlAffectedRows,referencedTables,ddlTargetTable,ddlDestinationTable))"

// widen adds to what a client wants of an answer what the record needs of it: else an
// agent could leave out what its query was billed, or what it read. Clients pass over
// what they did not ask for. Added behind a comma, a selection that is not balanced
// stays so, and BigQuery refuses it.
func (c *Call) widen(fields string) string {
	needed := recorded[c.Method]
	if fields == "" || needed == "" {
		return fields
	}
	return fields + "," + needed
}
