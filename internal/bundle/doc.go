// Package bundle puts evidence bundles together: entries of the log with proofs that
// they stand in it, what the entries name, and renderings for reading, in one file that
// an auditor checks offline (docs/spec/bundle.md; the checking is in the root package).
//
// A bundle is made in two passes over the same data. The first computes the hashes of
// everything that will be in it; those go into the log, as the entry of the bundle's
// creation. The second writes it, with that entry and its proof. So nothing leaves the
// trail unrecorded, what was handed out can be told from anything made of it later, and
// recorded rows are never kept in the clear, not even for a moment, on the gateway's disk.
//
// What it does not do: say who may have a bundle, or record that somebody wanted one;
// the admin API does.
package bundle
