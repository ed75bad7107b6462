package pages

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/trailgate/trailgate/internal/admin/client"
)

func (p *Pages) sessionRoutes() {
	p.handle("GET /sessions", (*view).sessions)
	p.handle("GET /sessions/{id}", (*view).session)
}

type sessionsPage struct {
	Filter, Next, Agent string
	Sessions            []client.Session
}

// sessions lists them, the newest first.
func (v *view) sessions() error {
	d := &sessionsPage{Agent: strings.TrimSpace(v.arg("agent"))}
	if d.Agent != "" {
		d.Filter = "agent = " + quoteTerm(d.Agent)
	}
	var next string
	var err error
	if d.Sessions, next, err = v.api.Sessions(v.r.Context(), client.Query{Filter: d.Filter, PageToken: v.arg("page_token")}); err != nil {
		return err
	}
	if next != "" {
		d.Next = "/sessions?" + url.Values{"agent": {d.Agent}, "page_token": {next}}.Encode()
	}
	return v.render("sessions.html", "sessions", d)
}

// step is one call on a session's timeline.
type step struct {
	client.Row
	After   time.Duration // since the call before arrived
	Millis  int64         // since the session began, for the replay
	HasRows bool
	Note    string // what came of it, in words
	For     string // the call for whose sake the gateway made it
}

type sessionPage struct {
	*client.Session
	Steps      []step
	Prev, Next string
	Length     time.Duration
}

const sessionSteps = 500

// session is the timeline of one.
func (v *view) session() error {
	id := v.r.PathValue("id")
	s, err := v.api.Session(v.r.Context(), id)
	if err != nil {
		return err
	}
	rows, next, err := v.api.Page(v.r.Context(), client.Query{
		Filter: "session = " + quoteTerm(s.ID) + ` AND NOT method = "discovery.apis.getRest"`, Ascending: true, PageSize: sessionSteps, PageToken: v.arg("page_token"),
	})
	if err != nil {
		return err
	}
	d := &sessionPage{Session: s, Length: s.Last.Sub(s.Began)}
	asked := v.asked(rows, s.Agent)
	for i, r := range rows {
		st := step{Row: r, Millis: max(r.Entry.Time.Sub(s.Began).Milliseconds(), 0), Note: became(r)}
		if a, ok := asked[r.Entry.ID]; ok {
			st.Note = decided(a, st.Note)
		}
		if i > 0 {
			st.After = r.Entry.Time.Sub(rows[i-1].Entry.Time)
		}
		if rec := r.Entry.Recording; rec != nil && rec.Rows > 0 {
			st.HasRows = true
		}
		if r.Entry.Request != nil {
			st.For = r.Entry.Request.For
		}
		d.Steps = append(d.Steps, st)
	}
	if next != "" {
		d.Next = "/sessions/" + url.PathEscape(s.ID) + "?" + url.Values{"page_token": {next}}.Encode()
	}
	if v.arg("page_token") != "" {
		d.Prev = "/sessions/" + url.PathEscape(s.ID)
	}
	return v.render("session.html", "sessions", d)
}

// asked are the questions to humans that held calls of a session became, by the entry
// that was held. That they cannot be had is no reason not to show the rest.
func (v *view) asked(rows []client.Row, agent string) map[string]client.Approval {
	if !slices.ContainsFunc(rows, func(r client.Row) bool { return r.State == "held" }) {
		return nil
	}
	list, err := v.api.Approvals(v.r.Context(), "", agent)
	if err != nil {
		return nil
	}
	by := map[string]client.Approval{}
	for _, a := range list {
		by[a.HeldEntry] = a
	}
	return by
}

// decided is what humans said about a held call, and how long it waited for that.
func decided(a client.Approval, note string) string {
	if len(a.Votes) == 0 {
		return note + "; " + a.State
	}
	parts := []string{note}
	for _, x := range a.Votes {
		verdict := map[string]string{"approve": "approved by ", "deny": "denied by "}[x.Verdict] + x.Human + " after " + spanText(x.At.Sub(a.Created))
		if x.Reason != "" {
			verdict += " (" + x.Reason + ")"
		}
		parts = append(parts, verdict)
	}
	return strings.Join(parts, "; ")
}

// became is what became of a call, in words.
func became(r client.Row) string {
	e := &r.Entry
	var parts []string
	switch r.State {
	case "denied":
		parts = append(parts, "denied")
	case "held":
		parts = append(parts, "waited for a human")
	case "refused":
		parts = append(parts, "refused")
	case "open":
		parts = append(parts, "still running")
	case "indeterminate":
		parts = append(parts, "how it ended is not known")
	}
	if d := e.Decision; d != nil {
		if len(d.Approvers) > 0 {
			parts = append(parts, "approved by "+strings.Join(d.Approvers, ", "))
		}
		if d.Reason != "" && (r.State == "denied" || r.State == "held" || r.State == "refused") {
			parts = append(parts, d.Reason)
		}
	}
	if o := e.Outcome; o != nil {
		if o.ErrorReason != "" && r.State != "denied" && r.State != "refused" {
			parts = append(parts, o.ErrorReason+": "+o.ErrorMessage)
		}
		if o.Rows > 0 {
			parts = append(parts, rowsText(o.Rows))
		}
		if o.RowsAffected > 0 {
			parts = append(parts, rowsText(o.RowsAffected)+" changed")
		}
		if o.BytesBilled > 0 {
			parts = append(parts, bytesText(o.BytesBilled)+" billed")
		}
		if o.CacheHit {
			parts = append(parts, "from the cache")
		}
	}
	if rec := e.Recording; rec != nil && rec.Rows > 0 {
		switch {
		case rec.Error != "":
			parts = append(parts, "rows not all kept: "+rec.Error)
		case rec.Truncated:
			parts = append(parts, rowsText(rec.StoredRows)+" kept, the rest counted")
		}
	}
	return strings.Join(parts, "; ")
}

func rowsText(n int64) string {
	if n == 1 {
		return "1 row"
	}
	return countText(n) + " rows"
}
