// Package reconcile compares what BigQuery itself recorded with the trail, both
// ways: which jobs have no entry, which entries have no job, and where the two
// say different things of the same job.
//
// # The two sides
//
// A [Source] reads BigQuery's side: the job list ([List]), the view
// INFORMATION_SCHEMA.JOBS_BY_PROJECT ([JobsView]), or exported audit logs
// ([AuditLog]). The trail's side is read from the log, never from what the
// gateway remembers: a gateway that forgot, or was made to, is found out.
//
// # Memory
//
// A window is looked at an hour at a time, and an hour with more than
// Config.MaxInMemory jobs or calls in halves, until a slice has fewer. Both sides
// of one slice are held as records of a few hundred bytes; nothing grows with the
// window. Audit logs, which have no order to rely on, go through files on disk,
// one an hour ([Spool]).
//
// # What is on disk
//
// A connection's counts are kept by hour ([State]), written after each hour; the
// next run goes on from there, and reads the last hours again, since jobs may
// show late. Findings are entries, and what was found before is asked of the
// trail: deleting the state costs a run over the window, and repeats no finding.
//
// # What it does not do
//
// It is complete relative to BigQuery's own records: what those leave out
// (docs/completeness.md) nobody finds here. It does not verify the log.
package reconcile
