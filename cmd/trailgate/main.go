// Command trailgate is an audit gateway for BigQuery: agents reach BigQuery
// through it alone, and every call they make is in a tamper-evident trail
// before it has an effect.
//
// This package is the only place where the parts are wired together. Each
// subcommand has a file of its own; what several share stands in cli.go (how to
// reach the admin API), wire.go (how a gateway is put together), row.go and
// table.go (output) and safe.go (what keeps hostile text from a terminal).
// docs/cli.md is the contract with users and scripts.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run()) }

// run is main without the exit, so that deferred calls happen.
func run() int {
	// The first signal asks every command to end in good order. Serve and run
	// handle signals themselves, and take these over.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := &cli{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv, release: stop}
	cmd := newRoot(c)
	cmd.SetArgs(os.Args[1:])
	err := cmd.ExecuteContext(ctx)
	if err != nil {
		report(c.err, err)
	}
	return exitCode(err)
}
