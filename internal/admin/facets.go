package admin

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/trailgate/trailgate/internal/index"
)

const (
	maxFacetValues   = 100
	facetValues      = 10
	histogramBuckets = 60
	maxCompletions   = 20
)

// facets is GET facets: how the calls that a filter matches spread over fields.
func (a *API) facets(w http.ResponseWriter, r *request) error {
	names := []string{"agent", "human", "connection", "class", "table", "decision", "state"}
	if s := r.query.Get("fields"); s != "" {
		names = strings.Split(s, ",")
	}
	limit, err := number(r, "limit", facetValues, maxFacetValues)
	if err != nil {
		return err
	}
	if !a.busy.enter() {
		return busy()
	}
	defer a.busy.leave()
	filter := r.query.Get("filter")
	if _, err := a.record(r, actionStats, "", map[string]string{"filter": filter, "facets": strings.Join(names, ",")}); err != nil {
		return err
	}
	list, err := a.cfg.Index.Facets(r.Context(), filter, names, int(limit))
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, struct {
		Facets []index.Facet `json:"facets"`
	}{list})
}

// histogram is GET histogram: how they spread over time.
func (a *API) histogram(w http.ResponseWriter, r *request) error {
	var span [2]time.Time
	for i, name := range []string{"since", "until"} {
		s := r.query.Get(name)
		if s == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return invalid(name + ": want a time as in RFC 3339, such as 2026-11-23T00:00:00Z")
		}
		span[i] = t
	}
	buckets, err := number(r, "buckets", histogramBuckets, 400)
	if err != nil {
		return err
	}
	if !a.busy.enter() {
		return busy()
	}
	defer a.busy.leave()
	filter := r.query.Get("filter")
	if _, err := a.record(r, actionStats, "", map[string]string{"filter": filter, "histogram": "time"}); err != nil {
		return err
	}
	h, err := a.cfg.Index.Histogram(r.Context(), filter, span[0], span[1], int(buckets))
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, struct {
		*index.Histogram
		StepSeconds float64 `json:"step_seconds"`
	}{h, h.Step.Seconds()})
}

// completion is a way to go on in a filter.
type completion struct {
	Insert string `json:"insert"`
	Label  string `json:"label"`
	Detail string `json:"detail,omitempty"`
}

// complete is GET filter:complete: how a filter that is being typed may go on at the
// cursor. Values are from the trail, so asking is recorded like any search.
func (a *API) complete(w http.ResponseWriter, r *request) error {
	text := r.query.Get("text")
	cursor, err := number(r, "cursor", int64(utf8.RuneCountInString(text)), 1<<16)
	if err != nil {
		return err
	}
	runes := []rune(text)
	if int(cursor) > len(runes) {
		return invalid("cursor: beyond the end of the text")
	}
	if !a.busy.enter() {
		return busy()
	}
	defer a.busy.leave()
	if _, err := a.record(r, actionStats, "", map[string]string{"complete": text}); err != nil {
		return err
	}
	from, field, word := typing(runes[:cursor])
	out := struct {
		From    int          `json:"from"` // characters
		To      int          `json:"to"`
		Options []completion `json:"options"`
	}{from, int(cursor), []completion{}}
	if field != "" {
		values, err := a.cfg.Index.Values(r.Context(), field, word, maxCompletions)
		if err != nil {
			return err
		}
		for _, v := range values {
			out.Options = append(out.Options, completion{Insert: strconv.Quote(v), Label: v})
		}
		return reply(w, http.StatusOK, out)
	}
	for _, f := range index.Fields() {
		if strings.HasPrefix(f.Name, strings.ToLower(word)) && len(out.Options) < maxCompletions {
			out.Options = append(out.Options, completion{Insert: f.Name + " ", Label: f.Name, Detail: f.Doc})
		}
	}
	return reply(w, http.StatusOK, out)
}

// typing says what is being typed at the end of a filter: the beginning of a field's
// name, or of a value, then with its field.
func typing(text []rune) (from int, field, word string) {
	var quote int // where an open quote is, plus 1
	start, last, op := 0, "", false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote > 0:
			switch c {
			case '\\':
				i++
			case '"':
				quote, op = 0, false
				start, last = i+1, ""
			}
		case c == '"':
			quote, start = i+1, i
		case strings.ContainsRune("=:<>!", c):
			if w := string(text[start:i]); w != "" {
				last = w
			}
			op, start = true, i+1
		case strings.ContainsRune(" \t\n(),", c):
			if w := string(text[start:i]); w != "" && !op {
				last = w
			} else if w != "" {
				op, last = false, ""
			}
			start = i + 1
		}
	}
	word = string(text[min(start, len(text)):])
	if quote > 0 {
		word = string(text[quote:])
	}
	known := slices.ContainsFunc(index.Fields(), func(f index.Field) bool { return f.Name == last })
	if op && known {
		return start, last, word
	}
	return start, "", word
}
