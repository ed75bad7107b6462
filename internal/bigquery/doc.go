// Package bigquery knows BigQuery's REST API v2 as an audit must know it: every
// method and what it does with data, the statements and tables inside a call,
// the shape of errors, and what an answer says of a job.
//
// It is pure: no I/O beyond the readers handed in, no state. What it cannot read
// strictly it refuses; what it cannot tell it calls unknown and never guesses.
//
// A request is read in steps that its user drives: [Route] from the request
// line, [Call.ReadBody] from the body, [Call.Stamp] for the bytes to forward.
// These come from the same tree that was read, so that BigQuery cannot see
// another request than the one that was judged. [Capture] reads answers.
//
// Sources: the discovery document (internal/discovery), the reference at
// https://cloud.google.com/bigquery/docs/reference/rest, and captures of what
// clients send.
package bigquery
