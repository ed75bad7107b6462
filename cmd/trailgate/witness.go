package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/trail/durable"
	"github.com/trailgate/trailgate/internal/witness"
)

// witnessLogs, in a witness's directory, names the logs that it cosigns for.
const witnessLogs = "logs"

const witnessLogsText = `# The logs that this witness cosigns checkpoints of: one verifier key a line, as
# "trailgate init" printed it and the log's data directory has it in log.pub. The
# name in the key is the log's origin. A change needs a restart.
`

func newWitness(c *cli) *cobra.Command {
	o := witnessOptions{}
	cmd := &cobra.Command{
		Use:   "witness",
		Short: "Run a witness of other people's logs",
		Long: `Witness cosigns checkpoints of the logs that are listed in DIR/logs: a checkpoint
gets this witness's signature only if it extends everything that the witness has
signed of that log before. Who trusts the witness then knows that there is one
history, and that it was not shortened. It speaks C2SP tlog-witness, so logs other
than Trailgate's can be witnessed, too.

It is run by somebody other than who runs the gateway, on another machine: a
witness that the log's owner can change proves nothing. It needs hardly any disk or
CPU. What it signed last is on its disk before a signature leaves it; it does not
start where that memory is missing, and never from an older backup of it: rather
make a new witness.

A log that shows two histories is refused, and both signed checkpoints are kept
in DIR/evidence. "trailgate witness init" makes the directory.`,
		Example: `  # At the auditor's, once
  trailgate witness init --dir /var/lib/witness --name witness.example.com/w1 --log log.pub
  trailgate witness --dir /var/lib/witness --listen 0.0.0.0:8480

  # At the gateway: a policy that needs two of three, and trail.witnesses.policy_file
  cat >witnesses.policy <<'END'
  witness w1 witness.example.com/w1+1a2b3c4d+BDXe... https://witness.example.com:8480
  ...
  group us 2 w1 w2 w3
  quorum us
  END`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.witness(cmd.Context(), o) },
	}
	cmd.Flags().StringVar(&o.dir, "dir", ".", "the witness's `DIR`")
	cmd.Flags().StringVar(&o.listen, "listen", "127.0.0.1:8480", "`ADDRESS` to listen on")
	cmd.Flags().StringVar(&o.cert, "tls-cert", "", "`FILE` with a certificate (PEM); without one it speaks plain HTTP")
	cmd.Flags().StringVar(&o.key, "tls-key", "", "`FILE` with its key")
	cmd.Flags().StringVar(&o.prefix, "prefix", "", "`PATH` below which it answers, such as /w1")
	cmd.Flags().Float64Var(&o.limits.PerSecond, "rate", 20, "`REQUESTS` a second that one address may make")
	must(cmd.MarkFlagDirname("dir"))
	for _, name := range []string{"listen", "prefix", "rate"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	cmd.AddCommand(newWitnessInit(c))
	return cmd
}

func newWitnessInit(c *cli) *cobra.Command {
	var dir, name string
	var logs []string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a witness: its key, and an empty memory",
		Long: `Init makes a witness's directory: its key, its empty memory, and the list of logs
that it cosigns for. It prints the verifier key, which logs and auditors put into
their policies. It refuses where there is a witness already.`,
		Example: `  trailgate witness init --dir /var/lib/witness --name witness.example.com/w1 --log log.pub`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if name == "" {
				return usagef("witness init: give the witness a name with --name, unique in the world, such as witness.example.com/w1")
			}
			text := witnessLogsText
			for _, file := range logs {
				raw, err := os.ReadFile(file)
				if err != nil {
					return fmt.Errorf("read a log's key: %w", err)
				}
				if _, err := readWitnessLogs(file, raw); err != nil {
					return err
				}
				text += strings.TrimSpace(string(raw)) + "\n"
			}
			path := filepath.Join(dir, witnessLogs)
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w: %s", witness.ErrExists, path)
			}
			vkey, err := witness.Init(dir, name)
			if err != nil {
				return err
			}
			if err := (&durable.FS{}).WriteFile(path, []byte(text), 0o644); err != nil {
				return fmt.Errorf("make a witness: %w", err)
			}
			if _, err := fmt.Fprintln(c.out, vkey); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.err, "Made a witness in %s. Above is its public key, for policies:\n  witness NAME KEY URL\nThe logs it cosigns for are in %s; start it with\n  trailgate witness --dir %s\n", dir, path, posixQuote(dir))
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "`DIR` for the witness")
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of its key, a URL without the scheme; required")
	cmd.Flags().StringArrayVar(&logs, "log", nil, "`FILE` with the public key of a log to cosign for; repeat it")
	must(cmd.MarkFlagDirname("dir"))
	must(cmd.RegisterFlagCompletionFunc("name", cobra.NoFileCompletions))
	return cmd
}

type witnessOptions struct {
	dir, listen, cert, key, prefix string
	limits                         witness.Limits
}

// readWitnessLogs reads verifier keys, one a line.
func readWitnessLogs(path string, raw []byte) ([]note.Verifier, error) {
	var keys []note.Verifier
	n := 0
	for line := range strings.Lines(string(raw)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		v, err := note.NewVerifier(line)
		if err != nil {
			return nil, usagef("%s:%d: not a log's verifier key: %w", path, n, err)
		}
		keys = append(keys, v)
	}
	return keys, nil
}

// witness runs one until a signal.
func (c *cli) witness(ctx context.Context, o witnessOptions) error {
	if (o.cert == "") != (o.key == "") {
		return usagef("witness: name both --tls-cert and --tls-key, or neither")
	}
	path := filepath.Join(o.dir, witnessLogs)
	raw, err := os.ReadFile(path)
	if err != nil {
		return hinted(fmt.Errorf("witness: %w", err), `"trailgate witness init" makes a witness; --dir says where it is`)
	}
	keys, err := readWitnessLogs(path, raw)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return usagef("%s names no log: put the verifier key of one there", path)
	}
	log, _ := newLog(c.err, config.Log{Level: "info", Format: "text"})
	w, err := witness.Open(witness.Options{Dir: o.dir, Logs: keys, Log: log})
	switch {
	case errors.Is(err, witness.ErrMemory):
		return &exitError{code: exitEvidence, err: err, hint: "a witness that forgot what it signed could sign the opposite"}
	case errors.Is(err, durable.ErrLocked):
		return hinted(err, "another witness runs on this directory; two must not share it")
	case err != nil:
		return err
	}
	defer func() { _ = w.Close() }() // gives back a lock
	signals, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	d, err := listenTCP("logs", o.listen, config.TLS{CertFile: config.Path(o.cert), KeyFile: config.Path(o.key)})
	if err != nil {
		return err
	}
	d.handle(context.WithoutCancel(ctx), w.Handler(o.prefix, o.limits), log)
	d.server.ReadTimeout, d.server.WriteTimeout = readHeaderTimeout, 2*readHeaderTimeout
	served := make(chan error, 1)
	go func() { served <- d.serve() }()
	if _, err := fmt.Fprintf(c.err, "trailgate witness: ready\n  at      %s\n  key     %s\n  logs    %s\n", d.url()+strings.TrimSuffix("/"+strings.Trim(o.prefix, "/"), "/"), w.Key(), visible(strings.Join(w.Origins(), " "))); err != nil {
		return errors.Join(err, d.server.Close(), <-served)
	}
	select {
	case err := <-served:
		return err
	case <-signals.Done():
	}
	stop() // a second signal ends it at once, which loses nothing
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), witnessGrace)
	defer cancel()
	if d.server.Shutdown(grace) != nil {
		_ = d.server.Close() // cuts what did not end; there is nothing else to do
	}
	return <-served
}

// witnessGrace is how long requests may take when a witness stops.
const witnessGrace = 5 * time.Second
