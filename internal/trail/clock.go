package trail

import (
	"strconv"
	"sync"
	"time"
)

// maxStep is the most that the wall clock may differ from the monotonic one
// between two looks before that is worth an entry.
const maxStep = time.Second

// clock gives entries their times, which never go back, and notices when
// somebody sets the wall clock.
type clock struct {
	now  func() time.Time
	mono func() time.Duration // time since some fixed moment, whatever is done to the wall clock

	mu   sync.Mutex // guards all below
	last time.Time  // of the newest entry
	wall time.Time  // at the last look
	at   time.Duration
}

func newClock(now func() time.Time, mono func() time.Duration) *clock {
	c := &clock{now: now, mono: mono}
	c.wall, c.at = now().Round(0), mono()
	return c
}

// stamp is the time for a new entry: the wall clock's, or, while that lies
// behind, the time of the entry before.
func (c *clock) stamp() time.Time {
	now := c.now().Round(0).UTC()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.last) {
		return c.last
	}
	c.last = now
	return now
}

// look compares the wall clock with the monotonic one since the last look and
// says, in words for an entry, if it was set by more than a second. Slow
// adjustment passes.
func (c *clock) look() (detail map[string]string, stepped bool) {
	wall, at := c.now().Round(0).UTC(), c.mono()
	c.mu.Lock()
	defer c.mu.Unlock()
	expected := c.wall.Add(at - c.at)
	c.wall, c.at = wall, at
	return stepDetail(expected, wall)
}

// resume sets the time of the newest entry of an earlier run, and says if the
// wall clock now lies behind it.
func (c *clock) resume(last time.Time) (detail map[string]string, stepped bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = last
	if !c.wall.Before(last) {
		return nil, false
	}
	return stepDetail(last, c.wall)
}

func stepDetail(expected, wall time.Time) (map[string]string, bool) {
	step := wall.Sub(expected)
	if step.Abs() <= maxStep {
		return nil, false
	}
	return map[string]string{
		"expected": expected.UTC().Format(time.RFC3339Nano),
		"found":    wall.UTC().Format(time.RFC3339Nano),
		"step_ns":  strconv.FormatInt(int64(step), 10),
	}, true
}
