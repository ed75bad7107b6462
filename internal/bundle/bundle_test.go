package bundle_test

import (
	"bytes"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bundle"
	"github.com/trailgate/trailgate/internal/bundle/bundletest"
)

func check(file []byte, key note.Verifier, policy *trailgate.WitnessPolicy) (*trailgate.BundleReport, error) {
	b, err := trailgate.OpenBundle(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil, err
	}
	return b.Verify(trailgate.BundleOptions{Key: key, Policy: policy})
}

func TestMake(t *testing.T) {
	made, err := bundletest.Make(t.Context(), 1, bundle.Request{Statements: true, Rows: true})
	if err != nil {
		t.Fatal(err)
	}
	policy, err := trailgate.ParseWitnessPolicy([]byte(made.Log.Policy))
	if err != nil {
		t.Fatal(err)
	}
	r, err := check(made.File, made.Log.Verifier, policy)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", r)
	parts, err := bundletest.Split(made.File)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		t.Log(p.Name, len(p.Data))
	}
	t.Logf("%s", parts.At("rendered/report.md").Data)
	t.Logf("%s", parts.At("rendered/ocsf").Data)
}
