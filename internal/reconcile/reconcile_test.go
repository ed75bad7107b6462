package reconcile_test

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/reconcile"
	"github.com/trailgate/trailgate/internal/sandbox"
)

// TestEach is one of each kind of thing, by each source that is asked over the network.
func TestEach(t *testing.T) {
	for _, source := range []string{"jobs", "information-schema"} {
		t.Run(source, func(t *testing.T) {
			r := newRig(t, 100)
			good := r.call("good", "SELECT 1")
			r.pass(time.Second)
			// jobs.query: BigQuery names the job.
			q := r.append(r.intent("", "SELECT 2"))
			r.plant(r.job(q, "named", "SELECT 2", 100))
			r.append(r.outcome(q, "named", 100))
			r.pass(time.Second)

			r.plant(sandbox.PlantedJob{ID: "direct", Principal: agentSA, Statement: "DELETE FROM x", StatementType: "DELETE", BytesProcessed: 7})
			r.plant(sandbox.PlantedJob{ID: "of-ada", Principal: human, Statement: "SELECT 3"})
			r.plant(sandbox.PlantedJob{ID: "forged-none", Principal: human, Statement: "SELECT 4", Labels: map[string]string{"trailgate_entry": "01k99999999999999999999999"}})
			r.plant(sandbox.PlantedJob{ID: "forged-other", Principal: agentSA, Statement: "SELECT 1", Labels: labels(good)})
			r.plant(sandbox.PlantedJob{ID: "forged-part", Principal: agentSA, Statement: "SELECT 1", Labels: map[string]string{"trailgate_agent": "etl-bot"}})
			r.pass(time.Second)
			for name, change := range map[string]func(*sandbox.PlantedJob){
				"t-statement": func(p *sandbox.PlantedJob) { p.Statement += " " },
				"t-principal": func(p *sandbox.PlantedJob) { p.Principal = human },
				"t-bytes":     func(p *sandbox.PlantedJob) { p.BytesProcessed++ },
				"t-billed":    func(p *sandbox.PlantedJob) { p.BytesBilled = 0 },
				"t-label":     func(p *sandbox.PlantedJob) { p.Labels = nil },
				"t-agent":     func(p *sandbox.PlantedJob) { p.Labels["trailgate_agent"] = "analyst-bot" },
			} {
				r.call(name, "SELECT '"+name+"'")
				if err := r.box.Tamper(project, name, change); err != nil {
					t.Fatal(err)
				}
			}
			rows := r.append(r.intent("t-rows", "DELETE FROM y"))
			p := r.job(rows, "t-rows", "DELETE FROM y", 100)
			p.StatementType, p.RowsAffected = "DELETE", 4
			r.plant(p)
			o := r.outcome(rows, "t-rows", 100)
			o.Outcome.RowsAffected = 3
			r.append(o)

			// Refused by BigQuery, and then made past the gateway under the same id.
			refused := r.append(r.intent("taken", "SELECT 5"))
			out := r.outcome(refused, "taken", 0)
			out.Outcome, out.Job = &trailgate.Outcome{Status: 409, End: trailgate.EndComplete, ErrorReason: "duplicate"}, nil
			r.append(out)
			r.plant(sandbox.PlantedJob{ID: "taken", Principal: agentSA, Statement: "SELECT 5"})

			gone := r.call("gone", "SELECT 6")
			if err := r.box.Forget(project, "gone"); err != nil {
				t.Fatal(err)
			}
			// One whose record was deleted by a call that is in the trail is no finding.
			r.call("deleted", "SELECT 7")
			if err := r.box.Forget(project, "deleted"); err != nil {
				t.Fatal(err)
			}
			d := r.intent("deleted", "")
			d.Method, d.Statements = "bigquery.jobs.delete", nil
			r.append(d)
			r.append(&trailgate.Entry{Kind: trailgate.KindOutcome, IntentID: d.ID, Connection: "sandbox", Method: d.Method, Outcome: &trailgate.Outcome{Status: 204, End: "complete"}})

			// A script's statements are the script's.
			script := r.call("script", "SELECT 1; SELECT 2")
			for i := range 2 {
				r.plant(sandbox.PlantedJob{ID: fmt.Sprint("script_child_", i), Parent: "script", Principal: agentSA, Statement: "SELECT 1", Labels: labels(script)})
			}
			// No outcome: settled as found, as absent, and by the label alone.
			found := r.append(r.intent("lost-found", "SELECT 8"))
			r.plant(r.job(found, "lost-found", "SELECT 8", 100))
			absent := r.append(r.intent("lost-absent", "SELECT 9"))
			byLabel := r.append(r.intent("", "SELECT 10"))
			r.plant(r.job(byLabel, "job_by_bigquery", "SELECT 10", 100))
			cut := r.append(r.intent("cut", "SELECT 11"))
			r.plant(r.job(cut, "cut", "SELECT 11", 100))
			oc := r.outcome(cut, "cut", 0)
			oc.Job, oc.Outcome, oc.Flags = nil, &trailgate.Outcome{Status: 502, End: trailgate.EndUpstreamDown}, []string{"effect_unknown"}
			r.append(oc)

			r.pass(3 * time.Hour)
			report, list := r.reconcile(r.config(source))
			want := []string{
				"bypassed direct", "bypassed taken", "forged forged-none", "forged forged-other", "forged forged-part", "mismatched t-agent agent",
				"mismatched t-billed bytes_billed", "mismatched t-bytes bytes_processed", "mismatched t-label label", "mismatched t-principal principal",
				"mismatched t-rows rows_affected", "mismatched t-statement statement", "unseen gone",
			}
			got := strings.Split(names(list), "\n")
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			wantCounts := reconcile.Counts{Both: 13, Direct: 4, Missing: 1, Mismatched: 7, Forged: 3, Settled: 4, Others: 1}
			if source == "information-schema" {
				wantCounts.Children = 2
			}
			if report.Counts != wantCounts {
				t.Errorf("counts %+v, want %+v", report.Counts, wantCounts)
			}
			for e, end := range map[*trailgate.Entry]string{found: "job_found", absent: "job_absent", byLabel: "job_found", cut: "job_found"} {
				stages, err := r.index.Lookup(t.Context(), e.ID)
				if err != nil {
					t.Fatal(err)
				}
				last := stages[len(stages)-1]
				if last.Kind != trailgate.KindSettled || last.Outcome.End != end {
					t.Errorf("%s is %s %+v, want settled as %s", e.ID, last.Kind, last.Outcome, end)
				}
			}
			for _, f := range list {
				switch f.Job {
				case "t-bytes":
					if d := f.Differences[0]; d.Trail != "100" || d.BigQuery != "101" || f.Call == "" || f.Agent != "etl-bot" {
						t.Errorf("%+v", f)
					}
				case "gone":
					if f.Call != gone.ID {
						t.Errorf("%+v", f)
					}
				}
			}

			// What was found is in the trail, and is not found anew.
			if len(r.told) != len(want) || report.New != int64(len(want)) {
				t.Errorf("%d were told of, %d new, of %d", len(r.told), report.New, len(want))
			}
			r.pass(time.Hour)
			again, list := r.reconcile(r.config(source))
			if again.New != 0 || again.Findings != int64(len(want)) || len(list) != len(want) {
				t.Errorf("the second run has %+v", again)
			}
			if again.Counts.Settled != 0 {
				t.Errorf("%d were settled twice", again.Counts.Settled)
			}
			for _, f := range list {
				if f.New || f.Entry == "" {
					t.Errorf("the second run says %+v", f)
				}
			}
			if source == "information-schema" && again.Counts.Own == 0 {
				t.Error("the queries of the first run are not known as the reconciliation's own")
			}
			if source == "information-schema" && again.Counts.Direct != report.Counts.Direct {
				t.Errorf("the reconciliation's own queries count as direct: %+v", again.Counts)
			}
		})
	}
}

// crowd fills both sides with n jobs over hours, and plants what is to be found.
func crowd(t testing.TB, r *rig, n, bypassed, tampered, forged int, span time.Duration) (want map[string]string) {
	want = map[string]string{}
	step := span / time.Duration(n)
	kind := make([]byte, n)
	// Spread evenly, by strides that have nothing to do with hours.
	place := func(mark byte, count int) {
		for i, put := 0, 0; put < count; i++ {
			at := (i*7919 + int(mark)*131) % n
			if kind[at] == 0 {
				kind[at] = mark
				put++
			}
		}
	}
	place('b', bypassed)
	place('t', tampered)
	place('f', forged)
	batch := min(500, n/30) // committed at once, at one moment
	for from := 0; from < n; from += batch {
		to := min(from+batch, n)
		intents := make([]*trailgate.Entry, to-from)
		jobs := make([]string, to-from)
		for i := from; i < to; i++ {
			jobs[i-from] = fmt.Sprintf("job_%07d", i)
			if kind[i] == 'b' || kind[i] == 'f' {
				continue
			}
			intents[i-from] = r.intent(jobs[i-from], fmt.Sprintf("SELECT %d FROM shop.orders WHERE customer = 'c%d'", i, i%97))
		}
		r.commit(intents)
		last := ""
		outcomes := make([]*trailgate.Entry, to-from)
		for i := from; i < to; i++ {
			name, e := jobs[i-from], intents[i-from]
			statement := fmt.Sprintf("SELECT %d FROM shop.orders WHERE customer = 'c%d'", i, i%97)
			p := sandbox.PlantedJob{Project: project, ID: name, Principal: agentSA, Statement: statement, Created: r.clock(), BytesProcessed: int64(i + 1), BytesBilled: 10 << 20, Took: time.Second}
			switch kind[i] {
			case 'b':
				want[name] = reconcile.Bypassed
			case 'f':
				p.Labels = map[string]string{"trailgate_entry": "01k99999999999999999999999", "trailgate_agent": "etl-bot"}
				if last != "" && i%2 == 0 {
					p.Labels["trailgate_entry"] = last
				}
				want[name] = reconcile.Forged
			default:
				p.Labels = labels(e)
				last = e.ID
				outcomes[i-from] = r.outcome(e, name, int64(i+1))
				if kind[i] == 't' {
					switch i % 3 {
					case 0:
						p.Statement += " -- and more"
					case 1:
						p.Principal = human
					default:
						p.BytesProcessed *= 10
					}
					want[name] = reconcile.Mismatched
				}
			}
			r.plant(p)
		}
		r.commit(outcomes)
		r.pass(step * time.Duration(batch))
	}
	return want
}

// commit appends many at once.
func (r *rig) commit(list []*trailgate.Entry) {
	var wait sync.WaitGroup
	var next atomic.Int64
	for range 64 {
		wait.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(list) {
					return
				}
				if list[i] != nil {
					if err := r.write(r.t.Context(), list[i]); err != nil {
						r.t.Error(err)
						return
					}
				}
			}
		})
	}
	wait.Wait()
}

// peak is how much more of the heap was in use at the most than before, as the collector
// found it: garbage that it has not looked at yet is not counted, since how much of that
// there may be depends on all else that the process holds.
func peak(do func()) (above uint64) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	now := func() uint64 { metrics.Read(live); return live[0].Value.Uint64() }
	runtime.GC()
	base := now()
	// So that it looks often enough.
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if n := now(); n > base {
					above = max(above, n-base)
				}
			case <-stop:
				return
			}
		}
	}()
	do()
	close(stop)
	<-done
	return above
}

func exactly(t testing.TB, list []*reconcile.Finding, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for _, f := range list {
		if got[f.Job] != "" {
			t.Errorf("%s was found twice", f.Job)
		}
		got[f.Job] = f.Kind
	}
	for job, kind := range want {
		if got[job] != kind {
			t.Errorf("%s is %q, want %q", job, got[job], kind)
		}
	}
	for job, kind := range got {
		if want[job] == "" {
			t.Errorf("%s was found %s, and is good", job, kind)
		}
	}
}

// TestCrowd finds exactly what is wrong among many, in slices that hold a few.
func TestCrowd(t *testing.T) {
	for _, source := range []string{"jobs", "information-schema"} {
		t.Run(source, func(t *testing.T) {
			const n = 1500
			r := newRig(t, n)
			want := crowd(t, r, n, 37, 11, 7, 3*time.Hour)
			r.pass(3 * time.Hour)
			cfg := r.config(source)
			cfg.MaxInMemory = 400
			report, list := r.reconcile(cfg)
			exactly(t, list, want)
			if report.Counts.Both != n-37-7 || report.Counts.Late != 0 || report.Counts.Missing != 0 {
				t.Errorf("%+v", report.Counts)
			}
		})
	}
}

// TestHundredThousand is the size that docs/reliability.md speaks of: 100,000 jobs, of
// which 137 went past the gateway, 41 were tampered with and 23 carry forged labels.
func TestHundredThousand(t *testing.T) {
	if testing.Short() {
		t.Skip("100,000 jobs")
	}
	const n = 100_000
	r := newDiskRig(t, n)
	began := time.Now()
	want := crowd(t, r, n, 137, 41, 23, 24*time.Hour)
	r.pass(3 * time.Hour)
	r.indexed()
	t.Logf("both sides were made in %v", time.Since(began))
	var report *reconcile.Report
	var list []*reconcile.Finding
	began, cpu := time.Now(), spent(t)
	report, list = r.reconcile(r.config("jobs"))
	t.Logf("reconciled in %v, %v of CPU, sandbox included; %+v", time.Since(began), spent(t)-cpu, report.Counts)
	exactly(t, list, want)
	if report.Counts.Both != n-137-23 {
		t.Errorf("%+v", report.Counts)
	}
	// The same again without the sandbox's part, whose answers are kept and then read from
	// files. Nothing is new, and nothing is missed.
	r.canned = t.TempDir()
	again := func() {
		report, list = r.reconcile(r.config("jobs"))
		exactly(t, list, want)
		if report.New != 0 {
			t.Errorf("%d findings are new", report.New)
		}
	}
	again()
	began, cpu = time.Now(), spent(t)
	again()
	t.Logf("without the sandbox: reconciled in %v, %v of CPU", time.Since(began), spent(t)-cpu)
	t.Logf("without the sandbox: at most %d MiB of heap above idle", peak(again)>>20)
}

// spent is the CPU time of this process so far.
func spent(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
