package connector

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trailgate/trailgate"
)

// Used is what a call's way was, known for good once its answer was read to the end.
type Used struct {
	Connector trailgate.ConnectorUse
	// Minted is as whom the call went on, where the connector made the credential.
	Minted *Minted
}

// Forward sends a request on through a connector of the call's connection, and reads its
// answer. It is sent once: another connector is tried only while no byte of the request
// can have left. Errors are a [*Failure], or the context's. used is nil where no connector
// took the call; it may be called when the answer's body was read or given up.
func (h *Hub) Forward(req *http.Request, call Call) (resp *http.Response, used func() Used, err error) {
	meta, err := headerJSON(call)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the call: %w", err)
	}
	var tried []*tunnel
	for {
		t := h.choose(call.Connection, tried)
		if t == nil {
			return nil, nil, &Failure{
				Kind: FailNoConnector, Temporary: true, Message: "no connector of connection " + call.Connection + " is connected",
				Fix: "start one beside the project (trailgate connector --config F); \"trailgate connector status\" shows those that are known",
			}
		}
		x := &exchange{hub: h, t: t, call: call, credential: h.Credential(call.Connection), verb: cmp.Or(req.Method, http.MethodGet)}
		resp, sent, err := x.send(req, meta)
		if err == nil {
			return resp, x.used, nil
		}
		x.release()
		if req.Context().Err() != nil {
			return nil, x.used, req.Context().Err()
		}
		if sent {
			if failure, ok := errors.AsType[*Failure](err); ok {
				failure.Connector = t.name
				return nil, x.used, failure
			}
			h.counters.lost.Add(1)
			return nil, x.used, &Failure{Kind: FailLost, Temporary: true, Connector: t.name, Message: "the tunnel to connector " + t.name + " was lost while the call was under way: " + clip(err.Error(), 200)}
		}
		tried = append(tried, t)
	}
}

// exchange is one call on its way through one tunnel.
type exchange struct {
	hub        *Hub
	t          *tunnel
	call       Call
	credential string
	verb       string
	pathSum    string
	request    *counted
	status     int
	minted     *Minted
	once       sync.Once
	stop       context.CancelFunc

	mu     sync.Mutex // guards what follows
	use    trailgate.ConnectorUse
	ended  bool // the answer was read to its end, or broke
	broken bool
}

func (x *exchange) release() {
	x.once.Do(func() {
		if x.stop != nil {
			x.stop()
		}
		x.hub.done(x.t)
	})
}

func (x *exchange) used() Used {
	x.mu.Lock()
	defer x.mu.Unlock()
	u := x.use
	u.Name, u.KeySHA256, u.Credential = x.t.name, x.t.keySum, x.credential
	switch {
	case u.Verdict != "":
	case x.broken:
		u.Verdict = trailgate.ReceiptMissing
	default:
		u.Verdict = trailgate.ReceiptNone
	}
	return Used{u, x.minted}
}

// send tells in sent whether the connector may have got anything of the request.
func (x *exchange) send(req *http.Request, meta string) (_ *http.Response, sent bool, _ error) {
	var wrote atomic.Bool
	ctx, cancel := context.WithCancel(req.Context())
	x.stop = cancel
	// A field is told of when it is encoded, right before the frame is written: while
	// none was, nothing was.
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaderField: func(string, []string) { wrote.Store(true) }})
	out := req.Clone(ctx)
	out.URL.Scheme = "http" // of the tunnel, which is encrypted below
	out.Header.Set(headerTarget, req.URL.Scheme+"://"+req.URL.Host)
	out.Header.Set(headerCall, meta)
	if x.credential == trailgate.CredentialConnector {
		out.Header.Del("Authorization")
	}
	x.pathSum = sum(target(req.URL.Scheme, req.URL.Host, req.URL.EscapedPath(), req.URL.RawQuery))
	x.request = &counted{h: sha256.New()}
	if req.Body != nil && req.Body != http.NoBody {
		x.request.r = req.Body
		out.Body = struct {
			io.Reader
			io.Closer
		}{x.request, io.NopCloser(nil)} // a try that fails before it begins must not close what the next one needs
	}
	out.GetBody = nil
	// The answer is awaited from when the body was last taken from: a long upload is no
	// silence of BigQuery's.
	var tooLate atomic.Bool
	late := time.AfterFunc(x.hub.cfg.AnswerTimeout, func() {
		tooLate.Store(true)
		cancel()
	})
	x.request.taken = func() { late.Reset(x.hub.cfg.AnswerTimeout) }
	resp, err := x.t.cc.RoundTrip(out)
	x.request.settle()
	late.Stop()
	if tooLate.Load() && err != nil && req.Context().Err() == nil {
		return nil, true, &Failure{Kind: FailTimeout, Message: "no answer came through the connector in time"}
	}
	if err != nil {
		x.mu.Lock()
		x.broken = true
		x.mu.Unlock()
		return nil, wrote.Load(), err
	}
	x.status = resp.StatusCode
	body := &receipted{x: x, body: resp.Body, resp: resp, sum: sha256.New(), length: -1}
	resp.ContentLength = -1
	if n, err := strconv.ParseInt(resp.Header.Get(headerLength), 10, 64); err == nil && n >= 0 {
		resp.ContentLength, body.length = n, n
	}
	if text := resp.Header.Get(headerUpstream); text != "" && x.credential == trailgate.CredentialConnector {
		m := &Minted{}
		if err := json.Unmarshal([]byte(text), m); err == nil {
			if !slices.Contains(mintedModes, m.Mode) {
				m.Mode = "unknown" // no word of the connector's passes for one of the gateway's
			}
			m.Principal = clip(m.Principal, 256)
			x.minted = m
		}
	}
	failure := resp.Header.Get(headerError)
	for name := range resp.Header {
		if strings.HasPrefix(name, headerPrefix) {
			resp.Header.Del(name)
		}
	}
	resp.Request, resp.Body = req, body
	if failure == "" {
		return resp, true, nil
	}
	x.status = 0
	_, _ = io.Copy(io.Discard, io.LimitReader(body, maxFrame)) // to the receipt
	_ = body.Close()
	f := &Failure{Kind: FailBroken}
	if err := json.Unmarshal([]byte(failure), f); err != nil {
		f.Message = "the connector says that it failed, in words that cannot be read"
	}
	f.Message, f.Fix = clip(f.Message, 1000), clip(f.Fix, 1000)
	return nil, true, f
}

// counted is a body on its way, measured. An answer may come before all of it is read.
type counted struct {
	r io.Reader

	mu    sync.Mutex // guards what follows
	h     hash.Hash
	n     int64
	taken func() // called when something was read; nil: nobody asks
}

func (c *counted) Read(p []byte) (int, error) {
	if c.r == nil {
		return 0, io.EOF
	}
	n, err := c.r.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.h.Write(p[:n])
	c.n += int64(n)
	if c.taken != nil && n > 0 {
		c.taken()
	}
	return n, err
}

// settle has nobody told of what is read from now on.
func (c *counted) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = nil
}

func (c *counted) measured() (n int64, sum string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n, hex.EncodeToString(c.h.Sum(nil))
}

// receipted is the body of an answer. Its end is told only when the receipt was looked at.
type receipted struct {
	x      *exchange
	body   io.ReadCloser
	resp   *http.Response
	sum    hash.Hash
	n      int64
	length int64 // as BigQuery announced it; -1: it did not
	err    error
}

func (b *receipted) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.body.Read(p)
	b.sum.Write(p[:n])
	b.n += int64(n)
	b.x.t.bytes.Add(int64(n))
	if err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = b.end()
	} else {
		b.x.mu.Lock()
		b.x.broken = true
		b.x.mu.Unlock()
		b.x.hub.counters.lost.Add(1)
		err = fmt.Errorf("connector %s: %w", b.x.t.name, err)
	}
	b.err = err
	return n, err
}

func (b *receipted) Close() error {
	err := b.body.Close()
	b.x.release()
	return err
}

// end looks at the receipt. What is wrong with it is for the entry to say; only an answer
// that is not whole is an error here.
func (b *receipted) end() error {
	x := b.x
	u := trailgate.ConnectorUse{Signature: clip(b.resp.Trailer.Get(headerSignature), 1024)}
	whole := true
	var r *trailgate.Receipt
	if quoted := b.resp.Trailer.Get(headerReceipt); quoted == "" {
		u.Verdict = trailgate.ReceiptMissing
	} else if err := json.Unmarshal([]byte(quoted), &u.Receipt); err != nil || len(u.Receipt) > trailgate.MaxReceiptBytes {
		u.Receipt, u.Verdict, u.Differs = "", trailgate.ReceiptBad, "not to be read"
	} else if r, err = trailgate.VerifyReceipt(u.Receipt, u.Signature, x.t.key); err != nil {
		u.Verdict, u.Differs = trailgate.ReceiptBad, clip(err.Error(), 200)
	} else if u.Verdict, u.Differs = trailgate.ReceiptGood, b.compare(r); u.Differs != "" {
		u.Verdict = trailgate.ReceiptDiffers
	}
	switch {
	case r != nil:
		whole = r.Whole
	case b.length >= 0:
		whole = b.n == b.length
	}
	switch u.Verdict {
	case trailgate.ReceiptMissing:
		x.hub.counters.missingReceipts.Add(1)
	case trailgate.ReceiptBad, trailgate.ReceiptDiffers:
		x.hub.counters.badReceipts.Add(1)
	}
	x.hub.counters.calls.Add(1)
	x.mu.Lock()
	x.use, x.ended = u, true
	x.mu.Unlock()
	if !whole {
		return fmt.Errorf("the connector's answer of BigQuery's broke off after %d bytes: %w", b.n, io.ErrUnexpectedEOF)
	}
	return io.EOF
}

// compare names the first field in which a receipt is not what the gateway saw.
func (b *receipted) compare(r *trailgate.Receipt) string {
	x := b.x
	sent, sentSum := x.request.measured()
	// BigQuery may answer a request that it has no use for before it has all of it.
	early := r.Status == 0 || r.Status >= 400 && r.RequestBytes < sent
	for _, f := range []struct {
		name string
		same bool
	}{
		{"entry", r.Entry == x.call.Entry},
		{"connector", r.Connector == x.t.name},
		{"connection", r.Connection == x.call.Connection},
		{"verb", r.Verb == x.verb},
		{"path_sha256", r.PathSHA256 == x.pathSum},
		{"status", r.Status == x.status},
		{"response_bytes", r.ResponseBytes == b.n},
		{"response_sha256", r.ResponseSHA256 == hex.EncodeToString(b.sum.Sum(nil))},
		{"request_bytes", early || r.RequestBytes == sent},
		{"request_sha256", early || r.RequestSHA256 == sentSum},
		{"credential", r.Credential == x.credential},
	} {
		if !f.same {
			return f.name
		}
	}
	return ""
}
