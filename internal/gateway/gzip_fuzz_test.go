package gateway_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	"github.com/trailgate/trailgate/internal/gateway"
)

func pack(t testing.TB, parts ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, p := range parts {
		w := gzip.NewWriter(&b)
		if _, err := w.Write([]byte(p)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// FuzzGzip: what a compressed body is read as is what every other decoder reads,
// whether it goes on behind the first member or not, and is bounded.
func FuzzGzip(f *testing.F) {
	f.Add(pack(f, `{"query":"SELECT 1"}`))
	f.Add(pack(f, ""))
	f.Add(pack(f, "a", "b"))
	f.Add(append(pack(f, "a"), 0))
	f.Add(pack(f, string(make([]byte, 10_000))))
	f.Add([]byte("\x1f\x8b\x08\x1f"))
	f.Fuzz(func(t *testing.T, packed []byte) {
		const most = 5000
		body, ok := gateway.ReadGzip(packed, most)
		if !ok {
			return
		}
		if len(body) > most {
			t.Fatalf("%d bytes", len(body))
		}
		zr, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(zr)
		if err != nil || !bytes.Equal(all, body) {
			t.Fatalf("another decoder reads %q, %v; here it is %q", all, err, body)
		}
	})
}
