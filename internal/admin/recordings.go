package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/recording"
	"github.com/trailgate/trailgate/internal/trail"
)

const (
	actionResults     = "recording.read"
	actionRecordings  = "recording.list"
	actionErase       = trail.EraseRecording
	actionHoldAdd     = "hold.add"
	actionHoldList    = "hold.list"
	actionHoldRelease = "hold.release"
)

const (
	defaultRows   = 100
	maxRows       = 10_000   // of one answer
	maxRowsBytes  = 16 << 20 // of one answer
	maxPages      = 10_000   // of a result that are looked for
	maxErasedKeys = 1_000    // in one request
)

// methodRows lists a table's rows; its pages belong to no job.
const methodRows = "bigquery.tabledata.list"

func (a *API) recordings() (*recording.Store, error) {
	if a.cfg.Recordings == nil {
		return nil, &Error{Code: http.StatusNotFound, Message: "no rows are kept here"}
	}
	return a.cfg.Recordings, nil
}

// rowPage is one answer with recorded rows.
type rowPage struct {
	entry   string // that opened the call
	seq     uint64
	rec     trailgate.Recording
	session string
	total   int64
}

type shownGap struct {
	From int64  `json:"from"`
	To   int64  `json:"to"` // exclusive
	Why  string `json:"why"`
}

type shownPage struct {
	Entry        string `json:"entry"`
	StartRow     int64  `json:"start_row"`
	PlaceUnknown bool   `json:"place_unknown,omitempty"`
	Rows         int64  `json:"rows"`
	StoredRows   int64  `json:"stored_rows"`
	Truncated    bool   `json:"truncated,omitempty"`
	Redacted     int64  `json:"redacted,omitempty"`
	Error        string `json:"error,omitempty"`
}

// shownResults are recorded rows as the API shows them.
type shownResults struct {
	Entry string `json:"entry"`
	Job   string `json:"job,omitempty"`
	// Schema is empty where BigQuery sent none, or it cannot be read any more.
	Schema []recording.Column `json:"schema"`
	// Rows are those from From on, as BigQuery sent them; null stands for one that is
	// not there, which Gaps explains.
	From      int64             `json:"from"`
	Rows      []json.RawMessage `json:"rows"`
	More      bool              `json:"more"`
	TotalRows int64             `json:"total_rows"` // of the whole result, as far as BigQuery said
	Stored    int64             `json:"stored_rows"`
	Gaps      []shownGap        `json:"gaps"`
	Pages     []shownPage       `json:"pages"`
	Redacted  int64             `json:"redacted,omitempty"`
	Erased    bool              `json:"erased"`
}

// results is GET entries/{id}/results: the rows that went back to the agent, with those
// of the other pages of the same result.
func (a *API) results(w http.ResponseWriter, r *request) error {
	store, err := a.recordings()
	if err != nil {
		return err
	}
	from, err := number(r, "from", 0, 1<<50)
	if err != nil {
		return err
	}
	count, err := number(r, "count", defaultRows, maxRows)
	if err != nil {
		return err
	}
	if !a.busy.enter() {
		return busy()
	}
	defer a.busy.leave()
	stages, err := a.look(r, actionResults)
	if err != nil {
		return err
	}
	own, job := pageOf(stages)
	if own == nil && job != nil { // the job's making: others may have read its result
		return a.resultsOf(w, r, store, stages[0], job, from, count)
	}
	if own == nil {
		return errNoRows
	}
	pages, err := a.pagesWith(r.Context(), stages[0], *own, job)
	if err != nil {
		return err
	}
	return a.replyResults(w, r, store, stages[0], job, pages, from, count)
}

var errNoRows = &Error{Code: http.StatusNotFound, Message: "no rows were recorded of this call; connections[].recording and the rules say of which calls they are"}

// resultsOf answers with what was read of a job by whomever.
func (a *API) resultsOf(w http.ResponseWriter, r *request, store *recording.Store, opening *trailgate.Entry, job *trailgate.Job, from, count int64) error {
	pages, err := a.pagesWith(r.Context(), opening, rowPage{}, job)
	if err != nil {
		return err
	}
	if len(pages) == 0 {
		return errNoRows
	}
	return a.replyResults(w, r, store, opening, job, pages, from, count)
}

func (a *API) replyResults(w http.ResponseWriter, r *request, store *recording.Store, opening *trailgate.Entry, job *trailgate.Job, pages []rowPage, from, count int64) error {
	out := shownResults{Entry: opening.ID, From: from, Schema: []recording.Column{}, Rows: []json.RawMessage{}, Gaps: []shownGap{}, Pages: []shownPage{}}
	if job != nil {
		out.Job = job.ID
	}
	out.fill(r.Context(), store, pages, from, count)
	return reply(w, http.StatusOK, out)
}

// number reads a parameter that is a number from 0 on.
func number(r *request, name string, unset, most int64) (int64, error) {
	s := r.query.Get(name)
	if s == "" {
		return unset, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > most {
		return 0, invalid(name + ": want a number from 0 to " + strconv.FormatInt(most, 10))
	}
	return n, nil
}

// pageOf is the recorded answer among a call's stages, and the job that it is of.
func pageOf(stages []*trailgate.Entry) (*rowPage, *trailgate.Job) {
	job := stages[0].Job
	for _, e := range stages {
		if e.Job != nil && e.Job.ID != "" {
			job = e.Job
		}
	}
	for _, e := range slices.Backward(stages) {
		if e.Recording == nil || e.Outcome == nil || e.Recording.Level != trailgate.RecordingResults || e.Recording.Rows == 0 && e.Recording.Error == "" && e.Recording.Schema == "" {
			continue
		}
		p := &rowPage{entry: stages[0].ID, seq: stages[0].Seq, rec: *e.Recording, session: stages[0].Session, total: e.Outcome.TotalRows}
		if stages[0].Method == methodRows {
			job = nil
		}
		return p, job
	}
	return nil, job
}

// pagesWith are the pages of the result that own is one of. A job's result does not
// change, so all that anybody read of it belong together; a table's rows may have
// changed between two reads, so that only pages belong together that follow on each
// other in one session.
func (a *API) pagesWith(ctx context.Context, opening *trailgate.Entry, own rowPage, job *trailgate.Job) ([]rowPage, error) {
	var filter string
	switch {
	case job != nil && job.ID != "":
		filter = "job = " + strconv.Quote(job.ID)
	case opening.Tables != nil && len(opening.Tables.Read) == 1 && !own.rec.PlaceUnknown:
		filter = "method = " + strconv.Quote(methodRows) + " AND session = " + strconv.Quote(opening.Session) + " AND table = " + strconv.Quote(opening.Tables.Read[0])
	default:
		return []rowPage{own}, nil
	}
	filter += " AND connection = " + strconv.Quote(opening.Connection)
	var pages []rowPage
	q := index.Query{Filter: filter, Ascending: true, PageSize: index.MaxPageSize}
	for {
		rows, next, err := a.cfg.Index.Search(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			if row.Closing == nil {
				continue
			}
			if p, of := pageOf([]*trailgate.Entry{row.Entry, row.Closing}); p != nil && (job == nil) == (of == nil) {
				pages = append(pages, *p)
			}
		}
		if q.PageToken = next; next == "" || len(pages) >= maxPages {
			break
		}
	}
	if job != nil {
		if own.entry != "" && !slices.ContainsFunc(pages, func(p rowPage) bool { return p.entry == own.entry }) {
			pages = append(pages, own)
		}
		return pages, nil
	}
	return chain(pages, own), nil
}

// chain is own with the pages that follow on it, and those that it follows on.
func chain(pages []rowPage, own rowPage) []rowPage {
	out := []rowPage{own}
	at := own
	for _, p := range pages { // in the log's order
		if p.seq > at.seq && p.rec.StartRow == at.rec.StartRow+at.rec.Rows && p.rec.StartRow > 0 && !p.rec.PlaceUnknown {
			out, at = append(out, p), p
		}
	}
	at = own
	for _, p := range slices.Backward(pages) {
		if p.seq < at.seq && p.rec.StartRow+p.rec.Rows == at.rec.StartRow && p.rec.Rows > 0 && !p.rec.PlaceUnknown {
			out, at = append(out, p), p
		}
	}
	return out
}

// fill reads the rows from..from+count out of the pages that have them.
func (out *shownResults) fill(ctx context.Context, store *recording.Store, pages []rowPage, from, count int64) {
	slices.SortFunc(pages, func(a, b rowPage) int {
		return cmp.Or(cmp.Compare(a.rec.StartRow, b.rec.StartRow), cmp.Compare(b.rec.StoredRows, a.rec.StoredRows), cmp.Compare(a.seq, b.seq))
	})
	end := int64(0)
	for _, p := range pages {
		out.Pages = append(out.Pages, shownPage{
			Entry: p.entry, StartRow: p.rec.StartRow, PlaceUnknown: p.rec.PlaceUnknown, Rows: p.rec.Rows, StoredRows: p.rec.StoredRows,
			Truncated: p.rec.Truncated, Redacted: p.rec.Redacted, Error: p.rec.Error,
		})
		out.TotalRows = max(out.TotalRows, p.total)
		out.Redacted += p.rec.Redacted
		if !p.rec.PlaceUnknown || len(pages) == 1 {
			end = max(end, p.rec.StartRow+p.rec.Rows)
		}
		if len(out.Schema) == 0 && p.rec.Schema != "" {
			if schema, err := store.Schema(ctx, &p.rec); err == nil {
				out.Schema = schema
			} else if errors.Is(err, recording.ErrErased) {
				out.Erased = true
			}
		}
	}
	last := min(end, from+count)
	size := 0
	for row := from; row < last && size < maxRowsBytes; {
		p, stored := holding(pages, row)
		if p == nil {
			// Nobody has it: up to where somebody has one.
			next := last
			for _, q := range pages {
				if q.rec.StoredRows > 0 && q.rec.StartRow > row {
					next = min(next, q.rec.StartRow)
				}
			}
			row = out.gap(row, next, whyMissing(pages, row))
			continue
		}
		rows, err := store.Rows(ctx, &p.rec, row-p.rec.StartRow, min(last, stored)-row)
		switch {
		case errors.Is(err, recording.ErrErased):
			out.Erased = true
			row = out.gap(row, min(last, stored), "erased: the data key "+p.rec.Key+" was deleted")
			continue
		case err != nil:
			row = out.gap(row, min(last, stored), err.Error())
			continue
		case len(rows) == 0:
			row = out.gap(row, min(last, stored), "the stored body has fewer rows than its entry says")
			continue
		}
		for _, raw := range rows {
			size += len(raw)
		}
		out.Rows = append(out.Rows, rows...)
		row += int64(len(rows))
	}
	out.More = from+int64(len(out.Rows)) < end
	for _, p := range pages {
		out.Stored += p.rec.StoredRows
	}
}

// gap notes rows that are not there, and returns where to go on.
func (out *shownResults) gap(from, to int64, why string) int64 {
	to = max(to, from+1)
	out.Gaps = append(out.Gaps, shownGap{from, to, why})
	for range to - from {
		out.Rows = append(out.Rows, json.RawMessage("null"))
	}
	return to
}

// holding is a page that has a row stored, and where its stored rows end.
func holding(pages []rowPage, row int64) (*rowPage, int64) {
	for i := range pages {
		r := &pages[i].rec
		if (!r.PlaceUnknown || len(pages) == 1) && row >= r.StartRow && row < r.StartRow+r.StoredRows {
			return &pages[i], r.StartRow + r.StoredRows
		}
	}
	return nil, 0
}

func whyMissing(pages []rowPage, row int64) string {
	for _, p := range pages {
		if row >= p.rec.StartRow && row < p.rec.StartRow+p.rec.Rows {
			switch {
			case p.rec.Error != "":
				return p.rec.Error
			case p.rec.Truncated:
				return "more rows than are kept of one answer"
			}
		}
	}
	return "no agent read them, or their place is not known"
}

type shownKey struct {
	Key        string `json:"key"`
	Connection string `json:"connection"`
	Month      string `json:"month"`
	Bodies     int64  `json:"bodies"`
	Bytes      int64  `json:"bytes"`
	Erased     bool   `json:"erased"`
	Held       bool   `json:"held"`
	Due        bool   `json:"due"`
}

// listRecordings is GET recordings: the data keys, and what lies under them.
func (a *API) listRecordings(w http.ResponseWriter, r *request) error {
	store, err := a.recordings()
	if err != nil {
		return err
	}
	if _, err := a.record(r, actionRecordings, "", nil); err != nil {
		return err
	}
	keys, err := a.keys(r.Context(), store)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, struct {
		Keys      []shownKey `json:"keys"`
		Retention string     `json:"retention,omitempty"` // how long rows are kept; absent: for ever
	}{keys, retentionText(a.cfg.Retention)})
}

func retentionText(d time.Duration) string {
	switch {
	case d <= 0:
		return ""
	case d%(24*time.Hour) == 0:
		return strconv.FormatInt(int64(d/(24*time.Hour)), 10) + "d"
	}
	return d.String()
}

func (a *API) keys(ctx context.Context, store *recording.Store) ([]shownKey, error) {
	infos, err := store.Keys(ctx)
	if err != nil {
		return nil, err
	}
	holds := store.Holds()
	due := recording.Due(infos, holds, a.cfg.Retention, a.cfg.Now())
	out := []shownKey{}
	for _, k := range infos {
		out = append(out, shownKey{
			Key: k.Key, Connection: k.Connection, Month: k.Month, Bodies: k.Bodies, Bytes: k.Bytes, Erased: k.Erased,
			Held: recording.Held(k, holds), Due: slices.Contains(due, k.Key),
		})
	}
	return out, nil
}

type shownErasure struct {
	Key    string `json:"key"`
	Bodies int64  `json:"bodies"`
	Bytes  int64  `json:"bytes"`
	Error  string `json:"error,omitempty"`
}

// eraseRecordings is POST recordings:erase: data keys are deleted, and the bodies under
// them. What the log says of those rows stays, and can be checked as before.
func (a *API) eraseRecordings(w http.ResponseWriter, r *request) error {
	store, err := a.recordings()
	if err != nil {
		return err
	}
	var in struct {
		Keys   []string `json:"keys"`
		Due    bool     `json:"due"`
		Reason string   `json:"reason"`
	}
	if err := decode(w, r, &in, false); err != nil {
		return err
	}
	if in.Due == (len(in.Keys) > 0) {
		return invalid(`want either "keys" or "due": true`)
	}
	if len(in.Keys) > maxErasedKeys {
		return invalid("at most " + strconv.Itoa(maxErasedKeys) + " keys at a time")
	}
	if in.Due {
		if a.cfg.Retention <= 0 {
			return &Error{Code: http.StatusConflict, Message: "recording.retention.results is not set: rows are kept for ever, and none are due"}
		}
		if in.Reason == "" {
			in.Reason = "retention of " + retentionText(a.cfg.Retention)
		}
		infos, err := store.Keys(r.Context())
		if err != nil {
			return err
		}
		in.Keys = recording.Due(infos, store.Holds(), a.cfg.Retention, a.cfg.Now())
	}
	if strings.TrimSpace(in.Reason) == "" {
		return invalid("say why: the reason stands in the trail")
	}
	out := struct {
		Erased []shownErasure `json:"erased"`
	}{[]shownErasure{}}
	for _, key := range in.Keys {
		one, err := a.erase(r, store, key, in.Reason)
		if err != nil {
			if len(in.Keys) == 1 {
				return err
			}
			one.Error = explain(err).Message
		}
		out.Erased = append(out.Erased, one)
	}
	return reply(w, http.StatusOK, out)
}

// erase erases under one key. The entry is durable first: a crash behind it leaves an
// entry of an erasure that took place in part, or not, and asking again completes it.
func (a *API) erase(r *request, store *recording.Store, key, reason string) (shownErasure, error) {
	one := shownErasure{Key: key}
	if err := store.MayErase(key); err != nil {
		return one, err
	}
	err := a.change(r, actionErase, key, map[string]string{"reason": reason}, func() error {
		done, err := store.Erase(context.WithoutCancel(r.Context()), key)
		one.Bodies, one.Bytes = done.Bodies, done.Bytes
		return err
	})
	return one, err
}

// RunRetention erases what is due, now and every day, until ctx ends. Its entries are
// the gateway's own.
func (a *API) RunRetention(ctx context.Context) {
	if a.cfg.Recordings == nil || a.cfg.Retention <= 0 {
		return
	}
	tick := time.NewTicker(24 * time.Hour)
	defer tick.Stop()
	for {
		if err := a.eraseDue(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.ErrorContext(ctx, "recorded rows that are due could not be erased", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (a *API) eraseDue(ctx context.Context) error {
	infos, err := a.cfg.Recordings.Keys(ctx)
	if err != nil {
		return err
	}
	own, err := http.NewRequestWithContext(ctx, http.MethodPost, "/", nil)
	if err != nil {
		return err
	}
	r := &request{Request: own, who: caller{actor: "gateway", via: viaSelf, roles: everything}}
	var errs []error
	for _, key := range recording.Due(infos, a.cfg.Recordings.Holds(), a.cfg.Retention, a.cfg.Now()) {
		_, err := a.erase(r, a.cfg.Recordings, key, "retention of "+retentionText(a.cfg.Retention))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

type shownHold struct {
	ID         string     `json:"id"`
	Connection string     `json:"connection,omitempty"` // absent: all
	From       *time.Time `json:"from,omitempty"`
	Until      *time.Time `json:"until,omitempty"`
	Reason     string     `json:"reason"`
	By         string     `json:"by"`
	At         time.Time  `json:"at"`
}

func showHold(h recording.Hold) shownHold {
	return shownHold{h.ID, h.Connection, moment(h.From), moment(h.Until), h.Reason, h.By, h.At.UTC()}
}

// listHolds is GET holds.
func (a *API) listHolds(w http.ResponseWriter, r *request) error {
	store, err := a.recordings()
	if err != nil {
		return err
	}
	if _, err := a.record(r, actionHoldList, "", nil); err != nil {
		return err
	}
	out := struct {
		Holds []shownHold `json:"holds"`
	}{[]shownHold{}}
	for _, h := range store.Holds() {
		out.Holds = append(out.Holds, showHold(h))
	}
	return reply(w, http.StatusOK, out)
}

// addHold is POST holds: rows that must not be erased.
func (a *API) addHold(w http.ResponseWriter, r *request) error {
	store, err := a.recordings()
	if err != nil {
		return err
	}
	var in struct {
		ID         string    `json:"id"`
		Connection string    `json:"connection"`
		From       time.Time `json:"from"`
		Until      time.Time `json:"until"`
		Reason     string    `json:"reason"`
	}
	if err := decode(w, r, &in, false); err != nil {
		return err
	}
	h := recording.Hold{ID: in.ID, Connection: in.Connection, From: in.From, Until: in.Until, Reason: in.Reason, By: r.who.actor, At: a.cfg.Now().UTC()}
	if err := h.Valid(); err != nil {
		return err
	}
	detail := map[string]string{"connection": in.Connection, "reason": in.Reason}
	if !in.From.IsZero() {
		detail["from"] = in.From.UTC().Format(time.RFC3339)
	}
	if !in.Until.IsZero() {
		detail["until"] = in.Until.UTC().Format(time.RFC3339)
	}
	if err := a.change(r, actionHoldAdd, in.ID, detail, func() error { return store.Hold(h) }); err != nil {
		return err
	}
	return reply(w, http.StatusOK, showHold(h))
}

// releaseHold is POST holds/{hold_id}:release.
func (a *API) releaseHold(w http.ResponseWriter, r *request) error {
	store, err := a.recordings()
	if err != nil {
		return err
	}
	if err := decode(w, r, &struct{}{}, true); err != nil {
		return err
	}
	id := r.args["hold_id"]
	if err := a.change(r, actionHoldRelease, id, nil, func() error { return store.Release(id) }); err != nil {
		return err
	}
	return reply(w, http.StatusOK, struct{}{})
}
