package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/policy"
)

// caseProject stands for the project where a case names none.
const caseProject = "project"

// classifyInput completes a test case from its statement, as the gateway would read
// it. What the case says itself stays.
func classifyInput(in *policy.Input) error {
	project := in.Project
	if project == "" {
		project = caseProject
	}
	path := "/bigquery/v2/projects/" + project + "/jobs"
	c, refusal := bigquery.Route(bigquery.Request{Verb: http.MethodPost, EscapedPath: path})
	if refusal == nil {
		var raw []byte
		raw, err := json.Marshal(map[string]any{"configuration": map[string]any{"query": map[string]any{"query": in.Statement, "useLegacySql": false}}})
		if err != nil {
			return err
		}
		refusal = c.ReadBody(raw)
	}
	if refusal != nil {
		return errors.New(refusal.Message)
	}
	if in.Method == "" {
		in.Method = c.Method
	}
	if in.Class == "" {
		in.Class, in.Classes = c.Class, c.Classes
	}
	if in.StatementType == "" {
		in.StatementType = c.StatementType
	}
	if len(in.Tables.Read)+len(in.Tables.Written) == 0 {
		in.Tables = trailgate.Tables{Read: c.Read, Written: c.Written}
	}
	if len(in.Destinations) == 0 {
		in.Destinations = c.Destinations
	}
	if len(in.Flags) == 0 {
		in.Flags = c.Flags
	}
	return nil
}

func newPolicyReplay(c *cli) *cobra.Command {
	var flags filterFlags
	var form string
	var limit int
	cmd := &cobra.Command{
		Use:   "replay FILE...",
		Short: "What would these rules have decided on the recorded trail?",
		Long: `Replay decides the recorded calls again, by the rules of the files, and lists
those that would have been decided otherwise. Nothing is sent to BigQuery and
nothing changes.

An entry does not hold all that a live decision looked at: totals of sessions and
budgets, what a dry run would have said (what the finished job did stands in for
it). A decision that looked at such a thing is marked uncertain, with its name.
Calls that the gateway's own rules refused are left out, since no policy was
asked. That a call needed approval and got it counts as asking.

Exit code 1 if some would have been decided otherwise, 0 if none.`,
		Example: `  trailgate policy replay policy.yaml --since 30d
  trailgate policy replay policy.yaml --since 7d --agent etl-bot -o jsonl --limit 0`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usagef("--limit %d: want 0 (no limit) or more", limit)
			}
			set, err := c.policySet(args)
			if err != nil {
				return err
			}
			q, err := flags.query(nil, time.Now())
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(r *remote) error {
				return c.replay(cmd.Context(), r, set, q, form, limit)
			})
		},
	}
	flags.register(cmd)
	cmd.Flags().IntVar(&limit, "limit", 100, "list at most `N` differences; 0: all")
	flags.complete(cmd, c)
	cmd.ValidArgsFunction = completeYAML
	must(cmd.RegisterFlagCompletionFunc("limit", cobra.NoFileCompletions))
	outputFlag(cmd, &form, "table", "json", "jsonl", "csv")
	return cmd
}

// replayed is a difference as it is printed.
type replayed struct {
	Time      string   `json:"time"`
	Entry     string   `json:"entry"`
	Agent     string   `json:"agent"`
	Class     string   `json:"class"`
	Was       string   `json:"was"`
	WasRule   string   `json:"was_rule"`
	Now       string   `json:"now"`
	NowRule   string   `json:"now_rule"`
	Reason    string   `json:"reason,omitempty"`
	Limits    []string `json:"limits,omitempty"` // that differ, of a call that is let through either way
	Uncertain []string `json:"uncertain,omitempty"`
	Statement string   `json:"statement,omitempty"`
}

// replay goes through the calls that a filter finds, page by page.
func (c *cli) replay(ctx context.Context, r *remote, set *policy.Set, q query, form string, limit int) error {
	var shown []replayed
	bar := newProgress(c.err, "replay")
	calls, differ, uncertain := 0, 0, 0
	kinds := map[string]int{}
	filter := `kind = ("intent" OR "denied" OR "held")`
	if q.text != "" {
		filter = "(" + q.text + ") AND " + filter
	}
	ask := client.Query{Filter: filter, PageSize: pageSize}
	for {
		rows, next, err := r.Page(ctx, ask)
		if err != nil {
			return explainFilter(q, err)
		}
		for i := range rows {
			d, judged := again(ctx, set, &rows[i].Entry)
			if !judged {
				continue
			}
			calls++
			if d == nil {
				continue
			}
			differ++
			if len(d.Uncertain) > 0 {
				uncertain++
			}
			kind := d.Was + " → " + d.Now
			if d.Was == d.Now {
				kind = d.Now + " with other limits"
			}
			kinds[kind]++
			if limit == 0 || len(shown) < limit {
				shown = append(shown, *d)
			}
		}
		if next == "" {
			break
		}
		ask.PageToken = next
		bar.say("%d calls, %d differ", calls, differ)
	}
	bar.end()
	cells := make([][]string, 0, len(shown))
	for i := range shown {
		d := &shown[i]
		mark := ""
		if len(d.Uncertain) > 0 {
			mark = "?"
		}
		now := d.Now + " " + d.NowRule + mark
		if len(d.Limits) > 0 {
			now += " (" + strings.Join(d.Limits, "; ") + ")"
		}
		cells = append(cells, []string{d.Time, d.Entry, d.Agent, d.Class, d.Was + " " + d.WasRule, now, d.Statement})
	}
	if len(shown) > 0 || form == "json" {
		if err := printList(c.out, form, []string{"time", "entry", "agent", "class", "was", "would be", "statement"}, cells, shown); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.err, "%d calls decided again, %d differ", calls, differ)
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Fprintf(c.err, "; %d %s", kinds[k], k)
	}
	if uncertain > 0 {
		fmt.Fprintf(c.err, "; %d of them uncertain (?), for the trail does not hold all that the rules look at", uncertain)
	}
	if limit > 0 && differ > limit {
		fmt.Fprintf(c.err, "; the newest %d are listed, --limit 0 lists all", limit)
	}
	fmt.Fprintln(c.err)
	if differ > 0 {
		return &exitError{code: exitFailed, err: fmt.Errorf("%d decisions differ", differ), silent: true}
	}
	return nil
}

// asked are the limits of a held call's entry that say who is asked, which is no
// limit of a rule's; and what a budget reserved.
var asked = []string{"approvals", "approval_from", "approval_expires", "budget_reserved"}

// again decides about a recorded call. judged is false where no policy did; nil means
// that the decision is the same.
func again(ctx context.Context, set *policy.Set, e *trailgate.Entry) (d *replayed, judged bool) {
	if e.Decision == nil || e.Request != nil && e.Request.For != "" {
		return nil, false
	}
	if rule := e.Decision.Rule; strings.HasPrefix(rule, "builtin/") && rule != policy.DefaultDeny && rule != "builtin/record-only" && rule != "builtin/allow-known-methods" {
		return nil, false
	}
	in, err := policy.FromEntry(e, e)
	if err != nil {
		return nil, false
	}
	if e.Tables != nil && e.Tables.Final {
		// BigQuery's own words stand where the gateway's reading stood.
		in.Unknown = append(in.Unknown, "tables.read", "tables.all", "dry_run.differs")
	}
	now := set.Replay(ctx, in)
	was := *e
	decision := *e.Decision
	decision.Limits = maps.Clone(decision.Limits)
	for _, name := range asked {
		delete(decision.Limits, name)
	}
	if decision.ApprovalID != "" && decision.Effect == policy.Allow {
		decision.Effect = policy.RequireApproval
	}
	was.Decision = &decision
	diff, differs := policy.Compare(&was, now)
	if !differs {
		return nil, true
	}
	out := &replayed{
		Time: e.Time.UTC().Format(time.RFC3339), Entry: e.ID, Class: string(e.Class),
		Was: diff.Was.Effect, WasRule: diff.Was.Rule, Now: diff.Now.Effect, NowRule: diff.Now.Rule, Reason: diff.Now.Reason, Limits: diff.Limits, Uncertain: diff.Uncertain,
	}
	if e.Principal != nil {
		out.Agent = e.Principal.Agent
	}
	if len(e.Statements) > 0 {
		out.Statement = strings.Join(strings.Fields(e.Statements[0].Text), " ")
	}
	return out, true
}
