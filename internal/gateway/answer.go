package gateway

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
)

// bufferBytes is how much of an answer is read at a time. An answer that fits
// is not begun before its outcome is committed; of a longer one only the last
// byte is held.
const bufferBytes = 64 << 10

// tapDepth is how many buffers may wait for the capture to read them, which
// with bufferBytes bounds what one answer holds in memory.
const tapDepth = 4

// answer is a response on its way to the agent, all but its tail.
type answer struct {
	g        *Gateway
	w        http.ResponseWriter
	ctx      context.Context // of the agent's connection, and of what may cut the call
	maxBytes int64           // of the body; 0: no limit
	call     *bigquery.Call
	entry    *trailgate.Entry // the intent
	resp     *http.Response   // nil where the gateway answers itself
	cancel   context.CancelFunc
	capture  *bigquery.Capture
	rows     *rows // nil: none are kept
	upstream *trailgate.Upstream
	passed   func() Passed // nil: through no connector
	lost     bool          // the tunnel was, on the way
	open     bool          // no outcome is to be committed: BigQuery will be asked
	sum      *summed       // of a streamed request body
	flags    []string

	instead *bigquery.Error // what the agent is told where resp is not passed on
	end     string
	detail  string // why, where end is not EndComplete
	begun   bool   // header, and all of the body but held, are with the agent
	held    []byte
	buf     *[bufferBytes + 1]byte
	bytes   int64 // of the body
	tapErr  error
}

// fail makes the answer an error of the gateway's own.
func (a *answer) fail(end, detail string, instead *bigquery.Error) {
	a.end, a.detail, a.instead = end, detail, instead
	a.release()
}

// release lets go of the upstream connection.
func (a *answer) release() {
	if a.resp != nil {
		a.resp.Body.Close()
	}
	if a.cancel != nil {
		a.cancel()
	}
}

// stream passes the body on as it comes, the capture reading along, and
// returns with the tail held: everything, if it fits one buffer.
func (a *answer) stream() {
	defer a.release()
	a.end = trailgate.EndComplete
	a.buf = buffers.Get().(*[bufferBytes + 1]byte)
	buf := a.buf[:]
	n, err := a.fill(buf)
	if err != nil {
		a.bytes, a.held = int64(n), buf[:n]
		if a.overLimit() {
			return
		}
		a.tapErr = a.captureWhole(a.held)
		if !errors.Is(err, io.EOF) {
			a.upstreamCut(err)
		}
		return
	}
	a.header()
	a.begun = true
	a.bytes = int64(n)
	tap := a.newTap()
	// Each round hands on all but the last byte of what stands in buf, and
	// carries that byte over to the front of the next buffer. fresh is where the
	// capture has not read yet.
	for fresh := buf[:n]; ; {
		if a.overLimit() {
			tap.chunks <- chunk{fresh, nil}
			break
		}
		last := buf[n-1]
		if werr := a.write(buf[:n-1]); werr != nil {
			a.end, a.detail = trailgate.EndClientGone, "write: "+rootCause(werr)
			tap.chunks <- chunk{fresh, nil}
			break
		}
		next := tap.free()
		tap.chunks <- chunk{fresh, buf}
		next[0] = last
		m, err := a.resp.Body.Read(next[1:])
		a.bytes += int64(m)
		buf, n, fresh = next, m+1, next[1:m+1]
		if err == nil {
			continue
		}
		tap.chunks <- chunk{fresh, nil}
		if !errors.Is(err, io.EOF) {
			a.upstreamCut(err)
			break
		}
		a.held = buf[:n]
		break
	}
	a.tapErr = tap.close()
}

// buffers are the first buffers of answers, which most answers fit.
var buffers = sync.Pool{New: func() any { return new([bufferBytes + 1]byte) }}

// done gives the first buffer back. Nothing of the answer is touched after it.
func (a *answer) done() {
	if a.buf != nil {
		buffers.Put(a.buf)
		a.buf, a.held = nil, nil
	}
}

// fill reads until buf is full or the body ends.
func (a *answer) fill(buf []byte) (int, error) {
	n := 0
	for n < len(buf) {
		m, err := a.resp.Body.Read(buf[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// overLimit ends an answer that is longer than may be read.
func (a *answer) overLimit() bool {
	if a.maxBytes <= 0 || a.bytes <= a.maxBytes {
		return false
	}
	a.flags = append(a.flags, "result_limit")
	a.end, a.detail = trailgate.EndRefused, "the answer is longer than may be read"
	if !a.begun {
		a.instead = tooMuch(a.maxBytes)
	}
	return true
}

func (a *answer) upstreamCut(err error) {
	if wasCut(a.ctx) {
		a.end, a.detail = trailgate.EndRefused, "suspended while the call was under way"
		a.flags = append(a.flags, "effect_unknown")
		if !a.begun {
			a.instead = denied("the agent or the connection was suspended while the call was under way")
		}
		return
	}
	if a.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		// Not BigQuery broke off: nobody was there to read, and it was not waited for longer.
		a.end, a.detail = trailgate.EndClientGone, "the agent went away in the middle of the answer"
	} else if a.end, a.detail = trailgate.EndUpstreamCut, rootCause(err); !a.begun {
		a.instead = &bigquery.Error{Status: http.StatusBadGateway, Reason: "backendError", Message: "Trailgate: BigQuery's answer broke off: " + rootCause(err)}
	}
	if a.end == trailgate.EndUpstreamCut && a.passed != nil && a.passed().Connector.Receipt == "" {
		a.tunnelLost()
	}
	if a.call.CreatesJob && !a.call.DryRun {
		a.flags = append(a.flags, "effect_unknown")
	}
}

func (a *answer) write(p []byte) error {
	_ = http.NewResponseController(a.w).SetWriteDeadline(time.Now().Add(a.g.cfg.StallTimeout))
	_, err := a.w.Write(p)
	return err
}

// header sends the response's head.
func (a *answer) header() {
	h := a.w.Header()
	for _, name := range responseHeaders {
		if v := a.resp.Header.Values(name); len(v) > 0 {
			h[name] = v
		}
	}
	if a.call.Upload == bigquery.UploadResumableStart {
		if v := a.resp.Header.Get("Location"); v != "" {
			h.Set("Location", v)
		}
	}
	h.Set("X-Content-Type-Options", "nosniff")
	if a.resp.ContentLength >= 0 {
		h.Set("Content-Length", strconv.FormatInt(a.resp.ContentLength, 10))
	}
	a.w.WriteHeader(a.resp.StatusCode)
}

// describe fills the outcome entry with what the answer told.
func (a *answer) describe(e *trailgate.Entry) {
	facts := a.capture.Facts()
	o := facts.Outcome
	o.End, o.Bytes = a.end, a.bytes
	if a.instead != nil {
		o.Status, o.ErrorReason, o.ErrorMessage = a.instead.Status, a.instead.Reason, a.detail
	} else {
		o.Status = a.resp.StatusCode
		if a.detail != "" && o.ErrorMessage == "" {
			o.ErrorMessage = a.detail
		}
	}
	o.ErrorMessage = clip(o.ErrorMessage, 1024)
	o.ErrorReason = clip(o.ErrorReason, 128)
	if a.tapErr != nil && o.CaptureError == "" {
		o.CaptureError = clip(a.tapErr.Error(), 256)
	}
	if a.sum != nil {
		o.RequestBytes, o.RequestSHA256 = a.sum.n, hex.EncodeToString(a.sum.h.Sum(nil))
	}
	e.Outcome = &o
	if e.Job = facts.Job; e.Job != nil && a.entry.Job != nil && a.entry.Job.ID == e.Job.ID {
		e.Job.AssignedBy, e.Job.OwnerAgent, e.Job.OwnerEntry = a.entry.Job.AssignedBy, a.entry.Job.OwnerAgent, a.entry.Job.OwnerEntry
	}
	if facts.Tables != nil {
		// BigQuery's statistics name what a statement referenced, its target among
		// them, and say only of DDL which that is. What the statement was read to
		// write stays beside them.
		written := facts.Tables.Written
		if a.entry.Tables != nil && a.entry.StatementType != nil {
			written = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(written), a.entry.Tables.Written...))))
		}
		if e.Tables = tables(facts.Tables.Read, written); e.Tables != nil {
			e.Tables.Final = true
		}
	}
	a.compare(e, &facts)
	a.billing(&facts, &o)
	a.receipt(e)
	e.Upstream = a.upstream
	if e.Upstream != nil && facts.UserEmail != "" && e.Upstream.Principal == "" && a.call.CreatesJob {
		e.Upstream.Principal = clip(facts.UserEmail, 256)
	}
	e.Flags = append(e.Flags, a.flags...)
	slices.Sort(e.Flags)
	e.Flags = slices.Compact(e.Flags)
}

// compare holds what BigQuery says of a job against what was read before it was let
// go: by this call, or by the one that made the job it asks about.
func (a *answer) compare(e *trailgate.Entry, facts *bigquery.Facts) {
	read := a.entry
	if asks := a.call.Method == methodJob || a.call.Method == methodResults; asks && facts.Job != nil {
		if began := a.g.running.began(jobKey(facts.Job.Project, facts.Job.ID)); began != nil {
			read = began
		}
	}
	if facts.StatementType != "" {
		st := &trailgate.StatementType{Final: clip(facts.StatementType, 64)}
		if local := read.StatementType; local != nil && local.Local != "" {
			st.Local, st.DryRun = local.Local, local.DryRun
			st.Disagree = local.Local != facts.StatementType || local.DryRun != "" && local.DryRun != facts.StatementType
		}
		e.StatementType = st
		if st.Disagree && st.Local != "UNKNOWN" {
			a.differs("statement_type_differs")
		}
	}
	if facts.Tables == nil || read.StatementType == nil {
		return
	}
	for _, name := range facts.Tables.Written {
		parts := strings.Split(name, ".")
		if len(parts) >= 2 && strings.HasPrefix(parts[len(parts)-2], "_") {
			continue // where the rows of a query go that were not sent anywhere
		}
		if read.Tables == nil || read.Tables.Omitted == 0 && !slices.Contains(read.Tables.Written, name) {
			a.differs("written_table_differs")
			return
		}
	}
}

func (a *answer) differs(flag string) {
	a.flags = append(a.flags, flag)
	a.g.metrics.disagreements.WithLabelValues("final").Inc()
}

// finish hands over the tail. Called only once the outcome is durable.
func (a *answer) finish() {
	defer a.done()
	switch {
	case a.instead != nil:
		writeError(a.w, a.instead)
	case a.end == trailgate.EndUpstreamCut, a.end == trailgate.EndClientGone, a.end == trailgate.EndRefused && a.begun:
		panic(http.ErrAbortHandler) // the agent must see that the answer is not whole
	case !a.begun:
		a.resp.ContentLength = int64(len(a.held))
		if a.resp.StatusCode == http.StatusNotModified || a.resp.StatusCode == http.StatusNoContent {
			a.resp.ContentLength = -1 // these have no body and say nothing of its length
		}
		a.header()
		_ = a.write(a.held)
	default:
		_ = a.write(a.held)
	}
}

// cut answers when the outcome could not be recorded: with an error while
// nothing has been sent, else by breaking off, so that no answer is ever whole
// without its outcome.
func (a *answer) cut(instead *bigquery.Error) {
	if a.begun {
		panic(http.ErrAbortHandler)
	}
	instead.Message += "; the call itself went upstream, and the trail holds its intent"
	writeError(a.w, instead)
}

// tap feeds the capture beside a long stream, in a goroutine of its own, while
// the next buffer is on its way. It owns tapDepth buffers, so a capture that is
// slower than the stream slows it, in bounded memory.
type tap struct {
	capture *bigquery.Capture
	chunks  chan chunk
	pool    chan []byte
	made    int
	done    chan error
	current chunk
}

type chunk struct {
	unread []byte
	buf    []byte // goes back to the pool when read; nil: keep it
}

func (a *answer) newTap() *tap {
	t := &tap{capture: a.capture, chunks: make(chan chunk, tapDepth), pool: make(chan []byte, tapDepth+1), done: make(chan error, 1)}
	go func() { t.done <- t.run(a.gzipped()) }()
	return t
}

// free is a buffer that nobody reads any more.
func (t *tap) free() []byte {
	if t.made < tapDepth {
		t.made++
		return make([]byte, bufferBytes+1)
	}
	return <-t.pool
}

// close waits until the capture has read everything.
func (t *tap) close() error {
	close(t.chunks)
	return <-t.done
}

func (t *tap) run(gz bool) error {
	var err error
	if gz {
		err = inflate(t.capture, t)
	} else {
		_, err = t.WriteTo(t.capture)
	}
	// After an error nobody reads, but the stream still needs its buffers.
	t.recycle()
	for t.current = range t.chunks {
		t.recycle()
	}
	return err
}

// maxInflated bounds what a compressed answer may become. It costs no memory,
// only time; 64 GiB is far above any answer of BigQuery's.
const maxInflated = 64 << 30

// inflate hands the capture what a compressed answer says.
func inflate(w io.Writer, r io.Reader) error {
	zr, err := gzip.NewReader(r)
	if errors.Is(err, io.EOF) {
		return nil // no body at all
	}
	if err != nil {
		return errors.New("the answer says gzip and is not")
	}
	n, err := io.Copy(w, io.LimitReader(zr, maxInflated))
	switch {
	case err != nil:
		return errors.New("the answer's gzip is damaged: " + rootCause(err))
	case n == maxInflated:
		return errors.New("the answer inflates beyond 64 GiB")
	}
	return nil
}

func (a *answer) gzipped() bool { return a.resp.Header.Get("Content-Encoding") == "gzip" }

// captureWhole reads an answer that fits one buffer, in place.
func (a *answer) captureWhole(body []byte) error {
	if a.gzipped() {
		return inflate(a.capture, bytes.NewReader(body))
	}
	_, err := a.capture.Write(body)
	return err
}

// Read gives the chunks as a stream, and their buffers back.
func (t *tap) Read(p []byte) (int, error) {
	for len(t.current.unread) == 0 {
		t.recycle()
		next, ok := <-t.chunks
		if !ok {
			return 0, io.EOF
		}
		t.current = next
	}
	n := copy(p, t.current.unread)
	t.current.unread = t.current.unread[n:]
	return n, nil
}

// WriteTo feeds the capture without a copy.
func (t *tap) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for c := range t.chunks {
		t.current = c
		n, err := w.Write(c.unread)
		total += int64(n)
		t.recycle()
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func (t *tap) recycle() {
	if t.current.buf != nil {
		t.pool <- t.current.buf // has room: there are never more buffers than tapDepth, plus the first
		t.current.buf = nil
	}
}

func acceptsGzip(h http.Header) bool {
	for part := range strings.SplitSeq(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		name, params, _ := strings.Cut(part, ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") && strings.ReplaceAll(params, " ", "") != "q=0" {
			return true
		}
	}
	return false
}
