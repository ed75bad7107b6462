// Package sandbox is a stand-in for BigQuery's REST API v2: what `trailgate
// demo` and the tests have as their upstream. It is an [http.Handler] with its
// state in memory.
//
// # What it is
//
// Every method of Google's discovery document is routed, with its parameters
// and request bodies checked against that document. It keeps what an audit
// depends on: job ids and their 409 on a duplicate, jobs.query's requestId,
// asynchronous jobs (PENDING, RUNNING, DONE, cancelled), scripts with child
// jobs, dry runs that run nothing, statistics (statement type, referenced
// tables, bytes, rows affected, DDL and DCL targets), labels, paging, partial
// responses, ETags, uploads (multipart and resumable), principals known by
// their bearer tokens, and BigQuery's error JSON and reasons.
//
// SQL is run by SQLite. All tables live in one SQLite database, whatever their
// project and dataset: SQLite can attach ten databases at most, and BigQuery's
// names need no more than a lookup, since package googlesql rewrites each
// statement anyway. So there is no bound on datasets and a query may join
// across projects.
//
// # What it is not
//
// It is no BigQuery, and nothing measured or proven against it holds for
// Google's service. GoogleSQL is covered as far as demos and tests need it:
// ARRAY and STRUCT values can be stored but not taken apart (UNNEST apart),
// project ids that end in a dash and digits need backticks, NUMERIC has the
// precision of a float64, dividing by zero gives NULL, MERGE, procedural
// statements other than DECLARE and SET, routines, models, row access policies,
// external tables and sessions are missing. Whatever is missing is refused with
// the reason "notImplemented" (501) and words; nothing asked for is silently
// dropped, save time partitioning, clustering, expiry and encryption keys,
// which are kept and shown but change nothing. IAM policies are stored and
// never enforced: who has a token may do everything. Bytes processed are
// estimates from row counts. There are no quotas and no time travel, and
// statements run one at a time.
package sandbox
