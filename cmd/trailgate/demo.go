package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/policy"
	"github.com/trailgate/trailgate/internal/sandbox"
	"github.com/trailgate/trailgate/internal/trail"
)

func newDemo(c *cli) *cobra.Command {
	d := demo{cli: c}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it work: a gateway, a sandbox in place of BigQuery, two agents",
		Long: `Demo runs a gateway in front of a sandbox that stands in for BigQuery, with sample
data and two agents, etl-bot and analyst-bot, and prints what to paste into another
terminal. It runs until ^C. Nothing leaves this machine.

A fresh trail begins with a week that is made up, so that there is something to
search, to replay and to decide: agents and humans with sample names, whose calls
were made to a sandbox with the clock set back. An entry says so before it.

Everything is kept in one directory; run again, it goes on with the same trail.
The sandbox's data is made anew each time.`,
		Example: `  trailgate demo
  trailgate demo --dir /tmp/demo --listen 127.0.0.1:9470 --admin-listen 127.0.0.1:9471`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return d.run(cmd.Context()) },
	}
	defaults := config.Default()
	cmd.Flags().StringVar(&d.dir, "dir", "trailgate-demo", "`DIR` for everything")
	cmd.Flags().StringVar(&d.listen, "listen", defaults.Gateway.Listen, "`ADDRESS` for agents")
	cmd.Flags().StringVar(&d.adminListen, "admin-listen", defaults.Admin.Listen, "`ADDRESS` for humans")
	cmd.Flags().BoolVar(&d.week, "history", true, "begin a fresh trail with a made-up week")
	must(cmd.MarkFlagDirname("dir"))
	must(cmd.RegisterFlagCompletionFunc("listen", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("admin-listen", cobra.NoFileCompletions))
	return cmd
}

// demo is one run of the demonstration.
type demo struct {
	cli                      *cli
	dir, listen, adminListen string
	week                     bool // a fresh trail begins with one
}

var demoAgents = []struct{ name, note string }{
	{"etl-bot", "loads and cleans the staging data"},
	{"analyst-bot", "answers questions about orders"},
}

// demoMark is the first line of the configuration that the demo writes; it
// overwrites no other.
const demoMark = "# Written by \"trailgate demo\", anew at each start."

// demoTokenTTL is long enough for an afternoon of looking around, or a week.
const demoTokenTTL = 30 * 24 * time.Hour

func (d *demo) run(ctx context.Context) (err error) {
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	configPath := filepath.Join(d.dir, config.DefaultName)
	fresh, err := d.check(configPath)
	if err != nil {
		return err
	}

	if err := d.probe(configPath); err != nil {
		return err
	}
	upstream, stop, err := startSandbox(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	text := d.config(upstream)
	cfg, err := config.Parse(configPath, []byte(text))
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if fresh {
		trail.RedirectTesseraLogs(slog.New(slog.DiscardHandler)) // its news is ours to tell
		if _, err := initialise(ctx, d.dir, text, cfg.ID, nil, nil); err != nil {
			return err
		}
	} else if err := replaceFile(configPath, text, 0o644); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	for name, text := range map[string]string{demoPolicyName: demoPolicy, starterPolicyName: string(policy.Starter())} {
		if err := replaceFile(filepath.Join(d.dir, name), text, 0o600); err != nil {
			return err
		}
	}
	if fresh && d.week {
		if err := d.history(ctx, configPath, time.Now()); err != nil {
			return fmt.Errorf("demo: make up a history: %w", err)
		}
	}
	if err := replaceFile(filepath.Join(d.dir, sandboxTokenName), upstream.token+"\n", 0o600); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if cfg, err = config.Load(configPath); err != nil {
		return err
	}
	return d.cli.serve(ctx, cfg, func(ctx context.Context, g *gatewayProcess) error {
		if err := d.agents(ctx, g); err != nil {
			return err
		}
		return d.tell(g)
	})
}

// probe finds out, before anything is written, whether the addresses are good
// and free.
func (d *demo) probe(configPath string) error {
	if _, err := config.Parse(configPath, []byte(d.config(&runningSandbox{url: "http://127.0.0.1:1"}))); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	for name, address := range map[string]string{"--listen": d.listen, "--admin-listen": d.adminListen} {
		if address == "off" {
			continue
		}
		l, err := listenTCP(name, address, config.TLS{})
		if err != nil {
			return err
		}
		if err := l.listener.Close(); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
	}
	return nil
}

// check finds out whether the directory is new, or an earlier demo's.
func (d *demo) check(configPath string) (fresh bool, err error) {
	raw, err := os.ReadFile(configPath)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("demo: %w", err)
	case !strings.HasPrefix(string(raw), demoMark+"\n"):
		return false, hinted(fmt.Errorf("demo: %s is the configuration of a gateway and not of a demo", configPath), "choose another directory with --dir")
	}
	return false, nil
}

// Files that the demo's configuration names.
const (
	sandboxTokenName  = "sandbox.token"
	demoPolicyName    = "demo-policy.yaml"
	starterPolicyName = "starter-policy.yaml"
)

// demoPolicy stands before the starter policy, which asks a human about every change.
const demoPolicy = `# The demo's own rule, before those of the starter policy.
version: 1
rules:
  - name: etl-writes-staging
    when: principal.agent == "etl-bot" && class in ["write", "metadata_change"] && !risky && tables.written.within("staging.*")
    allow: {maximum_bytes_billed: 100GB}
`

// config is the demo's configuration.
func (d *demo) config(s *runningSandbox) string {
	return fmt.Sprintf(`%s
id: demo
demo: true
gateway:
  listen: %q
admin:
  listen: %q
policy:
  files: [%s, %s]
connections:
  - name: sandbox
    projects: [%s]
    upstream: %q
    credential:
      mode: static
      token_file: %s
    recording:
      level: results
    reconcile:
      credential:
        mode: static
        token_file: %s
reconcile:
  every: 1m
  grace: 30s
shutdown:
  drain_timeout: 10s
trail:
  segment_bytes: 4MiB
log:
  level: warn
`, demoMark, d.listen, d.adminListen, demoPolicyName, starterPolicyName, sandbox.DefaultProject, s.url, sandboxTokenName, sandboxTokenName)
}

// runningSandbox is a sandbox that listens on a port of its own.
type runningSandbox struct {
	url, token string
}

// startSandbox makes a sandbox with sample data and serves it on a free
// loopback port, to whom knows its token alone.
func startSandbox(ctx context.Context) (*runningSandbox, func() error, error) {
	s := &runningSandbox{token: "sandbox-" + randomHex(32)}
	box, err := sandbox.New(sandbox.Config{
		Principals: map[string]string{s.token: "gateway@" + sandbox.DefaultProject + ".iam.gserviceaccount.com"},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("start the sandbox: %w", err)
	}
	if err := box.Seed(ctx); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("fill the sandbox: %w", err), box.Close())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start the sandbox: %w", err), box.Close())
	}
	s.url = "http://" + l.Addr().String()
	server := &http.Server{
		Handler: box, ReadHeaderTimeout: readHeaderTimeout,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	return s, func() error {
		err := server.Close()
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return errors.Join(err, box.Close())
	}, nil
}

// agents makes the agents and their token files, through the gateway that has
// just come up, as a person would. What an earlier demo made is kept while it
// works.
func (d *demo) agents(ctx context.Context, g *gatewayProcess) error {
	r, err := overSocket(g.cfg, filepath.Join(g.cfg.DataDir.String(), socketName))
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer r.Client.Close()
	if err := os.MkdirAll(filepath.Join(d.dir, "agents"), 0o700); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	for _, agent := range demoAgents {
		if _, err := g.parts.agents.Agent(agent.name); errors.Is(err, identity.ErrNoAgent) {
			if _, err := r.AddAgent(ctx, agent.name, agent.note); err != nil {
				return fmt.Errorf("demo: %w", err)
			}
		}
		if raw, err := os.ReadFile(d.tokenFile(agent.name)); err == nil {
			if _, err := g.parts.agents.Authenticate(strings.TrimSpace(string(raw))); err == nil {
				continue
			}
		}
		token, err := r.IssueToken(ctx, agent.name, client.TokenOptions{TTL: demoTokenTTL, Note: "demo"})
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		if err := replaceFile(d.tokenFile(agent.name), token.Secret+"\n", 0o600); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
	}
	return nil
}

func (d *demo) tokenFile(agent string) string {
	return filepath.Join(d.dir, "agents", agent+".token")
}

// tell prints what to paste.
func (d *demo) tell(g *gatewayProcess) error {
	trailgate := self(d.dir)
	humans := "off"
	for _, door := range g.doors {
		if door.name == doorHumans {
			humans = door.url()
		}
	}
	_, err := fmt.Fprintf(d.cli.out, demoText,
		g.publicURL, humans, posixQuote(d.dir), sandbox.DefaultProject, g.publicURL,
		trailgate, posixQuote(d.dir), trailgate, trailgate, trailgate, trailgate, trailgate)
	return err
}

const demoText = `Trailgate is up. Agents: %s  humans: %s
A sandbox with sample data stands in for BigQuery.

Paste into another terminal, to be two agents:

  cd %s
  export CLOUDSDK_CORE_PROJECT=%s CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERY=%s/

  export CLOUDSDK_AUTH_ACCESS_TOKEN_FILE=agents/etl-bot.token
  bq query --use_legacy_sql=false 'DELETE FROM staging.imports WHERE batch_id = 42'

  export CLOUDSDK_AUTH_ACCESS_TOKEN_FILE=agents/analyst-bot.token
  bq query --use_legacy_sql=false 'SELECT COUNT(*) AS n FROM staging.imports'
  bq ls

or, with a token and an environment for one command alone:

  %s run --agent analyst-bot -- bq head -n 3 staging.imports

What analyst-bot wants to change waits for you, in a third terminal:

  bq query --use_legacy_sql=false 'DELETE FROM analytics.orders WHERE status = "returned"'

  cd %s && %s approval list      # then: approval show ID, approval approve ID

Then find out who did what, and prove it:

  %s search
  %s search --class write --table 'staging.*'
  %s show --proof ID      # an ID from above
  %s verify

^C ends it; the trail stays, and the next demo goes on with it.
`

// self is how this program can be called from dir.
func self(dir string) string {
	exe, err := os.Executable()
	if err != nil {
		return "trailgate"
	}
	if found, err := exec.LookPath("trailgate"); err == nil {
		if same, err := sameFile(found, exe); err == nil && same {
			return "trailgate"
		}
	}
	up := ".." + string(filepath.Separator)
	if rel, err := filepath.Rel(dir, exe); err == nil && !strings.HasPrefix(rel, up+up) {
		if !strings.HasPrefix(rel, up) {
			rel = "." + string(filepath.Separator) + rel
		}
		return posixQuote(rel)
	}
	return posixQuote(exe)
}

func sameFile(a, b string) (bool, error) {
	ia, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	ib, err := os.Stat(b)
	if err != nil {
		return false, err
	}
	return os.SameFile(ia, ib), nil
}

// replaceFile writes a file whole or not at all.
func replaceFile(path, text string, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".trailgate-*") // 0600
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}
