package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
)

// reconcileOptions are the flags of "reconcile".
type reconcileOptions struct {
	connection, since, until, source, form string
	auditLogs                              []string
}

func newReconcile(c *cli) *cobra.Command {
	var o reconcileOptions
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Compare BigQuery's own records with the trail, both ways",
		Long: `Reconcile reads what BigQuery itself recorded and holds it against the trail, both
ways, by job id and label:

  bypassed    BigQuery ran it for an agent's principal, and the trail has no entry
  forged      a job's labels say that it is the gateway's, and it is not
  mismatched  statement, principal, bytes or rows are not what the trail says
  unseen      BigQuery named a job when it answered, and does not have it now

Calls whose end is not known are settled by what BigQuery has. Every finding is an
entry of the trail, once; "trailgate search 'kind = gap'" lists them. The exit code
is 3 where there is one that nobody has acknowledged.

It needs a credential of somebody who may list all jobs, under the connection's
"reconcile" key; a running gateway does the same by itself every hour. A run that
was interrupted goes on where it was. What BigQuery's job list leaves out, such as
reads over the Storage API, is in the audit logs: export them, and name the files.
What this finds is complete relative to BigQuery's own records.`,
		Example: `  trailgate reconcile
  trailgate reconcile --connection analytics --since 7d -o json
  trailgate reconcile --connection lake --source information-schema --since 2026-11-01 --until 2026-11-02

  # Exported with: gcloud logging read --format=json 'protoPayload.serviceName="bigquery.googleapis.com"' > audit.json
  trailgate reconcile --connection analytics --source audit-log --audit-log audit.json --since 30d`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.reconcile(cmd.Context(), &o) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.connection, "connection", "", "compare this `CONNECTION` (default: all that have a credential for it)")
	flags.StringVar(&o.since, "since", "24h", "from this `TIME` on: a span ago (24h, 7d) or a moment")
	flags.StringVar(&o.until, "until", "", "up to this `TIME` (default: reconcile.grace ago)")
	flags.StringVar(&o.source, "source", "", "what to read: jobs, information-schema or audit-log (default: the connection's own)")
	flags.StringSliceVar(&o.auditLogs, "audit-log", nil, "`FILES` with exported log entries, JSON; - is standard input")
	outputFlag(cmd, &o.form, "table", "json", "jsonl")
	must(cmd.RegisterFlagCompletionFunc("connection", c.completeConnections))
	must(cmd.RegisterFlagCompletionFunc("source", cobra.FixedCompletions([]cobra.Completion{"jobs", "information-schema", "audit-log"}, cobra.ShellCompDirectiveNoFileComp)))
	for _, name := range []string{"since", "until"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions([]cobra.Completion{"1h", "24h", "7d", "30d"}, cobra.ShellCompDirectiveNoFileComp)))
	}
	must(cmd.MarkFlagFilename("audit-log", "json", "jsonl"))
	return cmd
}

// reconciliation is what one connection came to.
type reconciliation struct {
	client.CoverageReport
	List []client.Finding `json:"list"`
}

func (c *cli) reconcile(ctx context.Context, o *reconcileOptions) error {
	run := client.CoverageRun{Connection: o.connection, Source: o.source}
	switch o.source {
	case "", "jobs", "information-schema", "audit-log":
	default:
		return usagef("reconcile: --source %q: want jobs, information-schema or audit-log", o.source)
	}
	if (len(o.auditLogs) > 0) != (o.source == "audit-log") {
		return usagef("reconcile: --source audit-log and --audit-log FILES belong together")
	}
	now := time.Now()
	for _, bound := range []struct {
		flag, value string
		into        *time.Time
	}{{"since", o.since, &run.Since}, {"until", o.until, &run.Until}} {
		if bound.value == "" {
			continue
		}
		t, err := parseMoment(bound.value, now)
		if err != nil {
			return usagef("reconcile: --%s %q: %v", bound.flag, bound.value, err)
		}
		*bound.into = t
	}
	var all []reconciliation
	err := c.withIndex(ctx, true, func(r *remote) error {
		names, err := compared(ctx, r, o)
		if err != nil {
			return err
		}
		for _, name := range names {
			run.Connection = name
			one, err := c.compare(ctx, r, run, o)
			if err != nil {
				return fmt.Errorf("connection %s: %w", name, err)
			}
			all = append(all, *one)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if o.form == "json" {
		if err := printJSON(c.out, struct {
			Connections []reconciliation `json:"connections"`
		}{all}, o.form); err != nil {
			return err
		}
	}
	var open int64
	for _, one := range all {
		open += one.Findings - one.Acknowledged
	}
	if open > 0 {
		return &exitError{
			code: exitEvidence, err: fmt.Errorf("reconcile: %d findings that nobody has acknowledged", open),
			hint: "trailgate show ENTRY tells more of one; the Coverage page lists and acknowledges them; docs/completeness.md says what each means",
		}
	}
	return nil
}

// compared are the connections to compare.
func compared(ctx context.Context, r *remote, o *reconcileOptions) ([]string, error) {
	if o.connection != "" {
		return []string{o.connection}, nil
	}
	list, err := r.Coverage(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range list {
		if c.Compared || o.source == "audit-log" {
			names = append(names, c.Connection)
		}
	}
	switch {
	case len(names) == 0:
		return nil, hinted(errors.New("no connection has a credential to compare with"), "set reconcile.credential of a connection: somebody who may list all jobs (docs/completeness.md)")
	case len(names) > 1 && o.source == "audit-log":
		return nil, usagef("reconcile: name the connection that the audit logs are of with --connection")
	}
	return names, nil
}

// compare has one connection compared, and shows what is found as it is found.
func (c *cli) compare(ctx context.Context, r *remote, run client.CoverageRun, o *reconcileOptions) (_ *reconciliation, err error) {
	if len(o.auditLogs) > 0 {
		logs, closeAll, err := openAll(o.auditLogs, c.in)
		if err != nil {
			return nil, err
		}
		defer closeAll()
		run.AuditLog = logs
	}
	out := &reconciliation{List: []client.Finding{}}
	progress := newProgress(c.err, "reconcile "+run.Connection)
	run.Progress = func(p client.CoverageProgress) {
		progress.say("%s of %s to %s, %d jobs", visible(p.Done.Format("2006-01-02 15:04")), p.Since.Format("2006-01-02 15:04"), p.Until.Format("2006-01-02 15:04"),
			p.Both+p.Direct+p.Others)
	}
	run.Found = func(f client.Finding) { out.List = append(out.List, f) }
	report, err := r.RunCoverage(ctx, run)
	progress.end()
	if err != nil {
		return nil, explainAPI(err)
	}
	out.CoverageReport = *report
	switch o.form {
	case "jsonl":
		for _, f := range out.List {
			if err := printJSON(c.out, f, o.form); err != nil {
				return nil, err
			}
		}
	case "table":
		err = c.printReconciliation(out)
	}
	return out, err
}

// openAll reads files one after the other.
func openAll(names []string, stdin io.Reader) (io.Reader, func(), error) {
	var files []*os.File
	closeAll := func() {
		for _, f := range files {
			_ = f.Close() // they were only read
		}
	}
	var readers []io.Reader
	for _, name := range names {
		if name == "-" {
			readers = append(readers, stdin, strings.NewReader("\n"))
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("reconcile: %w", err)
		}
		files = append(files, f)
		readers = append(readers, f, strings.NewReader("\n"))
	}
	return io.MultiReader(readers...), closeAll, nil
}

func (c *cli) printReconciliation(r *reconciliation) error {
	if len(r.List) > 0 {
		t := table{head: []string{"FINDING", "WHEN", "JOB", "RAN AS", "ENTRY", "WHY"}, limit: terminalWidth(c.out)}
		for _, f := range r.List {
			t.add(f.Kind, f.Created.UTC().Format("2006-01-02T15:04:05Z"), visible(dash(f.Job)), visible(dash(f.Principal)), dash(f.Entry), visible(f.Text()))
		}
		if err := t.write(c.out); err != nil {
			return fmt.Errorf("print: %w", err)
		}
		fmt.Fprintln(c.out)
	}
	n := r.Counts
	text := fmt.Sprintf("%s, %s to %s, by %s:\n", visible(r.Connection), r.Since.Format(time.RFC3339), r.Until.Format(time.RFC3339), r.Source)
	if r.Source != "audit-log" {
		text += fmt.Sprintf("  %d jobs have their entry, %d of agents' principals have none", n.Both, n.Direct)
		if r.Percent >= 0 {
			text += fmt.Sprintf(": %s relative to BigQuery's job list", percentText(r.Percent))
		}
		text += "\n"
	} else {
		text += fmt.Sprintf("  %d jobs and %d reads or writes without one have their entry, %d of agents' principals have none, of what was exported\n", n.Both, n.Jobless, n.Direct)
	}
	text += fmt.Sprintf("  %d entries have no job, %d jobs differ, %d carry forged labels\n", n.Missing, n.Mismatched, n.Forged)
	text += fmt.Sprintf("  %d calls were settled, %d jobs showed late, %d calls wait for theirs; %d jobs are of others\n", n.Settled, n.Late, n.Waiting, n.Others)
	text += fmt.Sprintf("  %d findings: %d new, %d acknowledged\n", r.Findings, r.New, r.Acknowledged)
	if r.Omitted > 0 {
		text += fmt.Sprintf("  %d of them have no entry: they are too many for one run\n", r.Omitted)
	}
	_, err := io.WriteString(c.out, text)
	return err
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// percentText never rounds up to 100.
func percentText(p float64) string {
	if p < 100 && p > 99.99 {
		return "> 99.99 %, < 100 %"
	}
	return fmt.Sprintf("%.2f %%", p)
}
