package trailgate_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
)

func TestRoundTrip(t *testing.T) {
	e := &trailgate.Entry{
		Seq: 7, Time: time.Date(2026, 11, 23, 1, 2, 3, 4000, time.UTC), ID: "01", Kind: trailgate.KindIntent,
		Statements: []trailgate.Statement{{Where: "query", Text: "SELECT '<&>\u2028\\ufffd�\x00'", Length: 3}},
		Aggregate:  &trailgate.Aggregate{Count: 1, Since: time.Date(2026, 1, 1, 0, 0, 0, 0, time.FixedZone("x", 3600))},
	}
	raw, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := trailgate.Decode(raw)
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	e.Aggregate.Since = e.Aggregate.Since.UTC()
	if d := cmp.Diff(e, got); d != "" {
		t.Error(d)
	}
}
