// Package trailgate holds the words and the formats that an outside auditor
// needs to read a Trailgate trail: the entry, its one canonical encoding, the
// checkpoint that a log signs and witnesses cosign, the policy that says whose
// cosignatures are enough, and the proof that ties an entry to a checkpoint.
//
// It imports the standard library and golang.org/x/mod/sumdb only, does no
// I/O, and keeps no state; every function is safe for concurrent use. What
// writes a trail lives under internal/.
//
// The formats are specified in docs/spec/entry.md and docs/spec/log.md.
package trailgate
