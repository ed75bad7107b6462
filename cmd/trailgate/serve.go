package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/config"
)

func newServe(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway",
		Long: `Serve runs the gateway until SIGTERM or SIGINT. Then it takes no more calls, lets
those under way finish (shutdown.drain_timeout, 30 s where nothing is set),
records its stop, and ends. A second signal ends it at once; what was under way
is settled at the next start by asking BigQuery about its jobs.

SIGHUP reads the configuration again and takes in the policy, budgets, log.level
and renewed TLS certificates. What else has changed is named in the log and needs
a restart; a configuration or policy with a mistake changes nothing. Tokens of static connections are
read again by themselves when their file changes.

It refuses to start on a log that is missing (exit 1), shorter than it was, or
not this gateway's (exit 3), beside another gateway on the same data directory,
and where a port is taken or a key file is missing (exit 1).`,
		Example: `  trailgate serve
  trailgate serve --config /etc/trailgate/trailgate.yaml

  # Take in a renewed certificate
  pkill -HUP -x trailgate`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			return c.serve(cmd.Context(), cfg, func(_ context.Context, g *gatewayProcess) error { return g.tell(c.err) })
		},
	}
}

// serve runs a gateway from start to stop. Ready is called when calls are
// answered.
func (c *cli) serve(ctx context.Context, cfg *config.Config, ready func(context.Context, *gatewayProcess) error) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	c.release()
	// The context that was handed in ends with that; from here on signals come
	// through the channel.
	ctx = context.WithoutCancel(ctx)

	g, err := startGateway(ctx, cfg, c.err)
	if err != nil {
		return err
	}
	if err := ready(ctx, g); err != nil {
		return errors.Join(err, g.stop(ctx, "could not tell that it is ready"))
	}
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGHUP {
				if _, err := g.reload(ctx); err != nil {
					g.log.ErrorContext(ctx, "reload", "err", err)
				}
				continue
			}
			go endAtOnce(signals, c.err)
			return g.stop(ctx, s.String())
		case err := <-g.failed:
			return errors.Join(err, g.stop(ctx, err.Error()))
		}
	}
}

// endAtOnce waits for the second signal. The journal holds every acknowledged
// entry by then, so nothing is lost that anybody saw the effect of; the next
// start finds no stop entry and settles what was under way.
func endAtOnce(signals <-chan os.Signal, w io.Writer) {
	for s := range signals {
		if s == syscall.SIGHUP {
			continue
		}
		fmt.Fprintln(w, "trailgate: ended at once; the next start settles the calls that were under way")
		os.Exit(exitFailed)
	}
}
