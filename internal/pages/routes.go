package pages

import (
	"net/http"
	"net/url"

	"github.com/trailgate/trailgate/internal/admin/client"
)

// routes registers every page.
func (p *Pages) routes() {
	p.handle("/", func(*view) error {
		return &client.Error{Code: http.StatusNotFound, Message: "there is no page at this path"}
	})
	p.handle("GET /{$}", func(v *view) error {
		if v.who.Can("auditor") {
			return v.to("/trail?filter=" + url.QueryEscape(onlyCalls))
		}
		return v.to("/approvals")
	})
	p.handle("GET /help", func(v *view) error { return v.render("help.html", "help", nil) })
	p.trailRoutes()
	p.entryRoutes()
	p.sessionRoutes()
	p.agentRoutes()
	p.approvalRoutes()
	p.coverageRoutes()
	p.logRoutes()
}

// section is a page in the navigation.
type section struct{ Path, Name, Title string }

// sections are the navigation, in its order, as far as the viewer may see them.
func sections(who Viewer) []section {
	var list []section
	if who.Can("auditor") {
		list = append(list, section{"/trail", "trail", "Trail"}, section{"/sessions", "sessions", "Sessions"}, section{"/agents", "agents", "Agents"})
	}
	list = append(list, section{"/approvals", "approvals", "Approvals"})
	if who.Can("auditor") {
		list = append(list, section{"/coverage", "coverage", "Coverage"}, section{"/log", "log", "Log"})
	}
	return list
}
