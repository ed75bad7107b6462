package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
)

// tokenFlags are the flags of commands that make a token to keep.
type tokenFlags struct {
	ttl, note, human     string
	connections, sources []string
}

func (f *tokenFlags) register(cmd *cobra.Command, c *cli) {
	cmd.Flags().StringVar(&f.ttl, "ttl", "24h", "`SPAN` that it holds: 90m, 24h, 30d")
	cmd.Flags().StringVar(&f.note, "note", "", "`TEXT`: what it is for, for people")
	cmd.Flags().StringArrayVar(&f.connections, "connection", nil, "`CONNECTION` that it is for; repeat it (default: all)")
	cmd.Flags().StringArrayVar(&f.sources, "source", nil, "`CIDR` or address that it is used from; repeat it (default: any)")
	cmd.Flags().StringVar(&f.human, "human", "", "`EMAIL` of the human on whose behalf, for whom you vouch")
	must(cmd.RegisterFlagCompletionFunc("ttl", completeSpans))
	must(cmd.RegisterFlagCompletionFunc("connection", c.completeConnections))
	for _, flag := range []string{"note", "source", "human"} {
		must(cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions))
	}
}

// tokenFlagNames are the flags that register makes.
var tokenFlagNames = []string{"ttl", "note", "connection", "source", "human"}

func (f *tokenFlags) options() (client.TokenOptions, error) {
	span, err := tokenTTL(f.ttl)
	return client.TokenOptions{TTL: span, Note: f.note, Connections: f.connections, Sources: f.sources, Human: f.human}, err
}

func completeSpans(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return cobra.FixedCompletions([]cobra.Completion{"1h", "24h", "7d", "30d"}, cobra.ShellCompDirectiveNoFileComp)(cmd, args, typed)
}

func newAgentToken(c *cli) *cobra.Command {
	var flags tokenFlags
	cmd := &cobra.Command{
		Use:   "token NAME",
		Short: "Make a token for an agent and print it",
		Long: `Token prints a new token, alone, on stdout. It is shown this once: the gateway
keeps its hash. A token holds until it expires or is revoked, for any number of
calls; its calls are one session until it has been idle for a while.

It can be bound: to connections, to the addresses that it is used from (as the
gateway sees them), and to a human on whose behalf the agent acts. The trail says
that you vouch for the human, not an identity provider.`,
		Example: `  trailgate agent token etl-bot > etl-bot.token
  trailgate agent token etl-bot --ttl 30d --note "airflow, until the migration"
  trailgate agent token etl-bot --connection staging --source 10.20.0.0/16
  trailgate agent token analyst-bot --ttl 8h --human ada@example.com`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := flags.options()
			if err != nil {
				return err
			}
			return c.withIndex(cmd.Context(), false, func(r *remote) error {
				t, err := r.IssueToken(cmd.Context(), args[0], o)
				if err != nil {
					return err
				}
				c.tellToken(t)
				_, err = fmt.Fprintln(c.out, t.Secret)
				return err
			})
		},
	}
	flags.register(cmd, c)
	return cmd
}

func (c *cli) tellToken(t *client.IssuedToken) {
	fmt.Fprintf(c.err, "token %s, good until %s\n", visible(t.ID), t.Expires.UTC().Format(time.RFC3339))
}

// tokenTTL reads a span for a token; the gateway has the last word on its length.
func tokenTTL(s string) (time.Duration, error) {
	d, err := parseSpan(s)
	if err != nil || d < time.Second {
		return 0, usagef("--ttl %q: want a span of a second or more, such as 90m, 24h or 30d", s)
	}
	return d, nil
}

func newAgentRotate(c *cli) *cobra.Command {
	var id, ttl, overlap, out string
	cmd := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Put a new token in the place of an old one",
		Long: `Rotate makes a token that is for the same as the old one, and lets the old one end
--overlap later, or when it would have ended anyway if that is sooner. In between
both hold, so that nothing fails while the new one is being brought to its place.
The new token goes to stdout, or with --out takes the place of a file at once.

Without --token it is the agent's one token; where there are several, name it.`,
		Example: `  trailgate agent rotate etl-bot --out /run/agents/etl-bot.token
  trailgate agent rotate etl-bot --token tok_01jd2v8c9mhw3k5r7t9x0z2b4d --overlap 10m > etl-bot.token
  trailgate agent rotate etl-bot --ttl 30d --overlap 0s`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := rotateOptions(ttl, overlap)
			if err != nil {
				return err
			}
			if out != "" {
				if out, err = writablePath(out); err != nil {
					return fmt.Errorf("rotate: %w", err)
				}
			}
			return c.withIndex(cmd.Context(), false, func(r *remote) error {
				old, err := r.rotatable(cmd.Context(), args[0], id)
				if err != nil {
					return err
				}
				t, err := r.RotateToken(cmd.Context(), old, o)
				if err != nil {
					return err
				}
				c.tellToken(t)
				fmt.Fprintf(c.err, "token %s, the old one, ends in %s at the latest\n", visible(old), o.Overlap)
				if out == "" {
					_, err = fmt.Fprintln(c.out, t.Secret)
					return err
				}
				// Without a line break, as "agent credential" writes it.
				if err := replaceFile(out, t.Secret, 0o600); err != nil {
					err = r.revokeAfter(cmd.Context(), t.ID, fmt.Errorf("write the token: %w", err))
					return hinted(err, "the old token ends all the same; make another: trailgate agent token %s", args[0])
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&id, "token", "", "`ID` of the old token (\"agent list NAME\" has it)")
	cmd.Flags().StringVar(&ttl, "ttl", "", "`SPAN` that the new one holds (default: as long as the old one was made for)")
	cmd.Flags().StringVar(&overlap, "overlap", "1h", "`SPAN` that the old one holds on")
	cmd.Flags().StringVar(&out, "out", "", "`FILE` that becomes the new token (0600), instead of stdout")
	must(cmd.RegisterFlagCompletionFunc("token", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("ttl", completeSpans))
	must(cmd.RegisterFlagCompletionFunc("overlap", cobra.FixedCompletions([]cobra.Completion{"0s", "10m", "1h", "24h"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func rotateOptions(ttl, overlap string) (o client.RotateOptions, err error) {
	if ttl != "" {
		if o.TTL, err = tokenTTL(ttl); err != nil {
			return o, err
		}
	}
	if o.Overlap, err = parseSpan(overlap); err != nil {
		return o, usagef("--overlap %q: want a span such as 10m or 1h, or 0s for none", overlap)
	}
	return o, nil
}

// rotatable finds the token to replace.
func (r *remote) rotatable(ctx context.Context, agent, id string) (string, error) {
	if id != "" {
		return id, r.ownsToken(ctx, agent, id)
	}
	tokens, err := r.Tokens(ctx, agent)
	if err != nil {
		return "", err
	}
	var live []string
	for _, t := range tokens {
		if t.Revoked == nil && t.ReplacedBy == "" && !t.SessionBound && time.Now().Before(t.Expires) {
			live = append(live, t.ID)
		}
	}
	switch len(live) {
	case 1:
		return live[0], nil
	case 0:
		return "", hinted(fmt.Errorf("%s has no token to rotate", agent), "make one: trailgate agent token %s", agent)
	}
	return "", usagef("rotate: %s has %d tokens; name one with --token:\n  %s", agent, len(live), strings.Join(live, "\n  "))
}

// writablePath makes a path absolute and finds out whether a file can be put
// there, before something is done that cannot be done twice.
func writablePath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is there and is no file", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".trailgate-*")
	if err != nil {
		return "", err
	}
	return path, errors.Join(f.Close(), os.Remove(f.Name()))
}

// revokeAfter takes back a token whose secret got lost.
func (r *remote) revokeAfter(ctx context.Context, id string, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	if err := r.RevokeToken(ctx, id); err != nil {
		return fmt.Errorf("%w (and token %s is not revoked: %w)", why, id, err)
	}
	return why
}
