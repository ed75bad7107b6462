package gateway

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/identity"
)

// requestHeaders go upstream as the client sent them. All others stay here:
// hop-by-hop ones, the agent's credential, and whatever claims an identity.
var requestHeaders = []string{
	"Accept", "Content-Type", "If-Match", "If-None-Match", "User-Agent", "X-Goog-Api-Client", "X-Server-Timeout",
	"X-Upload-Content-Type", "X-Upload-Content-Length", "Content-Range", "X-Guploader-No-308",
}

// responseHeaders come back as BigQuery sent them.
var responseHeaders = []string{
	"Content-Type", "Content-Encoding", "Etag", "Vary", "Cache-Control", "Expires", "Date", "Retry-After", "Range",
	"X-Guploader-Uploadid", "X-Goog-Upload-Status", statusOverride,
}

// statusOverride is "308" on an answer to a chunk that says 200 only because
// the client asked for that with X-GUploader-No-308, as Go's library does: the
// upload is not done.
const statusOverride = "X-Http-Status-Code-Override"

// forward sends the call upstream as the principal's own Google identity and
// hands back the answer with its tail still held. It never returns without an
// answer: failures of credential, connection and upstream are answers too.
func (g *Gateway) forward(ctx context.Context, w http.ResponseWriter, r *http.Request, e *trailgate.Entry, who identity.Identity, c *bigquery.Call, conn *Connection, out *output) *answer {
	a := &answer{g: g, w: w, call: c, capture: bigquery.NewCapture(c), entry: e, ctx: ctx, maxBytes: out.maxBytes}

	// The agent going away must not cancel what BigQuery is doing for it: the
	// answer is awaited a while longer, so that the outcome is known.
	upctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a.cancel = cancel
	stop := context.AfterFunc(ctx, func() {
		if wasCut(ctx) {
			cancel()
			return
		}
		t := time.AfterFunc(g.cfg.GraceTimeout, cancel)
		context.AfterFunc(upctx, func() { t.Stop() })
	})
	defer stop()

	ask := federation.Request{
		Principal: e.Principal, Session: e.Session, Connection: conn.Name, Project: cmp.Or(c.Project, conn.firstProject()),
		Assertion: who.Assertion, AssertionExpires: who.AssertionExpires,
	}
	var credential federation.Credential
	var transport http.RoundTripper // that answers in BigQuery's place
	local := true
	switch {
	case c.Method == methodDiscovery:
		transport = g.local
	case out.instead != nil:
		transport = out.instead
	default:
		local = false
	}
	if !local {
		var err error
		credential, err = conn.Credential.Credential(upctx, ask)
		if err != nil {
			g.cfg.Log.ErrorContext(ctx, "no upstream credential", "connection", conn.Name, "agent", e.Principal.Agent, "err", err)
			g.metrics.credentials.WithLabelValues(conn.Name).Inc()
			a.fail(trailgate.EndNotForwarded, err.Error(), noCredential(conn.Name, err))
			return a
		}
	}
	a.upstream = &trailgate.Upstream{
		Mode: credential.Mode, Principal: credential.Principal, Shared: credential.Shared, Assertion: credential.Assertion, Host: conn.Upstream.Host,
	}

	target, err := url.Parse(out.url)
	if err != nil {
		a.fail(trailgate.EndNotForwarded, "upstream address: "+err.Error(), invalid("the path cannot be forwarded"))
		return a
	}
	req := &http.Request{Method: c.Verb, URL: target, Header: http.Header{}, ProtoMajor: 1, ProtoMinor: 1}
	for _, name := range requestHeaders {
		if v := r.Header.Values(name); len(v) > 0 {
			req.Header[name] = v[:1:1]
		}
	}
	if out.contentType != "" {
		req.Header.Set("Content-Type", out.contentType)
	}
	if acceptsGzip(r.Header) {
		req.Header.Set("Accept-Encoding", "gzip")
	} else {
		req.Header.Set("Accept-Encoding", "identity")
	}
	req.Header.Set("X-Goog-Request-Reason", e.ID)
	if credential.Token != "" {
		req.Header.Set("Authorization", "Bearer "+credential.Token)
	}
	switch {
	case out.stream != nil:
		req.Body, req.ContentLength = io.NopCloser(out.stream), out.length
		if out.length == 0 {
			req.Body = http.NoBody
		}
	case out.body != nil:
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(out.body)), int64(len(out.body))
	case c.Verb != http.MethodGet && c.Verb != http.MethodDelete:
		req.Header.Set("Content-Length", "0")
		req.Body = http.NoBody
	}

	if local {
		a.upstream = &trailgate.Upstream{Mode: "local"}
		target.Scheme, target.Host = schemeOf(r), r.Host
	}
	var resp *http.Response
	if local {
		resp, err = transport.RoundTrip(req.WithContext(upctx))
	} else {
		hop := Hop{Entry: e.ID, Project: ask.Project, Session: e.Session, Principal: e.Principal}
		resp, a.passed, err = g.roundTrip(conn, req.WithContext(upctx), hop)
	}
	a.sum = out.sum
	if err != nil {
		a.failUpstream(ctx, err)
		return a
	}
	a.resp = resp
	if resp.StatusCode == http.StatusUnauthorized && (credential.Token != "" || credential.Mode == modeConnector) {
		// That is about the gateway's token and not about the agent's, which it would
		// be taken for: a grant or a consent was withdrawn while the token had time
		// left. Nothing was done; the next call asks for another token, and learns why.
		if source, ok := conn.Credential.(federation.Rejecter); ok {
			source.Rejected(ask, credential)
		}
		a.fail(trailgate.EndRefused, "BigQuery answered 401", unavailable("BigQuery does not take the Google credential that connection "+conn.Name+" has for this agent; try again, which asks for another"))
		return a
	}
	if refusal := g.checkResponse(resp, c, e, conn, out, r); refusal != nil {
		a.fail(trailgate.EndRefused, refusal.Message, refusal)
		return a
	}
	if a.maxBytes > 0 && resp.ContentLength > a.maxBytes {
		a.flags = append(a.flags, "result_limit")
		a.fail(trailgate.EndRefused, "the answer is longer than may be read", tooMuch(a.maxBytes))
		return a
	}
	if resp.StatusCode == http.StatusOK {
		g.keepRows(upctx, a, e, who, c, conn)
	}
	a.stream()
	return a
}

// noCredential tells the agent that there is no Google credential for its call:
// for now, so that clients try again, or until somebody mends it.
func noCredential(connection string, err error) *bigquery.Error {
	message := "connection " + connection + " has no Google credential for this call: " + clip(err.Error(), 1000)
	if known, ok := errors.AsType[*federation.Error](err); ok && !known.Temporary {
		return &bigquery.Error{Status: http.StatusForbidden, Reason: "accessDenied", Message: "Trailgate: " + message}
	}
	return unavailable(message)
}

// failUpstream turns a failed round trip into an answer.
func (a *answer) failUpstream(ctx context.Context, err error) {
	var netErr net.Error
	hop, through := errors.AsType[*HopError](err)
	switch {
	case wasCut(ctx):
		a.fail(trailgate.EndRefused, "suspended while the call was under way", denied("the agent or the connection was suspended while the call was under way"))
	case a.sum != nil && a.sum.err != nil:
		// The request body broke off, not BigQuery.
		a.fail(trailgate.EndClientGone, "request body: "+rootCause(a.sum.err), invalid("the request body broke off: "+rootCause(a.sum.err)))
	case through:
		a.failHop(ctx, hop)
		return
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		a.fail(trailgate.EndClientGone, "the agent went away and BigQuery did not answer in the time left", unavailable("cancelled"))
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		a.fail(trailgate.EndUpstreamDown, err.Error(), &bigquery.Error{Status: http.StatusGatewayTimeout, Reason: "backendError", Message: "Trailgate: BigQuery did not answer in time"})
	default:
		a.g.cfg.Log.WarnContext(ctx, "upstream", "host", a.upstream.Host, "err", err)
		a.fail(trailgate.EndUpstreamDown, err.Error(), &bigquery.Error{Status: http.StatusBadGateway, Reason: "backendError", Message: "Trailgate: BigQuery could not be reached: " + rootCause(err)})
	}
	if a.call.CreatesJob && !a.call.DryRun {
		a.flags = append(a.flags, "effect_unknown")
	}
}

// checkResponse refuses what must not reach an agent, and rewrites the one
// location that would lead it past the gateway.
func (g *Gateway) checkResponse(resp *http.Response, c *bigquery.Call, e *trailgate.Entry, conn *Connection, out *output, r *http.Request) *bigquery.Error {
	switch code := resp.StatusCode; {
	case code == http.StatusNotModified, code == http.StatusPermanentRedirect && c.Upload == bigquery.UploadResumableChunk:
		// 308 is "resume incomplete" in Google's upload protocol.
	case code < 200, code >= 300 && code < 400:
		return &bigquery.Error{Status: http.StatusBadGateway, Reason: "backendError", Message: "Trailgate: BigQuery answered with a redirect, which is never followed"}
	}
	switch enc := resp.Header.Get("Content-Encoding"); enc {
	case "", "gzip", "identity":
	default:
		return &bigquery.Error{Status: http.StatusBadGateway, Reason: "backendError", Message: "Trailgate: BigQuery answered in an encoding that was not asked for"}
	}
	if c.Upload == bigquery.UploadResumableStart && resp.StatusCode == http.StatusOK {
		location, err := g.uploads.begin(resp.Header.Get("Location"), e, conn, g.publicRoot(r))
		if err != nil {
			return &bigquery.Error{Status: http.StatusBadGateway, Reason: "backendError", Message: "Trailgate: " + err.Error()}
		}
		resp.Header.Set("Location", location)
	}
	if out.upload != nil && resp.StatusCode < 300 && resp.Header.Get(statusOverride) == "" {
		g.uploads.end(c.UploadID)
	}
	return nil
}

// publicRoot is the gateway as the agent sees it, with a slash at the end.
func (g *Gateway) publicRoot(r *http.Request) string {
	if g.cfg.PublicURL != "" {
		return g.cfg.PublicURL
	}
	return schemeOf(r) + "://" + r.Host + "/"
}

func schemeOf(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}
