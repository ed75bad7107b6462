// Package indextest makes life-like trails for tests and benchmarks of what
// reads a log: agents in sessions that query, change, load and export tables,
// with outcomes, failures, denials, and a few calls that never end.
package indextest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
)

// blockEntries is how many entries are planned together. Calls begin and end
// within a block, side by side.
const blockEntries = 64

// Gen is an endless trail, each entry a function of seed and sequence alone.
// It is immutable and safe for concurrent use.
type Gen struct {
	seed  uint64
	start time.Time
	step  time.Duration
}

// New returns the trail of a seed. It starts in 2026 and has an entry every
// 864 ms, 100,000 a day.
func New(seed uint64) *Gen {
	return &Gen{seed: seed, start: time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC), step: 864 * time.Millisecond}
}

// What the trails are about.
var (
	Agents   = names("etl-bot", "analyst-bot", "report-bot", "dbt-runner", "ml-features", "growth-agent", "finance-agent", "support-copilot", "data-quality", "schema-bot", "backfill-bot", "adhoc-agent", "pricing-bot", "fraud-watch", "sre-helper", "catalog-bot", "export-bot", "billing-agent", "churn-model", "intern-agent")
	Datasets = names("staging", "analytics", "finance", "crm", "events", "ml", "reporting", "raw")
	nouns    = names("imports", "orders", "customers", "invoices", "sessions", "clicks", "payments", "refunds", "inventory", "shipments", "users", "accounts", "features", "labels", "daily_totals", "audit")
	columns  = names("id", "batch_id", "customer_id", "created_at", "updated_at", "amount", "currency", "status", "country", "email_hash", "session_id", "source", "score", "quantity", "price", "is_active")
	humans   = names("ada@example.com", "grace@example.com", "edsger@example.com", "barbara@example.com", "ken@example.com")
)

func names(list ...string) []string { return list }

// slot says which stage of which of the block's calls an entry is.
type slot struct {
	call    int
	closing bool
}

// plan lays out a block: calls open in order and close some entries later.
// About one entry in 30 belongs to a call that is denied or never closes.
func (g *Gen) plan(block uint64) (slots [blockEntries]slot, opened []int) {
	r := rand.New(rand.NewPCG(g.seed, block))
	var open []int
	for i := range blockEntries {
		if left := blockEntries - i; len(open) > 0 && (len(open) >= left || len(open) > 6 || r.IntN(2) == 0) {
			k := r.IntN(min(3, len(open)))
			slots[i] = slot{call: open[k], closing: true}
			open = append(open[:k], open[k+1:]...)
			continue
		}
		n := len(opened)
		opened = append(opened, i)
		slots[i] = slot{call: n}
		if r.IntN(30) > 0 {
			open = append(open, n)
		}
	}
	return slots, opened
}

// Entry returns the entry at a place in the trail.
func (g *Gen) Entry(seq uint64) *trailgate.Entry {
	block := seq / blockEntries
	slots, opened := g.plan(block)
	s := slots[seq%blockEntries]
	opening := block*blockEntries + uint64(opened[s.call])
	closes := false
	for _, x := range slots {
		closes = closes || x.closing && x.call == s.call
	}
	c := g.call(opening, closes)
	if !s.closing {
		return c.opening()
	}
	return c.closing(seq)
}

// Raw returns the entry's encoding.
func (g *Gen) Raw(seq uint64) []byte {
	raw, err := g.Entry(seq).Encode()
	if err != nil {
		panic(fmt.Sprintf("indextest: entry %d: %v", seq, err)) // a mistake in this file
	}
	return raw
}

// Time is when the entry at a place was committed.
func (g *Gen) Time(seq uint64) time.Time { return g.start.Add(time.Duration(seq) * g.step) }

// id is the entry's ULID: its time, and random bits that follow from its place.
func (g *Gen) id(seq uint64) string {
	const digits = "0123456789abcdefghjkmnpqrstvwxyz"
	r := rand.New(rand.NewPCG(g.seed^0x1d, seq))
	var b [26]byte
	ms := uint64(g.Time(seq).UnixMilli())
	for i := 9; i >= 0; i-- {
		b[i] = digits[ms&31]
		ms >>= 5
	}
	for i := 10; i < 26; i++ {
		b[i] = digits[r.IntN(32)]
	}
	return string(b[:])
}

// call is one call's facts, from which its entries follow.
type call struct {
	g       *Gen
	seq     uint64
	r       *rand.Rand
	closes  bool
	agent   int
	method  string
	class   trailgate.Class
	stype   string
	sql     string
	tables  *trailgate.Tables
	job     *trailgate.Job
	session string
}

func (g *Gen) call(seq uint64, closes bool) *call {
	r := rand.New(rand.NewPCG(g.seed^0xca11, seq))
	// A few agents do most of the work.
	agent := int(math.Pow(r.Float64(), 2.2) * float64(len(Agents)))
	c := &call{g: g, seq: seq, r: r, closes: closes, agent: agent}
	// A session lasts about an hour, 4,166 entries.
	c.session = g.id(seq/4166*4166 + uint64(agent))
	c.fill()
	return c
}

func (c *call) table() string {
	i := int(math.Pow(c.r.Float64(), 1.7) * float64(len(Datasets)*len(nouns)))
	name := nouns[i%len(nouns)]
	if i%5 == 4 { // sharded by day
		name += "_" + c.g.Time(c.seq).Format("20060102")
	}
	return "acme-prod." + Datasets[i/len(nouns)] + "." + name
}

func (c *call) column() string { return columns[c.r.IntN(len(columns))] }

func (c *call) fill() {
	r := c.r
	id := fmt.Sprintf("bqjob_r%016x_%012x_%d", r.Uint64(), c.g.Time(c.seq).UnixMilli(), r.IntN(4)+1)
	c.job = &trailgate.Job{Project: "acme-prod", ID: id, Location: "EU", AssignedBy: "client", Type: "QUERY"}
	t, u := c.table(), c.table()
	c.method = "bigquery.jobs.insert"
	switch n := r.IntN(100); {
	case n < 30:
		c.class, c.stype = trailgate.ClassRead, "SELECT"
		c.sql = fmt.Sprintf("SELECT %s, %s, SUM(%s) AS total_%s\nFROM `%s` AS a\nJOIN `%s` AS b USING (%s)\nWHERE a.%s >= TIMESTAMP '%s' AND a.%s = %d\nGROUP BY 1, 2\nORDER BY total_%s DESC\nLIMIT %d",
			c.column(), c.column(), c.column(), c.column(), t, u, c.column(), c.column(),
			c.g.Time(c.seq).Format(time.DateOnly), c.column(), r.IntN(100_000), c.column(), r.IntN(1000))
		c.tables = &trailgate.Tables{Read: []string{t, u}}
	case n < 40:
		c.class, c.stype = trailgate.ClassWrite, "INSERT"
		c.sql = fmt.Sprintf("INSERT INTO `%s` (%s, %s, batch_id)\nSELECT %s, %s, %d FROM `%s`\nWHERE %s IS NOT NULL AND DATE(created_at) = '%s'",
			t, c.column(), c.column(), c.column(), c.column(), r.IntN(100_000), u, c.column(), c.g.Time(c.seq).Format(time.DateOnly))
		c.tables = &trailgate.Tables{Read: []string{u}, Written: []string{t}}
	case n < 46:
		c.class, c.stype = trailgate.ClassWrite, "DELETE"
		c.sql = fmt.Sprintf("DELETE FROM `%s` WHERE batch_id = %d AND %s = '%08x'", t, r.IntN(100_000), c.column(), r.Uint32())
		c.tables = &trailgate.Tables{Written: []string{t}}
	case n < 49:
		c.class, c.stype = trailgate.ClassMetadataChange, "CREATE_TABLE_AS_SELECT"
		c.sql = fmt.Sprintf("CREATE OR REPLACE TABLE `%s` AS SELECT * EXCEPT (%s) FROM `%s`", t, c.column(), u)
		c.tables = &trailgate.Tables{Read: []string{u}, Written: []string{t}}
	case n < 50:
		c.class = trailgate.ClassExport
		c.tables, c.job.Type = &trailgate.Tables{Read: []string{t}}, "EXTRACT"
	case n < 70:
		c.class, c.method = trailgate.ClassRead, "bigquery.jobs.getQueryResults"
	case n < 88:
		c.class, c.method = trailgate.ClassMetadataRead, "bigquery.jobs.get"
	case n < 96:
		c.class, c.method, c.job = trailgate.ClassMetadataRead, "bigquery.tables.get", nil
		c.tables = &trailgate.Tables{Read: []string{t}}
	default:
		c.class, c.method, c.job = trailgate.ClassWrite, "bigquery.tabledata.insertAll", nil
		c.tables = &trailgate.Tables{Written: []string{t}}
	}
}

func (c *call) opening() *trailgate.Entry {
	r := rand.New(rand.NewPCG(c.g.seed^0x09e4, c.seq))
	e := &trailgate.Entry{
		Seq: c.seq, Time: c.g.Time(c.seq), ID: c.g.id(c.seq), Kind: trailgate.KindIntent,
		Gateway: trailgate.Gateway{ID: "gw-1", Version: "v0.1.0", ConfigDigest: digest("config"), PolicyDigest: digest("policy")},
		Principal: &trailgate.Principal{
			Agent: Agents[c.agent], TokenID: fmt.Sprintf("tok_%02d%s", c.agent, c.g.id(0)), Issuer: "trailgate", Subject: Agents[c.agent], AuthMode: "gateway_token",
		},
		Claims:  &trailgate.Claims{UserAgent: "google-cloud-sdk528.0.0 google-api-python-client (gzip)"},
		Session: c.session, Client: fmt.Sprintf("10.0.%d.%d:%d", c.agent, r.IntN(4), 30000+r.IntN(20000)),
		Connection: "prod", Project: "acme-prod", Location: "EU", Method: c.method, Class: c.class, Classes: []trailgate.Class{c.class},
		Request: &trailgate.Request{Verb: "POST", Path: "/bigquery/v2/projects/acme-prod/jobs?alt=json", Bytes: int64(200 + len(c.sql)), SHA256: digest(c.sql + c.session)},
		Tables:  c.tables, Job: c.job,
		Decision: &trailgate.Decision{Effect: "allow", Rule: "default-allow"},
		Upstream: &trailgate.Upstream{Mode: "adc", Principal: "gateway@acme-prod.iam.gserviceaccount.com", Shared: true, Host: "bigquery.googleapis.com"},
	}
	if c.agent%3 == 0 {
		e.Principal.Human = humans[c.agent%len(humans)]
	}
	if c.sql != "" {
		e.Statements = []trailgate.Statement{{Where: "configuration.query.query", Text: c.sql, SHA256: digest(c.sql), Length: int64(len(c.sql)), Dialect: "googlesql"}}
		e.StatementType = &trailgate.StatementType{Local: c.stype}
	}
	if c.class == trailgate.ClassExport {
		e.Destinations = []string{"gs://acme-exports/" + c.job.ID + "/*.csv"}
	}
	if !c.closes && r.IntN(3) > 0 {
		e.Kind, e.Upstream = trailgate.KindDenied, nil
		e.Decision = &trailgate.Decision{Effect: "deny", Rule: "no-prod-writes", Reason: "writes to prod need an approval"}
		e.Outcome = &trailgate.Outcome{Status: 403, End: trailgate.EndRefused, ErrorReason: "accessDenied"}
	}
	return e
}

func (c *call) closing(seq uint64) *trailgate.Entry {
	r := rand.New(rand.NewPCG(c.g.seed^0xc105e, c.seq))
	o := c.opening()
	billed := int64(math.Exp(r.Float64()*20)) * 1024
	e := &trailgate.Entry{
		Seq: seq, Time: c.g.Time(seq), ID: c.g.id(seq), Kind: trailgate.KindOutcome, IntentID: o.ID,
		Gateway: o.Gateway, Principal: o.Principal, Session: o.Session, Connection: o.Connection, Project: o.Project,
		Method: o.Method, Class: o.Class,
		Outcome: &trailgate.Outcome{
			Status: 200, End: trailgate.EndComplete, JobState: "DONE", Bytes: int64(300 + r.IntN(100_000)),
			DurationNanos: int64(math.Exp(14+r.Float64()*9)) + 1,
		},
	}
	if o.Statements != nil {
		e.StatementType = &trailgate.StatementType{Local: c.stype, Final: c.stype}
		final := *c.tables
		final.Final = true
		e.Tables = &final
		e.Job = c.job
		e.Outcome.BytesProcessed, e.Outcome.BytesBilled = billed, billed
		e.Outcome.SlotMillis = billed / 1000
	}
	switch c.class {
	case trailgate.ClassRead:
		e.Outcome.Rows = int64(math.Exp(r.Float64() * 9))
		e.Outcome.TotalRows = e.Outcome.Rows
	case trailgate.ClassWrite:
		e.Outcome.RowsAffected = int64(math.Exp(r.Float64() * 12))
	}
	if r.IntN(25) == 0 {
		reasons := []string{"notFound", "invalidQuery", "accessDenied", "rateLimitExceeded", "backendError"}
		codes := []int{404, 400, 403, 403, 503}
		i := r.IntN(len(reasons))
		e.Outcome.Status, e.Outcome.ErrorReason = codes[i], reasons[i]
		e.Outcome.ErrorMessage = "Not found: " + strings.Repeat("Table acme-prod:staging.imports was not found ", 1+i%2)
	}
	return e
}

func digest(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}
