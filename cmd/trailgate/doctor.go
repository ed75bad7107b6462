package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/federation"
)

func newDoctor(c *cli) *cobra.Command {
	var connection, agent, human, form string
	var road directOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what is wrong, and what mends it",
		Long: `Doctor checks a gateway from end to end: the configuration, the data directory and
the files with secrets, certificates and how long they hold, whether the gateway
runs and its trail records, whether agents' address answers, whether the keys of
issuers can be had and BigQuery be reached, and the clock. Connections whose
credential all agents share are pointed out.

With --as it walks the way to Google as that agent, over one --connection or all
of them, step by step, past the cache, on the running gateway; what is minted is
thrown away, and the attempt is an entry. --human says on whose behalf, which
connections of mode "oauth" need.

With --direct it tries, from where it runs, whether BigQuery can be used past the
gateway: whether the network leads there, which Google credentials a process finds
there, and whether BigQuery takes them. Run it where agents run and as they run; it
needs no configuration and asks no gateway. An open road is a failure, with the
changes of IAM and VPC Service Controls that close it. It changes nothing and reads
no data; the gateway's own tokens are not sent anywhere.

Each failure comes with the command or the change that mends it. The exit code is
1 where something failed. With --server the gateway elsewhere is asked, and no
file is looked at.`,
		Example: `  trailgate doctor
  trailgate doctor --connection analytics --as etl-bot
  trailgate doctor --connection personal --as analyst-bot --human ada@example.com
  trailgate run --agent etl-bot -- trailgate doctor --direct --project my-project
  trailgate doctor -o json | jq -r '.checks[] | select(.ok | not) | .fix'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !road.on && len(road.upstreams)+len(road.projects) > 0 {
				return usagef("doctor: --upstream and --project belong to --direct")
			}
			if road.on && (agent != "" || c.server != "") {
				return usagef("doctor: --direct asks no gateway, so it goes with neither --as nor --server")
			}
			if agent == "" && (connection != "" || human != "") {
				return usagef("doctor: say as which agent with --as; connections have a credential for each")
			}
			d := &doctor{c: c, now: time.Now}
			if road.on {
				if err := road.prepare(c.getenv); err != nil {
					return err
				}
				home, _ := os.UserHomeDir() // without one there are no files in it
				d.direct(cmd.Context(), &road, federation.Place{Getenv: c.getenv, Home: home})
			} else {
				d.examine(cmd.Context(), connection, agent, human)
			}
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			if err := d.print(c.out, form); err != nil {
				return err
			}
			if n := d.failed(); n > 0 {
				return fmt.Errorf("%d of %d checks failed", n, len(d.checks))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&connection, "connection", "", "walk the way of this `CONNECTION` (default: of all), with --as")
	cmd.Flags().StringVar(&agent, "as", "", "the `AGENT` as which to walk it")
	cmd.Flags().StringVar(&human, "human", "", "the `EMAIL` of the human on whose behalf")
	cmd.Flags().BoolVar(&road.on, "direct", false, "try from here whether BigQuery can be used past the gateway")
	cmd.Flags().StringSliceVar(&road.projects, "project", nil, "try this `PROJECT`, with --direct (default: the environment's, or what BigQuery lists)")
	cmd.Flags().StringSliceVar(&road.upstreams, "upstream", nil, "try this `URL`, with --direct (default: Google's)")
	outputFlag(cmd, &form, "table", "json")
	must(cmd.RegisterFlagCompletionFunc("connection", c.completeConnections))
	must(cmd.RegisterFlagCompletionFunc("as", func(cmd *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return c.completeAgents(cmd, nil, typed)
	}))
	for _, name := range []string{"human", "project", "upstream"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	return cmd
}

// finding is the outcome of one check. A fix beside OK is advice.
type finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

// checkTimeout bounds what one check waits for another machine.
const checkTimeout = 10 * time.Second

// doctor gathers findings. It looks, and changes nothing but the trail, which
// has an entry of what was asked of the gateway.
type doctor struct {
	c      *cli
	now    func() time.Time
	cfg    *config.Config // nil with --server, and where it has mistakes
	info   *client.Gateway
	checks []finding
}

func (d *doctor) good(name, format string, args ...any) {
	d.checks = append(d.checks, finding{Name: name, OK: true, Detail: fmt.Sprintf(format, args...)})
}

// advise is good with a word on what could be better.
func (d *doctor) advise(name, detail, fix string) {
	d.checks = append(d.checks, finding{Name: name, OK: true, Detail: detail, Fix: fix})
}

// bad records what failed. Where the error knows the next step, that is the fix.
func (d *doctor) bad(name string, err error, fix string) {
	if e, ok := errors.AsType[*exitError](err); ok && e.hint != "" {
		fix = e.hint
	}
	d.checks = append(d.checks, finding{Name: name, Detail: err.Error(), Fix: fix})
}

func (d *doctor) failed() (n int) {
	for _, f := range d.checks {
		if !f.OK {
			n++
		}
	}
	return n
}

// examine makes all checks, in the order in which one mending makes the next
// worth looking at.
func (d *doctor) examine(ctx context.Context, connection, agent, human string) {
	if d.c.server == "" && !d.configuration() {
		return
	}
	if d.cfg != nil {
		d.dataDirectory()
		d.secrets()
		d.certificates()
		d.policy()
	}
	err := d.c.withIndex(ctx, false, func(r *remote) error {
		if err := d.gateway(ctx, r); err != nil {
			return err
		}
		if r.live() {
			d.listener(ctx)
		}
		d.witnesses()
		if d.cfg != nil {
			d.issuers(ctx)
		}
		d.connections(ctx, r)
		d.clock(ctx, r)
		if agent != "" {
			d.walk(ctx, r, connection, agent, human)
		}
		return nil
	})
	if err != nil {
		d.bad("gateway", explainAPI(err), "see the gateway's own log on stderr; trailgate verify"+d.at()+" tells whether its log is whole")
	}
}

// at is how commands are told which configuration is meant.
func (d *doctor) at() string {
	switch {
	case d.c.server != "":
		return " --server " + posixQuote(d.c.server)
	case d.c.configPath != config.DefaultName:
		return " --config " + posixQuote(d.c.configPath)
	}
	return ""
}

// configuration reads the file; every mistake is a finding.
func (d *doctor) configuration() bool {
	const name = "configuration"
	cfg, err := d.c.config()
	if mistakes, ok := errors.AsType[config.Errors](err); ok {
		for _, m := range mistakes {
			where := d.c.configPath
			if m.Line > 0 {
				where = fmt.Sprintf("line %d of %s", m.Line, where)
			}
			d.bad(name, m, "correct "+where+"; trailgate init in an empty directory writes one with every key explained")
		}
		return false
	}
	if err != nil {
		d.bad(name, err, "trailgate init makes one; --config names one that is elsewhere")
		return false
	}
	d.cfg = cfg
	if len(cfg.Connections) == 0 {
		d.bad(name, fmt.Errorf("%s: there are no connections, so the gateway has nowhere to send calls", cfg.Path), "copy an example in the file, put your project in it, and start the gateway")
		return true
	}
	d.good(name, "%s, %d connections", cfg.Path, len(cfg.Connections))
	return true
}

// walk tries connections' way to Google as an agent.
func (d *doctor) walk(ctx context.Context, r *remote, connection, agent, human string) {
	names := []string{connection}
	if connection == "" {
		names = nil
		for _, c := range d.info.Connections {
			names = append(names, c.Name)
		}
	}
	for _, name := range names {
		prefix := fmt.Sprintf("%s as %s: ", name, agent)
		steps, err := r.CheckConnection(ctx, name, agent, human)
		if err != nil {
			d.bad(prefix+"the check", err, d.whyUnchecked(r, err, agent, name))
			continue
		}
		for _, s := range steps {
			d.checks = append(d.checks, finding{Name: prefix + s.Name, OK: s.OK, Detail: s.Detail, Fix: s.Fix})
		}
	}
}

// whyUnchecked says what to do where the gateway could not begin to try.
func (d *doctor) whyUnchecked(r *remote, err error, agent, connection string) string {
	known := slices.ContainsFunc(d.info.Connections, func(c client.Connection) bool { return c.Name == connection })
	switch e, ok := errors.AsType[*client.Error](err); {
	case !r.live():
		return "start the gateway, which alone has the credentials: trailgate serve" + d.at()
	case ok && e.Code == 404 && !known:
		var names []string
		for _, c := range d.info.Connections {
			names = append(names, c.Name)
		}
		return "there is " + strings.Join(names, ", ")
	case ok && e.Code == 404:
		return "trailgate agent add " + posixQuote(agent) + d.at()
	}
	return "see the gateway's own log on stderr"
}

// print shows the findings.
func (d *doctor) print(w io.Writer, form string) error {
	if form == "json" {
		return printJSON(w, struct {
			Checks []finding `json:"checks"`
		}{d.checks}, form)
	}
	for _, f := range d.checks {
		mark := "ok  "
		switch {
		case !f.OK:
			mark = "FAIL"
		case f.Fix != "":
			mark = "note"
		}
		text := mark + "  " + visible(f.Name)
		if f.Detail != "" {
			text += ": " + visible(f.Detail)
		}
		if f.Fix != "" {
			text += "\n        " + strings.ReplaceAll(visibleLines(strings.TrimSpace(f.Fix)), "\n", "\n        ")
		}
		if _, err := io.WriteString(w, text+"\n"); err != nil {
			return err
		}
	}
	return nil
}
