package admin

import (
	"bytes"
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
)

// stream writes an answer bit by bit.
type stream struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	kind  string
	begun bool
	// events has rows sent as server-sent events
	// (https://html.spec.whatwg.org/multipage/server-sent-events.html).
	events bool
}

func newStream(w http.ResponseWriter, kind string) *stream {
	return &stream{w: w, rc: http.NewResponseController(w), kind: kind}
}

// streamTimeout is how long a caller may leave one piece unread.
const streamTimeout = 30 * time.Second

func (s *stream) write(raw []byte) error {
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", s.kind)
		s.w.WriteHeader(http.StatusOK)
	}
	_ = s.rc.SetWriteDeadline(time.Now().Add(streamTimeout)) // in process there is none
	_, err := s.w.Write(raw)
	return err
}

func (s *stream) flush() error {
	if err := s.rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// beat is a sign of life: an empty line.
func (s *stream) beat() error {
	sign := "\n"
	if s.events {
		sign = ": alive\n\n"
	}
	if err := s.write([]byte(sign)); err != nil {
		return err
	}
	return s.flush()
}

func (s *stream) json(v any) error {
	raw, err := encode(v)
	if err != nil {
		return err
	}
	if s.events {
		raw = event("error", "", raw)
	}
	if err := s.write(raw); err != nil {
		return err
	}
	return s.flush()
}

// event frames JSON, which has no line breaks but the last, as an event.
func event(name, id string, raw []byte) []byte {
	var out bytes.Buffer
	out.WriteString("event: " + name + "\n")
	if id != "" {
		out.WriteString("id: " + id + "\n")
	}
	out.WriteString("data: ")
	out.Write(bytes.TrimRight(raw, "\n"))
	out.WriteString("\n\n")
	return out.Bytes()
}

// followWindow is how many entries of the log are looked at in one go.
const followWindow = 4096

// follow is GET entries:follow: rows as they are committed, one a line.
//
// A row comes when its call is opened and again when it is closed; once where
// the two are seen together. It ends when the caller goes or the server stops;
// an error after the beginning is the last line, an object with "error". Who accepts
// text/event-stream gets the same as events, "row" with the place of the entry that is
// news as its id, and may go on behind the last one with Last-Event-ID.
func (a *API) follow(w http.ResponseWriter, r *request) error {
	f := &follower{API: a, filter: r.query.Get("filter"), told: map[uint64]bool{}}
	f.next = a.cfg.Index.Cursor()
	events := strings.Contains(r.Header.Get("Accept"), "text/event-stream")
	s := r.query.Get("after_seq")
	if last := r.Header.Get("Last-Event-ID"); events && last != "" {
		s = last
	}
	if s != "" {
		after, err := strconv.ParseUint(s, 10, 64)
		if err != nil || after == math.MaxUint64 {
			return invalid("after_seq: want the place of an entry in the log")
		}
		f.next = after + 1
	}
	if !a.followers.enter() {
		return busy()
	}
	defer a.followers.leave()
	if _, err := a.record(r, actionFollow, "", map[string]string{"filter": f.filter, "after_seq": s}); err != nil {
		return err
	}
	if err := f.check(r.Context()); err != nil {
		return err
	}
	out := newStream(w, "application/x-ndjson")
	if events {
		out = &stream{w: w, rc: http.NewResponseController(w), kind: "text/event-stream", events: true}
	}
	if err := out.beat(); err != nil { // the caller is to know at once that it is in
		return nil //nolint:nilerr // it is gone
	}
	err := f.run(r.Context(), out)
	if err == nil || r.Context().Err() != nil || errors.Is(err, errGone) {
		return nil
	}
	e := explain(err)
	a.cfg.Log.ErrorContext(r.Context(), "a stream of rows ended early", "err", err)
	_ = out.json(errorBody{e}) // if that fails too, the caller sees an end without it
	return nil
}

// errGone means that a row could not be written.
var errGone = errors.New("the caller is gone")

// follower is one stream of rows.
type follower struct {
	*API
	filter string
	next   uint64          // the first place in the log not looked at
	told   map[uint64]bool // closing entries from next on whose rows were sent as closed already
}

// check tries the filter, as it is and as it is used, on no rows.
func (f *follower) check(ctx context.Context) error {
	for _, filter := range []string{f.filter, f.and("seq >= 0 AND seq < 1")} {
		q := index.Query{Filter: filter, Ascending: true, From: max(f.cfg.Index.Cursor(), 1), PageSize: 1}
		if _, _, err := f.cfg.Index.Search(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) and(condition string) string {
	if strings.TrimSpace(f.filter) == "" {
		return condition
	}
	return condition + " AND (" + f.filter + ")"
}

// run sends rows until ctx ends or nobody takes them.
func (f *follower) run(ctx context.Context, out *stream) error {
	for {
		wait, cancel := context.WithTimeout(ctx, f.cfg.Heartbeat)
		err := f.cfg.Index.Wait(wait, f.next)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			if out.beat() != nil {
				return errGone
			}
			continue
		case err != nil:
			return err
		}
		end := min(f.cfg.Index.Cursor(), f.next+followWindow)
		if end <= f.next {
			continue // the index is being rebuilt and fell behind for a moment
		}
		rows, err := f.window(ctx, end)
		if err != nil {
			return err
		}
		for _, row := range rows {
			raw, err := encode(row.row)
			if err != nil {
				return err
			}
			if out.events {
				raw = event("row", strconv.FormatUint(row.seq, 10), raw)
			}
			if out.write(raw) != nil {
				return errGone
			}
		}
		if len(rows) > 0 && out.flush() != nil {
			return errGone
		}
		for seq := range f.told {
			if seq < end {
				delete(f.told, seq)
			}
		}
		f.next = end
	}
}

// news is a row and the entry that makes it worth telling.
type news struct {
	seq uint64
	row index.Row
}

// window finds the rows that entries from next to end opened or closed, in the
// order of those entries.
func (f *follower) window(ctx context.Context, end uint64) ([]news, error) {
	var list []news
	q := index.Query{Filter: f.and("seq >= " + strconv.FormatUint(f.next, 10) + " AND seq < " + strconv.FormatUint(end, 10)), Ascending: true, PageSize: index.MaxPageSize}
	for {
		rows, token, err := f.cfg.Index.Search(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			list = append(list, news{row.Entry.Seq, row})
			if row.Closing != nil {
				f.told[row.Closing.Seq] = true
			}
		}
		if token == "" {
			break
		}
		q.PageToken = token
	}
	closed, err := f.closed(ctx, end)
	if err != nil {
		return nil, err
	}
	list = append(list, closed...)
	slices.SortFunc(list, func(a, b news) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	return list, nil
}

// errWindow ends a scan of the log at the window's end.
var errWindow = errors.New("end of window")

// closed finds the rows that were opened before the window and closed in it.
func (f *follower) closed(ctx context.Context, end uint64) ([]news, error) {
	closing := map[string]uint64{} // id of the opening entry → place of the closing one
	var ids []string
	err := f.cfg.Trail.Scan(ctx, f.next, func(seq uint64, raw []byte) error {
		if seq >= end {
			return errWindow
		}
		var e trailgate.Entry
		if err := e.UnmarshalJSON(raw); err != nil {
			return err
		}
		if (e.Kind == trailgate.KindOutcome || e.Kind == trailgate.KindSettled) && !f.told[seq] && plainID(e.IntentID) {
			if _, twice := closing[e.IntentID]; !twice { // only the first one closes a call
				ids = append(ids, e.IntentID)
				closing[e.IntentID] = seq
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errWindow) {
		return nil, err
	}
	var list []news
	for chunk := range slices.Chunk(ids, maxIDs) {
		q := index.Query{Filter: f.and(`(id = "` + strings.Join(chunk, `" OR id = "`) + `")`), Ascending: true, PageSize: maxIDs}
		rows, _, err := f.cfg.Index.Search(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			// A row that this window opened was found already, unless the filter
			// only fits since it is closed.
			if row.Closing != nil && row.Closing.Seq == closing[row.Entry.ID] && !f.told[row.Closing.Seq] {
				list = append(list, news{row.Closing.Seq, row})
			}
		}
	}
	return list, nil
}

// maxIDs is how many ids one search asks for; a filter may have 200 tests.
const maxIDs = 32

// plainID reports whether an id can stand in a filter as it is.
func plainID(id string) bool {
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return id != ""
}
