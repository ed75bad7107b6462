package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

func newHealth(c *cli) *cobra.Command {
	var live bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Say whether the gateway takes calls, for probes",
		Long: `Health asks a running gateway whether it takes calls: its trail can be written. It
ends with 0 and prints "ok", or with 1 and the reason. With --live it asks only
whether the process answers. The question is no entry in the trail, and nothing
is started or opened for it, so probes may run it every few seconds: a container
image of the gateway has no shell and no curl.`,
		Example: `  trailgate health
  trailgate health --live --timeout 2s --config /etc/trailgate/trailgate.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return usagef("health: --timeout is %s; name a time to wait", timeout)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return c.health(ctx, live)
		},
	}
	cmd.Flags().BoolVar(&live, "live", false, "ask only whether the process answers")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for the answer")
	must(cmd.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions))
	return cmd
}

// health asks a gateway that runs. Unlike other commands it never stands in for
// one: a probe that opened the data directory would find itself healthy.
func (c *cli) health(ctx context.Context, live bool) error {
	r, err := c.openRunning()
	if err != nil {
		return err
	}
	ask := r.Ready
	if live {
		ask = r.Live
	}
	err = ask(ctx)
	if cerr := r.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return &exitError{code: exitFailed, err: fmt.Errorf("health: %w", err), hint: "trailgate doctor finds out what is wrong"}
	}
	_, err = fmt.Fprintln(c.out, "ok")
	return err
}

// openRunning reaches a gateway that runs, over its socket or at --server.
func (c *cli) openRunning() (*remote, error) {
	if c.server != "" {
		return c.openServer()
	}
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	return overSocket(cfg, filepath.Join(cfg.DataDir.String(), socketName))
}
