package sandbox

import (
	"context"
	"fmt"
	"time"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// seedDataset is a dataset of the demo.
type seedDataset struct {
	id, description string
	tables          []seedTable
}

type seedTable struct {
	id, description string
	columns         []googlesql.Column
	row             func(i int, r *dice) []any
	rows            int
}

// dice is a small generator whose sequence never changes, so that the demo
// looks the same everywhere (a linear congruence; constants of Numerical
// Recipes).
type dice uint32

func (d *dice) roll(n int) int {
	*d = *d*1664525 + 1013904223
	return int(uint32(*d)>>8) % n
}

func pick[T any](d *dice, of ...T) T { return of[d.roll(len(of))] }

// seedEpoch is when the demo's data begins.
var seedEpoch = time.Date(2026, 11, 1, 6, 0, 0, 0, time.UTC)

func seedTime(minutes int) string {
	return seedEpoch.Add(time.Duration(minutes) * time.Minute).Format(googlesql.TimestampLayout)
}

func cents(n int) float64 { return float64(n) / 100 }

var (
	firstNames = []string{"Ada", "Bao", "Carla", "Dmitri", "Esi", "Farid", "Greta", "Hana", "Iker", "Jonas", "Kavya", "Lucia", "Mateo", "Nora", "Oskar", "Priya", "Rosa", "Samir", "Tove", "Yuki"}
	lastNames  = []string{"Abara", "Berg", "Costa", "Dubois", "Eriksen", "Fujita", "Garcia", "Haddad", "Ivanova", "Jansen", "Kaya", "Lindqvist", "Moreau", "Novak", "Okafor", "Patel", "Rossi", "Sato", "Turner", "Weber"}
)

var seedData = []seedDataset{
	{"staging", "raw imports, replaced every day", []seedTable{{
		"imports", "rows as the sources sent them, by batch",
		[]googlesql.Column{{Name: "id", Type: "INTEGER", Mode: "REQUIRED"}, {Name: "batch_id", Type: "INTEGER"}, {Name: "source", Type: "STRING"}, {Name: "amount", Type: "NUMERIC"}, {Name: "currency", Type: "STRING"}, {Name: "valid", Type: "BOOLEAN"}, {Name: "imported_at", Type: "TIMESTAMP"}},
		func(i int, r *dice) []any {
			// Batches 40 to 44, of 250 rows each; 42 is the one that went wrong.
			batch := 40 + i/250
			valid := int64(1)
			if batch == 42 && r.roll(3) > 0 || r.roll(100) == 0 {
				valid = 0
			}
			return []any{int64(i + 1), int64(batch), pick(r, "shop", "partner-feed", "mobile", "call-center"), cents(100 + r.roll(50_000)), pick(r, "EUR", "USD", "GBP"), valid, seedTime((batch-40)*1440 + i%250)}
		},
		1250,
	}}},
	{"analytics", "what the dashboards read", []seedTable{
		{
			"customers", "one row a customer",
			[]googlesql.Column{{Name: "customer_id", Type: "INTEGER", Mode: "REQUIRED"}, {Name: "name", Type: "STRING"}, {Name: "email", Type: "STRING"}, {Name: "country", Type: "STRING"}, {Name: "signup_date", Type: "DATE"}, {Name: "newsletter", Type: "BOOLEAN"}},
			func(i int, r *dice) []any {
				first, last := pick(r, firstNames...), pick(r, lastNames...)
				return []any{int64(i + 1), first + " " + last, fmt.Sprintf("customer%04d@example.com", i+1), pick(r, "DE", "FR", "JP", "NG", "SE", "US"), seedEpoch.AddDate(0, 0, -r.roll(900)).Format(googlesql.DateLayout), int64(r.roll(2))}
			},
			1000,
		},
		{
			"orders", "one row an order",
			[]googlesql.Column{{Name: "order_id", Type: "INTEGER", Mode: "REQUIRED"}, {Name: "customer_id", Type: "INTEGER"}, {Name: "status", Type: "STRING"}, {Name: "total", Type: "FLOAT"}, {Name: "items", Type: "INTEGER"}, {Name: "ordered_at", Type: "TIMESTAMP"}},
			func(i int, r *dice) []any {
				return []any{int64(100_000 + i), int64(1 + r.roll(1000)), pick(r, "paid", "shipped", "delivered", "returned", "open"), cents(500 + r.roll(40_000)), int64(1 + r.roll(6)), seedTime(-r.roll(129_600))}
			},
			3000,
		},
	}},
	{"finance", "restricted: what an agent had better not read unseen", []seedTable{{
		"payroll", "salaries",
		[]googlesql.Column{{Name: "employee_id", Type: "INTEGER", Mode: "REQUIRED"}, {Name: "name", Type: "STRING"}, {Name: "iban", Type: "STRING"}, {Name: "salary", Type: "NUMERIC"}, {Name: "bonus", Type: "NUMERIC"}, {Name: "paid_on", Type: "DATE"}},
		func(i int, r *dice) []any {
			first, last := pick(r, firstNames...), pick(r, lastNames...)
			return []any{int64(i + 1), first + " " + last, fmt.Sprintf("XX00 DEMO %04d %04d", r.roll(10_000), r.roll(10_000)), float64(3200 + 50*r.roll(120)), float64(100 * r.roll(40)), seedEpoch.AddDate(0, 0, -2).Format(googlesql.DateLayout)}
		},
		120,
	}}},
}

// seedView is a view over the orders.
const seedView = "SELECT DATE(ordered_at) AS day, COUNT(*) AS orders, ROUND(SUM(total), 2) AS revenue FROM analytics.orders WHERE status != 'returned' GROUP BY day"

// Seed fills the project demo-project (or the first that is configured, where
// there is no such) with the data of the demo: the datasets staging, analytics
// and finance, and the objects gs://demo-bucket/imports-45.csv and .ndjson. It
// makes the same rows each time, and fails where the datasets exist.
func (s *Sandbox) Seed(ctx context.Context) error {
	project := DefaultProject
	if !s.catalog.hasProject(project) {
		project = s.cfg.Projects[0]
	}
	release, err := s.engine.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	r := dice(20261101)
	for _, d := range seedData {
		if _, err := s.createDataset(project, d.id, object{"description": d.description}); err != nil {
			return fmt.Errorf("seed %s: %w", d.id, err)
		}
		for _, t := range d.tables {
			spec := tableSpec{name: googlesql.Name{Project: project, Dataset: d.id, Table: t.id}, columns: t.columns, resource: object{"description": t.description}}
			made, err := s.createTable(ctx, spec)
			if err != nil {
				return fmt.Errorf("seed %s.%s: %w", d.id, t.id, err)
			}
			rows := make([][]any, t.rows)
			for i := range rows {
				rows[i] = t.row(i, &r)
			}
			if err := s.appendRows(ctx, made, t.columns, rows); err != nil {
				return fmt.Errorf("seed %s.%s: %w", d.id, t.id, err)
			}
		}
	}
	view := tableSpec{name: googlesql.Name{Project: project, Dataset: "analytics", Table: "daily_revenue"}, view: seedView, resource: object{"description": "orders by day"}}
	var aerr *apiError
	if view.columns, aerr = s.viewColumns(ctx, view.name, seedView, false, AnonymousPrincipal); aerr != nil {
		return fmt.Errorf("seed the view: %w", aerr)
	}
	if _, err := s.createTable(ctx, view); err != nil {
		return fmt.Errorf("seed the view: %w", err)
	}
	for uri, data := range map[string]string{
		"gs://demo-bucket/imports-45.csv":    "id,batch_id,source,amount,currency,valid,imported_at\n5001,45,shop,19.99,EUR,true,2026-11-06 08:00:00 UTC\n5002,45,mobile,5.00,USD,true,2026-11-06 08:01:00 UTC\n5003,45,shop,240.10,EUR,false,2026-11-06 08:02:00 UTC\n",
		"gs://demo-bucket/imports-45.ndjson": `{"id":5004,"batch_id":45,"source":"shop","amount":"12.50","currency":"EUR","valid":true,"imported_at":"2026-11-06T08:03:00Z"}` + "\n" + `{"id":5005,"batch_id":45,"source":"mobile","amount":7,"currency":"GBP","valid":true,"imported_at":"2026-11-06T08:04:00Z"}` + "\n",
	} {
		if err := s.PutObject(uri, []byte(data)); err != nil {
			return fmt.Errorf("seed %s: %w", uri, err)
		}
	}
	return nil
}
