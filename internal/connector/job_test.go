package connector_test

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/trailgate/trailgate/internal/connector"
)

var cryptoRand = rand.Reader

func signText(t *testing.T, cert *tls.Certificate, text string) string {
	t.Helper()
	digest := sha256.Sum256([]byte(text))
	sig, err := cert.PrivateKey.(crypto.Signer).Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(sig)
}

func TestJobIn(t *testing.T) {
	ref := `"jobReference":{"projectId":"p","jobId":"j","location":"EU"}`
	for _, c := range []struct{ head, want string }{
		{`{` + ref + `}`, "p:EU.j"},
		{`{"schema":{"fields":[{"jobReference":{"jobId":"x"}}]},` + ref + `,"rows":[{"f":`, "p:EU.j"},
		{`{"a":"` + ref + `"}`, ""},
		{`{"jobReference":{"projectId":"p","jobId":"j"}}`, "p:j"},
		{`{"jobReference":{"projectId":"p"}}`, ""},
		{`[` + ref, ""},
		{``, ""},
		{`{`, ""},
		{`{"jobReference":7}`, ""},
	} {
		if got := connector.JobIn([]byte(c.head), false); got != c.want {
			t.Errorf("%s: %q, want %q", c.head, got, c.want)
		}
		var b bytes.Buffer
		zw := gzip.NewWriter(&b)
		_, _ = zw.Write([]byte(c.head + strings.Repeat(" ", 100)))
		_ = zw.Close()
		if got := connector.JobIn(b.Bytes(), true); got != c.want {
			t.Errorf("gzip of %s: %q, want %q", c.head, got, c.want)
		}
	}
}

func FuzzJobIn(f *testing.F) {
	f.Add([]byte(`{"jobReference":{"projectId":"p","jobId":"j"}}`), false)
	f.Fuzz(func(_ *testing.T, head []byte, gzipped bool) { connector.JobIn(head, gzipped) })
}
