package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/connector"
)

func newConnector(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "connector --config F",
		Short: "Reach BigQuery from inside: run a connector, enrol and watch them",
		Long: `Without a subcommand, connector runs one: a process near the Google Cloud project
that dials out to the gateway and takes its calls from there. Nothing listens on its
side, it reaches only what its own configuration allows, and it signs a receipt for
each call, which is kept in the trail. Its --config is a file of its own, not the
gateway's; docs/connector.md explains it.

It runs until SIGTERM or SIGINT. Then it takes no more calls, lets those under way
finish (shutdown.drain_timeout, 30 s where nothing is set), and ends. It connects
again by itself, unless the gateway says why that is in vain (exit 4).

"enroll" gives a new connector its certificate. The other subcommands are for the
gateway's side.`,
		Example: `  # at the gateway
  trailgate connector enroll-token --connection lake
  # beside the project
  trailgate connector enroll --config connector.yaml --token-file token
  trailgate connector --config connector.yaml
  # at the gateway
  trailgate connector status`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("config") {
				return usagef("connector: name the connector's own configuration with --config; to see the gateway's connectors: trailgate connector status")
			}
			return c.runConnector(c.configPath)
		},
	}
	cmd.AddCommand(newConnectorToken(c), newConnectorEnroll(c), newConnectorStatus(c), newConnectorList(c), newConnectorRevoke(c), newConnectorCA(c))
	return cmd
}

func newConnectorToken(c *cli) *cobra.Command {
	var name, form string
	var connections []string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "enroll-token --connection C",
		Short: "Make a token with which one connector can enrol, once",
		Long: `Enroll-token prints a token, alone, on stdout. With it one connector gets a
certificate from the gateway, once. The token also names the gateway's authority, so
that the connector cannot be led to another. Its hash is kept, the token nowhere;
that it was made, and that it was used, are entries.

A name means one connector for ever, also when it is revoked. Without --name it is
the connection's with the first number that is free.`,
		Example: `  trailgate connector enroll-token --connection lake > token
  trailgate connector enroll-token --connection lake --name lake-eu-1 --ttl 15m`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(connections) == 0 {
				return usagef("enroll-token: say what the connector is for with --connection")
			}
			if ttl < time.Minute {
				return usagef("enroll-token: --ttl %v is shorter than a minute", ttl)
			}
			return c.with(cmd.Context(), func(r *remote) error {
				if name == "" {
					list, err := r.Connectors(cmd.Context())
					if err != nil {
						return explainAPI(err)
					}
					name = freeName(connections[0], list)
				}
				t, err := r.AddConnector(cmd.Context(), name, connections, ttl)
				if err != nil {
					return explainAPI(err)
				}
				if form != "text" {
					return printJSON(c.out, t, form)
				}
				fmt.Fprintf(c.err, "for connector %s, connection %s, until %s; it can be used once\n", t.Name, strings.Join(t.Connections, ", "), t.Expires.UTC().Format(time.RFC3339))
				_, err = fmt.Fprintln(c.out, t.Token)
				return err
			})
		},
	}
	cmd.Flags().StringArrayVar(&connections, "connection", nil, "`CONNECTION` that it may serve; repeat it")
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the connector (default: the connection's and a number)")
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long the token is good, at most 168h")
	must(cmd.RegisterFlagCompletionFunc("connection", c.completeConnections))
	must(cmd.RegisterFlagCompletionFunc("name", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("ttl", cobra.NoFileCompletions))
	outputFlag(cmd, &form, "text", "json")
	return cmd
}

// freeName is the first of NAME-1, NAME-2, … that no connector ever had.
func freeName(base string, taken []client.Connector) string {
	for n := 1; ; n++ {
		name := fmt.Sprintf("%.56s-%d", base, n)
		if !slices.ContainsFunc(taken, func(x client.Connector) bool { return x.Name == name }) {
			return name
		}
	}
}

func newConnectorStatus(c *cli) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the gateway's connectors stand",
		Long: `Status shows the connectors that take calls: since when, their version, calls under
way and done, bytes of answers, the last sign of life, and when their certificate
ends (it is renewed by itself). The exit code is 1 where a connection that goes
through connectors has none.`,
		Example: `  trailgate connector status
  trailgate connector status -o json | jq -r '.[] | select(.state != "connected") | .name'`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(r *remote) error {
				list, err := r.Connectors(cmd.Context())
				if err != nil {
					return explainAPI(err)
				}
				info, err := r.Gateway(cmd.Context())
				if err != nil {
					return explainAPI(err)
				}
				list = slices.DeleteFunc(list, func(x client.Connector) bool { return x.State == "revoked" })
				if err := printConnectors(c, form, list); err != nil {
					return err
				}
				var bare []string
				for _, conn := range info.Connections {
					if conn.Connectors && !slices.ContainsFunc(list, func(x client.Connector) bool {
						return x.State == "connected" && slices.Contains(x.Connections, conn.Name)
					}) {
						bare = append(bare, conn.Name)
					}
				}
				if len(bare) > 0 {
					return hinted(fmt.Errorf("no connector is connected for %s: calls there fail", strings.Join(bare, ", ")), "start one beside the project: trailgate connector --config F")
				}
				return nil
			})
		},
	}
	outputFlag(cmd, &form, "table", "json", "jsonl", "csv")
	return cmd
}

func newConnectorList(c *cli) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use:               "list",
		Short:             "List all connectors, revoked ones too",
		Example:           `  trailgate connector list`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(r *remote) error {
				list, err := r.Connectors(cmd.Context())
				if err != nil {
					return explainAPI(err)
				}
				return printConnectors(c, form, list)
			})
		},
	}
	outputFlag(cmd, &form, "table", "json", "jsonl", "csv")
	return cmd
}

func printConnectors(c *cli, form string, list []client.Connector) error {
	if len(list) == 0 && form == "table" {
		fmt.Fprintln(c.err, "there are no connectors; trailgate connector enroll-token lets one in")
		return nil
	}
	moment := func(t *time.Time) string {
		if t == nil {
			return "-"
		}
		return t.UTC().Format(time.RFC3339)
	}
	cells := make([][]string, 0, len(list))
	for _, x := range list {
		cells = append(cells, []string{
			x.Name, x.State, strings.Join(x.Connections, ","), orDash(x.Build), moment(x.Since), moment(x.LastBeat), fmt.Sprint(x.Streams), fmt.Sprint(x.Calls),
			bytesText(x.Bytes), moment(x.CertExpires),
		})
	}
	return printList(c.out, form, []string{"connector", "state", "connections", "version", "since", "last sign", "under way", "calls", "bytes", "certificate ends"}, cells, list)
}

func newConnectorRevoke(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME",
		Short: "Shut a connector out, at once and for good",
		Long: `Revoke ends a connector: its tunnels are cut, its certificate is refused from now
on, and so is the enrolment token of one that has not enrolled yet. It is not undone;
enrol another under another name. Calls that were on its tunnels are settled by asking
BigQuery, through another connector.`,
		Example:           `  trailgate connector revoke lake-1`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeConnectors,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(r *remote) error {
				cut, err := r.RevokeConnector(cmd.Context(), args[0])
				if err != nil {
					return explainAPI(err)
				}
				fmt.Fprintf(c.err, "revoked %s; %d tunnels were cut\n", visible(args[0]), cut)
				return nil
			})
		},
	}
}

// completeConnectors offers the connectors of the data directory.
func (c *cli) completeConnectors(_ *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	cfg, err := c.config()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := connector.OpenRegistry(filepath.Join(cfg.DataDir.String(), connectorsFileName), time.Now)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, x := range list.Status() {
		if strings.HasPrefix(x.Name, typed) && x.Revoked == nil {
			names = append(names, x.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
