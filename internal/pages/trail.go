package pages

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/trailgate/trailgate/internal/admin/client"
)

func (p *Pages) trailRoutes() {
	p.handle("GET /trail", (*view).trail)
	p.handle("GET /trail/rows", (*view).trailRows)
	p.handle("GET /trail/facets", func(v *view) error { return v.trailFragment("facets", (*trailPage).addFacets) })
	p.handle("GET /trail/histogram", func(v *view) error { return v.trailFragment("histogram", (*trailPage).addHistogram) })
	p.handle("POST /trail/searches", (*view).saveSearch)
	p.handle("POST /trail/searches/{id}/remove", (*view).removeSearch)
}

const trailRows = 50

type trailPage struct {
	v       *view
	Filter  string
	Problem string // with the filter
	Before  string // the filter up to where the problem is
	Rows    []client.Row
	Next    string // link to the next page
	More    string // the same as a fragment
	Saved   []client.SavedSearch
	Facets  []facetView
	Chart   *Chart
	Partial string // why not all calls are counted
	Counts  bool   // facets were asked for without script
	Form    url.Values
}

// facetView is a facet with links that add its values to the filter, or take them out.
type facetView struct {
	client.Facet
	Title  string
	Values []facetLink
}

type facetLink struct {
	client.FacetValue
	Link string
	On   bool
}

// trail is the page of all entries.
func (v *view) trail() error {
	d := &trailPage{v: v, Filter: strings.TrimSpace(v.arg("filter")), Counts: v.arg("facets") == "1"}
	code := http.StatusOK
	if err := d.search(v.arg("page_token")); err != nil {
		if !d.filterProblem(err) {
			return err
		}
		code = http.StatusBadRequest
	}
	var err error
	if d.Saved, err = v.api.SavedSearches(v.r.Context()); err != nil {
		if told, ok := errors.AsType[*client.Error](err); !ok || told.Code != http.StatusNotFound {
			return err
		}
	}
	if d.Counts && d.Problem == "" {
		if err := d.addFacets(); err != nil {
			return err
		}
		if err := d.addHistogram(); err != nil {
			return err
		}
	}
	return v.show(code, "trail.html", "trail", d)
}

// filterProblem takes an error that is the filter's, and reports whether it is.
func (d *trailPage) filterProblem(err error) bool {
	told, ok := errors.AsType[*client.Error](err)
	if !ok || told.Code != http.StatusBadRequest {
		return false
	}
	d.Problem = told.Message
	if runes := []rune(d.Filter); told.Column > 0 && told.Column <= len(runes)+1 {
		d.Before = string(runes[:told.Column-1])
	}
	return true
}

func (d *trailPage) search(token string) error {
	rows, next, err := d.v.api.Page(d.v.r.Context(), client.Query{Filter: d.Filter, PageSize: trailRows, PageToken: token})
	if err != nil {
		return err
	}
	d.Rows = rows
	if next != "" {
		q := url.Values{"filter": {d.Filter}, "page_token": {next}}.Encode()
		d.Next, d.More = "/trail?"+q, "/trail/rows?"+q
	}
	return nil
}

// trailRows is one page of rows alone.
func (v *view) trailRows() error {
	d := &trailPage{v: v, Filter: v.arg("filter")}
	if err := d.search(v.arg("page_token")); err != nil {
		return err
	}
	return v.fragment("trail.html", "rows", d)
}

func (v *view) trailFragment(block string, add func(*trailPage) error) error {
	d := &trailPage{v: v, Filter: strings.TrimSpace(v.arg("filter"))}
	if err := add(d); err != nil {
		return err
	}
	return v.fragment("trail.html", block, d)
}

var facetTitles = map[string]string{
	"agent": "Agent", "human": "On behalf of", "connection": "Connection", "class": "Class", "table": "Table", "decision": "Decision", "state": "State",
}

func (d *trailPage) addFacets() error {
	list, err := d.v.api.Facets(d.v.r.Context(), d.Filter, nil, 8)
	if err != nil {
		return err
	}
	for _, f := range list {
		shown := facetView{Facet: f, Title: facetTitles[f.Field]}
		for _, value := range f.Values {
			filter, on := toggle(d.Filter, f.Field, value.Value)
			shown.Values = append(shown.Values, facetLink{value, "/trail?filter=" + url.QueryEscape(filter), on})
		}
		if len(shown.Values) > 0 {
			d.Facets = append(d.Facets, shown)
		}
		if !f.Complete && f.Since != nil {
			d.Partial = "Counted over the newest calls, since " + when(*f.Since) + "."
		}
	}
	return nil
}

// toggle adds a term to a filter, or takes it out where it stands as it would be added.
func toggle(filter, field, value string) (string, bool) {
	term := field + " = " + quoteTerm(value)
	parts := strings.Split(filter, " AND ")
	if i := slices.Index(parts, term); i >= 0 {
		return strings.Join(slices.Delete(parts, i, i+1), " AND "), true
	}
	return conjunction(filter, term), false
}

// conjunction adds terms to a filter.
func conjunction(filter string, terms ...string) string {
	filter = strings.TrimSpace(filter)
	if filter != "" {
		if strings.Contains(filter, " OR ") && !strings.HasPrefix(filter, "(") {
			filter = "(" + filter + ")"
		}
		terms = append([]string{filter}, terms...)
	}
	return strings.Join(terms, " AND ")
}

// withoutTime is a filter without the times that brushing put at its end.
func withoutTime(filter string) string {
	var kept []string
	for _, part := range strings.Split(filter, " AND ") {
		if !strings.HasPrefix(part, `time >= "`) && !strings.HasPrefix(part, `time < "`) {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, " AND ")
}

// span is a filter's own bounds of time, where brushing or somebody wrote them so.
func span(filter string) (since, until time.Time) {
	for _, part := range strings.Split(filter, " AND ") {
		for prefix, to := range map[string]*time.Time{`time >= "`: &since, `time < "`: &until} {
			if s, ok := strings.CutPrefix(part, prefix); ok {
				if t, err := time.Parse(time.RFC3339Nano, strings.TrimSuffix(s, `"`)); err == nil {
					*to = t
				}
			}
		}
	}
	return since, until
}

func (d *trailPage) addHistogram() error {
	since, until := span(d.Filter)
	base := withoutTime(d.Filter)
	h, err := d.v.api.Histogram(d.v.r.Context(), base, since, until, 60)
	if err != nil {
		return err
	}
	step := time.Duration(h.StepSeconds * float64(time.Second))
	var bars []Bar
	for _, b := range h.Buckets {
		end := b.Time.Add(step)
		label := when(b.Time) + ", " + spanText(step) + ": " + countText(b.Calls) + " calls"
		if b.Errors > 0 {
			label += ", " + countText(b.Errors) + " failed or refused"
		}
		bars = append(bars, Bar{
			From: b.Time, To: end, Value: b.Calls, Bad: b.Errors, Label: label,
			Link: "/trail?filter=" + url.QueryEscape(conjunction(base, `time >= "`+b.Time.UTC().Format(time.RFC3339)+`"`, `time < "`+end.UTC().Format(time.RFC3339)+`"`)),
		})
	}
	c := newChart("Calls over time", bars, countText)
	d.Chart = &c
	if !h.Complete && h.Counted != nil {
		d.Partial = "Counted over the newest calls, since " + when(*h.Counted) + "."
	}
	return nil
}

// Whole is a link to the trail with the filter's times taken out; "" where it has none.
func (d *trailPage) Whole() string {
	if base := withoutTime(d.Filter); base != d.Filter {
		return "/trail?filter=" + url.QueryEscape(base)
	}
	return ""
}

// preset is a filter that many want.
type preset struct {
	Title, Link string
	On          bool
}

const onlyCalls = `kind = ("intent" OR "denied" OR "held" OR "refused")`

// Presets are filters that many want, without the times of this one.
func (d *trailPage) Presets() []preset {
	var list []preset
	for _, p := range [][2]string{
		{"Everything", ""},
		{"Calls", onlyCalls},
		{"Changes", `class = ("write" OR "metadata_change" OR "access_change" OR "export")`},
		{"Denied", `kind = "denied"`},
		{"Waiting", `state = "held" AND NOT kind = ("approved" OR "denied" OR "expired")`},
		{"Failed", `state = "failed"`},
		{"Unfinished", `state = ("open" OR "indeterminate")`},
		{"Humans", `kind = "admin"`},
	} {
		list = append(list, preset{p[0], "/trail?filter=" + url.QueryEscape(p[1]), d.Filter == p[1]})
	}
	return list
}

// Base is the filter without times, for what brushing puts there.
func (d *trailPage) Base() string { return withoutTime(d.Filter) }

// ExportLink is where the rows can be had as a file.
func (d *trailPage) ExportLink(form string) string {
	return "/api/v1/entries:export?" + url.Values{"filter": {d.Filter}, "format": {form}}.Encode()
}

// LiveLink is where new rows come from.
func (d *trailPage) LiveLink() string {
	return "/api/v1/entries:follow?" + url.Values{"filter": {d.Filter}}.Encode()
}

func (v *view) saveSearch() error {
	form, err := v.form()
	if err != nil {
		return err
	}
	if _, err := v.api.SaveSearch(v.r.Context(), form.Get("name"), form.Get("filter"), form.Get("shared") == "yes"); err != nil {
		return err
	}
	return v.to("/trail?filter=" + url.QueryEscape(form.Get("filter")))
}

func (v *view) removeSearch() error {
	form, err := v.form()
	if err != nil {
		return err
	}
	if err := v.api.RemoveSearch(v.r.Context(), v.r.PathValue("id")); err != nil {
		return err
	}
	return v.to("/trail?filter=" + url.QueryEscape(form.Get("filter")))
}
