package mapping_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/mapping"
)

func env(t testing.TB) *mapping.Env {
	t.Helper()
	e, err := mapping.NewEnv("claims")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func vars() map[string]any {
	return map[string]any{"claims": map[string]any{
		"sub": "system:serviceaccount:agents:etl-bot", "email": "ada@example.com", "email_verified": true, "n": 7.0,
		"groups": []any{"audit", "ops"}, "mixed": []any{"a", 1.0}, "secret": strings.Repeat("hush", 2000),
		"nested": map[string]any{"deep": map[string]any{"x": "y"}},
	}}
}

func TestString(t *testing.T) {
	for expr, want := range map[string]any{
		`claims.sub.split(":")[3]`:             "etl-bot",
		`claims.email.lowerAscii()`:            "ada@example.com",
		`"agent-" + claims.nested.deep.x`:      "agent-y",
		`has(claims.nope) ? claims.nope : "d"`: "d",
		`claims.email.replace("@", "-at-")`:    "ada-at-example.com",
		`claims.nope`:                          mapping.ErrMissing,
		`claims.sub.split(":")[9]`:             mapping.ErrMissing,
		`claims.n`:                             mapping.ErrType,
		`claims.groups`:                        mapping.ErrType,
		`claims.secret`:                        mapping.ErrType,
		`claims.n.split(":")[0]`:               mapping.ErrType,
		`[1,2,3,4,5,6,7,8,9].map(a, [1,2,3,4,5,6,7,8,9].map(b, [1,2,3,4,5,6,7,8,9].map(c, [1,2,3,4,5,6,7,8,9].map(d, claims.n)))).size() > 1 ? "x" : "y"`: mapping.ErrCost,
	} {
		x, err := env(t).String(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		got, err := x.Eval(vars())
		if fail, ok := want.(error); ok {
			if !errors.Is(err, fail) || got != "" {
				t.Errorf("%s: %q, %v; want %v", expr, got, err, fail)
			}
			if err != nil && (strings.Contains(err.Error(), "etl-bot") || strings.Contains(err.Error(), "hush")) {
				t.Errorf("%s: the error quotes a value: %v", expr, err)
			}
		} else if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", expr, got, err, want)
		}
	}
}

func TestStringsAndBool(t *testing.T) {
	e := env(t)
	list, err := e.Strings(`claims.groups.filter(g, g != "ops") + ["x"]`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := list.Eval(vars())
	if diff := cmp.Diff([]string{"audit", "x"}, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for _, expr := range []string{`claims.mixed`, `claims.email`, `claims.n`} {
		x, err := e.Strings(expr)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := x.Eval(vars()); !errors.Is(err, mapping.ErrType) {
			t.Errorf("%s: %v, %v", expr, got, err)
		}
	}
	for expr, want := range map[string]bool{
		`"ops" in claims.groups && claims.email_verified`: true,
		`claims.email.endsWith("@evil.example")`:          false,
		`claims.email.matches("^[a-z]+@example[.]com$")`:  true,
	} {
		x, err := e.Bool(expr)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := x.Eval(vars()); err != nil || got != want {
			t.Errorf("%s: %v, %v", expr, got, err)
		}
	}
	truthy, err := e.Bool(`claims.email`)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := truthy.Eval(vars()); got || !errors.Is(err, mapping.ErrType) {
		t.Errorf("a text passes for true: %v, %v", got, err)
	}
}

// TestMistakes are found before anything is evaluated.
func TestMistakes(t *testing.T) {
	e := env(t)
	for _, expr := range []string{
		"", "  ", "claims.", `claim.sub`, `nope(claims)`, `1 + 1`, `["a"]`, `true`, strings.Repeat("(", 200) + "1" + strings.Repeat(")", 200),
		`"` + strings.Repeat("x", mapping.MaxExpression) + `"`,
	} {
		if _, err := e.String(expr); err == nil {
			t.Errorf("%.40q was accepted", expr)
		}
	}
	if _, err := e.Bool(`"yes"`); err == nil || !strings.Contains(err.Error(), "want bool") {
		t.Errorf("a text as bool: %v", err)
	}
}

func FuzzExpression(f *testing.F) {
	for _, s := range []string{`claims.sub`, `claims.sub.split(":")[3]`, `claims.groups.map(g, g + g)`, `{1: claims}`} {
		f.Add(s)
	}
	e := env(f)
	f.Fuzz(func(t *testing.T, expr string) {
		x, err := e.String(expr)
		if err != nil {
			return
		}
		got, err := x.Eval(vars())
		if err != nil && got != "" {
			t.Errorf("%q with %v", got, err)
		}
	})
}

func BenchmarkEval(b *testing.B) {
	x, err := env(b).String(`claims.sub.split(":")[3]`)
	if err != nil {
		b.Fatal(err)
	}
	in := vars()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x.Eval(in); err != nil {
			b.Fatal(err)
		}
	}
}
