package gateway_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/gateway"
)

// TestUpstreamTLS: an upstream that cannot prove who it is gets nothing to see.
func TestUpstreamTLS(t *testing.T) {
	var asked atomic.Bool
	elsewhere := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Store(true) }))
	elsewhere.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that the gateway breaks off
	elsewhere.StartTLS()
	t.Cleanup(elsewhere.Close)
	r := newRig(t, answerJob, func(c *gateway.Config) {
		target, err := url.Parse(elsewhere.URL)
		if err != nil {
			t.Fatal(err)
		}
		c.Connections[0].Upstream = target
	})
	resp, body, err := r.do(r.request("etl-bot", "POST", jobsPath, deleteBody))
	if err != nil || resp.StatusCode != http.StatusBadGateway {
		t.Fatalf("got %v %v %s", resp, err, body)
	}
	reason(t, body)
	if asked.Load() {
		t.Error("the call went to a server that nobody vouches for")
	}
	if _, outcome := r.one(); outcome.Outcome.End != trailgate.EndUpstreamDown {
		t.Errorf("%s", dump(outcome))
	}
}
