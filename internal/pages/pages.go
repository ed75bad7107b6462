package pages

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/trailgate/trailgate/internal/admin/client"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed assets
var assetFiles embed.FS

// csp lets a page load what this package serves and talk to the gateway it came from.
const csp = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// maxForm bounds a posted form.
const maxForm = 64 << 10

// Viewer is who looks at a page.
type Viewer struct {
	Name  string // as entries have it: a human's name, "admin-token", "uid:1000"
	Via   string // "oidc", "token", "socket"
	Roles []string
}

// Can reports whether the viewer has a role; an admin has all.
func (v Viewer) Can(role string) bool {
	return slices.Contains(v.Roles, "admin") || slices.Contains(v.Roles, role)
}

// Options say what the pages are of.
type Options struct {
	Gateway string // its id
	Version string
	// Demo marks every page: the data is made up.
	Demo bool
	Log  *slog.Logger     // Optional.
	Now  func() time.Time // Optional.
}

// Pages shows the trail. Safe for concurrent use.
type Pages struct {
	o      Options
	mux    *http.ServeMux
	shown  map[string]*template.Template // by the name of its file
	assets *assets
}

// New parses the templates.
func New(o Options) (*Pages, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Pages{o: o, mux: http.NewServeMux(), shown: map[string]*template.Template{}}
	var err error
	if p.assets, err = readAssets(assetFiles); err != nil {
		return nil, err
	}
	layout, err := template.New("layout.html").Funcs(p.functions()).ParseFS(templateFiles, "templates/layout.html", "templates/part_*.html")
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	files, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	for _, path := range files {
		name := path[len("templates/"):]
		if name == "layout.html" || len(name) > 5 && name[:5] == "part_" {
			continue
		}
		t, err := layout.Clone()
		if err == nil {
			t, err = t.ParseFS(templateFiles, path)
		}
		if err != nil {
			return nil, fmt.Errorf("pages: %w", err)
		}
		p.shown[name] = t
	}
	p.routes()
	return p, nil
}

// Assets serves what pages load, under /assets/. It holds nothing of the trail.
func (p *Pages) Assets() http.Handler { return p.assets }

// Serve answers a request for a page, as to this viewer; api is the admin API as this
// viewer may use it.
func (p *Pages) Serve(w http.ResponseWriter, r *http.Request, who Viewer, api http.Handler) {
	c, err := client.New("http://gateway", client.Options{Transport: client.InProcess(api), UserAgent: r.UserAgent()})
	if err != nil {
		p.o.Log.ErrorContext(r.Context(), "pages: a client of this process", "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	v := &view{w: w, r: r, who: who, api: c, p: p}
	p.mux.ServeHTTP(&carrier{w, v}, r)
}

// carrier takes a view through http.ServeMux, which knows requests alone.
type carrier struct {
	http.ResponseWriter
	v *view
}

// handle registers a page's handler, by a pattern of http.ServeMux.
func (p *Pages) handle(pattern string, h func(v *view) error) {
	p.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		c, ok := w.(*carrier)
		if !ok { // nobody calls the mux but Serve
			http.Error(w, "internal error", http.StatusInternalServerError)
			return
		}
		c.v.r = r // with its path's values
		if err := h(c.v); err != nil {
			c.v.fail(err)
		}
	})
}

// view is one request for a page.
type view struct {
	w   http.ResponseWriter
	r   *http.Request
	who Viewer
	api *client.Client
	p   *Pages
}

// frame is what layout.html knows beside the page's own data.
type frame struct {
	Gateway, Version string
	Demo             bool
	Who              Viewer
	Section          string // of the navigation
	Data             any
}

// render answers with a page; section is the navigation's entry that it belongs to.
func (v *view) render(name, section string, data any) error {
	return v.show(http.StatusOK, name, section, data)
}

func (v *view) show(code int, name, section string, data any) error {
	t := v.p.shown[name]
	if t == nil {
		return fmt.Errorf("pages: there is no template %s", name)
	}
	var out bytes.Buffer
	f := frame{Gateway: v.p.o.Gateway, Version: v.p.o.Version, Demo: v.p.o.Demo, Who: v.who, Section: section, Data: data}
	if err := t.ExecuteTemplate(&out, "layout.html", f); err != nil {
		return fmt.Errorf("pages: %s: %w", name, err)
	}
	v.headers()
	v.w.WriteHeader(code)
	_, _ = v.w.Write(out.Bytes()) // whoever looked may be gone
	return nil
}

// fragment answers with one block of a page, for script to put in its place.
func (v *view) fragment(name, block string, data any) error {
	t := v.p.shown[name]
	if t == nil || t.Lookup(block) == nil {
		return fmt.Errorf("pages: there is no block %s in %s", block, name)
	}
	var out bytes.Buffer
	if err := t.ExecuteTemplate(&out, block, data); err != nil {
		return fmt.Errorf("pages: %s: %w", name, err)
	}
	v.headers()
	_, _ = v.w.Write(out.Bytes()) // whoever looked may be gone
	return nil
}

func (v *view) headers() {
	h := v.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", csp)
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
}

// problem is what the error page shows.
type problem struct {
	Code    int
	Message string
}

// fail answers with a page that says what went wrong.
func (v *view) fail(err error) {
	e := problem{http.StatusInternalServerError, "the page could not be made; the gateway's log says why"}
	if told, ok := errors.AsType[*client.Error](err); ok {
		e = problem{told.Code, told.Message}
	} else if v.r.Context().Err() == nil {
		v.p.o.Log.ErrorContext(v.r.Context(), "a page could not be made", "path", v.r.URL.Path, "err", err)
	}
	if err := v.show(e.Code, "error.html", "", e); err != nil {
		v.p.o.Log.ErrorContext(v.r.Context(), "an error could not be shown", "err", err)
		http.Error(v.w, e.Message, e.Code)
	}
}

// bad is an error of whoever asks.
func bad(message string) error { return &client.Error{Code: http.StatusBadRequest, Message: message} }

// form reads a posted form strictly: each field once. That it comes from a page of
// this gateway was checked before (admin.API.TCP: http.CrossOriginProtection).
func (v *view) form() (url.Values, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(v.w, v.r.Body, maxForm))
	if err != nil {
		return nil, bad("the form could not be read, or is too long")
	}
	form, err := url.ParseQuery(string(raw))
	if err != nil {
		return nil, bad("the form cannot be read")
	}
	for name, values := range form {
		if len(values) > 1 {
			return nil, bad("the field " + name + " stands more than once")
		}
	}
	return form, nil
}

// arg is a value of the query, "" where there is none or several.
func (v *view) arg(name string) string {
	values := v.r.URL.Query()[name]
	if len(values) != 1 {
		return ""
	}
	return values[0]
}

// to sends the browser to a path of ours after a form did its work.
func (v *view) to(path string) error {
	http.Redirect(v.w, v.r, path, http.StatusSeeOther)
	return nil
}
