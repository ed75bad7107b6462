package approval

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/trailgate/trailgate"
)

// Bounds of a store.
const (
	DefaultMaxPending = 1000
	DefaultWindow     = time.Hour
	retention         = 7 * 24 * time.Hour
	releaseWait       = 10 * time.Second
	maxIdle           = time.Minute // of Run
	retryAfter        = 5 * time.Second
)

// limits are how much is kept beside Options.MaxPending.
type limits struct {
	perAgent     int   // open requests of one agent
	done         int   // requests in final states
	donePerAgent int   // so that one agent cannot have the others' forgotten
	doneBytes    int64 // of their files, which are in memory too
	openBytes    int64 // of open requests' files, the same
	bodyBytes    int64 // of held calls on the disk
}

var defaultLimits = limits{perAgent: 100, done: 10_000, donePerAgent: 2000, doneBytes: 64 << 20, openBytes: 128 << 20, bodyBytes: 1 << 30}

// Options of [Open]. Consumed is needed, the rest is optional.
type Options struct {
	// Now is the clock. Times of [time.Now] are best: their monotonic reading keeps
	// a clock that is set back from lengthening a deadline.
	Now func() time.Time
	// Window is how long an approval can be used, and how long a denial stands
	// against the same call. DefaultWindow where it is 0, at most MaxSpan.
	Window time.Duration
	// MaxPending bounds requests that are not final. DefaultMaxPending where it is 0.
	MaxPending int
	// NewID gives request ids: "apr_" and a ULID in lower case.
	NewID func() string
	// Consumed reports whether the trail holds an intent, by its id. Open asks it
	// about each release that a crash cut short.
	Consumed func(ctx context.Context, intentEntry string) (bool, error)
	// StillMay reports whether the human behind a vote could give it today, for
	// instance because they still have the role. It is asked at the release; nil
	// means yes. It may be called concurrently.
	StillMay func(v Vote, from []string) bool
	// Failed is told what Run could not do. Run tries again later.
	Failed func(error)
}

// Store holds requests, in memory and in one file each. A change is in force
// when the method that makes it returns nil, and not at all otherwise.
//
// It is safe for concurrent use by one process; the lock of the gateway's data
// directory keeps a second one away. The functions named before that its
// methods take write the trail. They are called while that one request is
// locked, before the change is written: they may block, which holds up nobody
// who is not about the same request, and must not call the Store about it. A
// change that the trail has, and that could not be stored after, did not happen;
// whoever made it is told so.
type Store struct {
	dir   string
	opts  Options
	max   limits
	fault atomic.Pointer[func(step, path string) error] // for tests

	wake chan struct{} // has Run look at the deadlines again

	mu     sync.Mutex // guards all below, and the slots' fields that say so
	slots  map[string]*slot
	keys   map[key]*slot   // the newest request about a call
	jobs   map[job][]*slot // oldest first
	done   []*slot         // in final states, in the order in which they came to them
	number uint64          // of the newest request
	active int             // not final, those being made included
	agents map[string]*tally
	bytes  struct{ open, done, body int64 }
	litter map[string]struct{} // files to remove that could not be
}

type tally struct{ active, done int }

// slot is where a request lives.
type slot struct {
	id     string
	number uint64
	key    key
	job    job
	body   int64 // bytes

	// lock is held by who changes the request, over the trail and the disk. One
	// goroutine holds at most one, except that Hold also holds that of the request
	// it is making, which nobody can see yet.
	lock chan struct{}
	// want is what the file must be made to hold before anything else happens: a
	// write failed in a way that may have left another state there, or the state
	// can only be this. Written with both lock and mu, read with either.
	want *Request

	// Guarded by the store's mu.

	cur      *Request // what it points at never changes; nil while it is being made
	size     int64    // of the file
	dead     bool     // no longer in the maps
	lapsed   bool     // seen after its deadline, which is for good
	deadline time.Time
	changed  chan struct{} // closed at each change
}

// key is what an approval is bound to. All that the upstream credential depends
// on is in it: what was approved for one human's agent is no approval for
// another's.
type key struct{ agent, issuer, subject, human, actors, connection, call string }

type job struct{ project, id string }

// Key says which call is about to be made, and by whom.
type Key struct {
	Principal  trailgate.Principal // agent, issuer, subject, human and actors count
	Connection string
	CallSHA256 string // hex
}

// KeyOf is the key that claims a request.
func KeyOf(r *Request) Key { return Key{r.Principal, r.Connection, r.CallSHA256} }

func (k Key) key() key {
	p := k.Principal
	actors := make([]string, 0, len(p.Actors))
	for _, a := range p.Actors {
		actors = append(actors, strconv.Quote(a))
	}
	return key{p.Agent, p.Issuer, p.Subject, fold(p.Human), strings.Join(actors, ","), k.Connection, k.CallSHA256}
}

// NewID is the default of Options.NewID.
func NewID() string { return "apr_" + strings.ToLower(ulid.Make().String()) }

func newSlot(r *Request, number uint64) *slot {
	return &slot{
		id: r.ID, number: number, key: KeyOf(r).key(), job: job{r.JobProject, r.JobID}, body: r.Call.BodyBytes,
		lock: make(chan struct{}, 1), changed: make(chan struct{}),
	}
}

// addLocked makes a slot known by its call and job. It counts as active from now on.
func (s *Store) addLocked(sl *slot) {
	s.number = max(s.number, sl.number)
	s.keys[sl.key] = sl
	if sl.job.id != "" {
		s.jobs[sl.job] = append(s.jobs[sl.job], sl)
	}
	s.active++
	s.tallyLocked(sl).active++
}

func (s *Store) tallyLocked(sl *slot) *tally {
	t := s.agents[sl.key.agent]
	if t == nil {
		t = &tally{}
		s.agents[sl.key.agent] = t
	}
	return t
}

// dropLocked forgets a slot; it must not be counted any more.
func (s *Store) dropLocked(sl *slot) {
	sl.dead = true
	delete(s.slots, sl.id)
	if s.keys[sl.key] == sl {
		delete(s.keys, sl.key)
	}
	if sl.job.id != "" {
		left := slices.DeleteFunc(s.jobs[sl.job], func(o *slot) bool { return o == sl })
		if s.jobs[sl.job] = left; len(left) == 0 {
			delete(s.jobs, sl.job)
		}
	}
	if t := s.tallyLocked(sl); t.active == 0 && t.done == 0 {
		delete(s.agents, sl.key.agent)
	}
}

// put makes a change durable, and then real. The caller holds the slot's lock.
// On an error nothing has changed in memory. The file then is the old one or, if
// the rename or the directory's sync failed, perhaps the new one: the old one is
// written again before the next change. With must it is next that is written
// then, whatever failed: the state cannot be anything else.
func (s *Store) put(sl *slot, next *Request, must bool) error {
	raw, err := encode(sl.number, next)
	if err == nil && len(raw) > maxFileBytes {
		err = fmt.Errorf("%w: it would be larger than %d bytes", ErrInvalid, maxFileBytes)
	}
	if err != nil {
		return fmt.Errorf("write approval %s: %w", sl.id, err)
	}
	if doubt, err := s.replaceFile(s.path(sl.id, requestExt), raw); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if must {
			sl.want = next
			return fmt.Errorf("write approval %s: %w; it is written as soon as the disk takes it", sl.id, err)
		}
		if doubt {
			sl.want = sl.cur
		}
		return fmt.Errorf("write approval %s: %w; nothing was changed, try again", sl.id, err)
	}
	s.mu.Lock()
	sl.want = nil
	s.publishLocked(sl, next, int64(len(raw)))
	s.mu.Unlock()
	if next.State.Final() {
		if next.Call.BodyBytes > 0 {
			s.discard(s.path(sl.id, bodyExt))
		}
		s.prune()
	}
	return nil
}

// publishLocked makes a durable state the one that everybody sees.
func (s *Store) publishLocked(sl *slot, next *Request, size int64) {
	prev := sl.cur
	switch {
	case prev != nil && prev.State.Final():
		s.bytes.done += size - sl.size // cannot happen, and would be counted right
	case next.State.Final():
		if prev != nil {
			s.bytes.open -= sl.size
			s.bytes.body -= sl.body
		}
		s.active--
		t := s.tallyLocked(sl)
		t.active--
		t.done++
		s.bytes.done += size
		s.done = append(s.done, sl)
	case prev == nil:
		s.bytes.open += size
		s.bytes.body += sl.body
	default:
		s.bytes.open += size - sl.size
	}
	sl.cur, sl.size = next, size
	if prev == nil || prev.ReleaseBy.IsZero() != next.ReleaseBy.IsZero() { // else the same one runs on
		// With the monotonic reading of now, where it has one. A clock that was set
		// back before a restart leaves at most the whole span again.
		until, span := next.deadline()
		now := s.opts.Now()
		sl.deadline = now.Add(min(until.Sub(now.Round(0)), span))
	}
	close(sl.changed)
	sl.changed = make(chan struct{})
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// dueLocked reports whether the request's deadline has passed, by the wall clock
// or by the monotonic one. Once it was seen to have passed, it has.
func (s *Store) dueLocked(sl *slot, now time.Time) bool {
	if !sl.cur.State.Open() {
		return false
	}
	until, _ := sl.cur.deadline()
	if !now.Before(sl.deadline) || !now.Round(0).Before(until) {
		sl.lapsed = true
	}
	return sl.lapsed
}

// viewLocked is the request as it is now. One that lapsed is expired, although
// the trail and the disk may not have that yet.
func (s *Store) viewLocked(sl *slot) Request {
	r := *sl.cur
	if s.dueLocked(sl, s.opts.Now()) {
		r.State = StateExpired
		r.Ended, _ = r.deadline()
	}
	return r
}

func (s *Store) view(sl *slot) Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.viewLocked(sl)
}

// wall is the time that is written down.
func (s *Store) wall() time.Time { return s.opts.Now().Round(0).UTC() }
