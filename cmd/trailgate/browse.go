package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func newBrowse(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "browse",
		Short: "A link that opens the trail in the browser",
		Long: `Browse prints a link to the gateway's pages. It works once, within ten minutes,
and signs the browser in as you: as whoever owns the socket in the data
directory, or the admin token. Making and using it are entries of the trail.

Where admin.login is set, humans sign in there by name and need no such link.`,
		Example: `  trailgate browse
  xdg-open "$(trailgate browse)"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(r *remote) error {
				link, err := r.LoginLink(cmd.Context())
				if err != nil {
					return err
				}
				fmt.Fprintf(c.err, "once, until %s:\n", link.Expires.Local().Format(time.TimeOnly))
				_, err = fmt.Fprintln(c.out, link.URL)
				return err
			})
		},
	}
}
