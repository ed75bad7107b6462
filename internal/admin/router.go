package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
)

const (
	// maxBodyBytes bounds what a caller may send.
	maxBodyBytes = 64 << 10
	// readTimeout and writeTimeout bound how long that may take, and an answer.
	readTimeout  = 10 * time.Second
	writeTimeout = time.Minute
)

// route is one operation. Path and query are written as in openapi.json.
type route struct {
	method, path string
	query        []string // the parameters that it takes
	open         bool     // for callers without a token, too
	page         bool     // for a browser: errors are pages, forms are forms
	free         bool     // takes any query
	static       bool     // HEAD is GET without the body
	roles        access   // who may, beside admins
	handle       func(http.ResponseWriter, *request) error
}

// request is a request as handlers see it.
type request struct {
	*http.Request
	who   caller
	args  map[string]string // of the path
	query url.Values        // each parameter once, none unknown
}

const prefix = "/api/v1/"

func (a *API) table() []*route {
	const get, post = http.MethodGet, http.MethodPost
	routes := []*route{
		{method: get, path: prefix + "entries", query: []string{"filter", "page_size", "page_token", "order"}, handle: a.entries, roles: forAuditors},
		{method: get, path: prefix + "entries:follow", query: []string{"filter", "after_seq"}, handle: a.follow, roles: forAuditors},
		{method: get, path: prefix + "entries/{id}", handle: a.entry, roles: forAuditors},
		{method: get, path: prefix + "entries/{id}/proof", handle: a.proof, roles: forAuditors},
		{method: get, path: prefix + "entries/{id}/results", query: []string{"from", "count"}, handle: a.results, roles: forAuditors},
		{method: get, path: prefix + "recordings", handle: a.listRecordings, roles: forAuditors},
		{method: post, path: prefix + "recordings:erase", handle: a.eraseRecordings, roles: forAdmins},
		{method: get, path: prefix + "holds", handle: a.listHolds, roles: forAuditors},
		{method: post, path: prefix + "holds", handle: a.addHold, roles: forAdmins},
		{method: post, path: prefix + "holds/{hold_id}:release", handle: a.releaseHold, roles: forAdmins},
		{method: get, path: prefix + "entries:export", query: []string{"filter", "format"}, handle: a.export, roles: forAuditors},
		{method: post, path: prefix + "bundles", handle: a.createBundle, roles: forAuditors},
		{method: get, path: prefix + "facets", query: []string{"filter", "fields", "limit"}, handle: a.facets, roles: forAuditors},
		{method: get, path: prefix + "histogram", query: []string{"filter", "since", "until", "buckets"}, handle: a.histogram, roles: forAuditors},
		{method: get, path: prefix + "filter:complete", query: []string{"text", "cursor"}, handle: a.complete, roles: forAuditors},
		{method: get, path: prefix + "sessions", query: []string{"filter", "page_size", "page_token"}, handle: a.listSessions, roles: forAuditors},
		{method: get, path: prefix + "sessions/{session_id}", handle: a.getSession, roles: forAuditors},
		{method: get, path: prefix + "searches", handle: a.listSearches, roles: forAuditors},
		{method: post, path: prefix + "searches", handle: a.saveSearch, roles: forAuditors},
		{method: post, path: prefix + "searches/{search_id}:remove", handle: a.removeSearch, roles: forAuditors},
		{method: get, path: prefix + "stats", query: []string{"by", "filter"}, handle: a.stats, roles: forAuditors},
		{method: get, path: prefix + "blobs/{sha256}", handle: a.blob, roles: forAuditors},

		{method: get, path: prefix + "agents", handle: a.listAgents, roles: forAuditors},
		{method: post, path: prefix + "agents", handle: a.addAgent, roles: forAdmins},
		{method: post, path: prefix + "agents/{agent}:revoke", handle: a.revokeAgent, roles: forAdmins},
		{method: get, path: prefix + "agents/{agent}/tokens", handle: a.listTokens, roles: forAuditors},
		{method: post, path: prefix + "agents/{agent}/tokens", handle: a.issueToken, roles: forAdmins},
		{method: post, path: prefix + "tokens/{token_id}:revoke", handle: a.revokeToken, roles: forAdmins},
		{method: post, path: prefix + "tokens/{token_id}:rotate", handle: a.rotateToken, roles: forAdmins},
		{method: post, path: prefix + "sessions/{session_token_id}:revoke", handle: a.revokeSession, roles: forAdmins},
		{method: post, path: prefix + "connections/{connection}:check", handle: a.checkConnection, roles: forAdmins},
		{method: get, path: prefix + "consents", handle: a.listConsents, roles: forHumans},
		{method: post, path: prefix + "consents/{connection}:revoke", handle: a.revokeConsent, roles: forHumans},

		{method: get, path: prefix + "connectors", handle: a.listConnectors, roles: forAuditors},
		{method: post, path: prefix + "connectors", handle: a.addConnector, roles: forAdmins},
		{method: post, path: prefix + "connectors/{connector}:revoke", handle: a.revokeConnector, roles: forAdmins},

		{method: get, path: prefix + "approvals", query: []string{"state", "agent"}, handle: a.listApprovals, roles: forHumans},
		{method: get, path: prefix + "approvals/{approval_id}", handle: a.getApproval, roles: forHumans},
		{method: post, path: prefix + "approvals/{approval_id}:approve", handle: a.approve, roles: forApprovers},
		{method: post, path: prefix + "approvals/{approval_id}:deny", handle: a.deny, roles: forApprovers},
		{method: get, path: prefix + "suspensions", handle: a.listSuspensions, roles: forAuditors},
		{method: post, path: prefix + "suspensions", handle: a.suspend, roles: forAdmins},
		{method: post, path: prefix + "suspensions:remove", handle: a.resume, roles: forAdmins},
		{method: get, path: prefix + "policy", handle: a.policy, roles: forHumans},
		{method: post, path: prefix + "policy:reload", handle: a.reload, roles: forAdmins},
		{method: get, path: prefix + "budgets", handle: a.budgets, roles: forHumans},

		{method: get, path: prefix + "coverage", handle: a.coverage, roles: forAuditors},
		{method: post, path: prefix + "coverage:run", query: []string{"connection", "source", "since", "until"}, handle: a.runCoverage, roles: forAdmins},
		{method: get, path: prefix + "coverage/findings", query: []string{"connection", "state", "page_size", "page_token"}, handle: a.findings, roles: forAuditors},
		{method: post, path: prefix + "coverage/findings/{finding_id}:acknowledge", handle: a.acknowledgeFinding, roles: forAuditors},

		{method: get, path: prefix + "log/checkpoint", static: true, handle: a.logCheckpoint, roles: forAuditors},
		{method: get, path: prefix + "log/rotations", static: true, handle: a.logRotations, roles: forAuditors},
		{method: get, path: prefix + "log/key", static: true, handle: a.logKey, roles: forAuditors},
		{method: get, path: prefix + "log/tile/{tile}", static: true, handle: a.logTile, roles: forAuditors},

		{method: post, path: prefix + "login-links", handle: a.makeLink, roles: forHumans},
		{method: get, path: prefix + "gateway", handle: a.gateway, roles: forHumans},
		{method: post, path: prefix + "index:rebuild", handle: a.rebuildIndex, roles: forAdmins},
		{method: get, path: prefix + "metrics", handle: a.metrics, roles: forAuditors},
		{method: get, path: prefix + "healthz", open: true, handle: a.health},
		{method: get, path: prefix + "readyz", open: true, handle: a.ready},
		{method: get, path: prefix + "openapi.json", open: true, handle: a.document},
	}
	if a.login != nil {
		routes = append(
			routes,
			&route{method: get, path: a.accountPath(), page: true, open: true, handle: a.home},
			&route{method: get, path: "/login/token", query: []string{"next"}, page: true, open: true, handle: a.tokenForm},
			&route{method: post, path: "/login/token", page: true, open: true, handle: a.tokenLogin},
			&route{method: get, path: "/login/link", query: []string{"code", "next"}, page: true, open: true, handle: a.followLink},
			&route{method: get, path: "/login", query: []string{"next"}, page: true, open: true, handle: a.begin},
			&route{method: get, path: "/login/callback", query: returned, page: true, open: true, handle: a.callback},
			&route{method: post, path: "/logout", page: true, handle: a.logout, roles: forHumans},
			&route{method: get, path: "/consent/{connection}", page: true, handle: a.beginConsent, roles: forHumans},
			&route{method: get, path: "/consent/{connection}/callback", query: returned, page: true, handle: a.endConsent, roles: forHumans},
			&route{method: post, path: "/consent/{connection}/withdraw", page: true, handle: a.withdraw, roles: forHumans},
		)
	}
	return routes
}

// returned are the parameters with which an authorization server sends a
// browser back (RFC 6749, section 4.1.2; RFC 9207; what Google and others add).
var returned = []string{"state", "code", "error", "error_description", "error_uri", "iss", "scope", "authuser", "hd", "prompt", "session_state"}

// serve answers one request at one of the doors. Admit says who the caller is,
// or why there is none.
func (a *API) serve(w http.ResponseWriter, r *http.Request, admit func(*route) (caller, error)) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	rt, args, allow := a.match(r)
	if rt == nil && len(allow) == 0 {
		rt = a.pageRoute(r)
	}
	err := func() error {
		who, err := admit(rt)
		if err != nil {
			return err
		}
		if rt == nil {
			return missing(w, r, allow)
		}
		if !rt.open && !rt.roles.lets(who.roles) {
			return forbidden(who, rt.roles)
		}
		var query url.Values
		if !rt.free {
			if query, err = parameters(r, rt.query); err != nil {
				return err
			}
		}
		if r.Method != http.MethodPost && (r.ContentLength != 0 || len(r.TransferEncoding) > 0) {
			return invalid("a " + r.Method + " request has no body here")
		}
		return rt.handle(w, &request{r, who, args, query})
	}()
	if err == nil || errors.Is(err, errAnswered) {
		return
	}
	e := explain(err)
	if e.Code >= http.StatusInternalServerError && r.Context().Err() == nil {
		operation := "none"
		if rt != nil {
			operation = rt.method + " " + rt.path
		}
		a.cfg.Log.ErrorContext(r.Context(), "admin request failed", "operation", operation, "code", e.Code, "err", err)
	}
	if rt != nil && rt.page {
		err = showPage(w, e.Code, pageData{Gateway: a.cfg.Gateway.ID, Error: e.Message, Login: true})
	} else {
		err = reply(w, e.Code, errorBody{e})
	}
	if err != nil {
		a.cfg.Log.ErrorContext(r.Context(), "an error could not be told", "err", err)
	}
}

// missing is the error of a path that leads nowhere, or not by this verb.
func missing(w http.ResponseWriter, r *http.Request, allow []string) error {
	if len(allow) > 0 {
		w.Header().Set("Allow", strings.Join(allow, ", "))
		return &Error{Code: http.StatusMethodNotAllowed, Message: clip(r.Method, 32) + " is not served here; " + strings.Join(allow, ", ") + " is"}
	}
	return &Error{Code: http.StatusNotFound, Message: "there is nothing at this path; " + prefix + "openapi.json describes what there is"}
}

// match finds the route of a request, or the verbs that its path does have.
// Paths are compared as they came, segment by segment: no cleaning, no
// redirects, so that no two spellings mean the same.
func (a *API) match(r *http.Request) (rt *route, args map[string]string, allow []string) {
	path := r.URL.EscapedPath()
	for _, rt := range a.routes {
		args, ok := matchPath(rt.path, path)
		if !ok {
			continue
		}
		if r.Method == rt.method || rt.static && r.Method == http.MethodHead {
			return rt, args, nil
		}
		allow = append(allow, rt.method)
	}
	return nil, nil, allow
}

// matchPath compares an escaped path with a template. "{name}" stands for a
// segment, and may have a verb behind it; "{tile}" for all the rest.
func matchPath(template, path string) (args map[string]string, ok bool) {
	args = map[string]string{}
	for {
		want, moreWant, _ := strings.Cut(template, "/")
		if want == "{tile}" {
			args["tile"] = path
			return args, true
		}
		got, moreGot, _ := strings.Cut(path, "/")
		if name, verb, isArg := argument(want); isArg {
			value, found := strings.CutSuffix(got, verb)
			value, err := url.PathUnescape(value)
			if !found || err != nil || value == "" || verb == "" && strings.Contains(got, ":") {
				return nil, false
			}
			args[name] = value
		} else if want != got {
			return nil, false
		}
		if len(want) == len(template) || len(got) == len(path) {
			return args, len(want) == len(template) && len(got) == len(path)
		}
		template, path = moreWant, moreGot
	}
}

// argument takes "{name}:verb" apart.
func argument(segment string) (name, verb string, ok bool) {
	rest, ok := strings.CutPrefix(segment, "{")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "}")
}

// parameters reads the query: only what the route takes, and each once.
func parameters(r *http.Request, allowed []string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query cannot be read: " + err.Error())
	}
	for _, name := range sortedKeys(query) {
		switch {
		case !slices.Contains(allowed, name):
			return nil, invalid("unknown parameter " + strconv.Quote(clip(name, 64)) + "; known here: " + orNone(allowed))
		case len(query[name]) > 1:
			return nil, invalid("the parameter " + name + " stands more than once")
		}
	}
	return query, nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// decode reads a JSON body strictly into out. Where a body is optional, none is
// as good as an empty object.
func decode(w http.ResponseWriter, r *request, out any, optional bool) error {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(readTimeout)) // in process there is none
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	_ = rc.SetReadDeadline(time.Time{}) // else the server would take the waiting caller for gone
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return &Error{Code: http.StatusRequestEntityTooLarge, Message: "the body is larger than " + strconv.Itoa(maxBodyBytes) + " bytes"}
	}
	if err != nil {
		return invalid("the body could not be read whole")
	}
	if len(raw) == 0 && optional {
		return nil
	}
	if !isJSON(r.Request) {
		return &Error{Code: http.StatusUnsupportedMediaType, Message: "the body must be JSON, with Content-Type: application/json"}
	}
	if err := jsonv2.Unmarshal(raw, out, jsonv2.RejectUnknownMembers(true)); err != nil {
		return invalid("the body is not as openapi.json has it: " + strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// isJSON reports whether a request says that its body is JSON.
func isJSON(r *http.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && kind == "application/json"
}

// errorBody is the answer where there is none.
type errorBody struct {
	Error *Error `json:"error"`
}

// encode spells JSON so that entries in it stay as the log has them.
func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return buf.Bytes(), err
}

// reply answers with JSON. Its error is that of encoding; a caller that is gone
// is none.
func reply(w http.ResponseWriter, code int, v any) error {
	raw, err := encode(v)
	if err != nil {
		return err
	}
	return send(w, code, "application/json; charset=utf-8", raw)
}

// pace gives the answer that begins now its time. In process there is no
// deadline to set, and none is needed.
func pace(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
}

func send(w http.ResponseWriter, code int, kind string, raw []byte) error {
	pace(w)
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(code)
	_, _ = w.Write(raw) // the caller may be gone: nobody is left to tell
	return nil
}
