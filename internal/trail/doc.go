// Package trail keeps Trailgate's tamper-evident log: it makes an entry durable
// before a call goes upstream, and it makes every later change to what was
// written visible.
//
// # What happens to an entry
//
//	Append → journal (one write, one fdatasync for all who wait) → answer
//	                    ↓ in the background, in order
//	                 Tessera (tlog-tiles) → checkpoint → head/checkpoint → journal segment goes
//
// The journal (package journal below this one) is what makes an entry durable;
// the tiled log (https://c2sp.org/tlog-tiles, written by Tessera) is what makes
// it provable. An entry's sequence number is given by the journal and is its
// index in the log; the sequencer checks that the two agree and stops the
// trail for good if ever they do not.
//
// # Invariants
//
//   - Append returns nil only for an entry that is on the disk.
//   - Two entries never share a sequence number, whatever failed in between.
//   - A journal segment is removed only when a checkpoint that covers it has
//     been signed, published, read back and remembered outside the log.
//   - The signer signs nothing but the root that this package computed itself
//     from the journal's entries.
//   - A log is created by [Create] alone. [Open] never makes one.
//
// # What it does not do
//
// It does not protect against somebody who can write the disk and also holds
// the log's key, unless a checkpoint has left the machine: see
// docs/threat-model.md. It does not read entries' meaning; it checks their form.
//
// The formats are specified in docs/spec/log.md and docs/spec/journal.md, the
// reasons in docs/adr/0003-journal-before-tessera.md.
package trail
