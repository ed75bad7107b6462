package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
)

func newExport(c *cli) *cobra.Command {
	var flags filterFlags
	var format, out string
	formats := []string{"ocsf", "jsonl", "csv"}
	cmd := &cobra.Command{
		Use:   "export [FILTER]",
		Short: "Write the trail, or a part of it, for other programs",
		Long: `Export writes all calls and events that a filter finds, the newest first, a line each:

  ocsf    events of the Open Cybersecurity Schema Framework 1.3 (Datastore Activity
          and API Activity), which SIEMs take
  jsonl   rows as search -o jsonl has them
  csv     a table for spreadsheets; cells that would be formulas begin with an apostrophe

The filter and the flags are those of search. An export that is not complete says so in
its last line, and the command fails. Exports are recorded in the trail themselves. An
export proves nothing; see "trailgate bundle" for what does.`,
		Example: `  trailgate export --format ocsf --since 24h > trail.ocsf.jsonl
  trailgate export --format csv --agent etl-bot --out etl.csv`,
		RunE: func(cmd *cobra.Command, args []string) error {
			known := false
			for _, f := range formats {
				known = known || f == format
			}
			if !known {
				return usagef("--format %q: want ocsf, jsonl or csv", format)
			}
			q, err := flags.query(args, time.Now())
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(r *remote) (err error) {
				w := io.Writer(c.out)
				if out != "" {
					f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
					if err != nil {
						return fmt.Errorf("export: %w", err)
					}
					defer func() { err = errors.Join(err, f.Close()) }()
					w = f
				}
				buffered := bufio.NewWriterSize(w, 64<<10)
				if err := r.Export(cmd.Context(), q.text, format, buffered); err != nil {
					return errors.Join(explainFilter(q, err), buffered.Flush())
				}
				return buffered.Flush()
			})
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&format, "format", "jsonl", "`FORM`: ocsf, jsonl or csv")
	cmd.Flags().StringVar(&out, "out", "", "`FILE` to write (default: standard output)")
	flags.complete(cmd, c)
	must(cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}
