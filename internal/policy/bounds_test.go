package policy_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/policy"
)

// TestBounded: rules that would take too long end, and deny.
func TestBounded(t *testing.T) {
	names := make([]string, 2000)
	for i := range names {
		names[i] = fmt.Sprintf("acme.staging.%0100d", i)
	}
	in := &policy.Input{Tables: trailgate.Tables{Read: names}, Flags: names, Statement: strings.Repeat("a", 1<<20)}
	s := rules(t, `slow allow: tables.read.all(x, flags.exists(y, x + y + x + y == "never") || true)`, "rest allow: true")
	start := time.Now()
	d, _ := s.Evaluate(context.Background(), in)
	if d.Rule != "slow" || !d.Failed || !strings.Contains(d.Reason, "cost limit") {
		t.Errorf("%+v", d)
	}
	if took := time.Since(start); took > 2*time.Minute { // without the limit it would be hours
		t.Errorf("took %v", took)
	}

	var lines []string
	for i := range 100 {
		lines = append(lines, fmt.Sprintf(`r%d allow: tables.read.exists(x, flags.exists_one(y, y == "never%d" && x == "never"))`, i, i))
	}
	if d, _ := rules(t, lines...).Evaluate(context.Background(), in); !d.Failed {
		t.Errorf("100 slow rules: %+v", d)
	}

	// A rule that stays under its own bound may not be repeated without end.
	lines = nil
	for i := range 500 {
		lines = append(lines, fmt.Sprintf(`r%d allow: tables.read.exists(x, x + "%d" == "never")`, i, i))
	}
	if d, _ := rules(t, lines...).Evaluate(context.Background(), in); !d.Failed || !strings.Contains(d.Reason, "too much work") {
		t.Errorf("500 not so slow rules: %+v", d)
	}

	// The statement is seen as far as it is looked at.
	s = rules(t, fmt.Sprintf("a allow: statement.size() == %d", policy.MaxStatementBytes))
	if d, _ := s.Evaluate(context.Background(), in); d.Effect != policy.Allow {
		t.Errorf("%+v", d)
	}
}

func TestContext(t *testing.T) {
	s := rules(t, "first deny: false", "all allow: true")
	cause := errors.New("the client left")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	d, _ := s.Evaluate(ctx, &policy.Input{})
	if d.Effect != policy.Deny || d.Rule != "first" || !strings.Contains(d.Reason, cause.Error()) {
		t.Errorf("%+v", d)
	}
}

// TestCountingChangesNothing: rules come to the same whether their cost is counted
// or known to be small, and for variables of any size.
func TestCountingChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rulesYAML("a allow: "+condition(t, 3, true), "b deny: "+condition(t, 3, true))
		s, err := policy.Load([]policy.File{{Name: "p", Data: []byte(text)}})
		if err != nil {
			t.Fatal(err)
		}
		in := input(t)
		if rapid.Bool().Draw(t, "ran") {
			in.DryRun = dryRun(t)
		}
		if rapid.Bool().Draw(t, "large") {
			for range 100 {
				in.Tables.Read = append(in.Tables.Read, "p.a.t")
			}
			in.Principal.Agent += strings.Repeat("x", 1000)
		}
		one, needOne := s.Evaluate(context.Background(), in)
		two, needTwo := s.Counted().Evaluate(context.Background(), in)
		if diff := cmp.Diff(one, two); diff != "" || needOne != needTwo {
			t.Errorf("%s: %s", text, diff)
		}
	})
	small := rules(t, `a deny: class == "read"`, `b deny: tables.read.exists(t, t.table("a.*"))`, `c deny: tables.all.touches(["a.*", "b.*"])`,
		`d deny: statement.contains("x")`, `e deny: tables.read.exists(a, tables.written.exists(b, a + b == "x"))`).Small()
	if want := []bool{true, true, true, true, false}; !slices.Equal(small, want) {
		t.Errorf("small: %v, want %v", small, want)
	}
}

// TestConcurrent: a set is shared; nothing of one call shows in another.
func TestConcurrent(t *testing.T) {
	s := load(t, `version: 1
rules:
  - {name: large, when: 'tables.read.size() > 50 && tables.read.exists(t, t.table("x.*"))', deny: "{principal.agent}"}
  - {name: own, when: 'tables.written.within("acme." + principal.agent + ".*")', allow: {}}
  - {name: rest, when: 'true', deny: "{principal.agent}"}
`)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 500 {
				agent := fmt.Sprintf("bot-%d-%d", w, i)
				in := &policy.Input{Principal: trailgate.Principal{Agent: agent}, Tables: trailgate.Tables{Written: []string{"acme." + agent + ".t"}}}
				want := "own"
				switch i % 3 {
				case 1:
					in.Tables.Written = append(in.Tables.Written, "acme.other.t")
					want = "rest"
				case 2:
					in.Tables.Read = append(make([]string, 60), "acme.x.t")
					for k := range 60 {
						in.Tables.Read[k] = "acme.y.t"
					}
					want = "large"
				}
				d, _ := s.Evaluate(context.Background(), in)
				if d.Rule != want || d.Effect == policy.Deny && d.Reason != agent {
					t.Errorf("%s: %+v, want %s", agent, d, want)
				}
			}
		})
	}
	wg.Wait()
}
