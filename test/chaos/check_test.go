package chaos

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
)

// sum is what settleAndCheck found.
type sum struct{ executed, answered, open, absent int }

func (s sum) String() string {
	return fmt.Sprintf("%d statements executed, each with its intent; %d answered, each with its outcome; %d intents left open and settled (%d of them had never reached the sandbox)",
		s.executed, s.answered, s.open, s.absent)
}

// says reports whether an entry is about a statement.
func says(e *trailgate.Entry, statement string) bool {
	if len(e.Statements) == 0 {
		return false
	}
	hash := sha256.Sum256([]byte(statement))
	return e.Statements[0].SHA256 == hex.EncodeToString(hash[:])
}

// settleAndCheck holds the trail against what the sandbox did, of the statements
// that have table in them, and what agents were told: every statement that ran
// has its intent, every answered call has its outcome, no statement ran twice,
// and one more start settles what was left open, once and rightly.
func (r *rig) settleAndCheck(table string) (s sum) {
	t := r.t
	t.Helper()
	intents, outcomes := r.entries()
	ran, statements := map[string]bool{}, map[string]string{}
	for _, job := range r.box.Jobs() {
		if !strings.Contains(job.Statement, table) || job.DryRun || !job.Executed {
			continue
		}
		s.executed++
		id := job.Labels["trailgate_entry"]
		ran[id] = true
		if other, twice := statements[job.Statement]; twice {
			t.Errorf("%.80q ran twice, of entries %s and %s", job.Statement, other, id)
		}
		statements[job.Statement] = id
		e := intents[id]
		if e == nil {
			t.Errorf("the sandbox ran %.80q of entry %q, and the trail has no such intent", job.Statement, id)
			continue
		}
		if !says(e, job.Statement) || e.Principal.Agent != job.Labels["trailgate_agent"] {
			t.Errorf("entry %s says %.80q by %s, the sandbox ran %.80q", id, e.Statements[0].Text, e.Principal.Agent, job.Statement)
		}
	}
	for _, a := range r.answers {
		if o := outcomes[a.entry]; o == nil || o.Kind != trailgate.KindOutcome {
			t.Errorf("the call of entry %s was answered and has no outcome", a.entry)
		}
		if e := intents[a.entry]; e == nil || !says(e, a.statement) {
			t.Errorf("answered entry %s has no fitting intent", a.entry)
		}
	}
	s.answered = len(r.answers)

	// One more start settles what was left open, by asking the sandbox.
	for id := range intents {
		if outcomes[id] == nil {
			s.open++
		}
	}
	r.start()
	// After thousands of kills that takes a while; what must not be is that it stands still.
	left := s.open + 1
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(300 * time.Millisecond) {
		out := r.run("search", `state = "indeterminate"`, "-o", "jsonl", "--limit", "100000")
		n := strings.Count(out, "\n")
		if n == 0 {
			break
		}
		if n < left {
			left, deadline = n, time.Now().Add(2*time.Minute)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d are still indeterminate: %.2000s\n%s", n, out, r.output)
		}
	}
	must(t, r.cmd.Process.Signal(os.Interrupt))
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("graceful stop: %v\n%s", err, r.output)
	}
	intents, outcomes = r.entries()
	for id, e := range intents {
		o := outcomes[id]
		if o == nil {
			t.Errorf("intent %s was not settled", id)
			continue
		}
		if o.Kind != trailgate.KindSettled || len(e.Statements) == 0 || !strings.Contains(e.Statements[0].Text, table) {
			continue
		}
		switch o.Outcome.End {
		case "job_absent":
			s.absent++
			if ran[id] {
				t.Errorf("intent %s was settled as absent, but the sandbox ran it", id)
			}
		case "job_found":
			if !ran[id] {
				t.Errorf("intent %s was settled as found, but the sandbox did not run it", id)
			}
		}
	}
	if s.executed == 0 || s.answered == 0 {
		t.Error("the load did nothing")
	}
	return s
}
