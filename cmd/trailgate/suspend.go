package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// scopeFlags say who is meant: an agent by name, a connection, or everybody.
type scopeFlags struct {
	connection string
	all        bool
}

func (s *scopeFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.connection, "connection", "", "all calls over this `CONNECTION`, instead of an agent's")
	cmd.Flags().BoolVar(&s.all, "all", false, "all calls of all agents")
	must(cmd.RegisterFlagCompletionFunc("connection", cobra.NoFileCompletions))
}

func (s *scopeFlags) scope(verb string, args []string) (scope, name string, err error) {
	given := len(args)
	if s.connection != "" {
		given++
	}
	if s.all {
		given++
	}
	switch {
	case given != 1:
		return "", "", usagef("%s: name one agent, or --connection, or --all", verb)
	case s.all:
		return "all", "", nil
	case s.connection != "":
		return "connection", s.connection, nil
	}
	return "agent", args[0], nil
}

func whom(scope, name string) string {
	if scope == "all" {
		return "all agents"
	}
	return scope + " " + name
}

func newAgentSuspend(c *cli) *cobra.Command {
	var s scopeFlags
	var reason, form string
	var cancel bool
	cmd := &cobra.Command{
		Use:   "suspend NAME | --connection C | --all",
		Short: "The kill switch: no calls until they are resumed",
		Long: `Suspend ends an agent's calls at once, or all calls over a connection, or all calls:
the next one is denied, those under way are cut, what waits for approval is
withdrawn. Credentials stay as they are; "agent resume" brings all back, and a
restart of the gateway does not.

With --cancel-jobs BigQuery is asked to cancel their jobs too, each as its agent:
those that were begun since the gateway's last start and were not seen finished,
those of calls that were cut, and of those that were begun in the day before that
start the ones that BigQuery says are running.`,
		Example: `  trailgate agent suspend etl-bot --reason "deletes what it should not" --cancel-jobs
  trailgate agent suspend --connection lake
  trailgate agent suspend --all --reason "incident 4711"`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, name, err := s.scope("suspend", args)
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(r *remote) error {
				done, err := r.Suspend(cmd.Context(), scope, name, reason, cancel)
				if err != nil {
					return explainAPI(err)
				}
				if form != "text" {
					return printJSON(c.out, done, form)
				}
				fmt.Fprintf(c.err, "suspended %s: %d calls under way were cut, %d that waited for approval withdrawn\n", visible(whom(scope, name)), done.Cut, done.Withdrawn)
				failed := 0
				for _, j := range done.Cancelled {
					word := "cancelled"
					if j.Error != "" {
						word, failed = "not cancelled: "+j.Error, failed+1
					}
					fmt.Fprintf(c.err, "  job %s:%s of %s: %s\n", visible(j.Project), visible(j.Job), visible(j.Agent), visible(word))
				}
				if done.Error != "" || failed > 0 {
					return &exitError{code: exitFailed, err: fmt.Errorf("the suspension is in force, but not all that goes with it was done: %s", orDash(done.Error))}
				}
				return nil
			})
		},
	}
	s.register(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` that agents are told")
	cmd.Flags().BoolVar(&cancel, "cancel-jobs", false, "have BigQuery cancel running jobs")
	must(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	outputFlag(cmd, &form, "text", "json")
	return cmd
}

func newAgentResume(c *cli) *cobra.Command {
	var s scopeFlags
	cmd := &cobra.Command{
		Use:   "resume NAME | --connection C | --all",
		Short: "End a suspension",
		Example: `  trailgate agent resume etl-bot
  trailgate agent resume --all        # the suspension of all; others stay`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, name, err := s.scope("resume", args)
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(r *remote) error {
				if _, err := r.Resume(cmd.Context(), scope, name); err != nil {
					return explainAPI(err)
				}
				fmt.Fprintf(c.err, "resumed %s\n", visible(whom(scope, name)))
				return nil
			})
		},
	}
	s.register(cmd)
	return cmd
}

func newAgentSuspended(c *cli) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use:               "suspended",
		Short:             "List who is suspended",
		Example:           `  trailgate agent suspended`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(r *remote) error {
				list, err := r.Suspensions(cmd.Context())
				if err != nil {
					return explainAPI(err)
				}
				if len(list) == 0 && form == "table" {
					fmt.Fprintln(c.err, "nobody is suspended")
					return nil
				}
				cells := make([][]string, 0, len(list))
				for _, x := range list {
					cells = append(cells, []string{whom(x.Scope, x.Name), x.Since.UTC().Format(time.RFC3339), x.By, x.Reason})
				}
				return printList(c.out, form, []string{"suspended", "since", "by", "reason"}, cells, list)
			})
		},
	}
	outputFlag(cmd, &form, "table", "json", "jsonl", "csv")
	return cmd
}

func newPolicyBudgets(c *cli) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use:   "budgets",
		Short: "Show how much of each budget is used",
		Long: `Budgets shows, for the present period, what was billed and what running queries may
yet be billed ("reserved"), of each budget and whoever counts in it.`,
		Example:           `  trailgate policy budgets`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(r *remote) error {
				list, err := r.Budgets(cmd.Context())
				if err != nil {
					return explainAPI(err)
				}
				cells := make([][]string, 0, len(list))
				for _, b := range list {
					note := ""
					if b.Warning {
						note = "warning"
					}
					cells = append(cells, []string{b.Budget, orDash(b.Scope), bytesText(b.Limit), bytesText(b.Used), bytesText(b.Reserved), b.Turns.UTC().Format(time.RFC3339), note})
				}
				return printList(c.out, form, []string{"budget", "whose", "limit", "used", "reserved", "turns", "note"}, cells, list)
			})
		},
	}
	outputFlag(cmd, &form, "table", "json", "jsonl", "csv")
	return cmd
}

func newPolicyReload(c *cli) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the gateway read its policy again",
		Long: `Reload does what SIGHUP does: policy files, budgets, certificates and log level are
read again. A policy with a mistake changes nothing.`,
		Example:           `  trailgate policy check && trailgate policy reload`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(r *remote) error {
				done, err := r.ReloadPolicy(cmd.Context())
				if err != nil {
					return explainAPI(err)
				}
				if form != "text" {
					return printJSON(c.out, done, form)
				}
				switch {
				case done.Digest == done.Previous:
					fmt.Fprintln(c.err, "reloaded; the policy is the same")
				default:
					fmt.Fprintf(c.err, "reloaded; the policy is %s\n", orDash(done.Digest))
					for _, change := range done.Changes {
						fmt.Fprintf(c.err, "  %s\n", visible(change))
					}
				}
				for _, key := range done.NeedsRestart {
					fmt.Fprintf(c.err, "  %s changed and needs a restart\n", visible(key))
				}
				return nil
			})
		},
	}
	outputFlag(cmd, &form, "text", "json")
	return cmd
}
