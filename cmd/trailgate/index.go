package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newIndex(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "index",
		Short:   "Look after the search index",
		Example: `  trailgate index rebuild`,
		Args:    cobra.ArbitraryArgs,
		RunE:    parentOnly,
	}
	cmd.AddCommand(newIndexRebuild(c))
	return cmd
}

func newIndexRebuild(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "rebuild",
		Short: "Make the search index anew from the log",
		Long: `Rebuild throws the search index away and makes it anew from the log, which is the
record of truth; nothing is lost by it. While a gateway runs, it goes on taking
calls, and searches find more and more as the index catches up.`,
		Example: `  trailgate index rebuild`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withIndex(cmd.Context(), false, func(r *remote) error {
				n, err := r.RebuildIndex(cmd.Context())
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.out, "rebuilt from %d entries\n", n)
				return err
			})
		},
	}
}
