package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/identity"
)

// How a caller came in, as entries tell it.
const (
	viaToken  = "token"
	viaSocket = "socket"
	viaCLI    = "cli"
)

// caller is who asks.
type caller struct {
	actor  string // "admin-token", "uid:1000", "local"
	via    string
	client string // the peer's address, where it has one
}

// HashToken is what [API.TCP] keeps of the admin token.
func HashToken(token string) [sha256.Size]byte { return sha256.Sum256([]byte(token)) }

// TCP is the door for callers with the admin token, whose hash it is given.
//
// It refuses requests that a browser says come from another site's page. The
// Host header is not checked: a page that reaches the listener by a name of its
// own (DNS rebinding) has no token.
func (a *API) TCP(token [sha256.Size]byte) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := caller{actor: "admin-token", via: viaToken, client: r.RemoteAddr}
		a.serve(w, r, who, func() error {
			if err := crossOrigin.Check(r); err != nil {
				return &Error{Code: http.StatusForbidden, Message: "the request comes from a page of another site"}
			}
			if !holds(r.Header, token) {
				a.refuse(r)
				w.Header().Set("WWW-Authenticate", `Bearer realm="trailgate admin"`)
				return &Error{
					Code:    http.StatusUnauthorized,
					Message: "the request carries no valid admin token; it is in admin.token in the gateway's data directory",
				}
			}
			return nil
		})
	})
}

// holds compares hashes, in constant time: neither the length nor a common
// beginning of a guess shows in how long it takes.
func holds(h http.Header, token [sha256.Size]byte) bool {
	bearer, err := identity.BearerFrom(h)
	if err != nil {
		return false
	}
	got := HashToken(bearer)
	return subtle.ConstantTimeCompare(got[:], token[:]) == 1
}

// Socket is the door for callers whom the mode of a Unix socket lets in. With
// [ConnContext] on its server, entries tell their user id.
func (a *API) Socket() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := caller{actor: "local", via: viaSocket}
		if uid, ok := peerOf(r.Context()); ok {
			who.actor = "uid:" + strconv.FormatUint(uint64(uid), 10)
		}
		a.serve(w, r, who, nil)
	})
}

// InProcess is the door for a command that holds the trail's lock itself and
// calls the handler directly.
func (a *API) InProcess() http.Handler {
	who := caller{actor: "local", via: viaCLI}
	if uid := os.Getuid(); uid >= 0 {
		who.actor = "uid:" + strconv.Itoa(uid)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, who, nil) })
}

// strangersEvery is the least time between two entries about callers without a
// valid token, so that they cannot fill the log.
const strangersEvery = 10 * time.Second

// maxAddresses is how many of their addresses an entry names.
const maxAddresses = 16

// strangers counts callers without a valid token since the last entry about them.
type strangers struct {
	mu    sync.Mutex // guards all
	tally trailgate.Aggregate
	told  time.Time
}

// refuse counts a caller without a valid token, and records it: the first at
// once, those of the next ten seconds in sum when another comes after them.
func (a *API) refuse(r *http.Request) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	now := a.cfg.Now()
	s := &a.strangers
	s.mu.Lock()
	t := &s.tally
	if t.Count == 0 {
		t.Since = now
	}
	t.Count++
	if len(t.Addresses) < maxAddresses && !slices.Contains(t.Addresses, host) {
		t.Addresses = append(t.Addresses, host)
	}
	if !s.told.IsZero() && now.Sub(s.told) < strangersEvery {
		s.mu.Unlock()
		return
	}
	sum, before := *t, s.told
	s.tally, s.told = trailgate.Aggregate{}, now
	s.mu.Unlock()

	err = a.append(r.Context(), &trailgate.Entry{
		Kind:      trailgate.KindAdmin,
		Event:     &trailgate.Event{Action: "admin.refused", Via: viaToken, Detail: map[string]string{"reason": "no valid admin token"}},
		Outcome:   &trailgate.Outcome{Status: http.StatusUnauthorized, End: trailgate.EndRefused},
		Aggregate: &sum,
	})
	if err != nil {
		// The caller is refused either way. It counts towards the next entry.
		s.mu.Lock()
		defer s.mu.Unlock()
		s.told = before
		s.tally.Count += sum.Count
		if s.tally.Since.IsZero() || sum.Since.Before(s.tally.Since) {
			s.tally.Since = sum.Since
		}
	}
}

// errNoPeer means that a connection's other end cannot be told.
var errNoPeer = errors.New("no peer credentials")
