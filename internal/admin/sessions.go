package admin

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
)

const (
	actionSessions = "session.list"
	actionSession  = "session.show"

	sessionPage     = 25
	maxSessionPage  = 100
	maxSessionPages = 40 // that are looked through for one answer
	maxTables       = 100
	sessionsAtOnce  = 25 // in one filter, beside the caller's own

	sessionsPatience = time.Second // behind which a page that has something is short
)

// shownSession is an agent's calls that belong together, as the API shows them.
type shownSession struct {
	ID       string     `json:"id"`
	Agent    string     `json:"agent"`
	Human    string     `json:"human,omitempty"`
	TokenID  string     `json:"token_id,omitempty"`
	AuthMode string     `json:"auth_mode,omitempty"`
	How      string     `json:"how,omitempty"` // "run", "token_exchange", "idle_gap"
	Began    time.Time  `json:"began"`
	Last     time.Time  `json:"last"` // when its newest call arrived
	Ended    *time.Time `json:"ended,omitempty"`
	Why      string     `json:"end_reason,omitempty"`
	// Claims are the client's words.
	Claims      *trailgate.Claims `json:"claims,omitempty"`
	Calls       int64             `json:"calls"`
	Errors      int64             `json:"errors"`
	Denied      int64             `json:"denied"`
	Held        int64             `json:"held"`
	BytesBilled int64             `json:"bytes_billed"`
	Rows        int64             `json:"rows"`
	Tables      []string          `json:"tables,omitempty"`
}

const openings = `kind = "session" AND action = "session.open"`

// listSessions is GET sessions: those with a call that a filter finds, the newest first.
func (a *API) listSessions(w http.ResponseWriter, r *request) error {
	size, err := number(r, "page_size", sessionPage, maxSessionPage)
	if err != nil {
		return err
	}
	if !a.busy.enter() {
		return busy()
	}
	defer a.busy.leave()
	filter := r.query.Get("filter")
	if _, err := a.record(r, actionSessions, "", map[string]string{"filter": filter}); err != nil {
		return err
	}
	q := index.Query{Filter: openings, PageSize: int(max(size, 1)), PageToken: r.query.Get("page_token")}
	if filter = strings.TrimSpace(filter); filter != "" {
		// By itself first, so that a mistake's column is the caller's.
		if _, _, err := a.cfg.Index.Search(r.Context(), index.Query{Filter: filter, PageSize: 1}); err != nil {
			return err
		}
	}
	list, began := []shownSession{}, time.Now()
	// Where few sessions have what is looked for, a page may be short, or empty, and
	// still have a next one.
	for range maxSessionPages {
		some, next, err := a.sessionsOf(r.Context(), q, filter, q.PageSize-len(list))
		if err != nil {
			return err
		}
		list = append(list, some...)
		q.PageToken = next
		enough := len(list) == q.PageSize || filter == "" || time.Since(began) > sessionsPatience
		if next == "" || len(list) > 0 && enough {
			break
		}
	}
	if err := a.tell(r.Context(), list); err != nil {
		return err
	}
	return reply(w, http.StatusOK, struct {
		Sessions []shownSession `json:"sessions"`
		Next     string         `json:"next_page_token"`
	}{list, q.PageToken})
}

// sessionsOf are those among a page of openings that a filter finds, up to most of them,
// and the token of what comes behind the last that was looked at.
func (a *API) sessionsOf(ctx context.Context, q index.Query, filter string, most int) (list []shownSession, next string, err error) {
	rows, next, err := a.cfg.Index.Search(ctx, q)
	if err != nil {
		return nil, "", err
	}
	for _, row := range rows {
		list = append(list, sessionOf(row.Entry))
	}
	if filter == "" {
		return list, next, nil
	}
	if list, err = a.having(ctx, list, filter); err != nil || len(list) <= most {
		return list, next, err
	}
	// Too many: the answer ends within these rows, and the next one begins there.
	list = list[:most]
	last := slices.IndexFunc(rows, func(row index.Row) bool { return row.Entry.Session == list[most-1].ID })
	q.PageSize = last + 1
	_, next, err = a.cfg.Index.Search(ctx, q)
	return list, next, err
}

// having are the sessions with a call that a filter finds, or whose beginning it finds.
func (a *API) having(ctx context.Context, list []shownSession, filter string) ([]shownSession, error) {
	found := map[string]bool{}
	for some := range slices.Chunk(list, sessionsAtOnce) {
		within := "(" + filter + ") AND " + among(some)
		groups, err := a.cfg.Index.Stats(ctx, []string{"session"}, within)
		if err != nil {
			return nil, err
		}
		for _, g := range groups {
			found[g.Keys["session"]] = g.Calls > 0
		}
		rows, _, err := a.cfg.Index.Search(ctx, index.Query{Filter: within + " AND " + openings, PageSize: sessionsAtOnce})
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			found[row.Entry.Session] = true
		}
	}
	return slices.DeleteFunc(list, func(s shownSession) bool { return !found[s.ID] }), nil
}

// among is a filter for what belongs to sessions.
func among(list []shownSession) string {
	ids := make([]string, 0, len(list))
	for _, s := range list {
		ids = append(ids, strconv.Quote(s.ID))
	}
	return "session = (" + strings.Join(ids, " OR ") + ")"
}

// getSession is GET sessions/{session_id}.
func (a *API) getSession(w http.ResponseWriter, r *request) error {
	if !a.busy.enter() {
		return busy()
	}
	defer a.busy.leave()
	id := r.args["session_id"]
	if _, err := a.record(r, actionSession, id, nil); err != nil {
		return err
	}
	rows, _, err := a.cfg.Index.Search(r.Context(), index.Query{Filter: openings + " AND session = " + strconv.Quote(id), PageSize: 1})
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return &Error{Code: http.StatusNotFound, Message: "there is no session of this id"}
	}
	list := []shownSession{sessionOf(rows[0].Entry)}
	if err := a.tell(r.Context(), list); err != nil {
		return err
	}
	tables, err := a.cfg.Index.Facets(r.Context(), "session = "+strconv.Quote(id), []string{"table"}, maxTables)
	if err != nil {
		return err
	}
	for _, v := range tables[0].Values {
		list[0].Tables = append(list[0].Tables, v.Value)
	}
	return reply(w, http.StatusOK, list[0])
}

func sessionOf(e *trailgate.Entry) shownSession {
	s := shownSession{ID: e.Session, Began: e.Time.UTC(), Last: e.Time.UTC(), Claims: e.Claims}
	if p := e.Principal; p != nil {
		s.Agent, s.Human, s.TokenID, s.AuthMode = p.Agent, p.Human, p.TokenID, p.AuthMode
	}
	if e.Event != nil {
		s.How = e.Event.Detail["how"]
	}
	return s
}

// tell adds what sessions came to.
func (a *API) tell(ctx context.Context, list []shownSession) error {
	if len(list) == 0 {
		return nil
	}
	at := map[string]*shownSession{}
	for i := range list {
		at[list[i].ID] = &list[i]
	}
	in := among(list)
	groups, err := a.cfg.Index.Stats(ctx, []string{"session", "state"}, in)
	if err != nil {
		return err
	}
	for _, g := range groups {
		s := at[g.Keys["session"]]
		if s == nil {
			continue
		}
		s.Calls += g.Calls
		s.Errors += g.Errors
		s.BytesBilled += g.BytesBilled
		s.Rows += g.Rows
		switch g.Keys["state"] {
		case index.StateDenied:
			s.Denied += g.Calls
		case index.StateHeld:
			s.Held += g.Calls
		}
	}
	// What a human said no to was held, and stays that.
	no, err := a.cfg.Index.Stats(ctx, []string{"session"}, in+` AND state = "held" AND kind = "denied"`)
	if err != nil {
		return err
	}
	for _, g := range no {
		if s := at[g.Keys["session"]]; s != nil {
			s.Denied += g.Calls
		}
	}
	closed, _, err := a.cfg.Index.Search(ctx, index.Query{Filter: in + ` AND kind = "session" AND action = "session.close"`, PageSize: index.MaxPageSize})
	if err != nil {
		return err
	}
	for _, row := range closed {
		if s := at[row.Entry.Session]; s != nil {
			s.Ended, s.Why = moment(row.Entry.Time), row.Entry.Event.Detail["reason"]
		}
	}
	for i := range list {
		last, _, err := a.cfg.Index.Search(ctx, index.Query{Filter: "session = " + strconv.Quote(list[i].ID) + ` AND NOT kind = "session"`, PageSize: 1})
		if err != nil {
			return err
		}
		if len(last) > 0 {
			list[i].Last = last[0].Entry.Time.UTC()
		}
	}
	return nil
}

// savedSearch is a filter that somebody wants to find again.
type savedSearch struct {
	ID     string    `json:"id"`
	Name   string    `json:"name"`
	Filter string    `json:"filter"`
	Owner  string    `json:"owner"`
	Shared bool      `json:"shared"`
	At     time.Time `json:"at"`
}

func ownSearch(who caller, s savedSearch) bool {
	return s.Owner == who.actor || slices.Contains(who.roles, RoleAdmin)
}
