package connector

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
)

// Served is a connection as a connector serves it.
type Served struct {
	// Mint makes the Google credential of a call; nil: the gateway does. rejected is to be
	// called where BigQuery does not take it. Errors are a [*Failure] or any other.
	Mint Mint
	// Audit makes the credential of calls for [PurposeAudit], where Mint is set; nil: such
	// calls are refused. They are never made as an agent.
	Audit Mint
}

// Mint makes a Google credential for a call.
type Mint func(ctx context.Context, call Call) (token string, m Minted, rejected func(), err error)

// minter is who makes a call's credential. With that of an auditor, who may see every job,
// a gateway that was stolen is to get at no more than jobs.
func (s Served) minter(call Call, verb, path string) (Mint, *Failure) {
	switch {
	case s.Mint == nil || call.Purpose == "":
		return s.Mint, nil
	case call.Purpose != PurposeAudit:
		return nil, &Failure{Kind: FailNotAllowed, Message: "this connector knows no calls for " + clip(call.Purpose, 80) + "; it may be older than the gateway"}
	case s.Audit == nil:
		return nil, &Failure{Kind: FailCredential, Message: "this connector has no auditor's credential for connection " + clip(call.Connection, 80), Fix: "set auditor of the connection in the connector's configuration"}
	case !audits(verb, path):
		return nil, &Failure{Kind: FailNotAllowed, Message: "an auditor's credential is for reading jobs, and not for " + clip(verb+" "+path, 200)}
	}
	return s.Audit, nil
}

// audits reports whether a request is one that BigQuery's own records are read with:
// jobs.list, jobs.get, a query over INFORMATION_SCHEMA and its results.
func audits(verb, path string) bool {
	rest, ok := strings.CutPrefix(path, "/bigquery/v2/projects/")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) < 2 || len(parts) > 3 {
		return false
	}
	switch {
	case verb == http.MethodPost:
		return len(parts) == 2 && parts[1] == "jobs"
	case verb != http.MethodGet:
		return false
	}
	return parts[1] == "jobs" || parts[1] == "queries" && len(parts) == 3
}

// hopHeaders are of one connection (RFC 9110, section 7.6.1) and go no further.
var hopHeaders = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// session is one tunnel, at the connector.
type session struct {
	c    *Connector
	conn *tls.Conn
	name string
	key  *tls.Certificate // signs receipts
	beat time.Duration
	end  context.CancelFunc

	draining chan struct{} // closed when it is to drain
}

func (s *session) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == controlPath {
		s.control(w, r)
		return
	}
	s.c.inFlight.Add(1)
	defer s.c.inFlight.Add(-1)
	s.c.calls.Add(1)
	s.forward(w, r)
}

// control gives signs of life, and hears those of the gateway. What comes from there is
// that it is there.
func (s *session) control(w http.ResponseWriter, r *http.Request) {
	out := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	patience := 3 * s.beat
	overdue := time.AfterFunc(patience, s.end)
	defer overdue.Stop()
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		in := beats(r.Body)
		for {
			if _, err := in(); err != nil {
				return
			}
			overdue.Reset(patience)
		}
	}()
	tick := time.NewTicker(s.beat)
	defer tick.Stop()
	draining := s.draining
	for drains := false; ; {
		b := beat{Calls: s.c.calls.Load(), Failed: s.c.failed.Load(), InFlight: s.c.inFlight.Load(), Bytes: s.c.bytes.Load(), Draining: drains}
		if enc.Encode(b) != nil || out.Flush() != nil {
			break
		}
		s.c.touched()
		select {
		case <-tick.C:
			continue
		case <-draining:
			drains, draining = true, nil
			continue
		case <-heard:
		case <-r.Context().Done():
		}
		break
	}
	s.end()
	<-heard // the body ends with the tunnel
}

// refused tells the gateway why a call has no answer.
func (s *session) refused(w http.ResponseWriter, f *Failure) {
	s.c.failed.Add(1)
	text, err := headerJSON(f)
	if err != nil {
		text = `{"kind":"` + f.Kind + `"}`
	}
	w.Header().Set(headerError, text)
	w.WriteHeader(http.StatusBadGateway)
}

// forward does one call.
func (s *session) forward(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Trailer", headerReceipt+", "+headerSignature)
	receipt := &trailgate.Receipt{Connector: s.name, Verb: r.Method}
	body := &counted{h: sha256.New()}
	if r.ContentLength != 0 {
		body.r = r.Body
	}
	answer := sha256.New()
	var head bytes.Buffer
	gzipped := false
	defer func() {
		receipt.RequestBytes, receipt.RequestSHA256 = body.measured()
		receipt.ResponseSHA256 = hex.EncodeToString(answer.Sum(nil))
		receipt.Job = jobIn(head.Bytes(), gzipped)
		receipt.Time = time.Now().UTC().Truncate(time.Millisecond)
		s.sign(h, receipt)
	}()
	var call Call
	if err := json.Unmarshal([]byte(r.Header.Get(headerCall)), &call); err != nil {
		s.refused(w, &Failure{Kind: FailNotAllowed, Message: "the gateway does not say which call this is"})
		return
	}
	receipt.Entry, receipt.Connection = call.Entry, call.Connection
	served, ok := s.c.cfg.Connections[call.Connection]
	if !ok {
		s.refused(w, &Failure{Kind: FailNotAllowed, Message: "this connector does not serve connection " + clip(call.Connection, 80)})
		return
	}
	receipt.Credential = trailgate.CredentialGateway
	if served.Mint != nil {
		receipt.Credential = trailgate.CredentialConnector
	}
	to, err := s.c.cfg.Allowed.check(r.Header.Get(headerTarget))
	if err != nil || !strings.HasPrefix(r.URL.EscapedPath(), "/") {
		s.c.cfg.Log.WarnContext(r.Context(), "the gateway asked for what is not allowed", "target", clip(r.Header.Get(headerTarget), 200), "entry", call.Entry)
		s.refused(w, &Failure{Kind: FailNotAllowed, Message: "this connector's configuration does not let it reach " + clip(r.Header.Get(headerTarget), 200), Fix: "add it to \"allow\" in the connector's configuration, if it is BigQuery"})
		return
	}
	receipt.PathSHA256 = sum(target(to.Scheme, to.Host, r.URL.EscapedPath(), r.URL.RawQuery))

	out := &http.Request{Method: r.Method, URL: to.JoinPath(), Header: r.Header.Clone(), Host: to.Host, ContentLength: r.ContentLength, ProtoMajor: 1, ProtoMinor: 1}
	out.URL.Path, out.URL.RawPath, out.URL.RawQuery = r.URL.Path, r.URL.RawPath, r.URL.RawQuery
	for _, name := range hopHeaders {
		out.Header.Del(name)
	}
	for name := range out.Header {
		if strings.HasPrefix(name, headerPrefix) {
			out.Header.Del(name)
		}
	}
	rejected := func() {}
	mint, failure := served.minter(call, r.Method, r.URL.EscapedPath())
	if failure != nil {
		s.refused(w, failure)
		return
	}
	if mint != nil {
		out.Header.Del("Authorization")
		token, minted, reject, err := mint(r.Context(), call)
		if err != nil {
			failure, ok := errors.AsType[*Failure](err)
			if !ok {
				failure = &Failure{Kind: FailCredential, Message: err.Error(), Temporary: true}
			}
			s.refused(w, failure)
			return
		}
		if token != "" {
			out.Header.Set("Authorization", "Bearer "+token)
		}
		receipt.Principal, rejected = minted.Principal, reject
		if text, err := headerJSON(minted); err == nil {
			h.Set(headerUpstream, text)
		}
	}
	// A body that the transport cannot have again: net/http sends a request without one a
	// second time, by itself, where a connection that it kept breaks.
	out.Body = io.NopCloser(body)
	reached := false
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { reached = true }})
	resp, err := s.c.upstream.RoundTrip(out.WithContext(ctx))
	if err != nil {
		f := &Failure{Kind: FailBroken, Message: "BigQuery: " + clip(err.Error(), 500)}
		var netErr net.Error
		switch {
		case errors.As(err, &netErr) && netErr.Timeout() && reached:
			f.Kind = FailTimeout
		case !reached:
			f.Kind, f.Temporary = FailUnreachable, true
		}
		s.refused(w, f)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized {
		rejected()
	}
	for name, values := range resp.Header {
		if !strings.HasPrefix(name, headerPrefix) && name != "Content-Length" {
			h[name] = values
		}
	}
	for _, name := range hopHeaders {
		if name != "Trailer" {
			h.Del(name)
		}
	}
	h["Trailer"] = []string{headerReceipt + ", " + headerSignature}
	if resp.ContentLength >= 0 {
		h.Set(headerLength, strconv.FormatInt(resp.ContentLength, 10))
	}
	gzipped = resp.Header.Get("Content-Encoding") == "gzip"
	receipt.Status = resp.StatusCode
	w.WriteHeader(resp.StatusCode)
	seen := func(p []byte) {
		answer.Write(p)
		receipt.ResponseBytes += int64(len(p))
		s.c.bytes.Add(int64(len(p)))
		if room := headBytes - head.Len(); room > 0 {
			head.Write(p[:min(len(p), room)])
		}
	}
	if err, wrote := carry(w, resp.Body, seen, stop); wrote {
		receipt.Whole = errors.Is(err, io.EOF)
		if !receipt.Whole {
			s.c.failed.Add(1)
		}
	} // else the gateway gave it up
}

// headBytes is how much of an answer is looked through for the job that it names.
const headBytes = 16 << 10

// sign puts the receipt behind the answer.
func (s *session) sign(h http.Header, r *trailgate.Receipt) {
	text := r.Text()
	signature, err := sign(s.key.PrivateKey, text)
	if err != nil {
		s.c.cfg.Log.ErrorContext(context.Background(), "sign a receipt", "entry", r.Entry, "err", err)
		return // none is told of by its absence
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		return
	}
	h.Set(headerReceipt, string(quoted))
	h.Set(headerSignature, base64.StdEncoding.EncodeToString(signature))
}

func sign(key crypto.PrivateKey, text string) ([]byte, error) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key cannot sign")
	}
	if _, ok := signer.Public().(ed25519.PublicKey); ok {
		return signer.Sign(rand.Reader, []byte(text), crypto.Hash(0))
	}
	digest := sha256.Sum256([]byte(text))
	return signer.Sign(rand.Reader, digest[:], crypto.SHA256)
}

// jobIn finds the job that an answer names, in as much of it as was kept: a member
// "jobReference" at the top, as job resources, query answers and pages of results have it.
func jobIn(head []byte, gzipped bool) string {
	if gzipped {
		zr, err := gzip.NewReader(bytes.NewReader(head))
		if err != nil {
			return ""
		}
		plain, _ := io.ReadAll(io.LimitReader(zr, 4*headBytes)) // the head ends in the middle
		head = plain
	}
	dec := json.NewDecoder(bytes.NewReader(head))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return ""
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return ""
		}
		if name == "jobReference" {
			var ref struct {
				ProjectID string `json:"projectId"`
				JobID     string `json:"jobId"`
				Location  string `json:"location"`
			}
			if dec.Decode(&ref) != nil || ref.JobID == "" {
				return ""
			}
			id := ref.JobID
			if ref.Location != "" {
				id = ref.Location + "." + id
			}
			return clip(ref.ProjectID+":"+id, 512)
		}
		var skipped json.RawMessage
		if dec.Decode(&skipped) != nil {
			return ""
		}
	}
	return ""
}
