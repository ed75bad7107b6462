package trailgate_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/transparency-dev/tessera"
	"golang.org/x/mod/sumdb/note"

	"github.com/trailgate/trailgate"
)

// TestWitnessPolicyErrors: what is wrong with a policy is said, with its line.
func TestWitnessPolicyErrors(t *testing.T) {
	a, b := cosignerFor(t, "a.example").Verifier(), cosignerFor(t, "b.example").Verifier()
	l := logFor(t, "trail.example").vkey
	ab := fmt.Sprintf("witness a %s\nwitness b %s\n", a, b)
	many := func(format string, n int) string {
		var s strings.Builder
		for i := range n {
			fmt.Fprintf(&s, format, i)
		}
		return s.String()
	}
	var witnesses, logs strings.Builder
	for i := range 65 {
		fmt.Fprintf(&witnesses, "witness n%d %s\n", i, cosignerFor(t, fmt.Sprint("n", i)).Verifier())
		fmt.Fprintf(&logs, "log %s\n", logFor(t, fmt.Sprint("n", i)).vkey)
	}
	for _, tt := range []struct{ policy, says string }{
		{"", `no "quorum"`},
		{ab, `no "quorum"`},
		{"frob x\nquorum none\n", `line 1: unknown keyword "frob"`},
		{"quorum none\nquorum none\n", "line 2: a second"},
		{"quorum\n", "quorum NAME"},
		{"quorum a\n" + ab, `line 1: "a" is not defined`},
		{"witness a\nquorum none\n", "witness NAME VKEY"},
		{fmt.Sprintf("witness a %s http://x # y\nquorum a\n", a), "witness NAME VKEY"},
		{"witness a nonsense\nquorum a\n", "NAME+HASH+KEY"},
		{fmt.Sprintf("witness a %s\nquorum a\n", l), "0x01"},
		{fmt.Sprintf("log %s\nquorum none\n", a), "log's key"},
		{fmt.Sprintf("log %s\nlog %s\nquorum none\n", l, l), "line 2: log trail.example and log trail.example have the same key"},
		{fmt.Sprintf("witness none %s\nquorum none\n", a), `named "none"`},
		{fmt.Sprintf("witness a %s\nwitness a %s\nquorum a\n", a, b), `"a" is defined twice`},
		{fmt.Sprintf("witness a %s\nwitness b %s\nquorum a\n", a, a), "witness a and witness b have the same key"},
		{ab + "group g 2 a\nquorum g\n", "2 of 1 members"},
		{ab + "group g 0 a b\nquorum g\n", "0 of 2 members"},
		{ab + "group g 02 a b\nquorum g\n", `"02" members`},
		{ab + "group g +1 a b\nquorum g\n", `"+1" members`},
		{ab + "group g all\nquorum g\n", "group NAME"},
		{ab + "group g 1 a a\nquorum g\n", "count twice"},
		{ab + "group g any a b\ngroup h all a g\nquorum h\n", `line 4: "a" is a member of group g`},
		{ab + "group g any g\nquorum g\n", `"g" is not defined`},
		{ab + "group g any a none\nquorum g\n", `"none" is a member`},
		{ab + "group a any b\nquorum a\n", `"a" is defined twice`},
		{ab + "group g any h\ngroup h any a\nquorum g\n", `"h" is not defined`},
		{ab + "quorum a\r\n", "control character 0x0d"},
		{ab + "quorum\u00a0a\n", "unknown keyword"},
		{witnesses.String() + "quorum none\n", "line 65: more than 64 witnesses"},
		{logs.String() + "quorum none\n", "line 65: more than 64 logs"},
		{ab + "group g0 any a\n" + strings.ReplaceAll(many("group h%d any PREVIOUS\n", 64), "PREVIOUS", "b"), "count twice"},
		{strings.Repeat("#\n", 1<<18), "larger than"},
	} {
		if _, err := trailgate.ParseWitnessPolicy([]byte(tt.policy)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("policy %.200q: %v, want something about %q", tt.policy, err, tt.says)
		}
	}
	chain := ab + "group g0 any a\n"
	for i := range 64 {
		chain += fmt.Sprintf("group g%d any g%d\n", i+1, i)
	}
	if _, err := trailgate.ParseWitnessPolicy([]byte(chain)); err == nil || !strings.Contains(err.Error(), "more than 64 groups") {
		t.Errorf("a chain of 65 groups: %v", err)
	}
}

// TestWitnessPolicy reads what a policy may hold.
func TestWitnessPolicy(t *testing.T) {
	l := logFor(t, "trail.example")
	w := func(n string) string { return cosignerFor(t, n).Verifier().String() }
	text := "# who watches us\n\t\n log " + l.vkey + "\thttps://trail.example/\n" +
		"witness a " + w("a") + " https://a.example/w#frag\nwitness b " + w("b") + "\n  # c is new\nwitness c " + w("c") + "\nwitness group " + w("d") + "\n" +
		"group x 2 a b c\ngroup any all x group\nquorum any" // no newline at the end
	p, err := trailgate.ParseWitnessPolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Quorum(), "2 of (2 of (a, b, c), group)"; got != want {
		t.Errorf("quorum: %s, want %s", got, want)
	}
	if len(p.Witnesses) != 4 || p.Witnesses[0].URL != "https://a.example/w#frag" || p.Witnesses[1].URL != "" || p.Witnesses[2].Key.String() != w("c") {
		t.Errorf("witnesses: %+v", p.Witnesses)
	}
	if len(p.Logs) != 1 || p.Logs[0].URL != "https://trail.example/" || len(p.LogKeys("trail.example")) != 1 || p.LogKeys("other.example") != nil {
		t.Errorf("logs: %+v", p.Logs)
	}
	for who, want := range map[string]bool{"": false, "a b c": false, "a b": false, "group": false, "a group": false, "a c group": true, "x group": false, "any": false} {
		if got := p.Satisfied(func(n string) bool { return slices.Contains(strings.Fields(who), n) }); got != want {
			t.Errorf("%q: %v", who, got)
		}
	}
	none, err := trailgate.ParseWitnessPolicy([]byte("quorum none\n"))
	if err != nil || !none.Satisfied(func(string) bool { return false }) {
		t.Errorf("quorum none: %v", err)
	}
	if (&trailgate.WitnessPolicy{}).Satisfied(func(string) bool { return false }) {
		t.Error("the zero policy, which is none at all, is satisfied by nobody's signature")
	}
}

// TestWitnessPolicyAgrees: for random policies and sets of cosigners, the
// answer is Tessera's.
func TestWitnessPolicyAgrees(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	l := logFor(t, "trail.example")
	var all []*trailgate.Cosigner
	for i := range 8 {
		all = append(all, cosignerFor(t, fmt.Sprint("w", i)))
	}
	quorums := map[bool]int{}
	for range 300 {
		var text strings.Builder
		var free []string
		ws := all[:1+rnd.IntN(len(all))]
		for i, w := range ws {
			name := fmt.Sprint("w", i)
			fmt.Fprintf(&text, "witness %s %s http://127.0.0.1:%d\n", name, w.Verifier(), 1000+i)
			free = append(free, name)
		}
		for g := 0; len(free) > 1 || g == 0; g++ {
			rnd.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
			n := 1 + rnd.IntN(len(free))
			needed := fmt.Sprint(1 + rnd.IntN(n))
			if rnd.IntN(4) == 0 {
				needed = []string{"any", "all"}[rnd.IntN(2)]
			}
			fmt.Fprintf(&text, "group g%d %s %s\n", g, needed, strings.Join(free[:n], " "))
			free = append(free[n:], fmt.Sprint("g", g))
			if rnd.IntN(3) == 0 {
				break
			}
		}
		fmt.Fprintf(&text, "quorum %s\n", free[rnd.IntN(len(free))])
		ours, err := trailgate.ParseWitnessPolicy([]byte(text.String()))
		if err != nil {
			t.Fatalf("%v\n%s", err, text.String())
		}
		theirs, err := tessera.NewWitnessGroupFromPolicy([]byte(text.String()))
		if err != nil {
			t.Fatalf("tessera: %v\n%s", err, text.String())
		}
		for range 4 {
			var signers []note.Signer
			for _, w := range all {
				if rnd.IntN(2) == 0 {
					signers = append(signers, w)
				}
			}
			raw := l.checkpoint(t, 5, signers...)
			_, err := trailgate.OpenCosigned(raw, l.verifier, ours)
			if got, want := err == nil, theirs.Satisfied(raw); got != want {
				t.Fatalf("%v here, %v in tessera (%v)\n%s%s", got, want, err, text.String(), raw)
			}
			quorums[err == nil]++
		}
	}
	if quorums[true] < 100 || quorums[false] < 100 {
		t.Errorf("the cases are one-sided: %v", quorums)
	}
}

// FuzzWitnessPolicy: a policy is read or refused; one that is read decides for
// any set of witnesses, and everybody is enough.
func FuzzWitnessPolicy(f *testing.F) {
	a, b := cosignerFor(f, "a").Verifier().String(), cosignerFor(f, "b").Verifier().String()
	f.Add([]byte("quorum none\n"))
	f.Add([]byte("log " + logFor(f, "trail.example").vkey + " http://x\nwitness a " + a + " http://a\nwitness b " + b + "\ngroup g 1 a b\nquorum g\n"))
	f.Add([]byte("witness a " + a + "\ngroup g all a\ngroup h any g\n# x\nquorum h"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := trailgate.ParseWitnessPolicy(text)
		if err != nil {
			return
		}
		if !p.Satisfied(func(string) bool { return true }) {
			t.Error("everybody is not enough")
		}
		if p.Quorum() != "none" && p.Satisfied(func(string) bool { return false }) {
			t.Error("nobody is enough")
		}
	})
}

// FuzzOpenCosigned: nobody's checkpoint has a quorum that was not signed.
func FuzzOpenCosigned(f *testing.F) {
	l := logFor(f, "trail.example")
	a, b := cosignerFor(f, "a.example"), cosignerFor(f, "b.example")
	p := policyOf(f, "all", a, b)
	f.Add(l.checkpoint(f, 7, at{a, 1000}))
	f.Add(l.checkpoint(f, 7))
	f.Add([]byte("trail.example\n1\nf+7CoKgXKE/tNys9TTXcr/ad6U/K3xvznmzew9y6SP0=\n\n— a.example AAAA\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := trailgate.OpenCosigned(raw, l.verifier, p); err == nil {
			t.Errorf("b never signed anything: %+v", c)
		}
	})
}
