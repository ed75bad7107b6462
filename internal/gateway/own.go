package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/identity"
)

const (
	ownTimeout = time.Minute
	maxOwn     = 16 << 20 // bytes of an answer, most of which may be a schema
)

// sent is what came of a call of the gateway's own.
type sent struct {
	facts    bigquery.Facts
	status   int
	end      string
	bytes    int64
	upstream *trailgate.Upstream
	flags    []string
	err      error // no answer
}

// send makes a call of the gateway's own, with the credential of the agent for whose
// sake it is. Its intent must be durable; the outcome is the caller's to record.
func (g *Gateway) send(ctx context.Context, e *trailgate.Entry, who identity.Identity, conn *Connection, c *bigquery.Call, verb, path string, body []byte) sent {
	return g.sendFor(ctx, e, who, conn, c, verb, path, body, nil)
}

// sendFor is send with a sink for what the answer brings beside facts; nil: none.
func (g *Gateway) sendFor(ctx context.Context, e *trailgate.Entry, who identity.Identity, conn *Connection, c *bigquery.Call, verb, path string, body []byte, sink bigquery.RowSink) (out sent) {
	out.end = trailgate.EndNotForwarded
	ctx, cancel := context.WithTimeout(ctx, ownTimeout)
	defer cancel()
	ask := federation.Request{
		Principal: e.Principal, Session: e.Session, Connection: conn.Name, Project: c.Project,
		Assertion: who.Assertion, AssertionExpires: who.AssertionExpires,
	}
	credential, err := conn.Credential.Credential(ctx, ask)
	if err != nil {
		g.metrics.credentials.WithLabelValues(conn.Name).Inc()
		out.err = fmt.Errorf("connection %s has no Google credential for this call: %w", conn.Name, err)
		return out
	}
	out.upstream = &trailgate.Upstream{
		Mode: credential.Mode, Principal: credential.Principal, Shared: credential.Shared, Assertion: credential.Assertion, Host: conn.Upstream.Host,
	}
	target, err := url.Parse(strings.TrimSuffix(conn.Upstream.String(), "/") + path)
	if err != nil {
		out.err = fmt.Errorf("upstream address: %w", err)
		return out
	}
	req := &http.Request{
		Method: verb, URL: target, ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
		Header: http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}, "Accept-Encoding": {"identity"}, "X-Goog-Request-Reason": {e.ID}},
	}
	if credential.Token != "" {
		req.Header.Set("Authorization", "Bearer "+credential.Token)
	}
	resp, passed, err := g.roundTrip(conn, req.WithContext(ctx), Hop{Entry: e.ID, Project: c.Project, Session: e.Session, Principal: e.Principal})
	if passed != nil {
		defer func() {
			passed().note(out.upstream)
			out.flags = receiptFlags(out.upstream.Connector)
		}()
	}
	if err != nil {
		out.end, out.err = trailgate.EndUpstreamDown, fmt.Errorf("BigQuery could not be reached: %w", err)
		return out
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized && credential.Token != "" {
		if source, ok := conn.Credential.(federation.Rejecter); ok {
			source.Rejected(ask, credential)
		}
	}
	capture := bigquery.NewCapture(c)
	if sink != nil {
		capture.Rows(sink)
	}
	out.status = resp.StatusCode
	out.bytes, err = io.Copy(capture, io.LimitReader(resp.Body, maxOwn))
	out.facts = capture.Facts()
	switch {
	case err != nil:
		out.end, out.err = trailgate.EndUpstreamCut, fmt.Errorf("BigQuery's answer broke off: %w", err)
	case out.bytes == maxOwn:
		out.end, out.err = trailgate.EndUpstreamCut, errors.New("BigQuery's answer is too long")
	case out.facts.Outcome.CaptureError != "":
		out.end, out.err = trailgate.EndUpstreamCut, errors.New("BigQuery's answer cannot be read: "+out.facts.Outcome.CaptureError)
	default:
		out.end = trailgate.EndComplete
	}
	return out
}

// sibling begins the entry of something that the gateway does for a call.
func (g *Gateway) sibling(call *trailgate.Entry) *trailgate.Entry {
	p := *call.Principal
	var level *trailgate.Recording
	if textless(call) {
		level = &trailgate.Recording{Level: trailgate.RecordingMetadata}
	}
	return &trailgate.Entry{
		ID: g.newID(), Gateway: call.Gateway, Principal: &p, Session: call.Session, Client: call.Client,
		Connection: call.Connection, Project: call.Project, Location: call.Location, Recording: level,
	}
}

// outcomeOf begins the entry that says how a call ended.
func outcomeOf(e *trailgate.Entry) *trailgate.Entry {
	return &trailgate.Entry{
		Kind: trailgate.KindOutcome, IntentID: e.ID, Session: e.Session, Connection: e.Connection, Project: e.Project,
		Method: e.Method, Class: e.Class, Principal: &trailgate.Principal{Agent: e.Principal.Agent}, Outcome: &trailgate.Outcome{},
	}
}
