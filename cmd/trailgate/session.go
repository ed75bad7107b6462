package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
)

func newSession(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "session",
		Short: "Show, replay and compare agents' sessions",
		Long: `A session is an agent's calls that belong together: those of a token that
"trailgate run" made, of a session token (RFC 8693), or of any other credential
until none came for sessions.idle_timeout. Titles and purposes are what was claimed.`,
		Example: `  trailgate session list --agent etl-bot --since 7d
  trailgate session show 01jd2v8c9m
  trailgate session replay 01jd2v8c9m --what-if stricter.yaml
  trailgate session diff 01jd2v8c9m 01jd3a1b2c`,
		RunE: parentOnly,
		Args: cobra.ArbitraryArgs,
	}
	cmd.AddCommand(newSessionList(c), newSessionShow(c), newSessionReplay(c), newSessionDiff(c))
	return cmd
}

func newSessionList(c *cli) *cobra.Command {
	var flags filterFlags
	var form string
	var limit int
	cmd := &cobra.Command{
		Use:     "list [FILTER]",
		Short:   "List sessions, the newest first",
		Long:    `List shows the sessions with a call that a filter finds, and what they came to.`,
		Example: `  trailgate session list --agent etl-bot --since 7d -o json`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usagef("--limit %d: want 0 (no limit) or more", limit)
			}
			q, err := flags.query(args, time.Now())
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(r *remote) error {
				list, err := sessions(cmd.Context(), r, q, limit)
				if err != nil {
					return err
				}
				cells := make([][]string, 0, len(list))
				for i := range list {
					s := &list[i]
					title := ""
					if s.Claims != nil {
						title = s.Claims.Title
					}
					cells = append(cells, []string{
						s.ID, s.Began.UTC().Format(time.RFC3339), agentOf(s), s.How, strconv.FormatInt(s.Calls, 10), strconv.FormatInt(s.Errors, 10),
						strconv.FormatInt(s.Denied, 10), strconv.FormatInt(s.BytesBilled, 10), title,
					})
				}
				if len(list) == 0 && form == "table" {
					fmt.Fprintln(c.err, "no session was found")
					return nil
				}
				return printList(c.out, form, []string{"id", "began", "agent", "how", "calls", "errors", "denied", "bytes billed", "title (claimed)"}, cells, list)
			})
		},
	}
	flags.register(cmd)
	cmd.Flags().IntVar(&limit, "limit", 50, "list at most `N`; 0: all")
	flags.complete(cmd, c)
	must(cmd.RegisterFlagCompletionFunc("limit", cobra.NoFileCompletions))
	cmd.ValidArgsFunction = completeFilter
	outputFlag(cmd, &form, "table", "json", "jsonl", "csv")
	return cmd
}

func sessions(ctx context.Context, r *remote, q query, limit int) ([]client.Session, error) {
	var list []client.Session
	ask := client.Query{Filter: q.text, PageSize: 100}
	for {
		page, next, err := r.Sessions(ctx, ask)
		if err != nil {
			return nil, explainFilter(q, err)
		}
		list = append(list, page...)
		if limit > 0 && len(list) >= limit {
			return list[:limit], nil
		}
		if next == "" {
			return list, nil
		}
		ask.PageToken = next
	}
}

func agentOf(s *client.Session) string {
	if s.Human == "" {
		return s.Agent
	}
	return s.Agent + " for " + s.Human
}

// fullSession is the length of a session's id.
const fullSession = 26

// session finds one by its id, or by a beginning that no other has.
func (c *cli) session(ctx context.Context, r *remote, id string) (*client.Session, error) {
	id = strings.ToLower(strings.TrimSpace(id))
	if len(id) < 6 || strings.ContainsAny(id, `"*\ `) {
		return nil, usagef("%q is no session's id; give 6 characters of it or more", id)
	}
	if len(id) < fullSession {
		list, _, err := r.Sessions(ctx, client.Query{Filter: `session = "` + id + `*"`, PageSize: 2})
		switch {
		case err != nil:
			return nil, explainAPI(err)
		case len(list) > 1:
			return nil, usagef("several sessions begin with %q; give more of it", id)
		case len(list) == 1:
			id = list[0].ID
		}
	}
	s, err := r.Session(ctx, id)
	if told, ok := errors.AsType[*client.Error](err); ok && told.Code == 404 {
		return nil, hinted(err, "trailgate session list")
	}
	return s, explainAPI(err)
}

// completeSessions offers the newest sessions.
func (c *cli) completeSessions(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out []cobra.Completion
	_ = c.with(cmd.Context(), func(r *remote) error { // completion has nobody to tell
		list, _, err := r.Sessions(cmd.Context(), client.Query{PageSize: 20})
		for i := range list {
			out = append(out, cobra.CompletionWithDesc(list[i].ID, agentOf(&list[i])+", "+ago(list[i].Began)))
		}
		return err
	})
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// callsOf are a session's rows, the oldest first.
func callsOf(ctx context.Context, r *remote, id string) ([]client.Row, error) {
	var rows []client.Row
	for row, err := range r.Entries(ctx, client.Query{Filter: "session = " + strconv.Quote(id), Ascending: true, PageSize: pageSize}) {
		if err != nil {
			return nil, explainAPI(err)
		}
		rows = append(rows, row)
		if len(rows) >= maxSessionCalls {
			return nil, fmt.Errorf("the session has more than %d calls; look at it with: trailgate search 'session = %q'", maxSessionCalls, id)
		}
	}
	return rows, nil
}

const maxSessionCalls = 100_000

func newSessionShow(c *cli) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show a session's calls as a timeline",
		Long: `Show prints what the session came to, and its calls in their order: statements,
waits, approvals, denials, results, cost. What the client claims stands apart.
Recorded rows are not shown: "session replay --results N" does.`,
		Example:           `  trailgate session show 01jd2v8c9m`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(r *remote) error {
				s, err := c.session(cmd.Context(), r, args[0])
				if err != nil {
					return err
				}
				rows, err := callsOf(cmd.Context(), r, s.ID)
				if err != nil {
					return err
				}
				if form != "table" {
					out := struct {
						*client.Session
						Entries []rawRow `json:"entries"`
					}{Session: s}
					for i := range rows {
						out.Entries = append(out.Entries, rawRow{rows[i].Raw})
					}
					return printJSON(c.out, out, form)
				}
				printSession(c.out, s)
				said := verdicts(cmd.Context(), r, s.Agent, rows)
				var before time.Time
				for i := range rows {
					printCall(c.out, &rows[i], before, said[rows[i].Entry.ID])
					before = rows[i].Entry.Time
				}
				return nil
			})
		},
	}
	outputFlag(cmd, &form, "table", "json", "jsonl")
	return cmd
}

// rawRow is a row as it came.
type rawRow struct{ raw []byte }

// MarshalJSON gives it as it came.
func (r rawRow) MarshalJSON() ([]byte, error) { return r.raw, nil }

func printSession(w io.Writer, s *client.Session) {
	fmt.Fprintf(w, "session %s of %s\n", visible(s.ID), visible(agentOf(s)))
	ended := "open"
	if s.Ended != nil {
		ended = "ended " + s.Ended.UTC().Format(time.RFC3339) + " (" + visible(s.Why) + ")"
	}
	fmt.Fprintf(w, "  began %s, %s, by %s\n", s.Began.UTC().Format(time.RFC3339), ended, visible(s.How))
	fmt.Fprintf(w, "  %d calls, %d failed, %d denied, %d held, %d rows, %d bytes billed\n", s.Calls, s.Errors, s.Denied, s.Held, s.Rows, s.BytesBilled)
	if len(s.Tables) > 0 {
		fmt.Fprintf(w, "  tables: %s\n", visible(strings.Join(s.Tables, ", ")))
	}
	if cl := s.Claims; cl != nil {
		for _, said := range [][2]string{{"title", cl.Title}, {"purpose", cl.Purpose}, {"trace", cl.TraceParent}, {"user agent", cl.UserAgent}} {
			if said[1] != "" {
				fmt.Fprintf(w, "  claimed %s: %s\n", said[0], visible(said[1]))
			}
		}
	}
	fmt.Fprintln(w)
}

// verdicts is what humans said about the held calls among these, by their ids. That it
// cannot be had is no reason not to show the rest.
func verdicts(ctx context.Context, r *remote, agent string, rows []client.Row) map[string]string {
	if !slices.ContainsFunc(rows, func(row client.Row) bool { return row.State == "held" }) {
		return nil
	}
	list, err := r.Approvals(ctx, "", agent)
	if err != nil {
		return nil
	}
	said := map[string]string{}
	for _, a := range list {
		parts := []string{"approval " + a.State}
		for _, v := range a.Votes {
			word := v.Verdict + " by " + v.Human + " after " + v.At.Sub(a.Created).Round(time.Second).String()
			if v.Reason != "" {
				word += ": " + v.Reason
			}
			parts = append(parts, word)
		}
		said[a.HeldEntry] = strings.Join(parts, "; ")
	}
	return said
}

// printCall prints one call of a timeline, and what humans said about it.
func printCall(w io.Writer, r *client.Row, before time.Time, said string) {
	e := &r.Entry
	gap := ""
	if !before.IsZero() {
		gap = "  +" + e.Time.Sub(before).Round(time.Millisecond).String()
	}
	what := e.Method
	if e.Event != nil {
		what = e.Event.Action
	}
	fmt.Fprintf(w, "%s%s  %s  %s\n", e.Time.UTC().Format("2006-01-02 15:04:05.000"), gap, visible(what), visible(r.State))
	fmt.Fprintf(w, "    %s\n", visible(e.ID))
	for _, st := range e.Statements {
		if st.Text == "" {
			fmt.Fprintf(w, "    (statement of %d bytes, SHA-256 %s)\n", st.Length, visible(st.SHA256))
			continue
		}
		for line := range strings.Lines(visibleLines(st.Text)) {
			fmt.Fprintf(w, "    | %s\n", strings.TrimRight(line, "\n"))
		}
	}
	for _, note := range []string{noteOn(r), said} {
		if note != "" {
			fmt.Fprintf(w, "    %s\n", visible(note))
		}
	}
}

// noteOn is what became of a call, in words.
func noteOn(r *client.Row) string {
	e := &r.Entry
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if d := e.Decision; d != nil {
		if d.Effect != "allow" || len(d.Approvers) > 0 {
			add("%s by rule %s", d.Effect, d.Rule)
		}
		if len(d.Approvers) > 0 {
			add("approved by %s", strings.Join(d.Approvers, ", "))
		}
		if d.Effect != "allow" && d.Reason != "" {
			add("%s", d.Reason)
		}
	}
	if o := e.Outcome; o != nil {
		if o.ErrorReason != "" {
			add("%s: %s", o.ErrorReason, o.ErrorMessage)
		}
		if o.Rows > 0 {
			add("%d rows", o.Rows)
		}
		if o.RowsAffected > 0 {
			add("%d rows changed", o.RowsAffected)
		}
		if o.BytesBilled > 0 {
			add("%d bytes billed", o.BytesBilled)
		}
	}
	if rec := e.Recording; rec != nil && rec.Rows > 0 {
		switch {
		case rec.Error != "":
			add("%d of %d rows recorded (%s)", rec.StoredRows, rec.Rows, rec.Error)
		case rec.Truncated:
			add("%d of %d rows recorded", rec.StoredRows, rec.Rows)
		default:
			add("rows recorded")
		}
	}
	return strings.Join(parts, "; ")
}
