package federation

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/trailgate/trailgate"
)

// Bounds of a connection's cache.
const (
	maxCached     = 10_000           // principals; the least recently used are forgotten
	maxMints      = 64               // requests to Google at a time; more wait
	mintTimeout   = 45 * time.Second // for one, waiting included
	failureTTL    = 2 * time.Second  // how long a failure answers for the next calls too
	maxBackoff    = 30 * time.Second // between refreshes that fail
	neverBelow    = 30 * time.Second // a token that ends sooner is not handed out
	refreshAhead  = 5 * time.Minute  // before the end, or
	refreshPart   = 5                // a fifth of its life before, whichever is more
	rejectedAfter = 10 * time.Second // between tokens forgotten because BigQuery did not take them
)

// errClosed means that the gateway is stopping.
var errClosed = errors.New("the gateway is stopping")

// cacheKey is the digest of all that a credential depends on.
type cacheKey [sha256.Size]byte

// keyOf digests who calls, for whom and for what: connection, issuer, subject, agent,
// human, actors, audience; for whom it is minted (target); the session where
// claims carry it; and the agent's JWT where that is exchanged. Each part has its
// length before it, so that no two lists of parts have one encoding.
//
// It does not allocate for principals of a usual size: it is on the data path.
func keyOf(connection string, p *trailgate.Principal, audience, target, session, assertion string) cacheKey {
	var jwt [sha256.Size]byte
	if assertion != "" {
		var space [4096]byte
		jwt = sha256.Sum256(append(space[:0], assertion...))
	}
	var space [1024]byte
	b := space[:0]
	for _, part := range [...]string{connection, p.Issuer, p.Subject, p.Agent, p.Human, p.HumanBy, audience, target, session} {
		b = appendPart(b, part)
	}
	b = binary.AppendUvarint(b, uint64(len(p.Actors)))
	for _, actor := range p.Actors {
		b = appendPart(b, actor)
	}
	if assertion != "" {
		b = append(b, jwt[:]...)
	}
	return sha256.Sum256(b)
}

func appendPart(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// minter makes one credential. It may depend on nothing that keyOf was not given.
type minter func(ctx context.Context, r Request) (Credential, error)

// cache keeps the credentials of one connection. Minting goes on when the caller
// who asked first has gone, since others may wait for the same.
type cache struct {
	mint minter
	now  func() time.Time
	root context.Context // ends with close; parent of every mint
	stop context.CancelFunc
	room chan struct{} // one element for each mint under way

	mu      sync.Mutex // guards what follows, and all entries
	entries map[cacheKey]*list.Element
	recent  *list.List // of *cached, the latest used first
	running sync.WaitGroup
	closed  bool
}

type cached struct {
	key      cacheKey
	cred     Credential // Token is empty until the first mint
	rejected time.Time  // when one was forgotten because BigQuery did not take it
	refresh  time.Time  // from then on
	err      error      // of the last mint, where it failed
	failed   time.Time  // when that was
	retry    time.Time  // not to be refreshed ahead before then
	failures int        // in a row
	call     *call      // under way, or nil
}

// call is a mint under way.
type call struct {
	done chan struct{} // closed when the rest is set
	cred Credential
	err  error
}

func newCache(mint minter) *cache {
	root, stop := context.WithCancel(context.Background())
	return &cache{
		mint: mint, now: time.Now, root: root, stop: stop, room: make(chan struct{}, maxMints),
		entries: map[cacheKey]*list.Element{}, recent: list.New(),
	}
}

// get returns the credential of a key: the one that is kept, or a new one. One mint
// serves all who wait for it.
func (c *cache) get(ctx context.Context, key cacheKey, r Request) (Credential, error) {
	c.mu.Lock()
	e := c.entryLocked(key)
	now := c.now()
	if e.cred.Token != "" && now.Add(neverBelow).Before(e.cred.Expires) {
		if e.call == nil && now.After(e.refresh) && now.After(e.retry) {
			c.startLocked(e, r) // nobody waits for it
		}
		cred := e.cred
		c.mu.Unlock()
		return cred, nil
	}
	if e.call == nil && e.err != nil && now.Before(e.failed.Add(failureTTL)) {
		err := e.err
		c.mu.Unlock()
		return Credential{}, err
	}
	wait := e.call
	if wait == nil {
		wait = c.startLocked(e, r)
	}
	c.mu.Unlock()
	if wait == nil {
		return Credential{}, &Error{Connection: r.Connection, Step: StepBase, Message: errClosed.Error(), Temporary: true}
	}
	select {
	case <-wait.done:
		return wait.cred, wait.err
	case <-ctx.Done():
		return Credential{}, ctx.Err()
	}
}

// entryLocked finds or makes an entry and marks it as the latest used.
func (c *cache) entryLocked(key cacheKey) *cached {
	if at, ok := c.entries[key]; ok {
		c.recent.MoveToFront(at)
		return at.Value.(*cached)
	}
	e := &cached{key: key}
	c.entries[key] = c.recent.PushFront(e)
	for c.recent.Len() > maxCached {
		// Who waits for its mint holds the call and not the entry.
		last := c.recent.Back()
		delete(c.entries, c.recent.Remove(last).(*cached).key)
	}
	return e
}

// startLocked begins a mint, or returns nil after close.
func (c *cache) startLocked(e *cached, r Request) *call {
	if c.closed {
		return nil
	}
	k := &call{done: make(chan struct{})}
	e.call = k
	if r.Principal != nil { // the caller's may be gone or reused by then
		p := *r.Principal
		p.Actors = slices.Clone(p.Actors)
		r.Principal = &p
	}
	c.running.Go(func() {
		ctx, cancel := context.WithTimeout(c.root, mintTimeout)
		defer cancel()
		k.cred, k.err = c.mintOne(ctx, r)
		c.mu.Lock()
		c.settleLocked(e, k)
		c.mu.Unlock()
		close(k.done)
	})
	return k
}

func (c *cache) mintOne(ctx context.Context, r Request) (Credential, error) {
	select {
	case c.room <- struct{}{}:
		defer func() { <-c.room }()
	case <-ctx.Done():
		return Credential{}, &Error{Connection: r.Connection, Step: StepBase, Message: "too many credentials are being minted at once", Temporary: true}
	}
	cred, err := c.mint(ctx, r)
	switch {
	case err != nil:
		return Credential{}, err
	case !printable(cred.Token):
		return Credential{}, &Error{Connection: r.Connection, Step: StepBase, Message: "the token endpoint gave no token that can be used"}
	case !c.now().Add(neverBelow).Before(cred.Expires):
		return Credential{}, &Error{
			Connection: r.Connection, Step: StepBase, Temporary: true,
			Message: "the token endpoint gave a token that ends at once; is this machine's clock right?",
		}
	}
	return cred, nil
}

// settleLocked puts a mint's result in its entry. A failure leaves a token that
// is still good in place.
func (c *cache) settleLocked(e *cached, k *call) {
	e.call = nil
	now := c.now()
	if k.err != nil {
		e.err, e.failed = k.err, now
		e.retry = now.Add(min(failureTTL<<min(e.failures, 4), maxBackoff)) // nobody waits for it: less and less often
		e.failures++
		return
	}
	life := k.cred.Expires.Sub(now)
	ahead := max(life/refreshPart, min(refreshAhead, life/2))
	e.cred, e.refresh = k.cred, k.cred.Expires.Add(-ahead)
	e.err, e.failures = nil, 0
}

// reject forgets a token that BigQuery did not accept, so that the next call
// learns why. Once that has been done for a principal it is not done again for a
// while: whatever is wrong, the next token would have it too, and every call would
// mint.
func (c *cache) reject(key cacheKey, token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.entries[key]
	if !ok {
		return
	}
	if e := at.Value.(*cached); token != "" && e.cred.Token == token && c.now().Sub(e.rejected) >= rejectedAfter {
		e.cred, e.rejected = Credential{}, c.now()
	}
}

// close ends what goes on and waits for it. What is kept is still handed out.
func (c *cache) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.running.Wait()
}
