package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/index"
)

func newSearch(c *cli) *cobra.Command {
	var flags filterFlags
	var form string
	var limit int
	var follow bool
	cmd := &cobra.Command{
		Use:   "search [FILTER]",
		Short: "Find who did what",
		Long: `Search lists calls and events, the newest first. A filter is written as Google
Cloud's APIs have it (AIP-160); flags are added to it with AND.

  agent = "etl-bot" AND class = "write"        compare fields; also != < <= > >=
  table : "staging.*"                          has: * stands for anything
  time >= "2026-11-01T00:00:00Z"               times are UTC
  NOT state = "done" AND rows > 1000           AND, OR, NOT, parentheses
  batch_id                                     a bare word is looked for in statements

Fields:
` + fieldHelp() + `
States: done and failed; open (under way); indeterminate (the gateway ended before
the outcome was known), settled (and what became of it); denied, refused, held;
recorded (no call: sessions, administration, the gateway itself).

Searches are recorded in the trail themselves.`,
		Example: `  trailgate search --agent etl-bot --since 24h
  trailgate search 'class = "write" AND table : "staging.*"'
  trailgate search --text batch_id -o jsonl --limit 0 | jq -r .statements[0].text
  trailgate search --class export --class access_change --follow`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usagef("--limit %d: want 0 (no limit) or more", limit)
			}
			q, err := flags.query(args, time.Now())
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(r *remote) error {
				w := newRowWriter(c.out, form, follow)
				if follow {
					return c.follow(cmd.Context(), r, q, limit, w)
				}
				return c.search(cmd.Context(), r, q, limit, w)
			})
		},
	}
	flags.register(cmd)
	cmd.Flags().IntVar(&limit, "limit", 50, "print at most `N`; 0: all")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "print the latest, then what comes, as it is committed, until ^C")
	flags.complete(cmd, c)
	must(cmd.RegisterFlagCompletionFunc("limit", cobra.NoFileCompletions))
	outputFlag(cmd, &form, "table", "json", "jsonl", "csv")
	return cmd
}

// pageSize is how many rows one request asks for.
const pageSize = 500

// search prints the rows of all pages, up to the limit.
func (c *cli) search(ctx context.Context, r *remote, q query, limit int, w rowWriter) error {
	n := 0
	ask := client.Query{Filter: q.text}
	for {
		ask.PageSize = pageSize
		if limit > 0 {
			ask.PageSize = min(pageSize, limit-n)
		}
		rows, next, err := r.Page(ctx, ask)
		if err != nil {
			return explainFilter(q, err)
		}
		for _, found := range rows {
			if err := w.add(found); err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
		n += len(rows)
		ask.PageToken = next
		if next == "" || limit > 0 && n >= limit {
			break
		}
	}
	if err := w.flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	switch {
	case n == 0:
		fmt.Fprintln(c.err, "nothing matches")
	case ask.PageToken != "":
		fmt.Fprintf(c.err, "the newest %d; more match: --limit 0 prints all\n", n)
	}
	return nil
}

// follow prints the newest rows, oldest first, and then those that come.
func (c *cli) follow(ctx context.Context, r *remote, q query, limit int, w rowWriter) error {
	if !r.live() {
		return hinted(errors.New("no gateway is running, so there is nothing to follow"), "start it: trailgate serve; or leave out --follow")
	}
	if limit <= 0 || limit > pageSize {
		limit = pageSize
	}
	rows, _, err := r.Page(ctx, client.Query{Filter: q.text, PageSize: limit})
	if err != nil {
		return explainFilter(q, err)
	}
	slices.Reverse(rows)
	var after *uint64
	for _, found := range rows {
		last := max(found.Entry.Seq, found.ClosingSeq)
		if after == nil || last > *after {
			after = &last
		}
		if err := w.add(found); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	for found, err := range r.Follow(ctx, q.text, after) {
		if ctx.Err() != nil {
			return nil // ^C is how following ends
		}
		if err != nil {
			return explainFilter(q, err)
		}
		if err := w.add(found); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	if ctx.Err() == nil {
		fmt.Fprintln(c.err, "the gateway ended the stream; it has stopped")
	}
	return nil
}

// fieldHelp lists the fields of a filter.
func fieldHelp() string {
	var b strings.Builder
	for _, f := range index.Fields() {
		fmt.Fprintf(&b, "  %-16s %s\n", f.Name, f.Doc)
		if f.Name == "class" || f.Name == "state" {
			fmt.Fprintf(&b, "  %-16s (%s)\n", "", strings.Join(f.Values, ", "))
		}
	}
	return b.String()
}
