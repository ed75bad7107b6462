package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
)

func newAgent(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Let agents in, give them tokens, shut them out",
		Example: `  trailgate agent add etl-bot --note "nightly loads, team data"
  trailgate agent token etl-bot --ttl 8h > etl-bot.token
  trailgate agent list
  trailgate agent revoke etl-bot`,
		Args: cobra.ArbitraryArgs,
		RunE: parentOnly,
	}
	cmd.AddCommand(newAgentAdd(c), newAgentList(c), newAgentToken(c), newAgentRevoke(c))
	return cmd
}

func newAgentAdd(c *cli) *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Let an agent in",
		Long: `Add makes an agent known. A name is a lower-case letter followed by lower-case
letters, digits, "_" and "-", at most 63 in all; it stands in every entry and in
BigQuery's job labels. The agent can do nothing until it has a token.`,
		Example: `  trailgate agent add etl-bot
  trailgate agent add analyst-bot --note "answers questions in chat"`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withIndex(cmd.Context(), false, func(r *remote) error {
				if _, err := r.AddAgent(cmd.Context(), args[0], note); err != nil {
					return err
				}
				fmt.Fprintf(c.err, "added %s; give it a token: trailgate agent token %s\n", visible(args[0]), visible(args[0]))
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "`TEXT`: what the agent is, for people")
	must(cmd.RegisterFlagCompletionFunc("note", cobra.NoFileCompletions))
	return cmd
}

func newAgentList(c *cli) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use:   "list [NAME]",
		Short: "List the agents, or one agent's tokens",
		Long: `List shows the agents, or with a name that agent's tokens. Tokens appear by id;
the secret itself was shown once and is not kept.`,
		Example: `  trailgate agent list
  trailgate agent list etl-bot
  trailgate agent list -o json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withIndex(cmd.Context(), false, func(r *remote) error {
				if len(args) == 1 {
					return c.listTokens(cmd.Context(), r, args[0], form)
				}
				return c.listAgents(cmd.Context(), r, form)
			})
		},
	}
	outputFlag(cmd, &form, "table", "json", "jsonl", "csv")
	return cmd
}

func newAgentToken(c *cli) *cobra.Command {
	var ttl, note string
	cmd := &cobra.Command{
		Use:   "token NAME",
		Short: "Make a token for an agent and print it",
		Long: `Token prints a new token, alone, on stdout. It is shown this once: the gateway
keeps its hash. A token holds until it expires or is revoked, for any number of
calls; its calls are one session until it has been idle for a while.`,
		Example: `  trailgate agent token etl-bot > etl-bot.token
  trailgate agent token etl-bot --ttl 30d --note "airflow, until the migration"`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			span, err := tokenTTL(ttl)
			if err != nil {
				return err
			}
			return c.withIndex(cmd.Context(), false, func(r *remote) error {
				t, err := r.IssueToken(cmd.Context(), args[0], client.TokenOptions{TTL: span, Note: note})
				if err != nil {
					return err
				}
				fmt.Fprintf(c.err, "token %s, good until %s\n", visible(t.ID), t.Expires.UTC().Format(time.RFC3339))
				_, err = fmt.Fprintln(c.out, t.Secret)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&ttl, "ttl", "24h", "`SPAN` that it holds: 90m, 24h, 30d")
	cmd.Flags().StringVar(&note, "note", "", "`TEXT`: what it is for, for people")
	must(cmd.RegisterFlagCompletionFunc("ttl", cobra.FixedCompletions([]cobra.Completion{"1h", "24h", "7d", "30d"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("note", cobra.NoFileCompletions))
	return cmd
}

// tokenTTL reads a span for a token; the gateway has the last word on its length.
func tokenTTL(s string) (time.Duration, error) {
	d, err := parseSpan(s)
	if err != nil || d < time.Second {
		return 0, usagef("--ttl %q: want a span of a second or more, such as 90m, 24h or 30d", s)
	}
	return d, nil
}

func newAgentRevoke(c *cli) *cobra.Command {
	var token string
	cmd := &cobra.Command{
		Use:   "revoke NAME",
		Short: "Shut an agent out, at once",
		Long: `Revoke ends an agent: none of its tokens works from then on, and it gets no new
ones. With --token only that token ends. Calls under way are not cut. The trail
keeps the agent's past, and the name is not given again.`,
		Example: `  trailgate agent revoke etl-bot
  trailgate agent revoke etl-bot --token tok_01jd2v8c9mhw3k5r7t9x0z2b4d`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withIndex(cmd.Context(), false, func(r *remote) error {
				if token == "" {
					if err := r.RevokeAgent(cmd.Context(), args[0]); err != nil {
						return err
					}
					fmt.Fprintf(c.err, "revoked %s and all its tokens\n", visible(args[0]))
					return nil
				}
				if err := r.ownsToken(cmd.Context(), args[0], token); err != nil {
					return err
				}
				if err := r.RevokeToken(cmd.Context(), token); err != nil {
					return err
				}
				fmt.Fprintf(c.err, "revoked token %s of %s\n", visible(token), visible(args[0]))
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&token, "token", "", "end the token with this `ID` alone (\"agent list NAME\" has it)")
	must(cmd.RegisterFlagCompletionFunc("token", cobra.NoFileCompletions))
	return cmd
}

func (c *cli) listAgents(ctx context.Context, r *remote, form string) error {
	agents, err := r.Agents(ctx)
	if err != nil {
		return err
	}
	head := []string{"name", "state", "created", "revoked", "note"}
	cells := make([][]string, 0, len(agents))
	for _, a := range agents {
		state := "active"
		if a.Revoked != nil {
			state = "revoked"
		}
		cells = append(cells, []string{a.Name, state, moment(a.Created), momentOf(a.Revoked), a.Note})
	}
	return printList(c.out, form, head, cells, agents)
}

func (c *cli) listTokens(ctx context.Context, r *remote, agent, form string) error {
	tokens, err := r.Tokens(ctx, agent)
	if err != nil {
		return err
	}
	agents, err := r.Agents(ctx)
	if err != nil {
		return err
	}
	// An agent that was shut out takes its tokens along.
	for _, a := range agents {
		for i := range tokens {
			if a.Name == agent && a.Revoked != nil && tokens[i].Revoked == nil {
				tokens[i].Revoked = a.Revoked
			}
		}
	}
	now := time.Now()
	head := []string{"id", "state", "created", "expires", "revoked", "note"}
	cells := make([][]string, 0, len(tokens))
	for _, t := range tokens {
		state := "active"
		switch {
		case t.Revoked != nil:
			state = "revoked"
		case now.After(t.Expires):
			state = "expired"
		}
		cells = append(cells, []string{t.ID, state, moment(t.Created), moment(t.Expires), momentOf(t.Revoked), t.Note})
	}
	return printList(c.out, form, head, cells, tokens)
}

func moment(t time.Time) string { return t.UTC().Format(timeFormat) }

func momentOf(t *time.Time) string {
	if t == nil {
		return ""
	}
	return moment(*t)
}
