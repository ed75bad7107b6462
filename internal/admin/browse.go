package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The ways into the pages beside OpenID Connect: the admin token in a form, and links
// that whoever holds the token or the socket can make.

const (
	actionLink = "admin.login_link"
	linkTTL    = 10 * time.Minute
	maxLinks   = 100 // not yet used; the oldest are forgotten
	maxForm    = 8 << 10
)

// accountPath is where a human finds their consents.
func (a *API) accountPath() string {
	if a.cfg.Pages == nil {
		return "/"
	}
	return "/account"
}

// As is the API for whom the caller, in this process, vouches for.
func (a *API) As(v Viewer) http.Handler {
	who := caller{actor: v.Name, via: v.Via}
	for _, role := range v.Roles {
		who.roles = append(who.roles, Role(role))
	}
	return a.as(who)
}

// as is the API for one caller, in process.
func (a *API) as(who caller) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.serve(w, r, func(*route) (caller, error) { return who, nil })
	})
}

// pageRoute is the route of a path that is none of the API's own, or nil.
func (a *API) pageRoute(r *http.Request) *route {
	path := r.URL.EscapedPath()
	switch {
	case a.login == nil, strings.HasPrefix(path, "/api/"):
		return nil
	case strings.HasPrefix(path, "/assets/"):
		if a.cfg.Assets == nil {
			return nil
		}
		return &route{method: r.Method, path: "/assets/", page: true, open: true, free: true, handle: func(w http.ResponseWriter, r *request) error {
			w.Header().Del("Cache-Control")
			pace(w)
			a.cfg.Assets.ServeHTTP(w, r.Request)
			return nil
		}}
	case a.cfg.Pages == nil:
		return nil
	}
	return &route{method: r.Method, path: "pages", page: true, free: true, roles: forHumans, handle: func(w http.ResponseWriter, r *request) error {
		v := Viewer{Name: r.who.actor, Via: r.who.via}
		for _, role := range r.who.roles {
			v.Roles = append(v.Roles, string(role))
		}
		pace(w)
		a.cfg.Pages(w, r.Request, v, a.as(r.who))
		return nil
	}}
}

// tokenForm is GET login/token: where the admin token can be typed in.
func (a *API) tokenForm(w http.ResponseWriter, r *request) error {
	return showPage(w, http.StatusOK, pageData{Gateway: a.cfg.Gateway.ID, TokenForm: true, Next: localPath(r.query.Get("next"))})
}

// tokenLogin is POST login/token.
func (a *API) tokenLogin(w http.ResponseWriter, r *request) error {
	form, err := readForm(w, r)
	if err != nil {
		return err
	}
	if r.Host != a.login.host {
		return &Error{Code: http.StatusForbidden, Message: "this is " + a.login.host + "; sign in there"}
	}
	want := a.adminToken.Load()
	got := HashToken(strings.TrimSpace(form.Get("token")))
	if want == nil || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		a.refuse(r.Request)
		return showPage(w, http.StatusForbidden, pageData{
			Gateway: a.cfg.Gateway.ID, TokenForm: true, Next: localPath(form.Get("next")),
			Error: "This is not the admin token. It is in admin.token in the gateway's data directory.",
		})
	}
	r.who = caller{actor: "admin-token", via: viaToken, client: r.RemoteAddr, roles: everything}
	return a.letIn(w, r, "form", localPath(form.Get("next")))
}

// letIn begins a session for r.who and sends the browser on.
func (a *API) letIn(w http.ResponseWriter, r *request, how, next string) error {
	// On record before there is a session: a crash here means a login that did
	// not come about.
	if _, err := a.record(r, actionLogin, r.who.actor, map[string]string{"roles": joinRoles(r.who.roles), "how": how}); err != nil {
		return err
	}
	http.SetCookie(w, a.login.cookie(humanCookie, a.login.open(r.who.actor, r.who.via, r.who.roles), a.login.conf.SessionTTL))
	http.Redirect(w, r.Request, next, http.StatusSeeOther)
	return nil
}

// readForm reads a posted form strictly: each field once.
func readForm(w http.ResponseWriter, r *request) (url.Values, error) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout))
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		return nil, invalid("the form could not be read, or is too long")
	}
	form, err := url.ParseQuery(string(raw))
	if err != nil {
		return nil, invalid("the form cannot be read")
	}
	for name, values := range form {
		if len(values) > 1 {
			return nil, invalid("the field " + clip(name, 64) + " stands more than once")
		}
	}
	return form, nil
}

// makeLink is POST login-links: a link that opens the pages, once, as whoever asks.
func (a *API) makeLink(w http.ResponseWriter, r *request) error {
	l := a.login
	if l == nil {
		return &Error{Code: http.StatusNotFound, Message: "no listener for humans is open here; set admin.listen, and run \"trailgate serve\""}
	}
	now := a.cfg.Now()
	if _, err := a.record(r, actionLink, r.who.actor, nil); err != nil {
		return err
	}
	code := secret()
	l.mu.Lock()
	for len(l.links) >= maxLinks {
		var oldest [sha256.Size]byte
		var since time.Time
		for key, s := range l.links {
			if since.IsZero() || s.expires.Before(since) {
				oldest, since = key, s.expires
			}
		}
		delete(l.links, oldest)
	}
	l.links[sha256.Sum256([]byte(code))] = &session{name: r.who.actor, via: r.who.via, roles: r.who.roles, expires: now.Add(linkTTL)}
	l.mu.Unlock()
	return reply(w, http.StatusOK, struct {
		URL     string    `json:"url"`
		Expires time.Time `json:"expires"`
	}{strings.TrimSuffix(a.cfg.AdminURL, "/") + "/login/link?code=" + code, now.Add(linkTTL).UTC()})
}

var errLink = errors.New("the link was used before, or is too old")

// followLink is GET login/link: what a link made by makeLink leads to.
func (a *API) followLink(w http.ResponseWriter, r *request) error {
	l := a.login
	key := sha256.Sum256([]byte(r.query.Get("code")))
	l.mu.Lock()
	s := l.links[key]
	delete(l.links, key)
	l.mu.Unlock()
	if s == nil || !a.cfg.Now().Before(s.expires) || r.Host != l.host {
		a.refuseLogin(r, errLink.Error())
		return &Error{Code: http.StatusForbidden, Message: "the link was used before, or is too old; \"trailgate browse\" makes another", cause: errLink}
	}
	r.who = caller{actor: s.name, via: s.via, client: r.RemoteAddr, roles: s.roles}
	return a.letIn(w, r, "link", localPath(r.query.Get("next")))
}
