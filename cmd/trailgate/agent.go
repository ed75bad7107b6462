package main

import (
	"context"
	"fmt"
	"strings"
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
  trailgate agent credential etl-bot --out etl-bot.json
  trailgate agent list
  trailgate agent revoke etl-bot`,
		Args: cobra.ArbitraryArgs,
		RunE: parentOnly,
	}
	cmd.AddCommand(newAgentAdd(c), newAgentList(c), newAgentToken(c), newAgentRotate(c), newAgentCredential(c), newAgentRevoke(c), newAgentSuspend(c), newAgentResume(c), newAgentSuspended(c))
	return cmd
}

func newAgentAdd(c *cli) *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Let an agent in",
		Long: `Add makes an agent known. A name is a lower-case letter followed by lower-case
letters, digits, "_" and "-", at most 63 in all; it stands in every entry and in
BigQuery's job labels. The agent can do nothing until it has a token, or comes with
a credential that the configuration's "identity" takes and maps to this name.`,
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
the secret itself was shown once and is not kept. When and from where a token was
last used may lag a minute behind; the trail has every call.`,
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

func newAgentRevoke(c *cli) *cobra.Command {
	var token, session string
	cmd := &cobra.Command{
		Use:   "revoke NAME",
		Short: "Shut an agent out, at once",
		Long: `Revoke ends an agent: none of its credentials works from then on, whoever issued
them, and it gets no new ones. With --token only that token ends, and what was got
for it by token exchange; with --session only that one session token of an
exchange ("trailgate search 'action = "token.exchange"'" has them). Calls under way
are not cut. The trail keeps the agent's past, and the name is not given again.`,
		Example: `  trailgate agent revoke etl-bot
  trailgate agent revoke etl-bot --token tok_01jd2v8c9mhw3k5r7t9x0z2b4d
  trailgate agent revoke etl-bot --session ses_01jd2v8c9mhw3k5r7t9x0z2b4d`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			if token != "" && session != "" {
				return usagef("revoke: --token and --session are two things; end one at a time")
			}
			return c.withIndex(cmd.Context(), false, func(r *remote) error {
				ctx, agent := cmd.Context(), args[0]
				switch {
				case token != "":
					if err := r.ownsToken(ctx, agent, token); err != nil {
						return err
					}
					if err := r.RevokeToken(ctx, token); err != nil {
						return err
					}
					fmt.Fprintf(c.err, "revoked token %s of %s\n", visible(token), visible(agent))
				case session != "":
					if err := r.ownsSession(ctx, agent, session); err != nil {
						return err
					}
					if err := r.RevokeSession(ctx, session); err != nil {
						return err
					}
					fmt.Fprintf(c.err, "revoked session token %s of %s\n", visible(session), visible(agent))
				default:
					if err := r.RevokeAgent(ctx, agent); err != nil {
						return err
					}
					fmt.Fprintf(c.err, "revoked %s and all its tokens\n", visible(agent))
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&token, "token", "", "end the token with this `ID` alone (\"agent list NAME\" has it)")
	cmd.Flags().StringVar(&session, "session", "", "end the session token with this `ID` alone, on a running gateway")
	must(cmd.RegisterFlagCompletionFunc("token", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("session", cobra.NoFileCompletions))
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
	head := []string{"id", "state", "created", "expires", "revoked", "last_used", "from", "limits", "note"}
	cells := make([][]string, 0, len(tokens))
	for _, t := range tokens {
		state := "active"
		switch {
		case t.Revoked != nil:
			state = "revoked"
		case now.After(t.Expires):
			state = "expired"
		}
		cells = append(cells, []string{t.ID, state, moment(t.Created), moment(t.Expires), momentOf(t.Revoked), momentOf(t.LastUsed), t.LastAddress, limits(t), t.Note})
	}
	return printList(c.out, form, head, cells, tokens)
}

// limits tells in a few words what a token is bound to.
func limits(t client.Token) string {
	var parts []string
	if len(t.Connections) > 0 {
		parts = append(parts, "connection "+strings.Join(t.Connections, ","))
	}
	if len(t.Sources) > 0 {
		parts = append(parts, "source "+strings.Join(t.Sources, ","))
	}
	if t.Human != "" {
		parts = append(parts, "human "+t.Human)
	}
	return strings.Join(parts, "; ")
}

func moment(t time.Time) string { return t.UTC().Format(timeFormat) }

func momentOf(t *time.Time) string {
	if t == nil {
		return ""
	}
	return moment(*t)
}
