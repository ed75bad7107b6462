package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/gateway"
)

// liveHeap is what is in use once all garbage is gone. What pools hold survives one
// collection.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestRoom: what the gateway remembers of jobs and tables stays within its room, be
// they small and many or as large as an agent can make them; and what it takes in
// truth is about what it says.
func TestRoom(t *testing.T) {
	for _, kind := range []string{"owners", "running", "schemas"} {
		for _, large := range []bool{false, true} {
			const room = 2 << 20
			n := map[bool]int{false: 12_000, true: 2_000}[large]
			if kind == "schemas" {
				n /= 20
			}
			before := liveHeap()
			says, it := gateway.Fill(kind, n, room, large)
			took := liveHeap() - before
			runtime.KeepAlive(it)
			t.Logf("%s, large %v: %d things; says %d KiB of %d, takes %d", kind, large, n, says>>10, room>>10, took>>10)
			if says > room || says < room/2 {
				t.Errorf("%s, large %v: says that it takes %d bytes of %d", kind, large, says, room)
			}
			if took > int64(says)*3/2+128<<10 {
				t.Errorf("%s, large %v: takes %d bytes and says %d", kind, large, took, says)
			}
		}
	}
}

// forgetful is a trail that keeps nothing.
type forgetful struct{ n atomic.Uint64 }

func (f *forgetful) Append(_ context.Context, e *trailgate.Entry) error {
	e.Seq, e.Time = f.n.Add(1)-1, time.Now().UTC()
	_, err := e.Encode()
	return err
}

func (f *forgetful) PutBlob(_ context.Context, data []byte) (string, error) {
	return sha256Hex(data), nil
}

// TestCallLeavesNothing: once what it remembers is full, a gateway takes no more memory
// for a call than before.
func TestCallLeavesNothing(t *testing.T) {
	var n atomic.Int64 // rounds
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		id := fmt.Sprint(n.Load())
		state := "DONE"
		if strings.HasSuffix(id, "1") {
			state = "RUNNING"
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"jobReference": map[string]string{"projectId": "demo-project", "jobId": "job-" + id, "location": "US"},
			"status":       map[string]string{"state": state}, "jobComplete": true, "rows": []any{}, "pageToken": "token-" + id,
			"statistics": map[string]any{"query": map[string]any{"statementType": "SELECT", "totalBytesBilled": "1000"}},
		})
	}, func(c *gateway.Config) { c.Trail = &forgetful{} })
	r.gw.Shrink(50)
	call := func(agent, verb, path, body string, want int) {
		req := httptest.NewRequest(verb, path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		if agent != "" {
			req.Header.Set("Authorization", "Bearer "+r.tokens[agent])
		}
		w := httptest.NewRecorder()
		r.gw.ServeHTTP(w, req)
		if w.Code != want {
			t.Fatalf("%s %s: %d %s", verb, path, w.Code, w.Body)
		}
	}
	round := func() {
		n := n.Add(1)
		const jobs, queries = "/bigquery/v2/projects/demo-project/jobs", "/bigquery/v2/projects/demo-project/queries"
		sql := fmt.Sprintf("SELECT %d FROM shop.orders_%d", n, n)
		if n%10 == 0 {
			sql += strings.Repeat(" -- long", 2000) // goes into a body of its own
		}
		call("etl-bot", "POST", jobs, fmt.Sprintf(`{"jobReference":{"projectId":"demo-project","jobId":"job-%d"},"configuration":{"query":{"query":%q,"useLegacySql":false}}}`, n, sql), 200)
		call("analyst-bot", "POST", queries, fmt.Sprintf(`{"query":%q,"requestId":"r-%d","useLegacySql":false}`, sql, n), 200)
		call("etl-bot", "GET", fmt.Sprintf("%s/job-%d?location=US", queries, n), "", 200)
		call("", "GET", jobs, "", 401)
		call("etl-bot", "GET", fmt.Sprintf("/bigquery/v2/projects/nobody-%d/jobs", n), "", 403)
		if n%50 == 0 { // what this test itself keeps
			r.mu.Lock()
			r.seen, r.body = nil, nil
			r.mu.Unlock()
		}
	}
	warm, more := 300, 1000
	if testing.Short() {
		warm, more = 80, 250
	}
	for range warm {
		round()
	}
	before := liveHeap()
	for range more {
		round()
	}
	grown := liveHeap() - before
	t.Logf("%d bytes more after %d calls", grown, 5*more)
	if grown > 64<<10+60*5*int64(more) {
		t.Errorf("%d calls left %d bytes behind, %d each", 5*more, grown, grown/int64(5*more))
	}
}
