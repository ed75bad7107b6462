package webhook

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// line is what waits for one endpoint. One goroutine takes from it.
type line struct {
	Endpoint
	cfg   *Config
	wake  chan struct{} // has room for one: there is something new
	quiet time.Time     // no try before; of the goroutine alone
	away  bool          // the last try found nobody; of the goroutine alone

	mu      sync.Mutex // guards what follows
	fresh   []*item    // not tried yet, in order
	retries []*item    // at most one of each subject
	busy    bool       // one is being tried
	lost    []Delivery // found no place
	unheard int        // lost ones that found no place either
	ended   bool       // nobody takes from it any more
}

// item is a notice on its way.
type item struct {
	n        Notice
	queued   time.Time
	due      time.Time
	attempts int
	wait     time.Duration
	status   int
	err      error // of the last try
}

func newLine(e Endpoint, cfg *Config) *line {
	return &line{Endpoint: e, cfg: cfg, wake: make(chan struct{}, 1)}
}

// Send queues a notice for every endpoint that wants its type. It never blocks: what
// finds a queue full is told by Run as not delivered. After Run returned there is
// nobody to deliver or to tell: the operational log has it.
func (s *Sender) Send(ctx context.Context, n Notice) {
	n = withinBounds(n)
	for _, l := range s.lines {
		if !l.wants(n.Type) {
			continue
		}
		if !l.put(n) {
			s.cfg.Log.ErrorContext(ctx, "a notice is neither delivered nor on record: nobody takes any", "webhook", l.Name, "type", n.Type, "notice", n.ID)
		}
	}
}

// Run delivers until ctx ends. Then it tries once, for as long as the grace allows,
// what still waits, and tells of the rest that it was not delivered. It is called once.
func (s *Sender) Run(ctx context.Context) {
	// A try that began is not cut when ctx ends, but when the grace does: whether a
	// cut one arrived would not be known.
	tries, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(s.cfg.Grace)
		defer timer.Stop()
		select {
		case <-timer.C:
			cut()
		case <-tries.Done():
		}
	})
	defer stop()
	var wg sync.WaitGroup
	for _, l := range s.lines {
		wg.Go(func() {
			l.serve(ctx, tries)
			l.finish(tries)
		})
	}
	wg.Wait()
}

// Test sends one notice now, outside of the queue, and returns what became of it.
// Delivered does not hear of it. An unknown name is an error, a failed delivery is not.
func (s *Sender) Test(ctx context.Context, name string) (Delivery, error) {
	for _, l := range s.lines {
		if l.Name != name {
			continue
		}
		id, err := ulid.New(ulid.Timestamp(time.Now()), rand.Reader)
		if err != nil {
			return Delivery{}, fmt.Errorf("make a notice's id: %w", err)
		}
		it := &item{queued: time.Now(), n: withinBounds(Notice{
			ID: "test_" + strings.ToLower(id.String()), Type: TypeTest, Time: s.cfg.Now(), Gateway: s.cfg.Gateway,
			Title: "Trailgate can reach this webhook", Fields: []Field{{"gateway", s.cfg.Gateway}, {"webhook", name}},
		})}
		l.try(ctx, it)
		return l.delivery(it, it.err), nil
	}
	return Delivery{}, fmt.Errorf("webhook %q is not configured", name)
}

// put queues a notice, or notes that it was lost; false: nobody would hear of it.
func (l *line) put(n Notice) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	waiting := len(l.fresh) + len(l.retries)
	if l.busy {
		waiting++
	}
	switch {
	case waiting < maxQueue && goodID(n.ID):
		l.fresh = append(l.fresh, &item{n: n, queued: time.Now(), wait: firstRetry})
	case len(l.lost) < maxLost:
		d := Delivery{Endpoint: l.Name, Notice: n, Error: "too many notices wait for this endpoint"}
		if !goodID(n.ID) {
			d.Error = "its id cannot stand in a header"
		}
		d.Notice.Fields, d.Notice.Statement = nil, "" // up to ten thousand of these wait
		l.lost = append(l.lost, d)
	default:
		l.unheard++
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return true
}

// serve tries what is due until ctx ends.
func (l *line) serve(ctx, tries context.Context) {
	for ctx.Err() == nil {
		l.tellLost(tries)
		it, pause := l.take(time.Now())
		if it == nil {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-l.wake:
			case <-ctx.Done():
			}
			timer.Stop()
			continue
		}
		if time.Since(it.queued) > maxAge {
			l.tell(tries, it, errors.Join(errors.New("it waited for an hour"), it.err))
			continue
		}
		again, after := l.try(tries, it)
		l.settle(tries, it, again, after)
	}
}

// take takes the next notice that is due, or says how long there is none. Those of one
// subject go out in the order they came: nobody hears that a call waits after they
// heard that it was denied.
func (l *line) take(now time.Time) (*item, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rest := l.quiet.Sub(now); rest > 0 && len(l.fresh)+len(l.retries) > 0 {
		return nil, rest
	}
	pause := maxAge
	first := -1
	for i, it := range l.retries {
		if first < 0 || it.due.Before(l.retries[first].due) {
			first = i
		}
	}
	if first >= 0 {
		if pause = l.retries[first].due.Sub(now); pause <= 0 {
			return l.remove(&l.retries, first), 0
		}
	}
	for i, it := range l.fresh {
		if !l.retrying(it.n.Subject) {
			return l.remove(&l.fresh, i), 0
		}
	}
	return nil, pause
}

func (l *line) retrying(subject string) bool {
	if subject == "" {
		return false
	}
	for _, it := range l.retries {
		if it.n.Subject == subject {
			return true
		}
	}
	return false
}

// remove takes one out; l.mu is held.
func (l *line) remove(from *[]*item, i int) *item {
	list := *from
	it := list[i]
	if i == 0 { // the usual case, without moving the others
		list[0] = nil
		*from = list[1:]
	} else {
		copy(list[i:], list[i+1:])
		list[len(list)-1] = nil
		*from = list[:len(list)-1]
	}
	l.busy = true
	return it
}

// settle has a notice tried again, or tells of its end.
func (l *line) settle(ctx context.Context, it *item, again bool, after time.Duration) {
	if it.err == nil {
		if l.away {
			l.away = false
			l.cfg.Log.InfoContext(ctx, "a webhook takes notices again", "webhook", l.Name)
		}
		l.tell(ctx, it, nil)
		return
	}
	now := time.Now()
	after = min(after, lastRetry)
	if after > 0 { // it means all that we send, not this notice
		l.quiet = now.Add(after)
	}
	// A little apart, so that what failed together is not tried together.
	pause := max(min(it.wait*4/5+mrand.N(it.wait*2/5+1), lastRetry), after)
	it.due = now.Add(pause)
	it.wait = min(2*it.wait, lastRetry)
	if !again || it.attempts >= maxAttempts || it.due.Sub(it.queued) > maxAge {
		l.tell(ctx, it, it.err)
		return
	}
	if !l.away { // once, not for each try of each notice
		l.away = true
		l.cfg.Log.WarnContext(ctx, "a webhook does not take notices; trying again", "webhook", l.Name, "type", it.n.Type, "err", it.err)
	}
	l.mu.Lock()
	l.retries = append(l.retries, it)
	l.busy = false
	l.mu.Unlock()
}

// finish tries once what still waits when the gateway stops, and tells of the rest.
func (l *line) finish(tries context.Context) {
	l.mu.Lock()
	left := append(l.retries, l.fresh...)
	l.retries, l.fresh, l.ended = nil, nil, true
	l.mu.Unlock()
	l.tellLost(tries)
	trying := !time.Now().Before(l.quiet)
	var rest []Delivery
	for _, it := range left {
		stopped := errors.New("the gateway stopped before it could be sent")
		if trying && tries.Err() == nil {
			_, after := l.try(tries, it)
			if it.err == nil {
				l.tell(tries, it, nil)
				continue
			}
			trying = it.status != 0 && after == 0 // who is not there for one is not there for the next
		}
		if it.err != nil {
			stopped = fmt.Errorf("the gateway stopped; before that: %w", it.err)
		}
		rest = append(rest, l.delivery(it, stopped))
	}
	l.record(tries, rest)
}

func (l *line) delivery(it *item, err error) Delivery {
	d := Delivery{Endpoint: l.Name, Notice: it.n, Attempts: it.attempts, Status: it.status, Duration: time.Since(it.queued)}
	if err != nil {
		d.Error = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return d
}

func (l *line) tell(ctx context.Context, it *item, err error) {
	l.cfg.Delivered(context.WithoutCancel(ctx), l.delivery(it, err))
	l.mu.Lock()
	l.busy = false
	l.mu.Unlock()
}

// tellLost tells of those that found the queue full. Send leaves that to the
// goroutine: to tell may take as long as an entry's way to the disk.
func (l *line) tellLost(ctx context.Context) {
	l.mu.Lock()
	lost, unheard := l.lost, l.unheard
	l.lost, l.unheard = nil, 0
	l.mu.Unlock()
	l.record(ctx, lost)
	if unheard > 0 {
		l.cfg.Log.ErrorContext(ctx, "notices are neither delivered nor on record: too many at once", "webhook", l.Name, "notices", unheard)
	}
}

// record tells of many at once, so that those who write wait together for the disk.
func (l *line) record(ctx context.Context, all []Delivery) {
	var wg sync.WaitGroup
	turn := make(chan struct{}, recorders)
	for _, d := range all {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			l.cfg.Delivered(context.WithoutCancel(ctx), d)
		})
	}
	wg.Wait()
}
