package bundletest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bundle"
)

// ErrErased is of rows that the sample says were erased.
var ErrErased = errors.New("erased")

// Absent is the bundle.Request's, for the samples.
func Absent(err error) string {
	if errors.Is(err, ErrErased) {
		return "erased"
	}
	return ""
}

// Fill writes calls of all kinds into a log, among entries that are nobody's business:
// rows that were recorded, a long statement, a JWT's evidence, an approval, a denial.
// It returns the places of those that a bundle of etl-bot holds.
func (l *Log) Fill() ([]uint64, error) {
	var picked []uint64
	var fail error
	add := func(e *trailgate.Entry, pick bool) *trailgate.Entry {
		got, err := l.Append(e)
		if err != nil {
			fail = errors.Join(fail, err)
			return e
		}
		if pick {
			picked = append(picked, got.Seq)
		}
		return got
	}
	noise := func(n int) {
		for range n {
			add(&trailgate.Entry{Kind: trailgate.KindGateway, Event: &trailgate.Event{Action: "serve.start"}}, false)
		}
	}
	evidence := l.PutBlob(`{"v":1,"kind":"oidc_jwt","credential_sha256":"` + strings.Repeat("ab", 32) + `","header":{"alg":"RS256","kid":"k1"},"claims":{"iss":"https://idp.example.com","sub":"etl"},"key":{"kty":"RSA"}}`)
	who := &trailgate.Principal{
		Agent: "etl-bot", Issuer: "https://idp.example.com", Subject: "etl", Human: "ada@example.com", HumanBy: trailgate.HumanByIssuer,
		AuthMode: trailgate.AuthJWT, CredentialSHA256: strings.Repeat("ab", 32), Evidence: evidence,
	}
	call := func(kind trailgate.Kind, text string) *trailgate.Entry {
		sum := sha256.Sum256([]byte(text))
		s := trailgate.Statement{Where: "query", Text: text, SHA256: hex.EncodeToString(sum[:]), Length: int64(len(text)), Dialect: "googlesql"}
		if len(text) > 1000 {
			s.Text, s.Blob = "", l.PutBlob(text)
		}
		return &trailgate.Entry{
			Kind: kind, Principal: who, Session: "ses-1", Client: "192.0.2.7:4711", Connection: "main", Project: "demo", Method: "bigquery.jobs.query",
			Class: trailgate.ClassRead, Request: &trailgate.Request{Verb: "POST", Path: "/bigquery/v2/projects/demo/queries", SHA256: strings.Repeat("cd", 32)},
			Statements: []trailgate.Statement{s}, Decision: &trailgate.Decision{Effect: "allow", Rule: "reads"},
		}
	}
	outcome := func(of *trailgate.Entry, r *trailgate.Recording) {
		add(&trailgate.Entry{
			Kind: trailgate.KindOutcome, IntentID: of.ID, Recording: r,
			Outcome: &trailgate.Outcome{Status: 200, End: trailgate.EndComplete, Rows: 2, BytesBilled: 10 << 20},
		}, true)
	}
	recorded := func(rows string) *trailgate.Recording {
		body := l.PutBody(rows)
		return &trailgate.Recording{
			Level: trailgate.RecordingResults, SHA256: body, Body: body, Rows: 2, Bytes: int64(len(rows)), StoredRows: int64(strings.Count(rows, "\n")), StoredBytes: int64(len(rows)),
			Schema: l.PutBody(`{"fields":[{"name":"id","type":"INTEGER"}]}`), Key: "main/2026-11",
		}
	}
	noise(3)
	first := add(call(trailgate.KindIntent, "SELECT id FROM `demo.sales.orders` WHERE note = '</script><b>\u202e'"), true)
	noise(2)
	outcome(first, recorded("{\"f\":[{\"v\":\"1\"}]}\n{\"f\":[{\"v\":\"2\"}]}\n"))
	noise(5)
	long := add(call(trailgate.KindIntent, "SELECT "+strings.Repeat("'x', ", 400)+"1"), true)
	gone := recorded("{\"f\":[{\"v\":\"secret\"}]}\n")
	l.Gone[gone.Body] = ErrErased
	outcome(long, gone)
	held := call(trailgate.KindHeld, "DELETE FROM `demo.sales.orders` WHERE id = 7")
	held.Class, held.Decision = trailgate.ClassWrite, &trailgate.Decision{Effect: "require_approval", Rule: "writes", ApprovalID: "apr_1"}
	waits := add(held, true)
	noise(1)
	add(&trailgate.Entry{
		Kind: trailgate.KindApproved, IntentID: waits.ID, Decision: &trailgate.Decision{Effect: "allow", ApprovalID: "apr_1", Approvers: []string{"grace@example.com"}},
		Event: &trailgate.Event{Action: "approval.approve", Actor: "grace@example.com", Via: "oidc"},
	}, true)
	goes := call(trailgate.KindIntent, "DELETE FROM `demo.sales.orders` WHERE id = 7")
	goes.IntentID, goes.Class, goes.Decision = waits.ID, trailgate.ClassWrite, &trailgate.Decision{Effect: "allow", Rule: "writes", ApprovalID: "apr_1", Approvers: []string{"grace@example.com"}}
	went := add(goes, true)
	outcome(went, nil)
	denied := call(trailgate.KindDenied, "DROP TABLE `demo.sales.orders`")
	denied.Class, denied.Decision = trailgate.ClassMetadataChange, &trailgate.Decision{Effect: "deny", Rule: "no-drops", Reason: "tables are dropped by humans"}
	add(denied, true)
	noise(4)
	return picked, fail
}

// Made is a bundle and the log that it is of.
type Made struct {
	Log    *Log
	Picked []uint64
	File   []byte
}

// Make makes a log and the bundle of a request, whose Seqs may be left out.
func Make(ctx context.Context, seed byte, q bundle.Request) (*Made, error) {
	l, err := NewLog(seed)
	if err != nil {
		return nil, err
	}
	picked, err := l.Fill()
	if err != nil {
		return nil, err
	}
	if q.First == nil {
		if q.First, err = l.Checkpoint(5); err != nil {
			return nil, err
		}
	}
	if q.Seqs == nil {
		q.Seqs = picked
	}
	q.Absent, q.Origin = Absent, Origin
	if q.Filter == "" && q.Range == nil {
		q.Filter = `agent = "etl-bot"`
	}
	m, err := bundle.New(ctx, l, l, q)
	if err != nil {
		return nil, err
	}
	e, err := l.Append(Creation(m.Detail()))
	if err != nil {
		return nil, err
	}
	for range 3 { // the log goes on
		if _, err := l.Append(&trailgate.Entry{Kind: trailgate.KindGateway, Event: &trailgate.Event{Action: "serve.stop"}}); err != nil {
			return nil, err
		}
	}
	var out bytes.Buffer
	if err := m.Write(ctx, &out, e.Seq); err != nil {
		return nil, fmt.Errorf("write: %w", err)
	}
	return &Made{l, q.Seqs, out.Bytes()}, nil
}

// Creation is the entry of a bundle's creation.
func Creation(detail map[string]string) *trailgate.Entry {
	return &trailgate.Entry{Kind: trailgate.KindAdmin, Event: &trailgate.Event{Action: trailgate.ActionBundle, Actor: "uid:0", Via: "socket", Detail: detail}}
}
