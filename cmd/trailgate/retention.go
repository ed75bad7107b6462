package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
)

func newRetention(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retention",
		Short: "Erase recorded rows, or keep them from being erased",
		Long: `Recorded rows are encrypted under a data key for each connection and month.
Erasing deletes the key: nobody can read the rows then, wherever copies of them
are. The log stays whole, and "trailgate verify" goes on proving it. Each
erasure is an entry. recording.retention.results says how long rows are kept;
"serve" erases what is due once a day, a legal hold keeps rows beyond that.

Entries themselves, the statements in them among these, are the log, and cannot
be erased: what must not be kept has to be recorded at the level "metadata".`,
		Example: `  trailgate retention show
  trailgate retention apply --dry-run
  trailgate retention erase analytics/2026-03 --reason "request 4711"
  trailgate retention hold add case-7 --connection analytics --from 2026-01-01 --reason litigation`,
		RunE: parentOnly,
		Args: cobra.ArbitraryArgs,
	}
	cmd.AddCommand(newRetentionShow(c), newRetentionApply(c), newRetentionErase(c), newRetentionHold(c))
	return cmd
}

func newRetentionShow(c *cli) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Show data keys, and what lies under them",
		Example: `  trailgate retention show -o json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(r *remote) error {
				keys, period, err := r.Recordings(cmd.Context())
				if err != nil {
					return explainAPI(err)
				}
				if period == "" {
					period = "for ever (recording.retention.results is not set)"
				}
				fmt.Fprintf(c.err, "rows are kept %s\n", period)
				return printList(c.out, form, []string{"key", "bodies", "bytes", "state"}, keyCells(keys), keys)
			})
		},
	}
	outputFlag(cmd, &form, "table", "json", "jsonl", "csv")
	return cmd
}

func keyCells(keys []client.DataKey) [][]string {
	cells := make([][]string, 0, len(keys))
	for _, k := range keys {
		state := "kept"
		switch {
		case k.Erased:
			state = "erased"
		case k.Held:
			state = "held"
		case k.Due:
			state = "due"
		}
		cells = append(cells, []string{k.Key, strconv.FormatInt(k.Bodies, 10), strconv.FormatInt(k.Bytes, 10), state})
	}
	return cells
}

func newRetentionApply(c *cli) *cobra.Command {
	var dry, yes bool
	var form, reason string
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Erase the rows whose retention is over",
		Long: `Apply erases what "retention show" calls due, now and not at the next time that
"serve" does. It asks first, unless told not to.`,
		Example: `  trailgate retention apply --dry-run
  trailgate retention apply --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(r *remote) error {
				keys, period, err := r.Recordings(cmd.Context())
				if err != nil {
					return explainAPI(err)
				}
				if period == "" {
					return hinted(errors.New("retention: recording.retention.results is not set, so that no rows are ever due"), "set it, or erase a month with: trailgate retention erase")
				}
				var due []client.DataKey
				for _, k := range keys {
					if k.Due {
						due = append(due, k)
					}
				}
				if len(due) == 0 {
					fmt.Fprintln(c.err, "nothing is due")
					return nil
				}
				if dry {
					return printList(c.out, form, []string{"key", "bodies", "bytes", "state"}, keyCells(due), due)
				}
				if !yes {
					if err := printList(c.err, "table", []string{"key", "bodies", "bytes", "state"}, keyCells(due), due); err != nil {
						return err
					}
					if err := c.confirm(fmt.Sprintf("erase the rows under %d keys for good?", len(due))); err != nil {
						return err
					}
				}
				done, err := r.EraseRecordings(cmd.Context(), nil, reason)
				if err != nil {
					return explainAPI(err)
				}
				return c.erased(done, form)
			})
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show what is due, and erase nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` for the trail (default: the retention)")
	must(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	outputFlag(cmd, &form, "table", "json", "jsonl", "csv")
	return cmd
}

// confirm asks on the terminal; without one it is an error.
func (c *cli) confirm(question string) error {
	info, err := os.Stdin.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return usagef("there is no terminal to ask on; give --yes")
	}
	fmt.Fprintf(c.err, "%s [y/N] ", question)
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return errors.New("nothing was erased")
	}
	return nil
}

func (c *cli) erased(done []client.Erasure, form string) error {
	cells := make([][]string, 0, len(done))
	failed := 0
	for _, e := range done {
		if e.Error != "" {
			failed++
		}
		cells = append(cells, []string{e.Key, strconv.FormatInt(e.Bodies, 10), strconv.FormatInt(e.Bytes, 10), e.Error})
	}
	if err := printList(c.out, form, []string{"erased", "bodies", "bytes", "error"}, cells, done); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("retention: %d of %d keys were not erased", failed, len(done))
	}
	return nil
}

func newRetentionErase(c *cli) *cobra.Command {
	var yes bool
	var form, reason string
	cmd := &cobra.Command{
		Use:     "erase KEY...",
		Short:   "Erase the rows under data keys now",
		Example: `  trailgate retention erase analytics/2026-03 --reason "request 4711"`,
		Args:    cobra.MinimumNArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var out []cobra.Completion
			_ = c.with(cmd.Context(), func(r *remote) error { // completion has nobody to tell
				keys, _, err := r.Recordings(cmd.Context())
				for _, k := range keys {
					if !k.Erased && !k.Held {
						out = append(out, k.Key)
					}
				}
				return err
			})
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usagef("retention erase: say why with --reason; it stands in the trail")
			}
			if !yes {
				if err := c.confirm("erase the rows under " + strings.Join(args, ", ") + " for good?"); err != nil {
					return err
				}
			}
			return c.with(cmd.Context(), func(r *remote) error {
				done, err := r.EraseRecordings(cmd.Context(), args, reason)
				if err != nil {
					return explainAPI(err)
				}
				return c.erased(done, form)
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` for the trail; required")
	must(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	outputFlag(cmd, &form, "table", "json", "jsonl", "csv")
	return cmd
}

func newRetentionHold(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "hold",
		Short:   "Keep recorded rows from being erased",
		Long:    `A legal hold keeps the rows of the months that it touches, whatever retention says.`,
		Example: `  trailgate retention hold add case-7 --connection analytics --from 2026-01-01 --until 2026-04-01 --reason litigation`,
		RunE:    parentOnly,
		Args:    cobra.ArbitraryArgs,
	}
	var form string
	list := &cobra.Command{
		Use: "list", Short: "List legal holds", Args: cobra.NoArgs, Example: `  trailgate retention hold list`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(r *remote) error {
				holds, err := r.Holds(cmd.Context())
				if err != nil {
					return explainAPI(err)
				}
				cells := make([][]string, 0, len(holds))
				for _, h := range holds {
					cells = append(cells, []string{h.ID, orAll(h.Connection), date(h.From), date(h.Until), h.By, h.Reason})
				}
				return printList(c.out, form, []string{"hold", "connection", "from", "until", "by", "reason"}, cells, holds)
			})
		},
	}
	outputFlag(list, &form, "table", "json", "jsonl", "csv")
	cmd.AddCommand(newHoldAdd(c), list, newHoldRelease(c))
	return cmd
}

func newHoldAdd(c *cli) *cobra.Command {
	var connection, from, until, reason string
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Make a legal hold", Args: cobra.ExactArgs(1),
		Example: `  trailgate retention hold add case-7 --reason litigation`,
		RunE: func(cmd *cobra.Command, args []string) error {
			h := client.Hold{ID: args[0], Connection: connection, Reason: reason}
			for _, bound := range []struct {
				flag, text string
				to         **time.Time
			}{{"--from", from, &h.From}, {"--until", until, &h.Until}} {
				if bound.text == "" {
					continue
				}
				t, err := time.Parse(time.DateOnly, bound.text)
				if err != nil {
					return usagef("%s %q: want a date such as 2026-01-31", bound.flag, bound.text)
				}
				*bound.to = &t
			}
			return c.with(cmd.Context(), func(r *remote) error {
				if _, err := r.AddHold(cmd.Context(), h); err != nil {
					return explainAPI(err)
				}
				fmt.Fprintf(c.err, "held: %s\n", visible(args[0]))
				return nil
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&connection, "connection", "", "of this `CONNECTION` alone")
	cmd.Flags().StringVar(&from, "from", "", "`DATE` from which on (default: the first)")
	cmd.Flags().StringVar(&until, "until", "", "`DATE` before which (default: without end)")
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT`: why; required")
	must(cmd.RegisterFlagCompletionFunc("connection", c.completeConnections))
	for _, flag := range []string{"from", "until", "reason"} {
		must(cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions))
	}
	return cmd
}

func newHoldRelease(c *cli) *cobra.Command {
	return &cobra.Command{
		Use: "release NAME", Short: "End a legal hold", Args: cobra.ExactArgs(1), Example: `  trailgate retention hold release case-7`,
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var out []cobra.Completion
			_ = c.with(cmd.Context(), func(r *remote) error { // completion has nobody to tell
				holds, err := r.Holds(cmd.Context())
				for _, h := range holds {
					out = append(out, h.ID)
				}
				return err
			})
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(r *remote) error {
				if err := r.ReleaseHold(cmd.Context(), args[0]); err != nil {
					return explainAPI(err)
				}
				fmt.Fprintf(c.err, "released: %s\n", visible(args[0]))
				return nil
			})
		},
	}
}

func orAll(s string) string {
	if s == "" {
		return "all"
	}
	return s
}

func date(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.DateOnly)
}
