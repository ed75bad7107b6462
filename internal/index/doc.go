// Package index is the searchable copy of the trail: a follower of the log
// that can be deleted at any time and rebuilt from it ([Index.Rebuild]).
//
// # What it keeps
//
// One row per call, at the place of the entry that opened it (intent, denied,
// held, refused), or per entry that stands alone (session, admin, gateway,
// gap). The closing entry (outcome, settled) updates that row. The row holds
// numbers only; the entries themselves are fetched from the log when a search
// shows them, so that a forged index can hide an entry but not invent one.
//
// Rows live in SQLite files of about a million entries each, by sequence. In
// each file an inverted index (FTS5, no positions, no stored text) holds the
// words of the statements and, beside them, one term for every fact that can
// be filtered on, such as the agent or a table. A filter becomes one boolean
// expression over those terms, answered newest first without sorting; what
// terms cannot say (exact figures) is checked on the row. See plan.go.
//
// # Invariants
//
//   - Everything but pages not yet written is a function of the log's first
//     Cursor() entries.
//   - The cursor is committed in the transaction that holds the rows up to it.
//     A crash at any moment loses at most the newest transactions, which are
//     replayed; replay changes nothing that was already there.
//   - An entry that closes a call in an older file is committed there, durably,
//     before the cursor passes it.
//   - One process writes (the trail's lock sees to that), and in it one
//     goroutine at a time; any number read.
//
// It does not verify the log: that is what `trailgate verify` is for.
//
// docs/spec/filter.md specifies the filter language, docs/adr/0005-index.md
// says why it is built this way.
package index
