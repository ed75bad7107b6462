package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/reconcile"
	"github.com/trailgate/trailgate/internal/sandbox"
)

// TestRunning: a job that still runs when it is compared is compared by what is final, a
// call of this run of the gateway is not settled while it may be under way, and a job
// whose call was in an hour before counts in its own.
func TestRunning(t *testing.T) {
	r := newRig(t, 100)
	r.set(start.Add(time.Hour - time.Second))
	e := r.append(r.intent("across", "SELECT 1"))
	r.pass(2 * time.Second) // the job is the next hour's
	p := r.job(e, "across", "SELECT 1", 1)
	p.Running = true
	r.plant(p)
	o := r.outcome(e, "across", 0)
	o.Outcome = &trailgate.Outcome{Status: 200, End: trailgate.EndComplete, JobState: "RUNNING"}
	r.append(o)
	open := r.append(r.intent("open", "SELECT 2"))
	r.plant(r.job(open, "open", "SELECT 2", 5))
	r.pass(2 * time.Hour)
	cfg := r.config("jobs")
	cfg.SettleBefore = open.Seq
	report, list := r.reconcile(cfg)
	if len(list) != 0 || report.Counts != (reconcile.Counts{Both: 2}) {
		t.Errorf("%+v\n%s", report.Counts, names(list))
	}
	st, err := r.store.Load("sandbox")
	if err != nil {
		t.Fatal(err)
	}
	if h := start.Unix() / 3600; st.Hours[h].Both != 0 || st.Hours[h+1].Both != 2 {
		t.Errorf("%+v", st.Hours)
	}
}

// TestResume: a run that is cut short goes on where it was, counts nothing twice, and
// without its state finds the same again and writes nothing.
func TestResume(t *testing.T) {
	const n = 500
	r := newRig(t, n)
	want := crowd(t, r, n, 11, 7, 5, 4*time.Hour)
	r.pass(3 * time.Hour)
	r.indexed()
	ctx, cancel := context.WithCancel(t.Context())
	cfg := r.config("jobs")
	_, err := reconcile.Run(ctx, cfg, reconcile.Options{Since: start, Until: r.clock(), Progress: func(p reconcile.Progress) {
		if p.Done.Equal(start.Add(2 * time.Hour)) {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("the run that was cut says %v", err)
	}
	report, list := r.reconcile(r.config("jobs"))
	exactly(t, list, want)
	if !report.ResumedFrom.Equal(start.Add(2*time.Hour)) || report.Counts.Both != n-11-5 {
		t.Errorf("%+v", report)
	}
	told := len(r.told)
	if told != len(want) {
		t.Errorf("%d were told of, of %d", told, len(want))
	}
	if err := os.RemoveAll(filepath.Join(r.dir, "reconcile")); err != nil {
		t.Fatal(err)
	}
	again, list := r.reconcile(r.config("jobs"))
	exactly(t, list, want)
	if again.New != 0 || len(r.told) != told || again.Counts != report.Counts {
		t.Errorf("without its state: %+v, then %+v", report, again)
	}
}

// TestFindingNotRecorded: entries of findings that are durable, and a state that is not: found
// again, and known.
func TestFindingNotRecorded(t *testing.T) {
	r := newRig(t, 100)
	r.call("good", "SELECT 1")
	for i := range 3 {
		r.plant(sandbox.PlantedJob{ID: fmt.Sprint("direct", i), Principal: agentSA, Statement: "SELECT 2"})
	}
	r.pass(2 * time.Hour)
	r.indexed()
	cfg := r.config("jobs")
	full := errors.New("the disk is full")
	n := 0
	cfg.Append = func(ctx context.Context, e *trailgate.Entry) error {
		if e.Kind == trailgate.KindGap {
			if n++; n > 1 {
				return full
			}
		}
		return r.write(ctx, e)
	}
	if _, err := reconcile.Run(t.Context(), cfg, reconcile.Options{Since: start, Until: r.clock()}); !errors.Is(err, full) {
		t.Fatalf("%v", err)
	}
	if st, err := r.store.Load("sandbox"); err != nil || st.LastError == "" || len(st.Hours) != 0 {
		t.Errorf("%+v, %v", st, err)
	}
	report, list := r.reconcile(r.config("jobs"))
	if len(list) != 3 || report.New != 2 {
		t.Errorf("%+v\n%s", report, names(list))
	}
}

// TestShared: with a credential that nobody's entries name, the principal is learned from
// the jobs that entries made, also for hours before.
func TestShared(t *testing.T) {
	r := newRig(t, 100)
	r.plant(sandbox.PlantedJob{ID: "early", Principal: agentSA, Statement: "SELECT 1"})
	r.plant(sandbox.PlantedJob{ID: "ignored", Principal: human, Statement: "SELECT 1"})
	r.pass(3 * time.Hour)
	e := r.append(r.intent("", "SELECT 2"))
	r.plant(r.job(e, "shared", "SELECT 2", 100))
	o := r.outcome(e, "shared", 100)
	o.Upstream = &trailgate.Upstream{Mode: "static", Shared: true}
	r.append(o)
	r.pass(3 * time.Hour)
	report, list := r.reconcile(r.config("jobs"))
	if names(list) != "bypassed early" || report.Counts.Direct != 1 || report.Counts.Others != 1 || report.Percent != 50 {
		t.Errorf("%+v\n%s", report, names(list))
	}
	// A principal that is named counts, one that is ignored does not.
	cfg := r.config("jobs")
	cfg.Principals, cfg.Ignored = []string{human}, []string{agentSA}
	report, list = r.reconcile(cfg)
	if names(list) != "bypassed ignored" || report.Counts.Direct != 1 {
		t.Errorf("%+v\n%s", report, names(list))
	}
}

// TestBigQueryAway: 429 and 503 are tried again, an answer that breaks off is no shorter
// list, and who may not list all jobs learns what is missing.
func TestBigQueryAway(t *testing.T) {
	r := newRig(t, 100)
	r.call("good", "SELECT 1")
	r.plant(sandbox.PlantedJob{ID: "direct", Principal: agentSA, Statement: "SELECT 2"})
	r.pass(2 * time.Hour)
	r.indexed()
	var asked atomic.Int64
	r.box.SetFault(func(*http.Request) *sandbox.Fault {
		switch asked.Add(1) {
		case 1:
			return &sandbox.Fault{Status: 503}
		case 2:
			return &sandbox.Fault{Status: 429, Reason: "rateLimitExceeded"}
		case 3:
			return &sandbox.Fault{DropAnswer: true}
		}
		return nil
	})
	if report, list := r.reconcile(r.config("jobs")); names(list) != "bypassed direct" || report.Counts.Both != 1 {
		t.Errorf("%+v\n%s", report, names(list))
	}
	for name, fault := range map[string]*sandbox.Fault{
		"cut": {CutAfterBytes: 200}, "garbage": {Garbage: true}, "denied": {Status: 403, Reason: "accessDenied"}, "redirect": {Redirect: "http://127.0.0.1:1/"},
	} {
		r.box.SetFault(func(*http.Request) *sandbox.Fault { return fault })
		_, err := reconcile.Run(t.Context(), r.config("jobs"), reconcile.Options{Since: start, Until: r.clock()})
		if err == nil {
			t.Errorf("%s: nothing is wrong", name)
		}
		t.Logf("%s: %v", name, err)
	}
}
