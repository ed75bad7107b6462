package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/trailgate/trailgate/internal/admin/client"
)

// Who there is in the demo's history. All of it is made up.

type human struct {
	name  string
	roles []string
}

var (
	platformEngineer = human{"sam.okafor@example.com", []string{"admin"}}
	dataOwner        = human{"maya.lindqvist@example.com", []string{"approver"}}
	auditor          = human{"ines.costa@example.com", []string{"auditor"}}
)

// Those on whose behalf agents act.
const (
	productManager = "jonas.weber@example.com"
	controller     = "yuki.sato@example.com"
	supportLead    = "lena.patel@example.com"
	supporter      = "omar.haddad@example.com"
)

var storyAgents = []struct{ name, note string }{
	demoAgents[0], demoAgents[1],
	{"report-bot", "fills the dashboards"},
	{"support-copilot", "looks customers up for the people at the phone"},
	{"finops-bot", "tells what statements would cost"},
	{"scratch-bot", "somebody's experiment"},
}

// What they call with.
const (
	clientBQ     = "google-cloud-sdk528.0.0 google-api-python-client (gzip)"
	clientPython = "gl-python/3.12.10 gccl/3.38.0"
	clientGo     = "gcloud-golang-bigquery/20251120"
	clientNode   = "gcloud-node-bigquery/8.1.1 gl-node/22.11.0"
)

// scene is something that happens at a time.
type scene struct {
	at   time.Time
	play func(s *story) error
}

// week is what happened in the seven days before now, in order.
func week(now time.Time) []scene {
	w := &weekOf{now: now}
	for back := 7; back >= 0; back-- {
		w.day(now.UTC().Truncate(24*time.Hour).AddDate(0, 0, -back), 7-back)
	}
	w.at(now.Add(-26*time.Minute), stillWaiting)
	slices.SortStableFunc(w.scenes, func(a, b scene) int { return a.at.Compare(b.at) })
	return w.scenes
}

type weekOf struct {
	now    time.Time
	scenes []scene
}

func (w *weekOf) at(t time.Time, play func(s *story) error) {
	w.scenes = append(w.scenes, scene{t, play})
}

// past adds what happens at a time of a day, if that is long enough ago for it to be over.
func (w *weekOf) past(day time.Time, hour, minute int, play func(s *story) error) {
	t := day.Add(time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute)
	if t.Before(w.now.Add(-90*time.Minute)) && t.After(w.now.Add(-7*24*time.Hour)) {
		w.at(t, play)
	}
}

// day is one of the days, the n-th of the story.
func (w *weekOf) day(day time.Time, n int) {
	w.past(day, 3, 10, nightlyImport(n))
	w.past(day, 6, 0, costs(n))
	for hour := 7; hour <= 19; hour += 2 {
		w.past(day, hour, 5, dashboards(n, hour))
	}
	if weekday := day.Weekday(); weekday != time.Saturday && weekday != time.Sunday {
		for i, hour := range []int{7, 8, 9, 9, 10, 11, 13, 13, 14, 16, 17} {
			w.past(day, hour, 12+4*i, support(n, i))
		}
		w.past(day, 10, 0, questions(n))
		w.past(day, 13, 30, questions(n+3))
		w.past(day, 15, 10, moreQuestions(n))
	}
	switch n {
	case 1:
		w.past(day, 17, 40, audit)
	case 2:
		w.past(day, 11, 50, correction)
	case 3:
		w.past(day, 9, 45, cleanUp)
		w.past(day, 16, 30, notWithoutTicket)
	case 4:
		w.past(day, 12, 15, experiment)
		w.past(day, 12, 40, suspension)
	case 5:
		w.past(day, 18, 10, nobodyThere)
		w.past(day, 19, 25, quarterEnd)
	case 6:
		w.past(day, 14, 50, afterwards)
	}
}

// nightlyImport: etl-bot checks a batch, and puts it in place. Staging is its own.
func nightlyImport(n int) func(*story) error {
	batch, next := 40+n%5, 60+n
	return func(s *story) error {
		return s.session("etl-bot", clientPython, "", fmt.Sprintf("nightly import %d", next), "load and clean the day's files", func(a *actor) error {
			if n == 3 { // a typing mistake, found out and mended
				if err := a.query("SELECT COUNT(*) AS n FROM staging.import WHERE batch_id = 43", 10, 1); err != nil {
					return err
				}
			}
			return a.each(
				"SELECT batch_id, COUNT(*) AS n, COUNTIF(NOT valid) AS bad FROM staging.imports GROUP BY batch_id ORDER BY batch_id",
				fmt.Sprintf("INSERT INTO staging.imports (id, batch_id, source, amount, currency, valid, imported_at)\nSELECT id + %d, %d, source, amount, currency, valid, CURRENT_TIMESTAMP()\nFROM staging.imports\nWHERE batch_id = %d", 10_000*(n+1), next, batch),
				fmt.Sprintf("UPDATE staging.imports SET valid = FALSE WHERE batch_id = %d AND amount > 450", next),
				fmt.Sprintf("SELECT source, COUNT(*) AS n, ROUND(SUM(amount), 2) AS total\nFROM staging.imports\nWHERE batch_id = %d AND valid\nGROUP BY source\nORDER BY source", next),
				fmt.Sprintf("DELETE FROM staging.imports WHERE batch_id = %d AND NOT valid", next),
			)
		})
	}
}

// dashboards: report-bot reads what the dashboards show, page by page.
func dashboards(n, hour int) func(*story) error {
	return func(s *story) error {
		a := s.at("report-bot", clientGo)
		err := errors.Join(
			a.query("SELECT day, orders, revenue FROM analytics.daily_revenue ORDER BY day DESC LIMIT 30", 100, 1),
			a.query("SELECT status, COUNT(*) AS orders, ROUND(SUM(total), 2) AS revenue\nFROM analytics.orders\nGROUP BY status\nORDER BY revenue DESC", 100, 1),
		)
		if hour == 7 {
			err = errors.Join(err, a.query("SELECT order_id, customer_id, status, total, ordered_at FROM analytics.orders ORDER BY order_id", 1000, 5))
		}
		if hour == 13 && n%2 == 0 {
			err = errors.Join(err, a.head("analytics", "customers", 50))
		}
		return err
	}
}

// costs: finops-bot tries statements out, which changes nothing.
func costs(n int) func(*story) error {
	return func(s *story) error {
		a := s.at("finops-bot", clientNode)
		return errors.Join(
			a.get("/datasets"), a.get("/datasets/analytics/tables"),
			a.tryOut("SELECT * FROM analytics.orders"),
			a.tryOut("SELECT customer_id, SUM(total) AS total FROM analytics.orders GROUP BY customer_id"),
			a.tryOut(fmt.Sprintf("SELECT * FROM staging.imports WHERE batch_id = %d", 60+n)),
			a.get("/datasets/analytics/tables/orders"),
		)
	}
}

// support: a person at the phone asks, the copilot looks up.
func support(n, i int) func(*story) error {
	who := supporter
	if i%2 == 0 {
		who = supportLead
	}
	return func(s *story) error {
		customer := 1 + s.roll(1000)
		return s.session("support-copilot", clientPython, who, fmt.Sprintf("ticket %d", 48_210+n*31+i*4), "answer a customer's question", func(a *actor) error {
			err := errors.Join(
				a.ask("SELECT name, email, country, signup_date FROM analytics.customers WHERE customer_id = @customer", "customer", customer),
				a.ask("SELECT order_id, status, total, ordered_at FROM analytics.orders WHERE customer_id = @customer ORDER BY ordered_at DESC LIMIT 10", "customer", customer),
			)
			if i == 3 {
				err = errors.Join(err, a.ask("SELECT COUNT(*) AS returned FROM analytics.orders WHERE customer_id = @customer AND status = @status", "customer", customer, "status", "returned"))
			}
			return err
		})
	}
}

// questions: the product manager has analyst-bot find something out.
func questions(n int) func(*story) error {
	countries := []string{"DE", "FR", "JP", "NG", "SE", "US"}
	country := countries[n%len(countries)]
	return func(s *story) error {
		return s.session("analyst-bot", clientBQ, productManager, "returns in "+country, "why did returns go up", func(a *actor) error {
			if n == 2 {
				if err := a.query("SELECT c.country, COUNT(*) AS returned FROM analytics.orders o JOIN analytics.customers c USING (customer_id) WHERE o.state = 'returned' GROUP BY c.country", 50, 1); err != nil {
					return err
				}
			}
			return a.each(
				"SELECT c.country, COUNT(*) AS returned\nFROM analytics.orders AS o\nJOIN analytics.customers AS c USING (customer_id)\nWHERE o.status = 'returned'\nGROUP BY c.country\nORDER BY returned DESC",
				fmt.Sprintf("SELECT c.country, o.status, COUNT(*) AS orders\nFROM analytics.orders AS o\nJOIN analytics.customers AS c USING (customer_id)\nWHERE c.country = '%s'\nGROUP BY c.country, o.status\nORDER BY orders DESC", country),
				fmt.Sprintf("SELECT o.items, COUNT(*) AS returned\nFROM analytics.orders AS o\nJOIN analytics.customers AS c USING (customer_id)\nWHERE o.status = 'returned' AND c.country = '%s'\nGROUP BY o.items\nORDER BY o.items", country),
			)
		})
	}
}

// moreQuestions: the controller wants revenue.
func moreQuestions(n int) func(*story) error {
	return func(s *story) error {
		return s.session("analyst-bot", clientBQ, controller, "weekly numbers", "revenue for the weekly meeting", func(a *actor) error {
			return a.each(
				"SELECT DATE(ordered_at) AS day, ROUND(SUM(total), 2) AS revenue FROM analytics.orders WHERE status != 'returned' GROUP BY day ORDER BY day DESC LIMIT 7",
				fmt.Sprintf("SELECT customer_id, ROUND(SUM(total), 2) AS spent FROM analytics.orders GROUP BY customer_id HAVING SUM(total) > %d ORDER BY spent DESC LIMIT 20", 900+50*n),
				"SELECT COUNT(*) AS customers, COUNTIF(newsletter) AS subscribed FROM analytics.customers",
			)
		})
	}
}

// audit: somebody goes over what was read.
func audit(s *story) error {
	c := s.as(auditor)
	for _, filter := range []string{`table : "finance.*"`, `class = "write" AND time >= -7d`, `decision = "deny"`} {
		s.think(10*time.Second, 2*time.Minute)
		if _, _, err := c.Page(s.ctx, client.Query{Filter: filter, PageSize: 20}); err != nil {
			return err
		}
	}
	_, err := c.SaveSearch(s.ctx, "Reads of finance", `table : "finance.*" AND class = "read"`, true)
	return err
}

// correction: a change to orders, approved after a look.
func correction(s *story) error {
	return s.session("analyst-bot", clientBQ, productManager, "orders stuck in open", "INC-2207", func(a *actor) error {
		return errors.Join(
			a.query("SELECT COUNT(*) AS stuck FROM analytics.orders WHERE status = 'open' AND total < 20", 10, 1),
			a.wait("UPDATE analytics.orders SET status = 'delivered' WHERE status = 'open' AND total < 20", dataOwner, 7*time.Minute, true, "INC-2207, checked with fulfilment"),
			a.query("SELECT COUNT(*) AS stuck FROM analytics.orders WHERE status = 'open' AND total < 20", 10, 1),
		)
	})
}

// cleanUp: a table of results, approved.
func cleanUp(s *story) error {
	return s.session("analyst-bot", clientBQ, controller, "returns by month", "a table for the finance team", func(a *actor) error {
		return errors.Join(
			a.wait("CREATE OR REPLACE TABLE analytics.returns_by_country AS\nSELECT c.country, COUNT(*) AS returned, ROUND(SUM(o.total), 2) AS value\nFROM analytics.orders AS o\nJOIN analytics.customers AS c USING (customer_id)\nWHERE o.status = 'returned'\nGROUP BY c.country", dataOwner, 18*time.Minute, true, ""),
			a.query("SELECT * FROM analytics.returns_by_country ORDER BY value DESC", 50, 1),
		)
	})
}

// notWithoutTicket: a deletion that somebody says no to.
func notWithoutTicket(s *story) error {
	return s.session("support-copilot", clientPython, supporter, "ticket 48377", "delete a customer's data", func(a *actor) error {
		return errors.Join(
			a.ask("SELECT customer_id, name FROM analytics.customers WHERE email = @email", "email", "customer0417@example.com"),
			a.wait("DELETE FROM analytics.customers WHERE email LIKE 'customer04%'", dataOwner, 4*time.Minute, false, "this is a hundred customers, the ticket is about one; ask again with customer_id = 417"),
			a.wait("DELETE FROM analytics.customers WHERE customer_id = 417", dataOwner, 9*time.Minute, true, "ticket 48377"),
		)
	})
}

// experiment: scratch-bot looks where it should not, and tries to carry it out.
func experiment(s *story) error {
	a := s.at("scratch-bot", clientNode)
	return errors.Join(
		a.get("/datasets"), a.get("/datasets/finance/tables"),
		a.head("finance", "payroll", 100),
		a.query("SELECT name, iban, salary + bonus AS paid FROM finance.payroll ORDER BY paid DESC", 200, 1),
		a.query("EXPORT DATA OPTIONS (uri = 'gs://my-own-bucket/p-*.csv', format = 'CSV') AS SELECT * FROM finance.payroll", 10, 1),
		a.query("GRANT `roles/bigquery.dataViewer` ON SCHEMA finance TO 'user:someone@elsewhere.example'", 10, 1),
		a.query("SELECT name, salary FROM finance.payroll WHERE salary > 9000", 200, 1),
	)
}

// suspension: that was noticed.
func suspension(s *story) error {
	c := s.as(platformEngineer)
	if _, _, err := c.Page(s.ctx, client.Query{Filter: `agent = "scratch-bot" AND time >= -1h`, PageSize: 50}); err != nil {
		return err
	}
	s.think(time.Minute, 3*time.Minute)
	if _, err := c.Suspend(s.ctx, "agent", "scratch-bot", "INC-2231: read payroll and tried to export it", true); err != nil {
		return err
	}
	a := s.at("scratch-bot", clientNode)
	return errors.Join(
		a.query("SELECT * FROM finance.payroll LIMIT 10", 10, 1),
		a.query("SELECT 1", 10, 1),
	)
}

// nobodyThere: nobody answers within the hour.
func nobodyThere(s *story) error {
	return s.session("analyst-bot", clientBQ, productManager, "mark old orders", "", func(a *actor) error {
		return a.leave("UPDATE analytics.orders SET status = 'delivered' WHERE status = 'shipped' AND ordered_at < TIMESTAMP '2026-10-01'")
	})
}

// quarterEnd: a change that somebody approves from home.
func quarterEnd(s *story) error {
	return s.session("analyst-bot", clientBQ, controller, "quarter end", "", func(a *actor) error {
		return a.wait("DELETE FROM analytics.orders WHERE status = 'open' AND total < 10", dataOwner, 11*time.Minute, true, "agreed with Yuki")
	})
}

// afterwards: the auditor goes through the incident.
func afterwards(s *story) error {
	c := s.as(auditor)
	found, _, err := c.Page(s.ctx, client.Query{Filter: `agent = "scratch-bot"`, PageSize: 100})
	if err != nil {
		return err
	}
	for _, row := range found {
		if row.Entry.Method == "bigquery.tabledata.list" {
			s.think(10*time.Second, time.Minute)
			if _, err := c.Results(s.ctx, row.Entry.ID, 0, 100); err != nil {
				return err
			}
		}
	}
	_, err = c.SaveSearch(s.ctx, "INC-2231", `agent = "scratch-bot"`, true)
	return err
}

// stillWaiting is where the demo begins: a change waits for whoever looks.
func stillWaiting(s *story) error {
	a, _, err := s.begin("analyst-bot", clientBQ, productManager, "double orders", "INC-2240")
	if err != nil {
		return err
	}
	return errors.Join(
		a.query("SELECT customer_id, total, COUNT(*) AS n FROM analytics.orders GROUP BY customer_id, total HAVING COUNT(*) > 1 ORDER BY n DESC", 50, 1),
		a.leave("DELETE FROM analytics.orders\nWHERE order_id IN (\n  SELECT MAX(order_id) FROM analytics.orders\n  GROUP BY customer_id, total HAVING COUNT(*) > 1\n)"),
	)
}
