package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/config"
)

const rootHelp = `Trailgate stands between AI agents and BigQuery. Agents reach BigQuery through
it alone, each with its own token; every call is in a tamper-evident trail
before it has an effect, and can be searched and proven afterwards.`

const rootExample = `  # See it work, with a sandbox in place of BigQuery
  trailgate demo

  # Set up a gateway, let an agent in, and run it
  trailgate init
  trailgate agent add etl-bot
  trailgate serve

  # Who changed what in the staging dataset since yesterday?
  trailgate search --class write --table 'staging.*' --since 24h`

// newRoot puts the commands together.
func newRoot(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:           "trailgate",
		Short:         "An audit gateway for BigQuery",
		Long:          rootHelp,
		Example:       rootExample,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE:          parentOnly,
	}
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &exitError{code: exitUsage, err: err, hint: "see: " + cmd.CommandPath() + " --help"}
	})
	root.PersistentFlags().StringVar(&c.configPath, "config", config.DefaultName, "configuration `FILE`")
	root.PersistentFlags().StringVar(&c.server, "server", "", "admin `URL` of a gateway elsewhere; its token is in TRAILGATE_ADMIN_TOKEN")
	must(root.MarkPersistentFlagFilename("config", "yaml", "yml"))
	must(root.RegisterFlagCompletionFunc("server", cobra.NoFileCompletions))

	const running, agents, trail, other = "running", "agents", "trail", "other"
	root.AddGroup(
		&cobra.Group{ID: running, Title: "Run a gateway:"},
		&cobra.Group{ID: agents, Title: "Agents:"},
		&cobra.Group{ID: trail, Title: "The trail:"},
		&cobra.Group{ID: other, Title: "Other:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, cmd := range commands {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add(running, newInit(c), newServe(c), newDoctor(c), newHealth(c), newConnector(c), newTLS(c), newWitness(c), newDemo(c))
	add(agents, newAgent(c), newRun(c), newEnv(c))
	add(agents, newPolicy(c), newApproval(c))
	add(trail, newSearch(c), newShow(c), newStats(c), newSession(c), newBrowse(c), newVerify(c), newBundle(c), newReconcile(c), newExport(c))
	add(trail, newLogCommand(c), newIndex(c), newRetention(c))
	add(other, newVersion(c))
	root.SetHelpCommandGroupID(other)
	root.SetCompletionCommandGroupID(other)
	usageErrors(root)
	return root
}

// parentOnly is what a command does that only holds others.
func parentOnly(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	e := &exitError{code: exitUsage, hint: "see: " + cmd.CommandPath() + " --help"}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		e.hint = "did you mean: " + cmd.CommandPath() + " " + strings.Join(near, ", ")
	}
	e.err = usagef("%s: unknown command %q", cmd.CommandPath(), args[0])
	return e
}

// usageErrors gives every complaint about arguments the exit code of one.
func usageErrors(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &exitError{code: exitUsage, err: err, hint: "see: " + cmd.CommandPath() + " --help"}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		usageErrors(sub)
	}
}
