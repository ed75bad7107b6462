package sandbox

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	fastgzip "github.com/klauspost/compress/gzip"

	"github.com/trailgate/trailgate/internal/discovery"
)

// ServeHTTP answers one request, like BigQuery would.
func (s *Sandbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var f *Fault
	if fn := s.fault.Load(); fn != nil {
		f = (*fn)(r)
	}
	principal, authErr := s.authenticate(r)
	s.calls.add(r, principal, s.now())
	w, done := f.apply(s, w, r)
	if done {
		return
	}
	if err := s.serve(w, r, principal, authErr); err != nil {
		writeError(w, asAPIError(err))
	}
}

func (s *Sandbox) serve(w http.ResponseWriter, r *http.Request, principal string, authErr *apiError) error {
	path := r.URL.EscapedPath()
	if path == "/$discovery/rest" || path == "/%24discovery/rest" || path == "/discovery/v1/apis/bigquery/v2/rest" {
		return s.serveDiscovery(w, r)
	}
	if authErr != nil {
		return authErr
	}
	c := &call{r: r, principal: principal, reason: r.Header.Get("X-Goog-Request-Reason"), host: "http://" + r.Host}
	if r.TLS != nil {
		c.host = "https://" + r.Host
	}
	for _, prefix := range []string{"/upload" + servicePath, "/resumable/upload" + servicePath} {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			return s.serveUpload(w, c, prefix, rest)
		}
	}
	rest, ok := strings.CutPrefix(path, servicePath)
	if !ok {
		if strings.HasPrefix(path, "/batch") {
			return unsupported("the batch endpoint")
		}
		return &apiError{status: http.StatusNotFound, reason: "notFound", message: "The requested URL was not found on this server."}
	}
	verb := r.Method
	if o := r.Header.Get("X-Http-Method-Override"); o != "" {
		if verb != http.MethodPost || o != http.MethodGet {
			return unsupported("the method override from %s to %s", verb, o)
		}
		if err := overrideGet(r); err != nil {
			return err
		}
		verb = http.MethodGet
	}
	m, params, merr := match(s.methods, verb, rest)
	if merr != nil {
		return merr
	}
	c.method, c.params = m, params
	if err := m.checkQuery(r.URL.Query()); err != nil {
		return err
	}
	if err := s.readBody(c); err != nil {
		return err
	}
	return s.finish(w, c)
}

// finish runs the handler and writes what it gives.
func (s *Sandbox) finish(w http.ResponseWriter, c *call) error {
	if c.method.handle == nil {
		return unsupported("the method %s", c.method.id)
	}
	if p, ok := c.params["projectId"]; ok && !s.catalog.hasProject(p) {
		return notFound("Project", p)
	}
	a, err := c.method.handle(s, c)
	if err != nil {
		return err
	}
	return s.write(w, c, a)
}

// overrideGet turns a POST with a form into the GET that it stands for: how bq
// sends addresses over 2,048 characters.
func overrideGet(r *http.Request) error {
	form, err := io.ReadAll(io.LimitReader(r.Body, maxRequestBytes+1))
	if err != nil {
		return fail("invalid", "read the request: %s", err)
	}
	if len(form) > maxRequestBytes {
		return fail("invalid", "Request payload size exceeds the limit: %d bytes.", maxRequestBytes)
	}
	q, err := url.ParseQuery(string(form))
	if err != nil {
		return fail("invalid", "The form is malformed: %s", err)
	}
	if r.URL.RawQuery != "" {
		r.URL.RawQuery += "&"
	}
	r.URL.RawQuery += q.Encode()
	return nil
}

// readBody reads and checks the JSON body of a method that has one.
func (s *Sandbox) readBody(c *call) error {
	if c.method.body == "" && c.method.verb == http.MethodGet {
		return nil
	}
	raw, err := readAll(c.r)
	if err != nil {
		return err
	}
	if c.method.body == "" {
		if len(strings.TrimSpace(string(raw))) > 0 && string(raw) != "{}" && string(raw) != "null" {
			return fail("invalid", "%s takes no request body", c.method.id)
		}
		return nil
	}
	return s.parseBody(c, raw)
}

func (s *Sandbox) parseBody(c *call, raw []byte) error {
	if len(raw) == 0 {
		c.body = object{}
		return nil
	}
	o, derr := decodeObject(raw)
	if derr != nil {
		return derr
	}
	if sc := s.schemas[c.method.body]; sc != nil {
		if err := sc.check(s.schemas, o, ""); err != nil {
			return err
		}
	}
	c.body = o
	return nil
}

func readAll(r *http.Request) ([]byte, error) {
	var body io.Reader = r.Body
	switch enc := r.Header.Get("Content-Encoding"); enc {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, fail("invalid", "The request body is not gzip: %s", err)
		}
		body = z
	default:
		return nil, unsupported("requests in the encoding %q", enc)
	}
	raw, err := io.ReadAll(io.LimitReader(body, maxRequestBytes+1))
	if err != nil {
		return nil, fail("invalid", "read the request: %s", err)
	}
	if len(raw) > maxRequestBytes {
		return nil, fail("invalid", "Request payload size exceeds the limit: %d bytes.", maxRequestBytes)
	}
	if ct := r.Header.Get("Content-Type"); len(raw) > 0 && ct != "" {
		if mt, _, err := mime.ParseMediaType(ct); err != nil || mt != "application/json" && mt != "text/json" {
			return nil, fail("invalid", "Unsupported content type: %s", ct)
		}
	}
	return raw, nil
}

// authenticate tells whom a bearer token stands for.
func (s *Sandbox) authenticate(r *http.Request) (string, *apiError) {
	known := s.cfg.Principal
	if known == nil {
		if len(s.cfg.Principals) == 0 {
			return AnonymousPrincipal, nil
		}
		known = func(token string) (string, bool) {
			principal, ok := s.cfg.Principals[token]
			return principal, ok
		}
	}
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return "", &apiError{
			status: http.StatusUnauthorized, reason: "required", location: "Authorization", locationType: "header",
			message: "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
		}
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	principal, ok := known(token)
	if len(headers) > 1 || !strings.EqualFold(scheme, "Bearer") || !ok {
		return "", &apiError{
			status: http.StatusUnauthorized, reason: "authError", location: "Authorization", locationType: "header",
			message: "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
		}
	}
	return principal, nil
}

func (s *Sandbox) serveDiscovery(w http.ResponseWriter, r *http.Request) error {
	if v := r.URL.Query().Get("version"); v != "" && v != "v2" {
		return fail("notFound", "The sandbox serves the discovery document of BigQuery v2 alone, not of %s", v)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return &apiError{status: http.StatusMethodNotAllowed, reason: "httpMethodNotAllowed", message: "Use GET"}
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	out, finish := compress(w, r)
	_, err := out.Write(discovery.For(scheme + r.Host + "/"))
	return endOf(err, finish)
}

// write sends an answer, whole or as "fields" asks, gzipped where the client
// takes that.
func (s *Sandbox) write(w http.ResponseWriter, c *call, a answer) error {
	mask := c.query("fields")
	switch a := a.(type) {
	case noContent:
		w.WriteHeader(http.StatusNoContent)
		return nil
	case jsonAnswer:
		o := a.object
		if mask != "" {
			var err *apiError
			if o, err = selectFields(o, mask); err != nil {
				return err
			}
		}
		etag := str(o, "etag")
		if etag != "" {
			w.Header().Set("Etag", etag)
			if c.r.Header.Get("If-None-Match") == etag && c.method.verb == http.MethodGet {
				w.WriteHeader(http.StatusNotModified)
				return nil
			}
		}
		raw, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("encode the answer: %w", err)
		}
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		out, finish := compress(w, c.r)
		_, err = out.Write(append(raw, '\n'))
		return endOf(err, finish)
	case *rowPage:
		if mask != "" {
			if err := a.restrict(mask); err != nil {
				return err
			}
		}
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		out, finish := compress(w, c.r)
		return endOf(a.stream(out), finish)
	}
	return errors.New("no answer")
}

// endOf finishes a body. Once a body has begun there is no error to send: the
// client is gone, or will see that the answer is cut.
func endOf(err error, finish func() error) error {
	if err == nil {
		err = finish()
	}
	if err != nil {
		panic(http.ErrAbortHandler) // cuts the connection; net/http's way to say so
	}
	return nil
}

// compress gives the writer for a body.
func compress(w http.ResponseWriter, r *http.Request) (io.Writer, func() error) {
	w.Header().Set("Vary", "Origin, X-Origin, Referer, Accept-Encoding")
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		return w, func() error { return nil }
	}
	w.Header().Set("Content-Encoding", "gzip")
	z, err := fastgzip.NewWriterLevel(w, fastgzip.BestSpeed)
	if err != nil {
		return w, func() error { return nil }
	}
	return z, z.Close
}

// wait blocks for d, or until the request or the sandbox ends.
func (s *Sandbox) wait(r *http.Request, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	case <-s.ctx.Done():
	}
}
