package main

import (
	"encoding/csv"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/index"
)

func newStats(c *cli) *cobra.Command {
	var flags filterFlags
	var form string
	var by []string
	groupKeys := index.SumKeys()
	cmd := &cobra.Command{
		Use:   "stats --by KEY[,KEY...] [FILTER]",
		Short: "Count calls and bytes",
		Long: `Stats counts calls, errors, rows and bytes, grouped by one or more of:

  ` + strings.Join(groupKeys, ", ") + `

Days and hours are UTC. A call that touches several tables counts for each. What
is not a call (sessions, administration) does not count. The filter and the flags
are those of search.`,
		Example: `  trailgate stats --by agent
  trailgate stats --by agent,day --since 7d
  trailgate stats --by table --class write -o csv
  trailgate stats --by agent,state 'method = "bigquery.jobs.insert"'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(by) == 0 {
				return usagef("stats: say what to count by: --by %s", strings.Join(groupKeys[:3], ", or "))
			}
			for _, key := range by {
				if !slices.Contains(groupKeys, key) {
					return usagef("--by %q: want some of %s", key, strings.Join(groupKeys, ", "))
				}
			}
			q, err := flags.query(args, time.Now())
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(r *remote) error {
				groups, err := r.Stats(cmd.Context(), by, q.text)
				if err != nil {
					return explainFilter(q, err)
				}
				return c.printGroups(groups, by, form)
			})
		},
	}
	cmd.Flags().StringSliceVar(&by, "by", nil, "`KEY`s to count by, in that order")
	flags.register(cmd)
	flags.complete(cmd, c)
	must(cmd.RegisterFlagCompletionFunc("by", completeList(groupKeys)))
	outputFlag(cmd, &form, "table", "json", "jsonl", "csv")
	return cmd
}

// completeList completes the last element of a list with commas.
func completeList(values []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		head := ""
		if i := strings.LastIndexByte(typed, ','); i >= 0 {
			head = typed[:i+1]
		}
		var out []cobra.Completion
		for _, v := range values {
			if !slices.Contains(strings.Split(head, ","), v) && strings.HasPrefix(head+v, typed) {
				out = append(out, head+v)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

var groupHead = []string{"calls", "errors", "rows", "response_bytes", "bytes_processed", "bytes_billed"}

func figures(g *client.Group) []string {
	return []string{
		number(g.Calls), number(g.Errors), number(g.Rows), number(g.ResponseBytes), number(g.BytesProcessed), number(g.BytesBilled),
	}
}

func (c *cli) printGroups(groups []client.Group, by []string, form string) error {
	switch form {
	case "json":
		if groups == nil {
			groups = []client.Group{}
		}
		return printJSON(c.out, groups, form)
	case "jsonl":
		for _, one := range groups {
			if err := printJSON(c.out, one, form); err != nil {
				return err
			}
		}
		return nil
	}
	if form == "csv" {
		return c.groupsCSV(groups, by)
	}
	t := table{limit: 0}
	for _, key := range by {
		t.head = append(t.head, strings.ToUpper(key))
		t.right = append(t.right, false)
	}
	for _, name := range groupHead {
		t.head = append(t.head, strings.ToUpper(strings.ReplaceAll(name, "_", " ")))
		t.right = append(t.right, true)
	}
	for _, g := range groups {
		cells := make([]string, 0, len(t.head))
		for _, key := range by {
			value := visible(g.Keys[key])
			if value == "" {
				value = "-"
			}
			cells = append(cells, value)
		}
		t.add(append(cells, figures(&g)...)...)
	}
	if err := t.write(c.out); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

func (c *cli) groupsCSV(groups []client.Group, by []string) error {
	w := csv.NewWriter(c.out)
	if err := w.Write(append(slices.Clone(by), groupHead...)); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	for _, g := range groups {
		cells := make([]string, 0, len(by)+len(groupHead))
		for _, key := range by {
			cells = append(cells, csvSafe(g.Keys[key]))
		}
		if err := w.Write(append(cells, figures(&g)...)); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	w.Flush()
	if err := w.Error(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
