package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin/client"
)

func newShow(c *cli) *cobra.Command {
	var form, key string
	var proof, rows bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one call: its stages, its statements, its proof",
		Long: `Show prints everything the trail holds about one call or event. ID is an entry's
id, or the beginning of one (6 characters or more, as many as make it unique).

With --proof every stage is proven to be in the log: the signed checkpoint, the
path from the entry to its root, and the entry's own bytes are checked here, not
by the gateway. The key is log.pub of this data directory; for a gateway elsewhere
name a copy of it that you trust with --key. Without one, the key is the gateway's
own word, and that is said. With -o json the proofs are printed too.

With --rows it prints the rows that went back to the agent instead, where they were
recorded: one JSON object a line, as BigQuery sent it, those of all pages of the
result in order. Rows that are not there are named on stderr, and the exit code is 1.
That somebody looked is an entry.`,
		Example: `  trailgate show 01jd2v8c9mhw3k5r
  trailgate show 01jd2v8c9mhw3k5r --proof
  trailgate show 01jd2v8c9mhw3k5r --proof -o json > evidence.json
  trailgate show 01jd2v8c9mhw3k5r --rows > rows.jsonl`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, other := range []string{"proof", "key", "output"} {
				if rows && cmd.Flags().Changed(other) {
					return usagef("--rows prints rows alone; leave out --%s", other)
				}
			}
			return c.with(cmd.Context(), func(r *remote) error {
				if rows {
					return c.printRows(cmd.Context(), r, args[0])
				}
				s, err := r.Show(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if !proof && key == "" {
					return c.printShown(s, nil, form)
				}
				p, err := c.prove(cmd, r, s, key)
				if err != nil {
					return err
				}
				return c.printShown(s, p, form)
			})
		},
	}
	cmd.Flags().BoolVar(&proof, "proof", false, "prove that the log holds it")
	cmd.Flags().StringVar(&key, "key", "", "`FILE` with the log's public key that you trust (implies --proof)")
	cmd.Flags().BoolVar(&rows, "rows", false, "print the recorded rows, a line each")
	outputFlag(cmd, &form, "table", "json", "jsonl")
	return cmd
}

// rowsAtOnce is how many recorded rows are asked for at a time.
const rowsAtOnce = 10_000

// printRows writes the recorded rows of a call's whole result.
func (c *cli) printRows(ctx context.Context, r resultsOf, id string) error {
	out := bufio.NewWriter(c.out)
	var missing, from int64
	for {
		got, err := r.Results(ctx, id, from, rowsAtOnce)
		if err != nil {
			return errors.Join(explainAPI(err), out.Flush())
		}
		for _, raw := range got.Rows {
			if string(raw) == "null" {
				continue
			}
			if _, err := out.Write(append(raw, '\n')); err != nil {
				return err
			}
		}
		for _, g := range got.Gaps {
			missing += g.To - g.From
			fmt.Fprintf(c.err, "rows %d to %d are not here: %s\n", g.From, g.To-1, visible(g.Why))
		}
		from += int64(len(got.Rows))
		if got.More && len(got.Rows) > 0 {
			continue
		}
		if err := out.Flush(); err != nil {
			return err
		}
		if got.More {
			return fmt.Errorf("the gateway gives no more after %d rows, although there are some", from)
		}
		if got.Total > from {
			fmt.Fprintf(c.err, "the agent read %d of the result's %d rows\n", from, got.Total)
		}
		if missing > 0 {
			return fmt.Errorf("%d of %d rows are not here", missing, from)
		}
		return nil
	}
}

// proven are proofs that were checked.
type proven struct {
	Proofs    []*trailgate.Proof `json:"proofs"`
	PublicKey string             `json:"public_key"`

	keyFrom string // whose word the key is
	size    uint64
	root    string
}

// prove fetches the proofs of all stages and checks each against the key.
func (c *cli) prove(cmd *cobra.Command, r *remote, s *client.Call, keyFile string) (*proven, error) {
	p := &proven{}
	var err error
	if p.Proofs, p.PublicKey, err = r.Proofs(cmd.Context(), s.ID); err != nil {
		return nil, err
	}
	if err := r.trustKey(cmd.Context(), p, keyFile); err != nil {
		return nil, err
	}
	verifier, err := note.NewVerifier(p.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("the log's public key: %w", err)
	}
	evidence := func(format string, args ...any) error {
		return &exitError{
			code: exitEvidence, err: fmt.Errorf("show: NOT proven: "+format, args...),
			hint: "what the gateway shows is not what its log holds; run trailgate verify, and keep a copy of the data directory",
		}
	}
	if len(p.Proofs) != len(s.Stages) {
		return nil, evidence("%d proofs for %d stages", len(p.Proofs), len(s.Stages))
	}
	for _, one := range p.Proofs {
		entry, checkpoint, err := one.Verify(verifier)
		if err != nil {
			return nil, evidence("%w", err)
		}
		i := slices.IndexFunc(s.Stages, func(e *trailgate.Entry) bool { return e.Seq == entry.Seq })
		if i < 0 {
			return nil, evidence("the proof is for entry %d, which is no stage of this call", entry.Seq)
		}
		// What was shown must be what was proven, to the last byte.
		told, err := s.Stages[i].Encode()
		if err != nil {
			return nil, fmt.Errorf("show: %w", err)
		}
		if string(told) != string(one.Entry) {
			return nil, evidence("entry %d was shown differently from what the log holds", entry.Seq)
		}
		if checkpoint.Size >= p.size {
			p.size, p.root = checkpoint.Size, base64.StdEncoding.EncodeToString(checkpoint.Root[:])
		}
	}
	return p, nil
}

// trustKey decides which key proofs are checked against.
func (r *remote) trustKey(ctx context.Context, p *proven, keyFile string) error {
	told := p.PublicKey
	p.keyFrom = "the gateway's own word"
	if keyFile == "" && r.keyFile != "" {
		keyFile = r.keyFile
	}
	if keyFile != "" {
		raw, err := os.ReadFile(keyFile)
		if err != nil {
			return fmt.Errorf("read the log's key: %w", err)
		}
		p.PublicKey, p.keyFrom = strings.TrimSpace(string(raw)), keyFile
	}
	if told != p.PublicKey {
		// The key may have been changed: then this one has given the log over to the other.
		rotations, err := r.Rotations(ctx)
		if err != nil {
			return fmt.Errorf("follow the log's key: %w", err)
		}
		if keys, err := trailgate.NewKeychain(p.PublicKey, rotations); err == nil && keys.Current() == told {
			p.PublicKey, p.keyFrom = told, keyFile+", an earlier key, by whose word the log went over to this one"
			return nil
		}
		return &exitError{
			code: exitEvidence, err: fmt.Errorf("show: NOT proven: the gateway's log has another key than %s", keyFile),
			hint: "it is another log, or somebody exchanged it",
		}
	}
	return nil
}

func (c *cli) printShown(s *client.Call, p *proven, form string) error {
	if form == "table" {
		return c.tellShown(s, p)
	}
	out := shownJSON{ID: s.ID, State: s.State, Stages: s.Stages, Statements: []statementJSON{}, Proof: p}
	for _, st := range s.Statements {
		out.Statements = append(out.Statements, statementJSON(st))
	}
	return printJSON(c.out, out, form)
}

// shownJSON is how "show" prints a call as JSON.
type shownJSON struct {
	ID         string             `json:"id"`
	State      string             `json:"state"`
	Stages     []*trailgate.Entry `json:"stages"`
	Statements []statementJSON    `json:"statements"`
	Proof      *proven            `json:"proof,omitempty"`
}

type statementJSON struct {
	Where      string `json:"where"`
	SHA256     string `json:"sha256"`
	Length     int64  `json:"length"`
	Dialect    string `json:"dialect,omitempty"`
	Text       string `json:"text"`
	Parameters string `json:"parameters,omitempty"`
	Missing    string `json:"missing,omitempty"`
}

// facts are lines of a name and a value; empty values are left out.
type facts struct{ lines [][2]string }

func (f *facts) add(name, value string) {
	if value != "" {
		f.lines = append(f.lines, [2]string{name, value})
	}
}

func (f *facts) addNumber(name string, n int64, unit string) {
	if n != 0 {
		f.add(name, strings.TrimSpace(strconv.FormatInt(n, 10)+" "+unit))
	}
}

func (f *facts) write(w io.Writer, indent string) error {
	widest := 0
	for _, line := range f.lines {
		widest = max(widest, len(line[0]))
	}
	for _, line := range f.lines {
		if _, err := fmt.Fprintf(w, "%s%-*s  %s\n", indent, widest, line[0], visible(line[1])); err != nil {
			return err
		}
	}
	return nil
}

// tellShown prints a call for a person.
func (c *cli) tellShown(s *client.Call, p *proven) error {
	if len(s.Stages) == 0 {
		return errors.New("read the gateway's answer: an entry without stages")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n", visible(s.ID), visible(s.State))
	var f facts
	openingFacts(&f, s.Stages[0])
	if err := f.write(&b, "  "); err != nil {
		return err
	}
	for _, st := range s.Statements {
		fmt.Fprintf(&b, "\nstatement (%s, sha256 %s)\n", visible(st.Where), visible(st.SHA256))
		for line := range strings.Lines(visibleLines(st.Text)) {
			b.WriteString("    " + strings.TrimRight(line, "\n") + "\n")
		}
		if st.Parameters != "" {
			b.WriteString("  parameters " + visible(st.Parameters) + "\n")
		}
		if st.Missing != "" {
			b.WriteString("  missing: " + visible(st.Missing) + "\n")
		}
	}
	b.WriteString("\nstages\n")
	for _, e := range s.Stages {
		fmt.Fprintf(&b, "  %s  %s  entry %d  %s\n", e.Time.UTC().Format(time.RFC3339Nano), visible(string(e.Kind)), e.Seq, visible(e.ID))
		var f facts
		stageFacts(&f, e)
		if err := f.write(&b, "    "); err != nil {
			return err
		}
	}
	if p != nil {
		fmt.Fprintf(&b, "\nproven: all %d stages are in the log of %d entries\n  root  %s\n  key   %s\n        (%s)\n",
			len(p.Proofs), p.size, p.root, visible(p.PublicKey), visible(p.keyFrom))
	}
	if _, err := io.WriteString(c.out, b.String()); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// openingFacts tells who and what.
func openingFacts(f *facts, e *trailgate.Entry) {
	if p := e.Principal; p != nil {
		f.add("agent", p.Agent)
		f.add("human", p.Human)
		f.add("acting for", strings.Join(p.Actors, " for "))
		f.add("token", p.TokenID)
		f.add("authenticated by", p.AuthMode)
	}
	if e.IntentID != "" {
		f.add("goes on from", e.IntentID)
	}
	if e.Request != nil && e.Request.For != "" {
		f.add("sent for", e.Request.For)
	}
	f.add("session", e.Session)
	f.add("client", e.Client)
	f.add("connection", e.Connection)
	f.add("project", e.Project)
	f.add("location", e.Location)
	f.add("method", e.Method)
	classes := make([]string, 0, len(e.Classes))
	for _, class := range e.Classes {
		classes = append(classes, string(class))
	}
	if len(classes) < 2 {
		classes = []string{string(e.Class)}
	}
	f.add("class", strings.Join(classes, ", "))
	if r := e.Request; r != nil {
		f.add("request", r.Verb+" "+r.Path)
		if r.DryRun {
			f.add("dry run", "yes")
		}
		f.add("repeats", r.DuplicateOf)
	}
	f.add("destinations", strings.Join(e.Destinations, " "))
	if d := e.Decision; d != nil {
		f.add("decision", strings.TrimSpace(d.Effect+" "+d.Rule))
		f.add("approval", d.ApprovalID)
		f.add("approved by", strings.Join(d.Approvers, " "))
		f.add("reason", d.Reason)
	}
	if u := e.Upstream; u != nil {
		as := u.Mode
		if u.Principal != "" {
			as += " " + u.Principal
		}
		if u.Shared {
			as += ", shared (not the agent's own)"
		}
		f.add("upstream", strings.TrimSpace(u.Host+" as "+as))
	}
	if cl := e.Claims; cl != nil {
		f.add("user agent (claim)", cl.UserAgent)
		f.add("reason (claim)", cl.Reason)
		f.add("human (claim)", cl.Human)
		f.add("title (claim)", cl.Title)
		f.add("purpose (claim)", cl.Purpose)
		f.add("labels (claim)", pairs(cl.Labels))
		f.add("labels dropped", pairs(cl.DroppedLabels))
	}
	if ev := e.Event; ev != nil {
		f.add("action", ev.Action)
		f.add("target", ev.Target)
		f.add("by", strings.TrimSpace(ev.Actor+" "+ev.Via))
		for _, k := range sortedKeys(ev.Detail) {
			f.add(k, ev.Detail[k])
		}
	}
	if a := e.Aggregate; a != nil {
		f.add("stands for", fmt.Sprintf("%d calls since %s", a.Count, a.Since.UTC().Format(time.RFC3339)))
		f.add("from", strings.Join(a.Addresses, " "))
	}
	f.add("gateway", strings.TrimSpace(e.Gateway.ID+" "+e.Gateway.Version))
}

// stageFacts tells what a stage added.
func stageFacts(f *facts, e *trailgate.Entry) {
	if d := e.Decision; d != nil && (e.Kind == trailgate.KindApproved || e.Kind == trailgate.KindExpired || e.Kind == trailgate.KindDenied) {
		f.add("decision", strings.TrimSpace(d.Effect+" "+d.Reason))
		f.add("approved by", strings.Join(d.Approvers, " "))
		if e.Event != nil {
			f.add("by", strings.TrimSpace(e.Event.Actor+" "+e.Event.Via))
		}
	}
	if s := e.StatementType; s != nil {
		f.add("statement type", bestType(s))
		if s.Disagree {
			f.add("types disagree", fmt.Sprintf("local %s, final %s", s.Local, s.Final))
		}
	}
	if t := e.Tables; t != nil {
		f.add("written", strings.Join(t.Written, " "))
		f.add("read", strings.Join(t.Read, " "))
		f.addNumber("tables left out", t.Omitted, "")
	}
	if j := e.Job; j != nil {
		f.add("job", strings.TrimSpace(j.ID+" "+j.Location))
		f.add("job made by", strings.TrimSpace(j.OwnerAgent+" "+j.OwnerEntry))
		f.add("child jobs", strings.Join(j.Children, " "))
	}
	if o := e.Outcome; o != nil {
		f.addNumber("status", int64(o.Status), "")
		f.add("ended", o.End)
		f.add("error", strings.TrimSpace(o.ErrorReason+" "+o.ErrorMessage))
		f.add("job state", o.JobState)
		f.addNumber("rows", o.Rows, "")
		f.addNumber("rows in all", o.TotalRows, "")
		f.addNumber("rows affected", o.RowsAffected, "")
		f.addNumber("processed", o.BytesProcessed, "bytes")
		f.addNumber("billed", o.BytesBilled, "bytes")
		f.addNumber("answer", o.Bytes, "bytes")
		if o.DurationNanos > 0 {
			f.add("took", time.Duration(o.DurationNanos).Round(time.Microsecond).String())
		}
		f.add("figures may be short", o.CaptureError)
	}
	f.add("flags", strings.Join(e.Flags, " "))
}

func pairs(m map[string]string) string {
	var out []string
	for _, k := range sortedKeys(m) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, " ")
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
