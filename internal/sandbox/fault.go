package sandbox

import (
	"fmt"
	"io"
	"net/http"
	"time"
)

// Fault is something that goes wrong with one answer. Fields combine: Delay
// comes first, then what answers in the sandbox's place, and CutAfterBytes and
// the like act on the sandbox's own answer, after the call has had its effect.
type Fault struct {
	Delay time.Duration // before anything else

	// Instead of the call: it has no effect.
	Status            int           // answer with this status, and an error with:
	Reason            string        // BigQuery's reason; default backendError
	Message           string        // default: a word on the fault
	RetryAfter        time.Duration // Optional: the header of that name
	Redirect          string        // answer 307 to this address
	Garbage           bool          // answer 200 with what is not JSON
	HangBeforeHeaders bool          // never answer, until the client goes

	// After the call, which has its effect:
	DropAnswer    bool  // cut the connection before any header
	CutAfterBytes int64 // cut the connection after so many bytes of the body; 0: don't
	HangAfter     int64 // stop sending after so many bytes of the body, until the client goes; 0: don't
	WrongLength   int64 // announce this Content-Length; 0: don't
	Informational bool  // send 103 Early Hints first
}

// SetFault has fn judge every request from now on; nil for a request, or for
// fn, means that nothing goes wrong. fn may be called concurrently and must
// not read the body.
func (s *Sandbox) SetFault(fn func(*http.Request) *Fault) {
	if fn == nil {
		s.fault.Store(nil)
		return
	}
	s.fault.Store(&fn)
}

// apply does what comes before the call. done: the request is answered.
func (f *Fault) apply(s *Sandbox, w http.ResponseWriter, r *http.Request) (_ http.ResponseWriter, done bool) {
	if f == nil {
		return w, false
	}
	if f.Delay > 0 {
		s.wait(r, f.Delay)
	}
	switch {
	case f.HangBeforeHeaders:
		s.hang(r)
		panic(http.ErrAbortHandler)
	case f.Redirect != "":
		w.Header().Set("Location", f.Redirect)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return w, true
	case f.Garbage:
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		fmt.Fprint(w, "<html>\x00{\"kind\": \"bigquery#job\", }]]")
		return w, true
	case f.Status != 0:
		e := &apiError{status: f.Status, reason: f.Reason, message: f.Message}
		if e.reason == "" {
			e.reason = "backendError"
		}
		if e.message == "" {
			e.message = "The sandbox was told to fail here"
		}
		if f.RetryAfter > 0 {
			w.Header().Set("Retry-After", decimal(int64(f.RetryAfter/time.Second)))
		}
		writeError(w, e)
		return w, true
	}
	if f.DropAnswer || f.CutAfterBytes > 0 || f.HangAfter > 0 || f.WrongLength > 0 || f.Informational {
		return &faultyWriter{ResponseWriter: w, s: s, r: r, f: f}, false
	}
	return w, false
}

// hang waits for the client's going away, or the sandbox's. net/http sees the
// client go only once the body is read.
func (s *Sandbox) hang(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // what came of it doesn't matter any more
	select {
	case <-r.Context().Done():
	case <-s.ctx.Done():
	}
}

// faultyWriter spoils an answer on its way.
type faultyWriter struct {
	http.ResponseWriter
	s    *Sandbox
	r    *http.Request
	f    *Fault
	sent int64
	head bool
}

func (w *faultyWriter) WriteHeader(code int) {
	if w.head {
		return
	}
	w.head = true
	if w.f.DropAnswer {
		panic(http.ErrAbortHandler)
	}
	if w.f.Informational {
		w.ResponseWriter.WriteHeader(http.StatusEarlyHints)
	}
	if w.f.WrongLength > 0 {
		w.Header().Set("Content-Length", decimal(w.f.WrongLength))
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *faultyWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	for _, limit := range []int64{w.f.CutAfterBytes, w.f.HangAfter} {
		if limit <= 0 || w.sent+int64(len(p)) <= limit {
			continue
		}
		w.ResponseWriter.Write(p[:max(limit-w.sent, 0)])
		http.NewResponseController(w.ResponseWriter).Flush() // the client should see as much
		if limit == w.f.HangAfter {
			w.s.hang(w.r)
		}
		panic(http.ErrAbortHandler)
	}
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	return n, err
}
