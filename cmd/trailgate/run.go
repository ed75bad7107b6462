package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
)

func newRun(c *cli) *cobra.Command {
	var agent, connection, human, title, purpose, ttl string
	cmd := &cobra.Command{
		Use:   "run --agent NAME [flags] -- COMMAND [ARGUMENT...]",
		Short: "Run a command as an agent: one session",
		Long: `Run makes a token for this session alone, runs the command with an environment in
which bq and BigQuery's libraries go through the gateway, and revokes the token
when the command ends. The exit code is the command's (128 and the signal's
number if a signal ended it; 126 or 127 if it could not be run).

The command does not see the Google login of the person who runs it: gcloud and bq
get a configuration directory of their own, and variables that hold or name
credentials are taken out, TRAILGATE_ADMIN_TOKEN among them. That is hygiene and
no cage: a process of the same user can read that user's files.`,
		Example: `  trailgate run --agent etl-bot -- bq query --use_legacy_sql=false 'SELECT 1'
  trailgate run --agent analyst-bot --title "Q3 numbers" -- python agent.py
  trailgate run --agent etl-bot --connection staging -- bash`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if agent == "" {
				return usagef("run: name the agent with --agent")
			}
			span, err := tokenTTL(ttl)
			if err != nil {
				return err
			}
			// The token must not be made for a command that is not there.
			path, err := findCommand(args[0])
			if err != nil {
				return err
			}
			code, err := c.runAs(cmd.Context(), envRequest{
				agent: agent, connection: connection, withToken: true,
				token: client.TokenOptions{TTL: span, Note: "trailgate run", Human: human, Title: title, Purpose: purpose, SessionBound: true},
			}, path, args)
			if err != nil {
				return err
			}
			if code != 0 {
				return &exitError{code: code, err: fmt.Errorf("%s: exit code %d", args[0], code), silent: true}
			}
			return nil
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVar(&agent, "agent", "", "the `AGENT` that the command is")
	cmd.Flags().StringVar(&connection, "connection", "", "`CONNECTION` whose project is the default (without it: the only one there is, or none)")
	cmd.Flags().StringVar(&human, "human", "", "`EMAIL` of the human on whose behalf, for whom you vouch")
	cmd.Flags().StringVar(&title, "title", "", "`TEXT`: what the session is about, as a claim in the trail")
	cmd.Flags().StringVar(&purpose, "purpose", "", "`TEXT`: why, as a claim in the trail")
	cmd.Flags().StringVar(&ttl, "ttl", "8h", "`SPAN` that the token holds at most")
	must(cmd.RegisterFlagCompletionFunc("agent", c.completeAgents))
	must(cmd.RegisterFlagCompletionFunc("connection", c.completeConnections))
	for _, flag := range []string{"human", "title", "purpose", "ttl"} {
		must(cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions))
	}
	return cmd
}

// runAs runs a command with a token of its own, and revokes it behind it.
func (c *cli) runAs(ctx context.Context, req envRequest, path string, args []string) (code int, err error) {
	r, err := c.open(ctx, false)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	dir, err := os.MkdirTemp("", "trailgate-run-")
	if err != nil {
		return 0, fmt.Errorf("run: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	env, token, err := r.environment(ctx, req, dir)
	if err != nil {
		return 0, explainAPI(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
		defer cancel()
		if rerr := r.RevokeToken(ctx, token.ID); rerr != nil {
			// The command has run; its exit code counts.
			fmt.Fprintf(c.err, "trailgate: token %s is not revoked and holds until %s: %s\n",
				visible(token.ID), token.Expires.UTC().Format(time.RFC3339), visible(rerr.Error()))
		}
	}()
	return runChild(c, path, args, apply(os.Environ(), env.variables(c.getenv)))
}

// revokeTimeout bounds how long "run" waits for a gateway that may be gone.
const revokeTimeout = 15 * time.Second

// envRequest says for whom an environment is.
type envRequest struct {
	agent, connection string
	token             client.TokenOptions
	withToken         bool // the token is a variable as well as a file
}

// environment makes a token, and in dir the files that the environment names.
func (r *remote) environment(ctx context.Context, req envRequest, dir string) (*clientEnv, *client.IssuedToken, error) {
	info, err := r.Gateway(ctx)
	if err != nil {
		return nil, nil, err
	}
	if info.PublicURL == "" {
		return nil, nil, hinted(errors.New("no gateway is running, so there is nothing for the agent to talk to"), "start it: trailgate serve")
	}
	project, ca, err := r.defaults(info, req.connection)
	if err != nil {
		return nil, nil, err
	}
	token, err := r.IssueToken(ctx, req.agent, req.token)
	if err != nil {
		return nil, nil, err
	}
	env := &clientEnv{
		gateway: strings.TrimSuffix(info.PublicURL, "/"), agent: req.agent, project: project, caFile: ca,
		token: token.Secret, withToken: req.withToken, dir: dir,
	}
	if err := env.makeDir(); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
		defer cancel()
		return nil, nil, errors.Join(err, r.RevokeToken(ctx, token.ID))
	}
	return env, token, nil
}
