package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/recording"
	"github.com/trailgate/trailgate/internal/trail"
)

func newVerify(c *cli) *cobra.Command {
	var log, key, head, form string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check the whole trail for tampering and loss",
		Long: `Verify rehashes every entry, tile and stored body, and checks them against the
signed checkpoint, the checkpoint that was remembered outside the log, and the
journal. It reads files alone, changes nothing, and may run beside the gateway.

It ends with 0 where all is as it was written, and with 3, naming the first bad
place, on any sign of tampering or loss. Somebody who holds log.key and the disk
can make a log that verifies; keep a checkpoint (the file "checkpoint" in the
log) elsewhere and give it with --head to find that out too.`,
		Example: `  # This gateway's trail
  trailgate verify

  # A copy of a log, or one that is served, with the key from somewhere you trust
  trailgate verify --log /backup/log --key log.pub
  trailgate verify --log https://logs.example.com/trailgate --key log.pub

  # The log of a gateway elsewhere, over its admin API
  trailgate verify --server https://audit.example.com:8471 --key log.pub

  # Against a checkpoint that was put aside last month
  trailgate verify --head checkpoint-2026-10`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := c.verifyOptions(log, key, head)
			if err != nil {
				return err
			}
			progress := newProgress(c.err, "verify")
			o.Progress = progress.update
			report, err := trail.Verify(cmd.Context(), o)
			progress.end()
			return c.verified(report, err, form)
		},
	}
	cmd.Flags().StringVar(&log, "log", "", "directory or URL of a `LOG` (default: this gateway's data directory)")
	cmd.Flags().StringVar(&key, "key", "", "`FILE` with the log's public key (default: log.pub in the data directory)")
	cmd.Flags().StringVar(&head, "head", "", "`FILE` with an earlier checkpoint that the log must extend")
	outputFlag(cmd, &form, "table", "json")
	return cmd
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
func (c *cli) verified(r *trail.Report, err error, form string) error {
	tampered, isTamper := errors.AsType[*trail.TamperError](err)
	if err != nil && !isTamper {
		return err
	}
	if form == "json" {
		if perr := c.verifiedJSON(r, tampered); perr != nil {
			return perr
		}
	} else if !isTamper {
		_, perr := fmt.Fprintf(c.out, "good: %d entries of %s\n"+
			"  %d under the signed checkpoint, root %s\n  %d in the journal behind it\n  %d stored bodies, %d recordings of rows, %d bundles, %d tiles\n",
			r.Entries, visible(r.Origin), r.Size, base64.StdEncoding.EncodeToString(r.Root[:]), r.JournalSize-min(r.Size, r.JournalSize),
			r.Blobs, r.Recordings, r.Bundles, r.Tiles)
		if perr == nil && r.ErasedKeys > 0 {
			_, perr = fmt.Fprintf(c.out, "  %d data keys erased, as the log says; what was recorded under them can be read by nobody\n", r.ErasedKeys)
		}
		if perr != nil {
			return perr
		}
	}
	if isTamper {
		return &exitError{
			code: exitEvidence, err: fmt.Errorf("verify: the trail is NOT as it was written\n  %w", tampered),
			hint: "change nothing; keep a copy of the data directory as evidence",
		}
	}
	return nil
}

func (c *cli) verifiedJSON(r *trail.Report, tampered *trail.TamperError) error {
	type bad struct {
		Seq    uint64 `json:"seq"`
		Place  string `json:"place"`
		Reason string `json:"reason"`
	}
	out := struct {
		Good        bool   `json:"good"`
		Origin      string `json:"origin,omitempty"`
		Entries     uint64 `json:"entries"`
		Size        uint64 `json:"size"`
		Root        string `json:"root,omitempty"`
		JournalSize uint64 `json:"journal_size"`
		Blobs       uint64 `json:"blobs"`
		Recordings  uint64 `json:"recordings"`
		ErasedKeys  uint64 `json:"erased_keys"`
		Bundles     uint64 `json:"bundles"`
		Tiles       uint64 `json:"tiles"`
		LastGood    uint64 `json:"good_entries"`
		FirstBad    *bad   `json:"first_bad,omitempty"`
	}{Good: tampered == nil}
	if r != nil {
		out.Origin, out.Entries, out.Size, out.JournalSize = r.Origin, r.Entries, r.Size, r.JournalSize
		out.Blobs, out.Recordings, out.ErasedKeys, out.Bundles, out.Tiles, out.LastGood = r.Blobs, r.Recordings, r.ErasedKeys, r.Bundles, r.Tiles, r.LastGood
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
