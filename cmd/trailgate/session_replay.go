package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/policy"
)

// longestGap is how long a replay waits at most.
const longestGap = 3 * time.Second

func newSessionReplay(c *cli) *cobra.Command {
	var speed string
	var stepwise bool
	var results int
	var whatIf []string
	cmd := &cobra.Command{
		Use:   "replay ID",
		Short: "Play a session again in the terminal",
		Long: `Replay prints a session's calls one by one: at the session's own pace times
--speed, waiting 3 s at most, or with --step one for each Enter (q ends).
Nothing is sent to BigQuery.

--results shows the recorded rows of each answer, up to that many; looking at them
is an entry in the trail. --what-if marks what other rules would have decided; a
"?" means that they looked at something that the trail does not hold.`,
		Example: `  trailgate session replay 01jd2v8c9m --speed max --results 5
  trailgate session replay 01jd2v8c9m --step
  trailgate session replay 01jd2v8c9m --speed max --what-if stricter.yaml`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			p := player{out: c.out, err: c.err, wait: sleep, results: results}
			if stepwise {
				info, err := os.Stdin.Stat()
				if err != nil || info.Mode()&os.ModeCharDevice == 0 {
					return usagef("--step needs a terminal to read from; without one, use --speed")
				}
				p.keys = bufio.NewReader(os.Stdin)
			}
			var err error
			if p.speed, err = parseSpeed(speed); err != nil {
				return err
			}
			if results < 0 || results > 1000 {
				return usagef("--results %d: want 0 to 1000", results)
			}
			if len(whatIf) > 0 {
				if p.set, err = c.policySet(whatIf); err != nil {
					return err
				}
			}
			return c.with(cmd.Context(), func(r *remote) error {
				s, err := c.session(cmd.Context(), r, args[0])
				if err != nil {
					return err
				}
				rows, err := callsOf(cmd.Context(), r, s.ID)
				if err != nil {
					return err
				}
				p.said = verdicts(cmd.Context(), r, s.Agent, rows)
				printSession(c.out, s)
				return p.play(cmd.Context(), r.Client, rows)
			})
		},
	}
	cmd.Flags().StringVar(&speed, "speed", "1x", "`FACTOR`, such as 10x, or max for no waiting")
	cmd.Flags().BoolVar(&stepwise, "step", false, "go on at each Enter")
	cmd.Flags().IntVar(&results, "results", 0, "show up to `N` recorded rows of each answer")
	cmd.Flags().StringArrayVar(&whatIf, "what-if", nil, "mark what the rules of this `FILE` would have decided; may be repeated")
	must(cmd.RegisterFlagCompletionFunc("speed", cobra.FixedCompletions([]string{"1x", "10x", "100x", "max"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("results", cobra.NoFileCompletions))
	must(cmd.MarkFlagFilename("what-if", "yaml", "yml"))
	return cmd
}

// parseSpeed reads "10x" or "max", which is 0.
func parseSpeed(s string) (float64, error) {
	if s == "max" {
		return 0, nil
	}
	f, err := strconv.ParseFloat(strings.TrimSuffix(s, "x"), 64)
	if err != nil || !(f > 0) || f > 1e6 {
		return 0, usagef("--speed %q: want a factor such as 10x, or max", s)
	}
	return f, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// player plays a session.
type player struct {
	out, err io.Writer
	speed    float64       // 0: no waiting
	keys     *bufio.Reader // nil: not step by step
	results  int
	set      *policy.Set       // nil: nothing to compare with
	said     map[string]string // what humans said, by the call
	wait     func(context.Context, time.Duration) error
	differ   int
}

// resultsOf reads recorded rows.
type resultsOf interface {
	Results(ctx context.Context, id string, from, count int64) (*client.Results, error)
}

func (p *player) play(ctx context.Context, r resultsOf, rows []client.Row) error {
	var before time.Time
	for i := range rows {
		row := &rows[i]
		if i > 0 {
			if done, err := p.pause(ctx, row.Entry.Time.Sub(before)); done || err != nil {
				return err
			}
		}
		printCall(p.out, row, before, p.said[row.Entry.ID])
		p.compare(ctx, row)
		if err := p.show(ctx, r, row); err != nil {
			return err
		}
		before = row.Entry.Time
	}
	if p.set != nil {
		fmt.Fprintf(p.err, "%d of %d calls would have been decided otherwise\n", p.differ, len(rows))
	}
	return nil
}

// pause waits for as long as the session did, or for a key.
func (p *player) pause(ctx context.Context, gap time.Duration) (done bool, err error) {
	if p.keys != nil {
		fmt.Fprint(p.err, "-- Enter: next, q: end -- ")
		line, err := p.keys.ReadString('\n')
		return err != nil || strings.HasPrefix(strings.TrimSpace(line), "q"), nil
	}
	if p.speed == 0 || gap <= 0 {
		return false, ctx.Err()
	}
	wait := time.Duration(float64(gap) / p.speed)
	if wait > longestGap {
		fmt.Fprintf(p.out, "    … %s\n", gap.Round(time.Second))
		wait = longestGap
	}
	return false, p.wait(ctx, wait)
}

// compare says what other rules would have decided.
func (p *player) compare(ctx context.Context, row *client.Row) {
	if p.set == nil {
		return
	}
	d, judged := again(ctx, p.set, &row.Entry)
	if !judged || d == nil {
		return
	}
	p.differ++
	mark := ""
	if len(d.Uncertain) > 0 {
		mark = " ? (not known: " + strings.Join(d.Uncertain, ", ") + ")"
	}
	fmt.Fprintf(p.out, "    WHAT IF: %s by %s, in place of %s by %s%s\n", d.Now, visible(d.NowRule), d.Was, visible(d.WasRule), visible(mark))
}

// show prints the recorded rows of an answer.
func (p *player) show(ctx context.Context, r resultsOf, row *client.Row) error {
	if p.results == 0 || row.Entry.Recording == nil || row.Entry.Recording.Rows == 0 {
		return nil
	}
	got, err := r.Results(ctx, row.Entry.ID, row.Entry.Recording.StartRow, int64(p.results))
	if told, ok := errors.AsType[*client.Error](err); ok && told.Code < 500 {
		fmt.Fprintf(p.out, "    rows: %s\n", visible(told.Message))
		return nil
	}
	if err != nil {
		return explainAPI(err)
	}
	if len(got.Schema) > 0 {
		names := make([]string, 0, len(got.Schema))
		for _, col := range got.Schema {
			names = append(names, visible(col.Name))
		}
		fmt.Fprintf(p.out, "    > %s\n", strings.Join(names, "\t"))
	}
	for i, raw := range got.Rows {
		fmt.Fprintf(p.out, "    > %s\n", rowLine(raw, got.Gaps, got.From+int64(i)))
	}
	return nil
}

// rowLine is a recorded row on one line.
func rowLine(raw json.RawMessage, gaps []client.Gap, n int64) string {
	var row struct {
		F []struct {
			V json.RawMessage `json:"v"`
		} `json:"f"`
	}
	if err := json.Unmarshal(raw, &row); err != nil || row.F == nil {
		for _, g := range gaps {
			if n >= g.From && n < g.To {
				return "(not here: " + visible(g.Why) + ")"
			}
		}
		return visible(string(raw))
	}
	cells := make([]string, 0, len(row.F))
	for _, c := range row.F {
		var s string
		if json.Unmarshal(c.V, &s) != nil {
			s = string(c.V)
		}
		cells = append(cells, visible(s))
	}
	return strings.Join(cells, "\t")
}
