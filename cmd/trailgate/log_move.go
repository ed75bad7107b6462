package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/trail"
)

func newLogMove(c *cli) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "move TO",
		Short: "Move the data directory, checked",
		Long: `Move notes in the log where it goes, copies the data directory to TO, verifies the
copy, and only then takes the key away from the old place (log.key.moved), so
that the log goes on in one place. What is left there may be kept as a backup, or
removed. Then set data_dir to TO. The search index goes along; keys of recorded
rows that recording.key_dir has elsewhere do not.

To move to another machine, move to a disk that goes there, or copy the directory
with the gateway stopped, "trailgate verify" the copy with a checkpoint of before
(--head), and remove log.key from the old place. docs/log.md has the steps.

Interrupted anywhere, the command goes on when it is run again with the same TO.`,
		Example: `  trailgate log move /srv/new/data --reason "new disk"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			to, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("log move: %w", err)
			}
			o, err := c.trailOptions(cfg)
			if err != nil {
				return err
			}
			progress := newProgress(c.err, "verify the copy")
			r, err := trail.Move(cmd.Context(), cfg.DataDir.String(), to, o, logEntry(o.Gateway, "", "", reason), progress.update)
			progress.end()
			if err != nil {
				return explainLog(err, cfg)
			}
			_, err = fmt.Fprintf(c.out, "moved: %d entries are in %s, verified.\nNow set data_dir there in %s; %s has no key any more and may go.\n", r.Size, to, cfg.Path, cfg.DataDir)
			return err
		},
	}
	reasonFlag(cmd, &reason)
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return cmd
}
