package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
)

func newEnv(c *cli) *cobra.Command {
	var agent, connection, shell, dir, ttl string
	var value bool
	cmd := &cobra.Command{
		Use:   "env --agent NAME",
		Short: "Print the environment in which clients are an agent",
		Long: `Env makes a token and prints, for a shell to read, the environment in which bq and
BigQuery's libraries go through the gateway as that agent.

What is printed names files and holds no secret, so that it may end up in a
terminal or a log: the token is in a file that only you can read, in a new
directory (--dir, else below XDG_RUNTIME_DIR or the temporary directory).
--value puts the token into TRAILGATE_TOKEN as well, for programs that want it so.
The token holds until it expires or is revoked; "trailgate run" takes care of both.`,
		Example: `  eval "$(trailgate env --agent etl-bot)"
  bq ls

  # fish
  trailgate env --agent etl-bot --shell fish | source

  # PowerShell
  trailgate env --agent etl-bot --shell powershell | Out-String | Invoke-Expression`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if agent == "" {
				return usagef("env: name the agent with --agent")
			}
			span, err := tokenTTL(ttl)
			if err != nil {
				return err
			}
			if _, err := shellLines(shell, nil); err != nil {
				return err
			}
			return c.withIndex(cmd.Context(), false, func(r *remote) error {
				at, err := c.envDir(dir)
				if err != nil {
					return err
				}
				env, token, err := r.environment(cmd.Context(), envRequest{
					agent: agent, connection: connection, withToken: value,
					token: client.TokenOptions{TTL: span, Note: "trailgate env"},
				}, at)
				if err != nil {
					return err
				}
				lines, err := shellLines(shell, env.variables(c.getenv))
				if err != nil {
					return err
				}
				fmt.Fprintf(c.err, "token %s, good until %s, in %s\n", visible(token.ID), token.Expires.UTC().Format(time.RFC3339), at)
				_, err = io.WriteString(c.out, lines)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&agent, "agent", "", "the `AGENT` that clients are")
	cmd.Flags().StringVar(&connection, "connection", "", "`CONNECTION` whose project is the default (without it: the only one there is, or none)")
	cmd.Flags().StringVar(&shell, "shell", "bash", "`SHELL`: bash, zsh, fish, powershell")
	cmd.Flags().StringVar(&dir, "dir", "", "`DIR` for the token file (default: a new private one)")
	cmd.Flags().StringVar(&ttl, "ttl", "24h", "`SPAN` that the token holds")
	cmd.Flags().BoolVar(&value, "value", false, "put the token itself into TRAILGATE_TOKEN too")
	must(cmd.RegisterFlagCompletionFunc("agent", c.completeAgents))
	must(cmd.RegisterFlagCompletionFunc("shell", cobra.FixedCompletions(shellNames(), cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("connection", c.completeConnections))
	must(cmd.RegisterFlagCompletionFunc("ttl", cobra.NoFileCompletions))
	must(cmd.MarkFlagDirname("dir"))
	return cmd
}

// envDir makes the directory for an environment's files.
func (c *cli) envDir(dir string) (string, error) {
	if dir == "" {
		made, err := os.MkdirTemp(c.getenv("XDG_RUNTIME_DIR"), "trailgate-env-")
		if err != nil {
			return "", fmt.Errorf("env: %w", err)
		}
		return made, nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("env: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("env: %w", err)
	}
	return dir, nil
}
