package chaos

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/trail"
)

// What a gateway may take at most, however long it runs under the load of TestSoak: the
// bounds of docs/reliability.md, "Memory", with room for what is under way. A leak of
// 100 bytes a call would not be seen by these in a short run; TestCallLeavesNothing,
// TestEntryLeavesNothing and TestRecordLeavesNothing are for that.
const (
	maxLiveHeap  = 176 << 20 // of Go, right after a collection
	maxOutside   = 128 << 20 // anonymous memory that is not Go's: SQLite's page caches, mostly
	maxGoroutine = 150       // 8 agents
)

// use is what a gateway takes.
type use struct{ anonymous, live, outside, goroutines, descriptors int }

func (u *use) most(v use) {
	u.anonymous, u.live, u.outside = max(u.anonymous, v.anonymous), max(u.live, v.live), max(u.outside, v.outside)
	u.goroutines, u.descriptors = max(u.goroutines, v.goroutines), max(u.descriptors, v.descriptors)
}

// use reads what the gateway takes now, and what it says that it remembers.
func (r *rig) use() (u use, remembered string) {
	r.t.Helper()
	m := r.metrics()
	u.live, u.goroutines = int(m["go_gc_heap_live_bytes"]), int(m["go_goroutines"])
	if u.live == 0 || u.goroutines == 0 {
		r.t.Fatalf("the gateway does not tell what it takes: %v", m)
	}
	u.anonymous, u.descriptors = r.anonymous(), r.descriptors()
	// What Go has, less what it gave back, counts what it never touched, too: this is
	// the least that the rest can be.
	u.outside = max(0, u.anonymous-int(m["go_memstats_sys_bytes"]-m["go_memstats_heap_released_bytes"]))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if kind, ok := strings.CutPrefix(name, "trailgate_remembered{what="); ok {
			remembered += fmt.Sprintf(" %s %.0f", strings.Trim(kind, "\"}"), m[name])
		}
	}
	return u, remembered
}

// metrics are the gateway's own figures, through its socket.
func (r *rig) metrics() map[string]float64 {
	r.t.Helper()
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.data, "admin.sock"))
	}}}
	resp, err := hc.Get("http://socket/api/v1/metrics")
	must(r.t, err)
	defer resp.Body.Close()
	m := map[string]float64{}
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		name, value, ok := strings.Cut(sc.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			m[name] = v
		}
	}
	return m
}

// anonymous is what the gateway has of memory, in bytes, without files that are mapped,
// as the index is: those are the kernel's to drop.
func (r *rig) anonymous() int {
	r.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	must(r.t, err)
	_, rest, ok := strings.Cut(string(raw), "RssAnon:")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); !ok || err != nil {
		r.t.Fatalf("no RssAnon: %v", err)
	}
	return kib << 10
}

// TestSoak: memory, goroutines and descriptors of a gateway under load stay within
// their bounds. TRAILGATE_SOAK is for how many seconds; default 20.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	length := time.Duration(envInt(t, "TRAILGATE_SOAK", 20)) * time.Second
	r := newRigWith(t, options{config: killsConfig})
	r.mixed = true
	r.start()
	r.query("CREATE TABLE staging.kills (n INT64)")
	http.DefaultClient.CloseIdleConnections()
	ctx, cancel := context.WithCancel(t.Context())
	var number int64
	var numbers sync.Mutex
	wg := r.load(ctx, 8, &number, &numbers)
	r.waitFor("it is warm", func() bool { return r.answeredSoFar() >= 200 })
	var thirds [3]use
	var remembered string
	start := time.Now()
	for {
		spent := time.Since(start)
		if spent >= length {
			break
		}
		var now use
		now, remembered = r.use()
		thirds[min(2, int(3*spent/length))].most(now)
		time.Sleep(min(length/100, time.Second))
	}
	cancel()
	wg.Wait()
	t.Logf("%v: %d calls, %d failed; it remembers%s", length, number, max(0, r.failed.Load()-8), remembered)
	var most use
	for i, u := range thirds {
		most.most(u)
		t.Logf("third %d: at most %d MiB anonymous, at least %d MiB of them outside of Go, %d MiB alive in the heap, %d goroutines, %d descriptors",
			i+1, u.anonymous>>20, u.outside>>20, u.live>>20, u.goroutines, u.descriptors)
	}
	if most.live > maxLiveHeap || most.outside > maxOutside || most.anonymous > 2*maxLiveHeap+maxOutside+64<<20 {
		t.Errorf("it takes more memory than all bounds together: %d MiB alive, %d MiB outside of the heap, %d MiB in all", most.live>>20, most.outside>>20, most.anonymous>>20)
	}
	if most.goroutines > maxGoroutine {
		t.Errorf("%d goroutines for 8 agents", most.goroutines)
	}
	if last, first := thirds[2].descriptors, thirds[0].descriptors; last > first+20 {
		t.Errorf("descriptors grow: %d, then %d", first, last)
	}
	if n := r.failed.Load(); n > 8 { // those under way when it ended
		t.Errorf("%d calls failed", n)
	}
	must(t, r.cmd.Process.Signal(os.Interrupt))
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("graceful stop: %v\n%s", err, r.output)
	}
	report, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: filepath.Join(r.dir, "data")})
	must(t, err)
	t.Logf("verified: %d entries", report.Entries)
}
