package admin

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"

	"github.com/trailgate/trailgate/internal/federation"
)

// pageCSP lets a page show itself and send its forms home, and nothing else: no
// script, no frame, no picture from elsewhere.
const pageCSP = "default-src 'none'; style-src 'sha256-" + pageStyleSHA256 + "'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// pageStyleSHA256 is of the page's style sheet (a test holds it to the file).
const pageStyleSHA256 = "TABDixpZlD3eca8kGJD/auAxKUWF2vXVv8WgpdcJ0ws="

//go:embed page.html
var pageSource string

var pageTemplate = template.Must(template.New("page").Parse(pageSource))

// pageData is what the page shows.
type pageData struct {
	Gateway string
	Notice  string
	Error   string
	Human   string // empty: nobody signed in
	Roles   string
	Login   bool
	// TokenForm asks for the admin token; Next is where to go afterwards.
	TokenForm bool
	Next      string
	Pages     bool // there are others
	Consents  []pageConsent
}

type pageConsent struct {
	Connection string
	Given      *federation.Consent
}

// home is GET /: who you are here, and what you consented to.
func (a *API) home(w http.ResponseWriter, r *request) error { return a.page(w, r, "") }

func (a *API) page(w http.ResponseWriter, r *request, notice string) error {
	d := pageData{Gateway: a.cfg.Gateway.ID, Notice: notice, Login: a.login != nil, Pages: a.cfg.Pages != nil}
	if r.who.via != "" && len(r.who.roles) > 0 {
		d.Human, d.Roles = r.who.actor, joinRoles(r.who.roles)
		consents := sortedKeys(a.cfg.Consents)
		if r.who.via != viaOIDC {
			consents = nil // they are given by name
		}
		for _, name := range consents {
			c := pageConsent{Connection: name}
			for _, given := range a.cfg.Consents[name].Consents() {
				if given.Human == d.Human {
					c.Given = &given
				}
			}
			d.Consents = append(d.Consents, c)
		}
	}
	return showPage(w, http.StatusOK, d)
}

// showPage answers with the page.
func showPage(w http.ResponseWriter, code int, d pageData) error {
	var out bytes.Buffer
	if err := pageTemplate.Execute(&out, d); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Security-Policy", pageCSP)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY")
	return send(w, code, "text/html; charset=utf-8", out.Bytes())
}

// withdraw is POST consent/{connection}/withdraw: the page's button.
func (a *API) withdraw(w http.ResponseWriter, r *request) error {
	name := r.args["connection"]
	c, err := a.consenter(name)
	if err != nil {
		return err
	}
	human, err := signedInHuman(r)
	if err != nil {
		return err
	}
	err = a.change(r, actionConsentRevoke, name, map[string]string{"human": human}, func() error { return c.Revoke(r.Context(), human) })
	if err != nil {
		return consentError(err)
	}
	return a.page(w, r, "Your consent to "+name+" is withdrawn.")
}
