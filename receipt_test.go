package trailgate_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
)

// TestReceipt: a receipt has one spelling, and what an entry says otherwise is found out.
func TestReceipt(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	r := &trailgate.Receipt{
		Entry: "01k9", Connector: "lake-1", Connection: "lake", Verb: "POST", Status: 200, ResponseBytes: 7, Whole: true, Job: "p:EU.j",
		Credential: trailgate.CredentialGateway, Time: time.Date(2026, 11, 29, 15, 4, 5, 678e6, time.UTC),
	}
	text := r.Text()
	signature := base64.StdEncoding.EncodeToString(ed25519.Sign(key, []byte(text)))
	got, err := trailgate.VerifyReceipt(text, signature, der)
	if err != nil || *got != *r {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, bad := range []string{
		"", text + "\n", strings.ToUpper(text), strings.Replace(text, "status 200", "status 0200", 1), strings.Replace(text, "whole true", "whole yes", 1),
		strings.Replace(text, "verb POST\n", "", 1), strings.Replace(text, "connector lake-1\nconnection lake", "connection lake\nconnector lake-1", 1),
		strings.Replace(text, "response_bytes 7", "response_bytes +7", 1), strings.Repeat("x", 5000),
	} {
		if _, err := trailgate.ParseReceipt(bad); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
	sum := sha256.Sum256(der)
	entry := func(change func(*trailgate.Entry)) *trailgate.Entry {
		e := &trailgate.Entry{
			IntentID: "01k9", Connection: "lake", Job: &trailgate.Job{ID: "j"},
			Outcome:  &trailgate.Outcome{End: trailgate.EndComplete, Status: 200, Bytes: 7},
			Upstream: &trailgate.Upstream{Connector: &trailgate.ConnectorUse{Name: "lake-1", KeySHA256: hex.EncodeToString(sum[:]), Receipt: text, Signature: signature}},
		}
		change(e)
		return e
	}
	if err := trailgate.CheckReceipt(entry(func(*trailgate.Entry) {}), der); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*trailgate.Entry){
		"another call":       func(e *trailgate.Entry) { e.IntentID = "x" },
		"another connection": func(e *trailgate.Entry) { e.Connection = "pond" },
		"another connector":  func(e *trailgate.Entry) { e.Upstream.Connector.Name = "x" },
		"another key":        func(e *trailgate.Entry) { e.Upstream.Connector.KeySHA256 = "x" },
		"another status":     func(e *trailgate.Entry) { e.Outcome.Status = 404 },
		"another length":     func(e *trailgate.Entry) { e.Outcome.Bytes = 8 },
		"another job":        func(e *trailgate.Entry) { e.Job.ID = "k" },
		"a changed receipt":  func(e *trailgate.Entry) { e.Upstream.Connector.Receipt = strings.Replace(text, "200", "404", 1) },
		"no receipt":         func(e *trailgate.Entry) { e.Upstream.Connector.Receipt = "" },
		"no connector":       func(e *trailgate.Entry) { e.Upstream.Connector = nil },
	} {
		if trailgate.CheckReceipt(entry(change), der) == nil {
			t.Errorf("%s passes", what)
		}
	}
}

func FuzzReceipt(f *testing.F) {
	f.Add((&trailgate.Receipt{}).Text())
	f.Fuzz(func(t *testing.T, text string) {
		if r, err := trailgate.ParseReceipt(text); err == nil && r.Text() != text {
			t.Errorf("%q has another spelling, %q", text, r.Text())
		}
	})
}
