package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
)

func newSessionDiff(c *cli) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Compare two sessions",
		Long: `Diff pairs the calls of two sessions by what they did (method, statement without
regard to white space, tables) and prints what is in one alone ("<" in A, ">" in
B), and what both did with another outcome, cost or number of rows ("~").

Exit code 0 if they are the same, 1 if they differ.`,
		Example: `  trailgate session diff 01jd2v8c9m 01jd3a1b2c
  trailgate session diff 01jd2v8c9m 01jd3a1b2c -o json`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: c.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(r *remote) error {
				var calls [2][]client.Row
				var ids [2]string
				for i, id := range args {
					s, err := c.session(cmd.Context(), r, id)
					if err != nil {
						return err
					}
					ids[i] = s.ID
					if calls[i], err = callsOf(cmd.Context(), r, s.ID); err != nil {
						return err
					}
				}
				changes, same := compareSessions(calls[0], calls[1])
				if form != "table" {
					if changes == nil {
						changes = []sessionChange{}
					}
					if err := printList(c.out, form, nil, nil, changes); err != nil {
						return err
					}
				} else {
					for _, ch := range changes {
						fmt.Fprintf(c.out, "%s %s\n", ch.Side, visible(ch.What))
						if ch.Detail != "" {
							fmt.Fprintf(c.out, "    %s\n", visible(ch.Detail))
						}
					}
				}
				fmt.Fprintf(c.err, "%s: %d calls; %s: %d calls; %d the same, %d differ\n", ids[0], len(calls[0]), ids[1], len(calls[1]), same, len(changes))
				if len(changes) > 0 {
					return &exitError{code: exitFailed, err: fmt.Errorf("the sessions differ"), silent: true}
				}
				return nil
			})
		},
	}
	outputFlag(cmd, &form, "table", "json", "jsonl")
	return cmd
}

// sessionChange is where two sessions differ.
type sessionChange struct {
	Side   string `json:"side"` // "<" in the first alone, ">" in the second alone, "~" in both
	What   string `json:"what"`
	A      string `json:"a,omitempty"` // the entries
	B      string `json:"b,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// compareSessions pairs calls that did the same, in their order, and tells what has no
// partner or another end.
func compareSessions(a, b []client.Row) (changes []sessionChange, same int) {
	waiting := map[string][]int{} // of b, by what they did
	for i := range b {
		if k := deed(&b[i]); k != "" {
			waiting[k] = append(waiting[k], i)
		}
	}
	taken := make([]bool, len(b))
	for i := range a {
		k := deed(&a[i])
		if k == "" {
			continue
		}
		partners := waiting[k]
		if len(partners) == 0 {
			changes = append(changes, sessionChange{Side: "<", What: k, A: a[i].Entry.ID, Detail: noteOn(&a[i])})
			continue
		}
		j := partners[0]
		waiting[k], taken[j] = partners[1:], true
		if d := differences(&a[i], &b[j]); d != "" {
			changes = append(changes, sessionChange{Side: "~", What: k, A: a[i].Entry.ID, B: b[j].Entry.ID, Detail: d})
		} else {
			same++
		}
	}
	for j := range b {
		if k := deed(&b[j]); k != "" && !taken[j] {
			changes = append(changes, sessionChange{Side: ">", What: k, B: b[j].Entry.ID, Detail: noteOn(&b[j])})
		}
	}
	return changes, same
}

// deed is what a call did, the same for calls that did the same; "" for what is no call
// of the agent's own.
func deed(r *client.Row) string {
	e := &r.Entry
	switch {
	case e.Event != nil, e.Method == "", e.Method == "discovery.apis.getRest", e.Request != nil && e.Request.For != "":
		return ""
	case e.Method == "bigquery.jobs.get", e.Method == "bigquery.jobs.getQueryResults":
		return "" // how often a client asks is no deed; what it read of is in its job
	}
	parts := []string{strings.TrimPrefix(e.Method, "bigquery.")}
	for _, s := range e.Statements {
		if s.Text != "" {
			parts = append(parts, strings.Join(strings.Fields(s.Text), " "))
		} else {
			parts = append(parts, "SHA-256 "+s.SHA256)
		}
	}
	if len(e.Statements) == 0 && e.Tables != nil {
		parts = append(parts, append(slices.Clone(e.Tables.Written), e.Tables.Read...)...)
	}
	return strings.Join(parts, " ")
}

// differences are how two calls that did the same ended otherwise.
func differences(a, b *client.Row) string {
	var out []string
	add := func(name string, x, y any) {
		if x != y {
			out = append(out, fmt.Sprintf("%s: %v → %v", name, x, y))
		}
	}
	add("state", a.State, b.State)
	var d, e struct {
		effect, rule, tables, reason   string
		rows, affected, billed, status int64
	}
	for i, r := range []*client.Row{a, b} {
		to := &d
		if i == 1 {
			to = &e
		}
		if x := r.Entry.Decision; x != nil {
			to.effect, to.rule = x.Effect, x.Rule
		}
		if x := r.Entry.Outcome; x != nil {
			to.rows, to.affected, to.billed, to.status, to.reason = x.TotalRows, x.RowsAffected, x.BytesBilled, int64(x.Status), x.ErrorReason
		}
		if x := r.Entry.Tables; x != nil {
			to.tables = strings.Join(append(slices.Clone(x.Written), x.Read...), " ")
		}
	}
	add("decision", d.effect, e.effect)
	add("rule", d.rule, e.rule)
	add("status", d.status, e.status)
	add("error", d.reason, e.reason)
	add("tables", d.tables, e.tables)
	add("rows", d.rows, e.rows)
	add("rows changed", d.affected, e.affected)
	add("bytes billed", d.billed, e.billed)
	return strings.Join(out, "; ")
}
