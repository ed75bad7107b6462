package pages

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate/internal/admin/client"
)

func (p *Pages) coverageRoutes() {
	p.handle("GET /coverage", func(v *view) error { return v.coverage(http.StatusOK, "") })
	p.handle("POST /coverage/acknowledge", (*view).acknowledge)
}

type coveragePage struct {
	Connections []coverageOf
	Connection  string // of the findings that are listed; "": all
	State       string
	States      []string
	Findings    []client.Finding
	Next        string
	Off         bool // nothing is compared here
	May         bool // acknowledge
	Problem     string
}

// coverageOf is a connection with its days drawn.
type coverageOf struct {
	client.ConnectionCoverage
	Chart   Chart
	Percent float64 // of all days shown together; -1: no jobs
	Jobs    int64
}

// shownDays is how many days a connection's table has.
const shownDays = 31

// coverage is how BigQuery's own records and the trail fit together.
func (v *view) coverage(code int, problem string) error {
	ctx := v.r.Context()
	d := &coveragePage{States: []string{"open", "acknowledged", "all"}, Connection: v.arg("connection"), State: v.arg("state"), May: v.who.Can("auditor"), Problem: problem}
	if !slices.Contains(d.States, d.State) {
		d.State = "open"
	}
	list, err := v.api.Coverage(ctx)
	if told, ok := errors.AsType[*client.Error](err); ok && told.Code == http.StatusNotFound {
		d.Off = true
		return v.show(code, "coverage.html", "coverage", d)
	}
	if err != nil {
		return err
	}
	for _, c := range list {
		d.Connections = append(d.Connections, drawCoverage(c))
	}
	d.Findings, d.Next, err = v.api.Findings(ctx, d.Connection, d.State, 100, v.arg("page_token"))
	if err != nil {
		return err
	}
	return v.show(code, "coverage.html", "coverage", d)
}

func drawCoverage(c client.ConnectionCoverage) coverageOf {
	c.Days = c.Days[:min(len(c.Days), shownDays)]
	out := coverageOf{ConnectionCoverage: c, Percent: -1}
	var both int64
	var bars []Bar
	for _, day := range slices.Backward(c.Days) {
		both += day.Both
		out.Jobs += day.Both + day.Direct
		at, err := time.Parse(time.DateOnly, day.Date)
		if err != nil {
			continue
		}
		bars = append(bars, Bar{
			From: at, To: at.Add(24 * time.Hour), Value: day.Both + day.Direct, Bad: day.Direct,
			Label: day.Date + ": " + countText(day.Both) + " jobs have their entry, " + countText(day.Direct) + " have none",
		})
	}
	if out.Jobs > 0 {
		out.Percent = 100 * float64(both) / float64(out.Jobs)
	}
	out.Chart = newChart("Jobs of agents' principals by day, "+c.Connection, bars, countText)
	return out
}

// percentText never rounds up to all: one job that went past the gateway shows.
func percentText(p float64) string {
	switch {
	case p < 0:
		return "no jobs"
	case p < 100 && p > 99.99:
		return "more than 99.99 %"
	case p == 100:
		return "100 %"
	}
	return strconv.FormatFloat(p, 'f', 2, 64) + " %"
}

// acknowledge takes a human's word that a finding is known.
func (v *view) acknowledge() error {
	form, err := v.form()
	if err != nil {
		return err
	}
	reason := strings.TrimSpace(form.Get("reason"))
	if reason == "" {
		return v.coverage(http.StatusBadRequest, "Nothing was acknowledged: say what it was; the trail has it then.")
	}
	err = v.api.AcknowledgeFinding(v.r.Context(), form.Get("finding"), reason)
	if told, ok := errors.AsType[*client.Error](err); ok && told.Code < 500 {
		return v.coverage(told.Code, "Nothing was acknowledged: "+told.Message)
	}
	if err != nil {
		return err
	}
	return v.to("/coverage")
}
