package webhook_test

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/webhook"
)

func document(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/spec/webhooks.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestDocumentedBodies: the specification's examples are what is sent.
func TestDocumentedBodies(t *testing.T) {
	n := webhook.Notice{
		ID: "apr_01m84zdzfqkkt7kw0wa9mrkr0v.approval.held", Type: "approval.held", Subject: "apr_01m84zdzfqkkt7kw0wa9mrkr0v",
		Time: time.Date(2026, 11, 23, 19, 51, 51, 0, time.UTC), Gateway: "trailgate", Title: "etl-bot asks: may this run?",
		Fields:    []webhook.Field{{Name: "agent", Value: "etl-bot"}, {Name: "writes", Value: "acme.staging.imports"}, {Name: "would process", Value: "95.54 KiB"}},
		Statement: "DELETE FROM staging.imports WHERE batch_id = 42",
		Link:      "https://audit.example.com/api/v1/approvals/apr_01m84zdzfqkkt7kw0wa9mrkr0v",
	}
	examples := regexp.MustCompile("(?s)\n```json\n(.*?)\n```\n").FindAllStringSubmatch(document(t), -1)
	if len(examples) != 2 {
		t.Fatalf("%d examples", len(examples))
	}
	for i, format := range []string{webhook.JSON, webhook.Slack} {
		raw, err := webhook.Render(format, &n)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if err := json.Unmarshal([]byte(examples[i][1]), &want); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the specification, and what is sent: %s", format, diff)
		}
	}
}

// TestVector: the published example of Standard Webhooks, as the specification has it.
func TestVector(t *testing.T) {
	const id, body, want = "msg_p5jXN8AQM9LWM0D4loKWxJek", `{"test": 2432232314}`, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	const keyText = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	key, err := webhook.ParseSecret(keyText)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1614265330, 0)
	if got := webhook.Sign(key, id, at, []byte(body)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, s := range []string{keyText, id, body, want} {
		if !strings.Contains(document(t), s) {
			t.Errorf("the specification does not have %s", s)
		}
	}
	h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {"1614265330"}, "Webhook-Signature": {"v1,AAAA v1a,x " + want}}
	if err := webhook.Verify(key, h, []byte(body), at.Add(4*time.Minute+59*time.Second)); err != nil {
		t.Error(err)
	}
	for name, edit := range map[string]func(http.Header){
		"a sign":           func(h http.Header) { h.Set("Webhook-Timestamp", "+1614265330") },
		"a zero":           func(h http.Header) { h.Set("Webhook-Timestamp", "01614265330") },
		"the far future":   func(h http.Header) { h.Set("Webhook-Timestamp", "9223372036854775807") },
		"the far past":     func(h http.Header) { h.Set("Webhook-Timestamp", "-9223372036854775808") },
		"no version":       func(h http.Header) { h.Set("Webhook-Signature", strings.TrimPrefix(want, "v1,")) },
		"another version":  func(h http.Header) { h.Set("Webhook-Signature", "v2"+strings.TrimPrefix(want, "v1")) },
		"far too many":     func(h http.Header) { h.Set("Webhook-Signature", strings.Repeat("v1,x ", 1000)+want) },
		"a part of the id": func(h http.Header) { h.Set("Webhook-Id", "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330") },
	} {
		bad := h.Clone()
		edit(bad)
		if webhook.Verify(key, bad, []byte(body), at) == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// TestBounds: what is kept and sent of a notice is bounded, and says so.
func TestBounds(t *testing.T) {
	n := notice(1)
	n.Statement = strings.Repeat("é", 40_000)
	n.Fields = make([]webhook.Field, 500)
	n.Fields[0] = webhook.Field{Name: strings.Repeat("n", 9_000), Value: strings.Repeat("é", 9_000)}
	n.Title, n.Link = strings.Repeat("t", 9_000), "https://h/"+strings.Repeat("l", 9_000)
	r := &receiver{answers: []func(*http.Request) (*http.Response, error){status(200)}}
	run(t, r, webhook.JSON, n)
	var got struct {
		Data struct {
			Title, Link, Statement string
			StatementCut           bool `json:"statement_cut"`
			Fields                 []webhook.Field
		}
	}
	if err := json.Unmarshal([]byte(r.bodies[0]), &got); err != nil {
		t.Fatal(err)
	}
	d := got.Data
	if d.Statement != strings.Repeat("é", 32<<10) || !d.StatementCut || len(d.Fields) != 100 || len(d.Fields[0].Name) > 1024 || len(d.Fields[0].Value) > 8<<10 ||
		!strings.HasSuffix(d.Fields[0].Value, "é…") || !strings.HasSuffix(d.Title, "t…") || d.Link != "" {
		t.Errorf("%d %v %d %d %d", len(d.Statement), d.StatementCut, len(d.Fields), len(d.Fields[0].Value), len(d.Title))
	}
}
