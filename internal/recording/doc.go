// Package recording keeps the rows that went back to agents: captured while they
// stream, compressed, encrypted, named by a commitment to their content, and erasable.
//
// A body is a file of age (https://age-encryption.org/v1) around Zstandard (RFC 8878)
// around a line of JSON for each row. Its key is one of a connection and a month and
// lies outside the log; deleting it erases the bodies. Entries name bodies by a salted
// hash whose salt comes from the same key, so that they stay provable while the key
// is there and tell nothing when it is gone, even of what could be guessed.
// docs/spec/recording.md has the format.
//
// What can go wrong with keeping rows is said in the entry's Recording.Error and never
// gets in the way of the answer: who must not let rows go unrecorded watches that.
//
// # Invariants
//
//   - What [Writer.Finish] names is on disk, with its key, when it returns.
//   - A body is opened only if it is what its name says ([ErrDamaged] else).
//   - Values that a redaction takes out are never written anywhere; what cannot be told
//     to be another's is taken for them.
//   - Memory is bounded by one row and a small buffer for each writer.
package recording
