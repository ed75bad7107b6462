package gateway

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"sort"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/identity"
)

// identify is who calls, by the credential alone: a bearer token, a client
// certificate, or both where they agree. Nothing else of the request is looked at
// before this, and nothing that a client says of itself counts.
func (g *Gateway) identify(r *http.Request) (identity.Identity, error) {
	p := identity.Presented{Address: peerAddress(r.RemoteAddr)}
	if r.TLS != nil {
		p.Certificates = r.TLS.PeerCertificates
	}
	if len(r.Header["Authorization"]) > 0 || len(p.Certificates) == 0 {
		var err error
		if p.Bearer, err = identity.BearerFrom(r.Header); err != nil {
			return identity.Identity{}, err
		}
	}
	return g.cfg.Authenticate(r.Context(), p)
}

// peerAddress is the address at the other end of the connection; what headers
// say about it (X-Forwarded-For, Forwarded) is anybody's word.
func peerAddress(remote string) netip.Addr {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// arrived begins the call's entry with what is known at the door.
func (g *Gateway) arrived(r *http.Request, who identity.Identity, by *rules) *trailgate.Entry {
	p := who.Principal
	return &trailgate.Entry{
		ID: g.newID(), Gateway: g.selfUnder(by), Principal: &p, Client: r.RemoteAddr,
		Claims:  claims(r.Header),
		Request: &trailgate.Request{Verb: clip(r.Method, 32)},
	}
}

// humanHeader lets a client say on whose behalf it acts. That is a claim, and
// stays one.
const humanHeader = "X-Trailgate-Human"

// claims keeps what the client says of itself, clipped, and apart from what is
// verified. nil where it says nothing.
func claims(h http.Header) *trailgate.Claims {
	c := trailgate.Claims{
		UserAgent:    clip(h.Get("User-Agent"), 256),
		APIClient:    clip(h.Get("X-Goog-Api-Client"), 256),
		Reason:       clip(h.Get("X-Goog-Request-Reason"), 512),
		Human:        clip(h.Get(humanHeader), 256),
		TraceParent:  clip(h.Get("Traceparent"), 128),
		QuotaProject: clip(h.Get("X-Goog-User-Project"), 128),
	}
	if c.UserAgent+c.APIClient+c.Reason+c.Human+c.TraceParent+c.QuotaProject == "" {
		return nil
	}
	return &c
}

// redacted is the request target as it may be recorded before it is
// understood: the path, and the names of the query's parameters. Values may be
// secrets until the parameter is known.
func redacted(u *url.URL) string {
	path := u.EscapedPath()
	if path == "" {
		path = u.Opaque
	}
	if u.RawQuery == "" {
		return clip(path, 2048)
	}
	var names []string
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, _ := strings.Cut(pair, "=")
		names = append(names, name)
	}
	sort.Strings(names)
	return clip(path, 2048) + "?" + clip(strings.Join(names, "&"), 512)
}

// clip cuts s to at most n bytes of valid UTF-8 and says that it did.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// input is a call's body as it came in: read whole, or still to be streamed.
type input struct {
	media  *bigquery.MediaPart // of a multipart upload, after its metadata
	stream io.Reader           // of a resumable upload's chunk
	length int64               // of stream; -1 where not told
	bytes  int64               // of the body, as far as it is known
	upload *upload             // the session that a chunk belongs to
	// instead answers in BigQuery's place; nil: BigQuery does.
	instead http.RoundTripper
	// maxBytes is how long the answer may be; 0: as long as it is.
	maxBytes int64
}

// classify reads the request strictly and says what it is. The call is
// returned, as far as it was understood, with a refusal too. Should reading
// panic, which is a mistake of ours that an agent found first, the call is
// refused and recorded like any other that cannot be read.
func (g *Gateway) classify(w http.ResponseWriter, r *http.Request) (call *bigquery.Call, in *input, refusal *bigquery.Error) {
	defer func() {
		if p := recover(); p != nil {
			g.cfg.Log.ErrorContext(r.Context(), "reading a call panicked; it is refused", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			in, refusal = nil, invalid("the call cannot be read; this is a fault of the gateway, please report it")
		}
	}()
	return g.read(w, r)
}

func (g *Gateway) read(w http.ResponseWriter, r *http.Request) (*bigquery.Call, *input, *bigquery.Error) {
	if err := oddRequest(r); err != nil {
		return nil, nil, err
	}
	call, refusal := bigquery.Route(bigquery.Request{Verb: r.Method, EscapedPath: r.URL.EscapedPath(), RawQuery: r.URL.RawQuery, Header: r.Header})
	if refusal != nil {
		return call, nil, refusal
	}
	in := &input{bytes: max(r.ContentLength, 0)}
	body := g.paced(w, r)
	switch {
	case call.Upload == bigquery.UploadResumableChunk:
		if r.Header.Get("Content-Encoding") != "" {
			return call, nil, invalid("a resumable upload's chunks must not have a Content-Encoding of their own")
		}
		in.stream, in.length = body, r.ContentLength
		if in.upload = g.uploads.get(call.UploadID); in.upload == nil {
			return call, nil, &bigquery.Error{Status: http.StatusNotFound, Reason: "notFound", Message: "Trailgate: no such upload session; it ended, or began before the gateway's last start: start the upload again"}
		}
		return call, in, nil
	case call.Upload == bigquery.UploadMultipart:
		if r.Header.Get("Content-Encoding") != "" {
			return call, nil, invalid("a multipart upload must not have a Content-Encoding of its own")
		}
		meta, media, refusal := bigquery.OpenMultipart(r.Header.Get("Content-Type"), body, g.cfg.MaxBodyBytes)
		if refusal != nil {
			return call, nil, refusal
		}
		in.media = media
		return call, in, call.ReadBody(meta)
	}
	var raw []byte
	if r.Body != http.NoBody {
		if raw, refusal = g.readBody(body, r); refusal != nil {
			return call, nil, refusal
		}
		in.bytes = int64(len(raw))
	}
	switch {
	case call.FormOverride:
		return call, in, call.ReadForm(raw)
	case call.HasBody:
		return call, in, call.ReadBody(raw)
	case len(bytes.TrimSpace(raw)) > 0:
		return call, nil, invalid(call.Method + " takes no request body")
	}
	return call, in, nil
}

// oddRequest refuses shapes of HTTP on which two parsers may disagree.
func oddRequest(r *http.Request) *bigquery.Error {
	switch {
	case r.Method == http.MethodConnect || r.Header.Get("Upgrade") != "":
		return invalid("CONNECT and protocol upgrades are not served here")
	case r.URL.Host != "" || r.URL.Scheme != "" || r.URL.Opaque != "":
		return invalid("an absolute request target is not served here; set the API endpoint to the gateway instead of a proxy")
	}
	for _, name := range []string{"Content-Type", "Content-Encoding", "X-Http-Method-Override", "Content-Range", "X-Goog-Request-Reason", humanHeader} {
		if len(r.Header.Values(name)) > 1 {
			return invalid("the header " + name + " stands more than once")
		}
	}
	return nil
}

func invalid(why string) *bigquery.Error {
	return &bigquery.Error{Status: http.StatusBadRequest, Reason: "invalid", Message: "Trailgate: " + why}
}

// readBody reads a JSON or form body whole, decoded, within its bound.
func (g *Gateway) readBody(body io.Reader, r *http.Request) ([]byte, *bigquery.Error) {
	if r.ContentLength > g.cfg.MaxBodyBytes {
		return nil, g.tooLarge()
	}
	switch enc := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); enc {
	case "", "identity":
	case "gzip":
		return g.readGzip(bufio.NewReader(body))
	default:
		return nil, &bigquery.Error{Status: http.StatusUnsupportedMediaType, Reason: "invalid", Message: "Trailgate: Content-Encoding must be gzip or none"}
	}
	raw, err := io.ReadAll(io.LimitReader(body, g.cfg.MaxBodyBytes+1))
	switch {
	case err != nil:
		return nil, invalid("the body could not be read whole: " + rootCause(err))
	case int64(len(raw)) > g.cfg.MaxBodyBytes:
		return nil, g.tooLarge()
	}
	return raw, nil
}

// readGzip reads a body of one gzip member and nothing behind it, which some
// decoders would read on and others would not.
func (g *Gateway) readGzip(body *bufio.Reader) ([]byte, *bigquery.Error) {
	zr, err := gzip.NewReader(body)
	if err != nil {
		return nil, invalid("the body says gzip and is not")
	}
	zr.Multistream(false)
	raw, err := io.ReadAll(io.LimitReader(zr, g.cfg.MaxBodyBytes+1))
	if err != nil {
		return nil, invalid("the body's gzip is damaged: " + rootCause(err))
	}
	if int64(len(raw)) > g.cfg.MaxBodyBytes {
		return nil, g.tooLarge()
	}
	if _, err := body.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, invalid("something follows the body's gzip")
	}
	return raw, nil
}

func (g *Gateway) tooLarge() *bigquery.Error {
	return &bigquery.Error{
		Status: http.StatusRequestEntityTooLarge, Reason: "uploadTooLarge",
		Message: fmt.Sprintf("Trailgate: the request body is larger than %d bytes", g.cfg.MaxBodyBytes),
	}
}

// pacedBody gives each read of a body its own deadline, so that a client that
// trickles bytes holds a slot no longer than it sends.
type pacedBody struct {
	r     io.Reader
	rc    *http.ResponseController
	stall time.Duration
}

func (g *Gateway) paced(w http.ResponseWriter, r *http.Request) io.Reader {
	return &pacedBody{r.Body, http.NewResponseController(w), g.cfg.StallTimeout}
}

func (p *pacedBody) Read(b []byte) (int, error) {
	// A writer without deadlines (tests) simply has none.
	_ = p.rc.SetReadDeadline(time.Now().Add(p.stall))
	n, err := p.r.Read(b)
	if err != nil {
		_ = p.rc.SetReadDeadline(time.Time{}) // else the server would take the waiting agent for gone
	}
	return n, err
}

// output is what goes upstream.
type output struct {
	url         string
	body        []byte // whole, or
	stream      io.Reader
	length      int64
	contentType string
	sum         *summed // of stream
	upload      *upload
	instead     http.RoundTripper // answers in BigQuery's place
	maxBytes    int64             // of the answer
}

// summed counts and hashes what passes.
type summed struct {
	r io.Reader
	h hash.Hash
	n int64
	// err is what the client's side of the stream broke with, if it did.
	err error
}

func (s *summed) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.h.Write(b[:n])
	s.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// stamp settles what exactly will be sent, with the marks that tie BigQuery's
// own records to this entry: a job id where the client gave none, labels, and
// the request reason (a header, see forward).
func (g *Gateway) stamp(e *trailgate.Entry, c *bigquery.Call, in *input, conn *Connection) (*output, *bigquery.Error) {
	e.Request.Bytes = 0 // that of what is forwarded
	out := &output{url: strings.TrimSuffix(conn.Upstream.String(), "/") + c.Path, upload: in.upload, instead: in.instead, maxBytes: in.maxBytes}
	if in.upload != nil {
		out.url = in.upload.url
		out.sum = &summed{r: in.stream, h: sha256.New()}
		out.stream, out.length = out.sum, in.length
		return out, nil
	}
	s := bigquery.Stamp{
		Labels: map[string]string{"trailgate_entry": e.ID, "trailgate_agent": e.Principal.Agent, "trailgate_session": e.Session},
	}
	if c.CreatesJob {
		s.JobID, s.RequestID = "trailgate_"+e.ID, e.ID
	}
	body, refusal := c.Stamp(s)
	if refusal != nil {
		return nil, refusal
	}
	if c.CreatesJob && c.Job != nil {
		job := *c.Job
		e.Job = &job
	}
	g.newJob(e, c)
	if in.media != nil {
		contentType, stream := in.media.Forward(body)
		out.sum = &summed{r: stream, h: sha256.New()}
		out.stream, out.length, out.contentType = out.sum, -1, contentType
		return out, nil
	}
	if body != nil {
		out.body = body
		sum := sha256.Sum256(body)
		e.Request.SHA256, e.Request.Bytes = hex.EncodeToString(sum[:]), int64(len(body))
	}
	return out, nil
}
