package pages

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate/internal/admin/client"
)

func (p *Pages) agentRoutes() {
	p.handle("GET /agents", (*view).agents)
	p.handle("GET /agents/{name}", func(v *view) error { return v.agent(http.StatusOK, nil, "") })
	p.handle("POST /agents/{name}/suspend", (*view).suspendAgent)
	p.handle("POST /agents/{name}/resume", (*view).resumeAgent)
	p.handle("POST /agents/{name}/tokens", (*view).issueToken)
	p.handle("POST /tokens/{id}/revoke", (*view).revokeToken)
}

// agentLine is an agent in the list.
type agentLine struct {
	client.Agent
	Last      time.Time
	Calls     int64
	Errors    int64
	Denied    int64
	Billed    int64
	Suspended *client.Suspension
	Days      Chart
}

// agentDays is how far back the lists look.
const agentDays = 30

func (v *view) since() string {
	return v.p.o.Now().UTC().AddDate(0, 0, 1-agentDays).Format(time.DateOnly)
}

// agents lists them with what they did in the last thirty days.
func (v *view) agents() error {
	ctx := v.r.Context()
	list, err := v.api.Agents(ctx)
	if err != nil {
		return err
	}
	days, err := v.api.Stats(ctx, []string{"agent", "day"}, `time >= "`+v.since()+`"`)
	if err != nil {
		return err
	}
	denied, err := v.api.Stats(ctx, []string{"agent", "decision"}, `time >= "`+v.since()+`" AND decision = "deny"`)
	if err != nil {
		return err
	}
	// What humans said no to was held, not denied, when it came.
	byHumans, err := v.api.Stats(ctx, []string{"agent"}, `time >= "`+v.since()+`" AND state = "held" AND kind = "denied"`)
	if err != nil {
		return err
	}
	denied = append(denied, byHumans...)
	suspended, err := v.suspensions()
	if err != nil {
		return err
	}
	lines := make([]agentLine, 0, len(list))
	for _, a := range list {
		l := agentLine{Agent: a, Suspended: suspended[a.Name]}
		byDay := map[string]client.Group{}
		for _, g := range days {
			if g.Keys["agent"] == a.Name {
				l.Calls, l.Errors, l.Billed = l.Calls+g.Calls, l.Errors+g.Errors, l.Billed+g.BytesBilled
				byDay[g.Keys["day"]] = g
			}
		}
		for _, g := range denied {
			if g.Keys["agent"] == a.Name {
				l.Denied += g.Calls
			}
		}
		l.Days = v.daily("Calls a day of "+a.Name, a.Name, byDay, func(g client.Group) (int64, int64) { return g.Calls, g.Errors }, countText)
		if a.LastSeen != nil {
			l.Last = *a.LastSeen
		}
		lines = append(lines, l)
	}
	slices.SortStableFunc(lines, func(a, b agentLine) int { return b.Last.Compare(a.Last) })
	return v.render("agents.html", "agents", lines)
}

// suspensions are those of agents, by name; none where nobody can be suspended.
func (v *view) suspensions() (map[string]*client.Suspension, error) {
	list, err := v.api.Suspensions(v.r.Context())
	if told, ok := errors.AsType[*client.Error](err); ok && told.Code == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string]*client.Suspension{}
	for i, s := range list {
		if s.Scope == "agent" {
			out[s.Name] = &list[i]
		}
	}
	return out, nil
}

// daily is a chart of the last thirty days.
func (v *view) daily(title, agent string, byDay map[string]client.Group, value func(client.Group) (int64, int64), text func(int64) string) Chart {
	first := v.p.o.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, 1-agentDays)
	var bars []Bar
	for i := range agentDays {
		day := first.AddDate(0, 0, i)
		n, bad := value(byDay[day.Format(time.DateOnly)])
		next := day.AddDate(0, 0, 1)
		bars = append(bars, Bar{
			From: day, To: next, Value: n, Bad: bad, Label: day.Format(time.DateOnly) + ": " + text(n),
			Link: "/trail?filter=" + url.QueryEscape("agent = "+quoteTerm(agent)+` AND time >= "`+day.Format(time.RFC3339)+`" AND time < "`+next.Format(time.RFC3339)+`"`),
		})
	}
	return newChart(title, bars, text)
}

type agentPage struct {
	client.Agent
	Last          time.Time
	Suspended     *client.Suspension
	Tokens        []client.Token
	Tables        []client.FacetValue
	Classes       []client.FacetValue
	Calls, Cost   Chart
	Total         client.Group
	Denied        []client.Row
	Sessions      []client.Session
	Issued        *client.IssuedToken // shown once
	Problem       string
	MayAdminister bool
	Now           time.Time
}

// agent is all about one.
func (v *view) agent(code int, issued *client.IssuedToken, problem string) error {
	ctx, name := v.r.Context(), v.r.PathValue("name")
	list, err := v.api.Agents(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(a client.Agent) bool { return a.Name == name })
	if i < 0 {
		return &client.Error{Code: http.StatusNotFound, Message: "there is no agent " + strconv.Quote(name)}
	}
	d := &agentPage{Agent: list[i], Issued: issued, Problem: problem, MayAdminister: v.who.Can("admin"), Now: v.p.o.Now()}
	mine := "agent = " + quoteTerm(name)
	if d.LastSeen != nil {
		d.Last = *d.LastSeen
	}
	suspended, err := v.suspensions()
	if err != nil {
		return err
	}
	d.Suspended = suspended[name]
	if d.Tokens, err = v.api.Tokens(ctx, name); err != nil {
		return err
	}
	facets, err := v.api.Facets(ctx, mine, []string{"table", "class"}, 30)
	if err != nil {
		return err
	}
	d.Tables, d.Classes = facets[0].Values, facets[1].Values
	groups, err := v.api.Stats(ctx, []string{"day"}, mine+` AND time >= "`+v.since()+`"`)
	if err != nil {
		return err
	}
	byDay := map[string]client.Group{}
	for _, g := range groups {
		byDay[g.Keys["day"]] = g
		d.Total.Calls, d.Total.Errors, d.Total.BytesBilled, d.Total.Rows = d.Total.Calls+g.Calls, d.Total.Errors+g.Errors, d.Total.BytesBilled+g.BytesBilled, d.Total.Rows+g.Rows
	}
	d.Calls = v.daily("Calls a day", name, byDay, func(g client.Group) (int64, int64) { return g.Calls, g.Errors }, countText)
	d.Cost = v.daily("Bytes billed a day", name, byDay, func(g client.Group) (int64, int64) { return g.BytesBilled, 0 }, bytesText)
	if d.Denied, _, err = v.api.Page(ctx, client.Query{Filter: mine + ` AND kind = "denied"`, PageSize: 10}); err != nil {
		return err
	}
	if d.Sessions, _, err = v.api.Sessions(ctx, client.Query{Filter: mine, PageSize: 10}); err != nil {
		return err
	}
	v.w.Header().Set("Cache-Control", "no-store")
	return v.show(code, "agent.html", "agents", d)
}

func (v *view) agentPath() string { return "/agents/" + url.PathEscape(v.r.PathValue("name")) }

// suspendAgent stops an agent's calls.
func (v *view) suspendAgent() error {
	form, err := v.form()
	if err != nil {
		return err
	}
	reason := strings.TrimSpace(form.Get("reason"))
	if reason == "" {
		return v.agent(http.StatusBadRequest, nil, "Say why: the reason stands in the trail.")
	}
	if _, err := v.api.Suspend(v.r.Context(), "agent", v.r.PathValue("name"), reason, form.Get("cancel") == "yes"); err != nil {
		return v.onAgent(err)
	}
	return v.to(v.agentPath())
}

func (v *view) resumeAgent() error {
	if _, err := v.form(); err != nil {
		return err
	}
	if _, err := v.api.Resume(v.r.Context(), "agent", v.r.PathValue("name")); err != nil {
		return v.onAgent(err)
	}
	return v.to(v.agentPath())
}

// onAgent shows what the API said to a form on the agent's page.
func (v *view) onAgent(err error) error {
	if told, ok := errors.AsType[*client.Error](err); ok && told.Code < 500 {
		return v.agent(told.Code, nil, told.Message)
	}
	return err
}

// issueToken makes a token and shows it, once: it is in no other page and in no log.
func (v *view) issueToken() error {
	form, err := v.form()
	if err != nil {
		return err
	}
	hours, err := strconv.Atoi(strings.TrimSpace(form.Get("hours")))
	if err != nil || hours < 1 || hours > 24*365 {
		return v.agent(http.StatusBadRequest, nil, "How long the token holds: want hours, from 1 to 8760.")
	}
	o := client.TokenOptions{TTL: time.Duration(hours) * time.Hour, Note: strings.TrimSpace(form.Get("note"))}
	token, err := v.api.IssueToken(v.r.Context(), v.r.PathValue("name"), o)
	if err != nil {
		return v.onAgent(err)
	}
	return v.agent(http.StatusOK, token, "")
}

func (v *view) revokeToken() error {
	form, err := v.form()
	if err != nil {
		return err
	}
	if err := v.api.RevokeToken(v.r.Context(), v.r.PathValue("id")); err != nil {
		return err
	}
	return v.to("/agents/" + url.PathEscape(form.Get("agent")))
}
