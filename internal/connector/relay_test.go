package connector_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/connector"
)

// pieces reads in pieces of any size, small and large.
type pieces struct {
	r   io.Reader
	rnd *rand.Rand
}

func (p pieces) Read(b []byte) (int, error) {
	most := 1 << p.rnd.IntN(20)
	return p.r.Read(b[:min(most, len(b))])
}

// An answer of any size arrives as it was, whatever its pieces, and is seen once, in order.
func TestCarry(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	broke := errors.New("broke")
	for _, size := range []int{0, 1, 4096, 128<<10 - 1, 128 << 10, 128<<10 + 1, 256 << 10, 1<<20 + 17, 5 << 20} {
		for _, end := range []error{io.EOF, broke} {
			want := make([]byte, size)
			for i := range want {
				want[i] = byte(rnd.Uint32())
			}
			var in io.Reader = bytes.NewReader(want)
			if end != io.EOF {
				in = io.MultiReader(in, failing{end})
			}
			var wrote, seen bytes.Buffer
			err, ok := connector.Carry(&wrote, pieces{in, rnd}, func(p []byte) { seen.Write(p) }, func() { t.Error("stopped") })
			if !ok || !errors.Is(err, end) {
				t.Fatalf("%d bytes: %v, %v", size, err, ok)
			}
			if !bytes.Equal(wrote.Bytes(), want) || !bytes.Equal(seen.Bytes(), want) {
				t.Fatalf("%d bytes: %d were written, %d seen, or others", size, wrote.Len(), seen.Len())
			}
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Where writing fails, a read that waits is ended, and waited for.
func TestCarryStops(t *testing.T) {
	for _, after := range []int{0, 1 << 20} {
		pr, pw := io.Pipe()
		go func() {
			junk := make([]byte, 64<<10)
			for {
				if _, err := pw.Write(junk); err != nil {
					return
				}
			}
		}()
		gone := errors.New("gone")
		err, ok := connector.Carry(&limited{after, gone}, pr, func([]byte) {}, func() { pr.Close() })
		pr.Close()
		if ok || !errors.Is(err, gone) {
			t.Fatalf("after %d bytes: %v, %v", after, err, ok)
		}
	}
}

type limited struct {
	left int
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, l.err
	}
	return len(p), nil
}

// Who does not read its answer slows its own call down to nothing, holds no more than so
// much of it in memory, and holds up no other call of the tunnel.
func TestStalledReader(t *testing.T) {
	r := newRig(t)
	const size, most = 256 << 20, 96 << 20 // windows are 4 MiB; what the kernel keeps for its sockets is more
	var given atomic.Int64
	bigquery := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/large" {
			io.WriteString(w, "small")
			return
		}
		chunk := make([]byte, 64<<10)
		for range size / len(chunk) {
			n, err := w.Write(chunk)
			given.Add(int64(n))
			if err != nil {
				return
			}
		}
	}))
	t.Cleanup(bigquery.Close)
	cfg := r.config(r.enroll("lake-1", "lake"), "lake")
	var err error
	if cfg.Allowed, err = connector.NewAllowed([]string{bigquery.URL}); err != nil {
		t.Fatal(err)
	}
	r.start(cfg)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	const stalled = 4
	for range stalled {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, bigquery.URL+"/large", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, _, err := r.hub.Forward(req, connector.Call{Entry: "stalled", Connection: "lake"})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.ReadFull(resp.Body, make([]byte, 1<<10)); err != nil {
			t.Fatal(err)
		}
	}
	small := func() {
		a := r.send(context.Background(), "small", "lake", http.MethodGet, bigquery.URL+"/small", "")
		if a.err != nil || string(a.body) != "small" || a.used.Connector.Verdict != trailgate.ReceiptGood {
			t.Fatalf("a call beside: %q, %v, %+v", a.body, a.err, a.used)
		}
	}
	// Until no more comes. A machine that pauses may end this early, which proves less.
	for last, still := int64(-1), 0; still < 10; time.Sleep(20 * time.Millisecond) {
		small()
		now := given.Load()
		if now > stalled*most {
			t.Fatalf("BigQuery could give %d MiB that nobody read", now>>20)
		}
		if still++; now != last {
			last, still = now, 0
		}
	}
	cancel()
	small()
}
