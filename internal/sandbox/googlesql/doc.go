// Package googlesql reads the part of BigQuery's GoogleSQL that the sandbox
// runs, and writes it down again in SQLite's SQL.
//
// It works on tokens, not on a syntax tree: a statement's kind, the tables that
// it reads and writes and its output columns are found, what SQLite spells
// otherwise is respelled, and the rest is left for SQLite to judge. What has
// no counterpart is refused by name ("notImplemented"); nothing is dropped.
//
// The package is pure: it does no I/O and keeps no state. Tables are looked up
// through [Scope.Resolve].
//
// It is no part of the audit. What an agent's statement means is told by
// internal/bigquery; this package serves the stand-in BigQuery alone.
package googlesql
