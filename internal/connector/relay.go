package connector

import (
	"io"
	"sync"
)

const (
	relayBytes = 256 << 10 // what is read ahead of a large answer, at most
	relayRead  = 32 << 10  // room that is waited for: one read for few bytes costs as much as for many
)

// carry copies an answer to the gateway: a small one as it comes, of a larger one the rest
// by a [relay]. See run for what it takes and returns.
func carry(w io.Writer, r io.Reader, seen func([]byte), stop func()) (err error, wrote bool) {
	y := relays.Get().(*relay)
	defer relays.Put(y)
	for n := 0; n < relayBytes/2; {
		m, err := r.Read(y.buf)
		seen(y.buf[:m])
		if m > 0 {
			if _, werr := w.Write(y.buf[:m]); werr != nil {
				return werr, false
			}
		}
		if err != nil {
			return err, true
		}
		n += m
	}
	return y.run(w, r, seen, stop)
}

// relay carries a large answer from one goroutine that reads to one that writes: while
// one piece is encrypted for the tunnel, the next is decrypted and hashed. What was read
// meanwhile goes out in one piece, so it is few large frames where the tunnel is the
// slower one, and nothing waits where it is the faster. It holds relayBytes and no more:
// who reads slowly slows BigQuery down.
type relay struct {
	mu         sync.Mutex // guards what follows, but not the bytes: the two work on different ones
	cond       sync.Cond
	buf        []byte
	start, len int
	err        error // of reading; io.EOF
	stopped    bool
}

var relays = sync.Pool{New: func() any {
	r := &relay{buf: make([]byte, relayBytes)}
	r.cond.L = &r.mu
	return r
}}

// run reads from r until its end and writes to w; seen gets what was read, in order, on
// the goroutine that reads. stop is called where writing fails, and must end a read that
// waits. The error is reading's (io.EOF: all of it was), unless writing failed.
func (y *relay) run(w io.Writer, r io.Reader, seen func([]byte), stop func()) (err error, wrote bool) {
	y.start, y.len, y.err, y.stopped = 0, 0, nil, false
	var reading sync.WaitGroup
	reading.Go(func() { y.read(r, seen) })
	defer reading.Wait()
	for {
		y.mu.Lock()
		for y.len == 0 && y.err == nil {
			y.cond.Wait()
		}
		piece := y.buf[y.start:min(y.start+y.len, len(y.buf))]
		err := y.err
		y.mu.Unlock()
		if len(piece) == 0 {
			return err, true
		}
		if _, err := w.Write(piece); err != nil {
			y.mu.Lock()
			y.stopped = true
			y.cond.Signal()
			y.mu.Unlock()
			stop()
			return err, false
		}
		y.mu.Lock()
		y.start, y.len = (y.start+len(piece))%len(y.buf), y.len-len(piece)
		y.cond.Signal()
		y.mu.Unlock()
	}
}

func (y *relay) read(r io.Reader, seen func([]byte)) {
	for {
		y.mu.Lock()
		for len(y.buf)-y.len < relayRead && !y.stopped {
			y.cond.Wait()
		}
		end := (y.start + y.len) % len(y.buf)
		room := y.buf[end:min(end+len(y.buf)-y.len, len(y.buf))]
		stopped := y.stopped
		y.mu.Unlock()
		if stopped {
			return
		}
		n, err := r.Read(room)
		seen(room[:n])
		y.mu.Lock()
		y.len += n
		y.err = err
		y.cond.Signal()
		y.mu.Unlock()
		if err != nil {
			return
		}
	}
}
