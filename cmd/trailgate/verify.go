package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/recording"
	"github.com/trailgate/trailgate/internal/trail"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

// verifyFlags are what verify was asked for.
type verifyFlags struct {
	log, key, head, since, save, before, form string
	witnesses                                 string
	index                                     bool
}

func newVerify(c *cli) *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check the whole trail for tampering and loss",
		Long: `Verify rehashes every entry, tile and stored body, and checks them against the
signed checkpoint, the checkpoint that was remembered outside the log, and the
journal. Of a data directory it then makes the search index a second time, in a
temporary directory, and compares every row. It changes nothing, and may run
beside the gateway.

It ends with 0 where all is as it was written, and with 3, naming the first bad
place and the last good entry, on any sign of tampering or loss. Somebody who
holds log.key and the disk can make a log that verifies; keep a checkpoint
(--save-checkpoint) elsewhere and give it with --head to find that out too. With
--witness-policy the checkpoint must have the cosignatures of enough witnesses, by
a policy of yours (docs/witnesses.md); who cosigned, and when, is printed.

With --since-checkpoint only what came after an earlier check is read: the
entries below that checkpoint are not read again, nor the bodies and rows that
they name, nor the index. That the log still begins with them is proven.`,
		Example: `  # This gateway's trail
  trailgate verify

  # Every hour what is new, every week all of it
  trailgate verify --save-checkpoint /var/lib/audit/verified
  trailgate verify --since-checkpoint /var/lib/audit/verified --save-checkpoint /var/lib/audit/verified

  # A copy of a log, or one that is served, with the key from somewhere you trust
  trailgate verify --log /backup/log --key log.pub
  trailgate verify --log https://logs.example.com/trailgate --key log.pub

  # The log of a gateway elsewhere, over its admin API
  trailgate verify --server https://audit.example.com:8471 --key log.pub

  # A log that goes on from another one, and that one with it
  trailgate verify --predecessor /archive/trailgate/data

  # Against a checkpoint that was put aside last month, or a file of all that were sent
  trailgate verify --head checkpoint-2026-10

  # What two of the three witnesses in your policy vouch for
  trailgate verify --witness-policy witnesses.policy`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := c.verifyOptions(f.log, f.key, f.head)
			if err != nil {
				return err
			}
			o.Since = f.since
			if o.Predecessor, err = predecessorOptions(f.before); err != nil {
				return err
			}
			if f.witnesses != "" {
				if o.Witnesses, err = readPolicy(f.witnesses); err != nil {
					return err
				}
			}
			progress, again := newProgress(c.err, "verify"), newProgress(c.err, "verify index")
			o.Progress = progress.update
			if f.index && f.since == "" && o.Dir != "" {
				o.Index = indexCheck(o.Dir, o.Key, again.update)
			}
			report, err := trail.Verify(cmd.Context(), o)
			progress.end()
			again.end()
			if err := c.verified(report, err, &f); err != nil {
				return err
			}
			return saveCheckpoint(f.save, report)
		},
	}
	cmd.Flags().StringVar(&f.log, "log", "", "directory or URL of a `LOG` (default: this gateway's data directory)")
	cmd.Flags().StringVar(&f.key, "key", "", "`FILE` with the log's public key (default: log.pub in the data directory)")
	cmd.Flags().StringVar(&f.head, "head", "", "`FILE` with earlier checkpoints that the log must extend, one or many")
	cmd.Flags().StringVar(&f.witnesses, "witness-policy", "", "`FILE` that says whose cosignatures the log needs")
	cmd.Flags().StringVar(&f.since, "since-checkpoint", "", "`FILE` with the checkpoint of an earlier check, to go on from")
	cmd.Flags().StringVar(&f.save, "save-checkpoint", "", "`FILE` for the checkpoint, once all was found good")
	cmd.Flags().StringVar(&f.before, "predecessor", "", "directory or URL of the `LOG` that this one goes on from, to be verified with it")
	cmd.Flags().BoolVar(&f.index, "index", true, "compare the search index with the log")
	outputFlag(cmd, &f.form, "table", "json")
	return cmd
}

// saveCheckpoint writes the checkpoint of what was verified, whole or not at all:
// a crash leaves the one before, and the next run goes on from there.
func saveCheckpoint(path string, r *trail.Report) error {
	if path == "" {
		return nil
	}
	if err := (&durable.FS{}).WriteFile(path, r.Checkpoint, 0o644); err != nil {
		return fmt.Errorf("verify: the log is good, but its checkpoint could not be saved: %w", err)
	}
	return nil
}

// verifyOptions says what to verify: a log elsewhere, or this gateway's.
func (c *cli) verifyOptions(log, key, head string) (trail.VerifyOptions, error) {
	o := trail.VerifyOptions{Head: head}
	keys := ""
	if c.server != "" {
		if log != "" {
			return o, usagef("verify: name the log with --log, or the gateway with --server")
		}
		// The client's own rules: an https address, or this machine; and a token.
		if _, err := c.openServer(); err != nil {
			return o, err
		}
		log, o.Token = strings.TrimSuffix(c.server, "/")+"/api/v1/log", c.getenv(adminTokenVariable)
	}
	switch {
	case strings.HasPrefix(log, "http://"), strings.HasPrefix(log, "https://"):
		o.URL = strings.TrimSuffix(log, "/")
	case log != "":
		if _, err := os.Stat(log); err != nil {
			return o, fmt.Errorf("verify: %w", err)
		}
		// A data directory has the log inside; a log has the checkpoint at its top.
		if _, err := os.Stat(filepath.Join(log, "log")); err == nil {
			o.Dir = log
		} else {
			o.LogDir = log
		}
	default:
		cfg, err := c.config()
		if err != nil {
			return o, err
		}
		o.Dir = cfg.DataDir.String()
		keys = cfg.Recording.KeyDir.String()
		if _, err := os.Stat(o.Dir); err != nil {
			return o, hinted(fmt.Errorf("verify: %w", err), `"trailgate init" makes a trail; data_dir in %s says where`, cfg.Path)
		}
	}
	if key != "" {
		raw, err := os.ReadFile(key)
		if err != nil {
			return o, fmt.Errorf("read the log's key: %w", err)
		}
		o.Key = strings.TrimSpace(string(raw))
	} else if o.Dir == "" {
		return o, usagef("verify: name the log's public key with --key; a log's own word on its key proves nothing")
	}
	if keys == "" && o.Dir != "" {
		// A copy of a data directory may come without the keys of recorded rows; then
		// those rows are nobody's to check.
		if dir := filepath.Join(o.Dir, recordingKeysName); exists(dir) {
			keys = dir
		}
	}
	if keys != "" {
		o.Recording = recording.Existing(recording.Options{Dir: filepath.Join(o.Dir, recordingsName), KeyDir: keys}).Check
	}
	return o, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// verified prints what was found.
func (c *cli) verified(r *trail.Report, err error, f *verifyFlags) error {
	tampered, isTamper := errors.AsType[*trail.TamperError](err)
	if err != nil && !isTamper {
		return err
	}
	if f.form == "json" {
		if perr := c.verifiedJSON(r, tampered); perr != nil {
			return perr
		}
	} else if !isTamper {
		if perr := c.verifiedText(r, f); perr != nil {
			return perr
		}
	}
	if !isTamper {
		return nil
	}
	if r != nil && r.Index != nil && r.Index.Bad != nil {
		return &exitError{
			code: exitEvidence, err: fmt.Errorf("verify: searches of this trail were NOT to be trusted\n  %w", tampered),
			hint: "the log itself is as it was written, and the index is made from it: keep a copy of the index as evidence,\nthen \"trailgate index rebuild\" mends it; what was searched meanwhile may have been answered falsely",
		}
	}
	return &exitError{
		code: exitEvidence, err: fmt.Errorf("verify: the trail is NOT as it was written\n  %w", tampered),
		hint: "change nothing; keep a copy of the data directory as evidence",
	}
}

// verifiedText says what was found good, and what was not looked at.
func (c *cli) verifiedText(r *trail.Report, f *verifyFlags) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("good: %d entries of %s", r.Entries, visible(r.Origin))
	line("  %d under the signed checkpoint, root %s", r.Size, base64.StdEncoding.EncodeToString(r.Root[:]))
	for _, w := range r.Cosignatures {
		line("  cosigned by %s (%s) at %s", visible(w.Witness), visible(w.Key), w.Time.Format(time.RFC3339))
	}
	line("  %d in the journal behind it", r.JournalSize-min(r.Size, r.JournalSize))
	line("  %d stored bodies, %d recordings of rows, %d bundles, %d tiles", r.Blobs, r.Recordings, r.Bundles, r.Tiles)
	if r.Open > 0 {
		line("  %d calls have no outcome (or not yet), the first is entry %d", r.Open, r.FirstOpen)
	}
	if p := r.Predecessor; p != nil && r.PredecessorGood {
		line("  it goes on from %s, which is good too and ends where this log says, after %d entries", visible(p.Origin), max(p.Size, p.TailSize))
	} else if p != nil {
		line("  it goes on from %s, which had %d entries; that was not looked at (give it with --predecessor)", visible(p.Origin), max(p.Size, p.TailSize))
	}
	if r.Frozen {
		line("  it is frozen: nothing comes after its last entry")
	}
	if r.Rotating {
		line("  a change of its key was begun and not completed: trailgate log rotate-key completes it")
	}
	if r.ErasedKeys > 0 {
		line("  %d data keys erased, as the log says; what was recorded under them can be read by nobody", r.ErasedKeys)
	}
	if x := r.Index; x != nil {
		switch {
		case x.Absent:
			line("  no search index to compare; it is made anew from the log when it is needed")
		case x.Behind > 0:
			line("  the search index says what the log says: %d entries, %d rows and %d terms in %d files; it is %d entries behind", x.Entries, x.Rows, x.Terms, x.Files, x.Behind)
		default:
			line("  the search index says what the log says: %d entries, %d rows and %d terms in %d files", x.Entries, x.Rows, x.Terms, x.Files)
		}
	}
	if f.since != "" {
		line("not looked at: the %d entries that were verified up to the checkpoint in %s, the bodies and", r.NotRead, visible(f.since))
		line("  rows that those name, and the search index. The log was proven to begin with those entries;")
		line("  whether their files still hold them only a check of the whole log can tell")
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}

func (c *cli) verifiedJSON(r *trail.Report, tampered *trail.TamperError) error {
	type bad struct {
		Seq    uint64 `json:"seq"`
		Place  string `json:"place"`
		Reason string `json:"reason"`
	}
	type found struct {
		Absent  bool   `json:"absent,omitempty"`
		Good    bool   `json:"good"`
		Entries uint64 `json:"entries"`
		Behind  uint64 `json:"behind"`
		Rows    uint64 `json:"rows"`
		Terms   uint64 `json:"terms"`
	}
	out := struct {
		Good        bool                    `json:"good"`
		Origin      string                  `json:"origin,omitempty"`
		Entries     uint64                  `json:"entries"`
		Size        uint64                  `json:"size"`
		Root        string                  `json:"root,omitempty"`
		JournalSize uint64                  `json:"journal_size"`
		Blobs       uint64                  `json:"blobs"`
		Recordings  uint64                  `json:"recordings"`
		ErasedKeys  uint64                  `json:"erased_keys"`
		Bundles     uint64                  `json:"bundles"`
		Tiles       uint64                  `json:"tiles"`
		Since       uint64                  `json:"since,omitempty"`
		NotRead     uint64                  `json:"not_read,omitempty"`
		Key         string                  `json:"key,omitempty"`
		Frozen      bool                    `json:"frozen,omitempty"`
		Before      string                  `json:"predecessor,omitempty"`
		BeforeGood  bool                    `json:"predecessor_good,omitempty"`
		Open        uint64                  `json:"open_calls"`
		LastGood    uint64                  `json:"good_entries"`
		FirstBad    *bad                    `json:"first_bad,omitempty"`
		Index       *found                  `json:"index,omitempty"`
		Cosigned    []trailgate.Cosignature `json:"cosignatures,omitempty"`
	}{Good: tampered == nil}
	if r != nil {
		out.Origin, out.Entries, out.Size, out.JournalSize = r.Origin, r.Entries, r.Size, r.JournalSize
		out.Blobs, out.Recordings, out.ErasedKeys, out.Bundles, out.Tiles, out.LastGood = r.Blobs, r.Recordings, r.ErasedKeys, r.Bundles, r.Tiles, r.LastGood
		out.NotRead, out.Since, out.Open, out.Key, out.Frozen, out.BeforeGood = r.NotRead, r.Since, r.Open, r.Key, r.Frozen, r.PredecessorGood
		if r.Predecessor != nil {
			out.Before = r.Predecessor.Origin
		}
		out.Cosigned = r.Cosignatures
		if x := r.Index; x != nil {
			out.Index = &found{Absent: x.Absent, Good: x.Bad == nil && !x.Absent, Entries: x.Entries, Behind: x.Behind, Rows: x.Rows, Terms: x.Terms}
		}
		if r.Size > 0 {
			out.Root = base64.StdEncoding.EncodeToString(r.Root[:])
		}
	}
	if tampered != nil {
		out.FirstBad = &bad{Seq: tampered.Seq, Place: tampered.Place, Reason: tampered.Reason}
		out.LastGood = tampered.LastGood
	}
	return printJSON(c.out, out, "json")
}
