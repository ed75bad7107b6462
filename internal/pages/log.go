package pages

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/trailgate/trailgate/internal/admin/client"
)

func (p *Pages) logRoutes() {
	p.handle("GET /log", func(v *view) error { return v.log(http.StatusOK, "") })
	p.handle("POST /log/erase", (*view).eraseRows)
}

type logPage struct {
	*client.Gateway
	Checkpoint, Key string
	Root            string
	Growth          Chart
	Gaps            []gapLine
	Keys            []client.DataKey
	Retention       string
	Kept            bool // rows are, here
	Holds           []client.Hold
	MayAdminister   bool
	Problem         string
}

// gapLine is something that an auditor should look at, and how often it is there.
type gapLine struct {
	What, Means, Link string
	Calls             int64
}

// log is the log itself: how long it is, who signs it, what is missing.
func (v *view) log(code int, problem string) error {
	ctx := v.r.Context()
	d := &logPage{MayAdminister: v.who.Can("admin"), Problem: problem}
	var err error
	if d.Gateway, err = v.api.Gateway(ctx); err != nil {
		return err
	}
	if d.Checkpoint, err = v.api.Checkpoint(ctx); err != nil {
		return err
	}
	if lines := strings.Split(d.Checkpoint, "\n"); len(lines) > 2 {
		d.Root = lines[2]
	}
	h, err := v.api.Histogram(ctx, "", time.Time{}, time.Time{}, 60)
	if err != nil {
		return err
	}
	step := time.Duration(h.StepSeconds * float64(time.Second))
	var bars []Bar
	for _, b := range h.Buckets {
		bars = append(bars, Bar{From: b.Time, To: b.Time.Add(step), Value: b.Calls, Bad: b.Errors, Label: when(b.Time) + ": " + countText(b.Calls) + " calls"})
	}
	d.Growth = newChart("Calls over time", bars, countText)
	states, err := v.api.Facets(ctx, "", []string{"state"}, 20)
	if err != nil {
		return err
	}
	n := map[string]int64{}
	for _, x := range states[0].Values {
		n[x.Value] = x.Calls
	}
	d.Gaps = []gapLine{
		{"Open", "Calls whose outcome is not there yet: they run, or the gateway has just stopped.", trailLink("state", "open"), n["open"]},
		{"Indeterminate", "Calls that an earlier run of the gateway left without an outcome, and that are not settled yet.", trailLink("state", "indeterminate"), n["indeterminate"]},
		{"Settled", "Calls whose end was found out later, by asking BigQuery.", trailLink("state", "settled"), n["settled"]},
	}
	gaps, _, err := v.api.Page(ctx, client.Query{Filter: `kind = "gap"`, PageSize: 100})
	if err != nil {
		return err
	}
	d.Gaps = append(d.Gaps, gapLine{"Gaps", "Entries that say that something is known to be missing.", trailLink("kind", "gap"), int64(len(gaps))})
	if err := d.recordings(v); err != nil {
		return err
	}
	return v.show(code, "log.html", "log", d)
}

func (d *logPage) recordings(v *view) (err error) {
	d.Keys, d.Retention, err = v.api.Recordings(v.r.Context())
	if told, ok := errors.AsType[*client.Error](err); ok && told.Code == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	d.Kept = true
	slices.SortFunc(d.Keys, func(a, b client.DataKey) int { return strings.Compare(b.Month+b.Key, a.Month+a.Key) })
	d.Holds, err = v.api.Holds(v.r.Context())
	return err
}

// eraseRows erases the rows under one key, whose name had to be typed.
func (v *view) eraseRows() error {
	form, err := v.form()
	if err != nil {
		return err
	}
	key, reason := form.Get("key"), strings.TrimSpace(form.Get("reason"))
	switch {
	case strings.TrimSpace(form.Get("typed")) != key:
		return v.log(http.StatusBadRequest, "Nothing was erased: type the key's name as it stands there.")
	case reason == "":
		return v.log(http.StatusBadRequest, "Nothing was erased: say why; the reason stands in the trail.")
	}
	if _, err := v.api.EraseRecordings(v.r.Context(), []string{key}, reason); err != nil {
		if told, ok := errors.AsType[*client.Error](err); ok && told.Code < 500 {
			return v.log(told.Code, "Nothing was erased: "+told.Message)
		}
		return err
	}
	return v.to("/log")
}
