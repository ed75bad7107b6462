package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
)

func newApproval(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "approval",
		Short: "Decide about calls that wait for a human",
		Long: `Approval is for calls that a rule of the policy has wait (require_approval). An
approval is for exactly one call of one agent over one connection, with what
BigQuery said that it would do; it is used once, and lapses. Nobody approves what an
agent asks on their behalf.`,
		Example: `  trailgate approval list
  trailgate approval show apr_01jd2v8c9mhw3k5r7t9x0z2b4d
  trailgate approval approve apr_01jd2v8c9mhw3k5r7t9x0z2b4d
  trailgate approval deny apr_01jd2v8c9mhw3k5r7t9x0z2b4d --reason "not before the month is closed"`,
		RunE: parentOnly,
		Args: cobra.ArbitraryArgs,
	}
	cmd.AddCommand(newApprovalList(c), newApprovalShow(c), newApprovalVote(c, true), newApprovalVote(c, false))
	return cmd
}

var approvalStates = []string{"open", "pending", "approved", "releasing", "released", "denied", "expired", "cancelled", "changed"}

func newApprovalList(c *cli) *cobra.Command {
	var form, state, agent string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the calls that wait, or waited, for a human",
		Long: `List shows what waits for a human ("pending", the default), the newest first.
Other states: approved (not used yet), released (used), denied, expired, cancelled
(withdrawn by its agent, or with it), changed (what it was about is not so any more;
another question took its place); open is pending and approved; all is all.`,
		Example: `  trailgate approval list
  trailgate approval list --state denied --agent etl-bot -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(approvalStates, state) && state != "all" {
				return usagef("--state %q: want one of %s, all", state, strings.Join(approvalStates, ", "))
			}
			asked := state
			if state == "all" {
				asked = ""
			}
			return c.with(cmd.Context(), func(r *remote) error {
				list, err := r.Approvals(cmd.Context(), asked, agent)
				if err != nil {
					return explainAPI(err)
				}
				if len(list) == 0 && form == "table" {
					fmt.Fprintln(c.err, "nothing waits")
					return nil
				}
				cells := make([][]string, 0, len(list))
				for i := range list {
					a := &list[i]
					cells = append(cells, []string{a.ID, a.State, ago(a.Created), onBehalf(a), a.Rule, tableNames(a.Tables.Written, a.Tables.Read), oneLine(a)})
				}
				return printList(c.out, form, []string{"id", "state", "asked", "agent", "rule", "tables", "statement"}, cells, list)
			})
		},
	}
	cmd.Flags().StringVar(&state, "state", "pending", "`STATE`, or open, or all")
	cmd.Flags().StringVar(&agent, "agent", "", "of this `AGENT` alone")
	must(cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(append(slices.Clone(approvalStates), "all"), cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("agent", c.completeAgents))
	outputFlag(cmd, &form, "table", "json", "jsonl", "csv")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func onBehalf(a *client.Approval) string {
	if a.Principal.Human == "" {
		return a.Principal.Agent
	}
	return a.Principal.Agent + " for " + a.Principal.Human
}

// oneLine is the statement on one line, or what the call is.
func oneLine(a *client.Approval) string {
	if a.Statement == "" {
		return a.Method
	}
	return strings.Join(strings.Fields(a.Statement), " ")
}

func tableNames(lists ...[]string) string {
	for _, l := range lists {
		if len(l) > 0 {
			return strings.Join(l, " ")
		}
	}
	return "-"
}

// ago says how long ago it was, in one unit.
func ago(t time.Time) string {
	switch d := time.Since(t); {
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", max(int(d.Seconds()), 0))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd ago", int(d.Hours()/24))
	}
}

func newApprovalShow(c *cli) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show all that is needed to decide",
		Long: `Show prints who asks, on whose behalf, the statement whole, the tables, what
BigQuery says that it would read, which rule asked, who voted, and what the agent
did before. What the client merely says of itself stands apart.`,
		Example:           `  trailgate approval show apr_01jd2v8c9mhw3k5r7t9x0z2b4d`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeApprovals,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(r *remote) error {
				d, err := r.Approval(cmd.Context(), args[0])
				if err != nil {
					return explainAPI(err)
				}
				if form != "table" {
					text, err := respell(d.Raw, "", form == "json")
					if err == nil {
						_, err = fmt.Fprintf(c.out, "%s\n", text)
					}
					return err
				}
				if a := &d.Approval; a.StatementCut {
					c.wholeStatement(cmd.Context(), r, a)
				}
				return c.printApproval(d)
			})
		},
	}
	outputFlag(cmd, &form, "table", "json", "jsonl")
	return cmd
}

// wholeStatement gets a long statement from the trail, by the entry of the held call.
func (c *cli) wholeStatement(ctx context.Context, r *remote, a *client.Approval) {
	call, err := r.Show(ctx, a.HeldEntry)
	if err != nil || len(call.Stages) == 0 {
		return // it is shown as cut
	}
	for _, s := range call.Stages[0].Statements {
		if s.SHA256 != a.StatementSHA256 || s.Blob == "" {
			continue
		}
		if raw, err := r.Blob(ctx, s.Blob); err == nil {
			a.Statement, a.StatementCut = string(raw), false
		}
	}
}

func (c *cli) printApproval(d *client.ApprovalDetail) error {
	a := &d.Approval
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", name, visible(fmt.Sprintf(format, args...)))
	}
	line("approval", "%s  %s", a.ID, a.State)
	line("asked", "%s, expires %s", a.Created.UTC().Format(time.RFC3339), a.Expires.UTC().Format(time.RFC3339))
	line("agent", "%s", a.Principal.Agent)
	if a.Principal.Human != "" {
		line("for", "%s (vouched for by the %s)", a.Principal.Human, a.Principal.HumanBy)
	}
	if len(a.Principal.Actors) > 0 {
		line("by way of", "%s", strings.Join(a.Principal.Actors, ", "))
	}
	line("proved by", "%s, issuer %s", a.Principal.AuthMode, a.Principal.Issuer)
	if cl := d.Claims; cl != nil {
		for _, x := range []struct{ name, value string }{{"human", cl.Human}, {"reason", cl.Reason}, {"title", cl.Title}, {"purpose", cl.Purpose}, {"client", cl.UserAgent}} {
			if x.value != "" {
				line("claims", "%s: %s (the client's word)", x.name, x.value)
			}
		}
	}
	line("connection", "%s, project %s", a.Connection, a.Project)
	line("method", "%s, class %s, statement type %s", a.Method, a.Class, orDash(a.StatementType))
	line("rule", "%s: %s", a.Rule, a.Reason)
	if len(a.Tables.Written) > 0 {
		line("writes", "%s", strings.Join(a.Tables.Written, ", "))
	}
	if len(a.Tables.Read) > 0 {
		line("reads", "%s", strings.Join(a.Tables.Read, ", "))
	}
	if len(a.Destinations) > 0 {
		line("goes to", "%s", strings.Join(a.Destinations, ", "))
	}
	switch f := a.Facts; {
	case f.Ran:
		line("BigQuery", "would process %s; statement type %s; reads %s; writes %s", bytesText(f.Bytes), orDash(f.StatementType), orDash(strings.Join(f.Read, ", ")), orDash(strings.Join(f.Written, ", ")))
	case f.Error != "":
		line("BigQuery", "did not say what it would do: %s", f.Error)
	}
	line("asks", "%d of: %s", a.Need, strings.Join(a.From, ", "))
	for _, v := range a.Votes {
		note := ""
		if v.Void {
			note = " (counts no longer)"
		}
		line("vote", "%s by %s via %s, %s%s  %s", v.Verdict, v.Human, v.Via, v.At.UTC().Format(time.RFC3339), note, v.Reason)
	}
	line("trail", "held %s", a.HeldEntry)
	if a.IntentEntry != "" {
		line("", "went on as %s", a.IntentEntry)
	}
	if a.Statement != "" {
		b.WriteString("\n" + indent(visibleLines(a.Statement)) + "\n")
		if a.StatementCut {
			b.WriteString("  (cut; " + visible("trailgate show "+a.HeldEntry) + " has all of it)\n")
		}
	}
	if len(d.Recent) > 0 {
		b.WriteString("\nBefore this, the agent did:\n")
		for i := range d.Recent {
			e := &d.Recent[i]
			if e.Entry.ID == a.HeldEntry {
				continue
			}
			text := e.Entry.Method
			if len(e.Entry.Statements) > 0 {
				text = strings.Join(strings.Fields(e.Entry.Statements[0].Text), " ")
			}
			fmt.Fprintf(&b, "  %s  %-14s  %-14s  %s\n", e.Entry.Time.UTC().Format(time.RFC3339), visible(string(e.Entry.Class)), visible(e.State), visible(shorten(text, 100)))
		}
	}
	if a.State == "pending" {
		if a.MayVote {
			fmt.Fprintf(&b, "\nDecide: trailgate approval approve %s\n        trailgate approval deny %s --reason \"…\"\n", visible(a.ID), visible(a.ID))
		} else {
			fmt.Fprintf(&b, "\nYou cannot approve it: %s\n", visible(a.MayNot))
		}
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// bytesText is a size in the units of BigQuery's prices.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.2f %s", f, units[i])
}

func newApprovalVote(c *cli, yes bool) *cobra.Command {
	var form, reason string
	cmd := &cobra.Command{
		Use:   "approve ID",
		Short: "Let a call go on",
		Long: `Approve lets exactly the call that "approval show" shows go on, once: a jobs.insert
by itself, other calls when the agent sends them again. Your vote is an entry in the
trail before it counts. By the socket you vote as the owner of the gateway's
machine; by name you vote over --server, with the token of somebody who signed in,
or in the browser.`,
		Example: `  trailgate approval approve apr_01jd2v8c9mhw3k5r7t9x0z2b4d --reason "checked with finance"`,
	}
	if !yes {
		cmd.Use, cmd.Short = "deny ID", "Refuse a call"
		cmd.Long = `Deny refuses a call; one denial decides. The reason is told to the agent and its
human, and the same call is refused for as long as an approval would have held
(approval.release_window).`
		cmd.Example = `  trailgate approval deny apr_01jd2v8c9mhw3k5r7t9x0z2b4d --reason "not before the month is closed"`
	}
	cmd.Args, cmd.ValidArgsFunction = cobra.ExactArgs(1), c.completeApprovals
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !yes && strings.TrimSpace(reason) == "" {
			return usagef("deny: say why with --reason; the agent is told")
		}
		return c.with(cmd.Context(), func(r *remote) error {
			vote := r.Approve
			if !yes {
				vote = r.Deny
			}
			a, err := vote(cmd.Context(), args[0], reason)
			if err != nil {
				return explainVote(err)
			}
			if form != "text" {
				return printJSON(c.out, a, form)
			}
			have := 0
			for _, v := range a.Votes {
				if v.Verdict == "approve" && !v.Void {
					have++
				}
			}
			switch {
			case a.State == "denied":
				fmt.Fprintf(c.err, "denied: %s is told so\n", visible(a.Principal.Agent))
			case a.State == "pending":
				fmt.Fprintf(c.err, "noted: %d of %d approvals; it waits on\n", have, a.Need)
			default:
				fmt.Fprintf(c.err, "approved: %s\n  %s\n", visible(onBehalf(a)), visible(shorten(oneLine(a), 200)))
			}
			return nil
		})
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT`: why; stands in the trail")
	must(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	outputFlag(cmd, &form, "text", "json")
	return cmd
}

// explainVote gives a vote that may not be given its exit code, and leaves out the
// hint about tokens: this caller was let in.
func explainVote(err error) error {
	out := explainAPI(err)
	if e, ok := out.(*exitError); ok && e.code == exitDenied {
		e.hint = ""
	}
	return out
}

// completeApprovals completes the ids of what waits.
func (c *cli) completeApprovals(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var ids []cobra.Completion
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	_ = c.with(cmd.Context(), func(r *remote) error { // no gateway: nothing to complete
		list, err := r.Approvals(cmd.Context(), "pending", "")
		for i := range list {
			ids = append(ids, cobra.CompletionWithDesc(list[i].ID, visible(onBehalf(&list[i])+": "+shorten(oneLine(&list[i]), 60))))
		}
		return err
	})
	return ids, cobra.ShellCompDirectiveNoFileComp
}
