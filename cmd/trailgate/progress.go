package main

import (
	"fmt"
	"io"
	"time"
)

// progress shows on a terminal how far a long run is; elsewhere it is silent.
// It is used from one goroutine at a time.
type progress struct {
	w     io.Writer
	what  string
	shown bool
	last  time.Time
}

func newProgress(w io.Writer, what string) *progress {
	if terminalWidth(w) == 0 {
		w = nil
	}
	return &progress{w: w, what: what, last: time.Now()} // nothing is shown of a short run
}

// progressEvery is how often the line is drawn.
const progressEvery = 200 * time.Millisecond

func (p *progress) update(done, total uint64) {
	percent := 100.0
	if total > 0 {
		percent = 100 * float64(done) / float64(total)
	}
	p.say("%d of %d entries (%.0f %%)", done, total, percent)
}

// say draws the line where nobody knows how long it will take.
func (p *progress) say(format string, args ...any) {
	if p.w == nil || time.Since(p.last) < progressEvery {
		return
	}
	p.last, p.shown = time.Now(), true
	fmt.Fprintf(p.w, "\r\x1b[K%s: %s", p.what, fmt.Sprintf(format, args...))
}

// end takes the line away.
func (p *progress) end() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
