package trail_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail"
)

const origin = "example.com/trailgate/test"

// entry makes an entry of about a kilobyte that says which it is.
func entry(name string) *trailgate.Entry {
	return &trailgate.Entry{
		ID: name, Kind: trailgate.KindIntent,
		Gateway:   trailgate.Gateway{ID: "gw1", Version: "test"},
		Principal: &trailgate.Principal{Agent: "etl-bot", TokenID: "tok_1"},
		Project:   "demo", Method: "bigquery.jobs.insert", Class: trailgate.ClassRead,
		Statements: []trailgate.Statement{{Where: "configuration.query.query", Text: "SELECT '" + name + "' " + strings.Repeat("x", 700), Length: 720}},
	}
}

func create(t testing.TB) string {
	t.Helper()
	return createIn(t, t.TempDir())
}

func createIn(t testing.TB, dir string) string {
	t.Helper()
	if _, err := trail.CreateSmall(t.Context(), dir, origin); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t testing.TB, dir string, o trail.Options) *trail.Trail {
	t.Helper()
	if o.CheckpointInterval == 0 {
		o.CheckpointInterval = 100 * time.Millisecond
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 256 << 10
	}
	tr, err := trail.Open(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeTrail(t, tr) })
	return tr
}

func closeTrail(t testing.TB, tr *trail.Trail) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := tr.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestAppendReadProve(t *testing.T) {
	dir := create(t)
	tr := open(t, dir, trail.Options{})
	const n = 700
	for i := range n {
		e := entry(fmt.Sprint("e", i))
		if err := tr.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if e.Seq != uint64(i) {
			t.Fatalf("entry %d got seq %d", i, e.Seq)
		}
	}
	if tr.Size() != n {
		t.Fatalf("size %d", tr.Size())
	}
	start := time.Now()
	p, err := tr.Prove(t.Context(), n-1)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("proof after", time.Since(start), tr.Stats())
	if p.Index != n-1 {
		t.Error(p.Index)
	}
	closeTrail(t, tr)
	tr = open(t, dir, trail.Options{})
	var got int
	if err := tr.Scan(t.Context(), 0, func(seq uint64, raw []byte) error {
		e, err := trailgate.Decode(raw)
		if err != nil {
			return err
		}
		if e.Seq != seq || e.ID != fmt.Sprint("e", seq) || seq != uint64(got) {
			return fmt.Errorf("entry %d is %d %s", got, e.Seq, e.ID)
		}
		got++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got != n {
		t.Fatal(got)
	}
}
