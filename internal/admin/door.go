package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net"
	"net/http"
	"net/url"
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
	viaOIDC   = "oidc" // a human who signed in
	viaSelf   = "self" // the gateway, by its configuration

	// ViaDemo is how those came in whom "trailgate demo" makes up, with [API.As].
	ViaDemo = "demo"
)

// caller is who asks.
type caller struct {
	actor  string // "admin-token", "uid:1000", "local", or a human's name
	via    string
	client string // the peer's address, where it has one
	roles  []Role
}

// HashToken is what [API.TCP] keeps of the admin token.
func HashToken(token string) [sha256.Size]byte { return sha256.Sum256([]byte(token)) }

// TCP is the door for callers with the admin token, whose hash it is given, and
// where there is a login for humans who signed in.
//
// It refuses requests that a browser says come from another site's page. A
// request with the admin token may name any Host: a page that reaches the listener
// by a name of its own (DNS rebinding) has no token. It may have a human's cookie,
// so with one the Host must be the one that humans are to use.
func (a *API) TCP(token [sha256.Size]byte) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	a.adminToken.Store(&token)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.serve(w, r, func(rt *route) (caller, error) {
			if err := crossOrigin.Check(r); err != nil {
				return caller{}, &Error{Code: http.StatusForbidden, Message: "the request comes from a page of another site"}
			}
			if len(r.Header["Authorization"]) == 0 && a.login != nil {
				who, ok, err := a.human(r, rt)
				if ok || err != nil {
					return who, err
				}
			}
			if holds(r.Header, token) {
				return caller{actor: "admin-token", via: viaToken, client: r.RemoteAddr, roles: everything}, nil
			}
			if rt != nil && rt.open {
				return caller{client: r.RemoteAddr}, nil
			}
			if rt != nil && rt.page && a.login != nil {
				http.Redirect(w, r, "/login?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
				return caller{}, errAnswered
			}
			a.refuse(r)
			w.Header().Set("WWW-Authenticate", `Bearer realm="trailgate admin"`)
			return caller{}, &Error{
				Code:    http.StatusUnauthorized,
				Message: "the request carries no valid admin token; it is in admin.token in the gateway's data directory",
			}
		})
	})
}

// errAnswered means that there is nothing left to say.
var errAnswered = errors.New("answered")

// human is who signed in, by the request's cookie.
func (a *API) human(r *http.Request, rt *route) (who caller, ok bool, err error) {
	s, ok := a.login.signedIn(r)
	if !ok {
		return caller{}, false, nil
	}
	if r.Host != a.login.host {
		return caller{}, false, &Error{Code: http.StatusForbidden, Message: "this is " + a.login.host + "; a signed-in human is served under no other name"}
	}
	if r.Method == http.MethodPost && (rt == nil || !rt.page) && !isJSON(r) {
		// A form of another site could not be told from ours; JSON needs leave.
		return caller{}, false, &Error{Code: http.StatusUnsupportedMediaType, Message: "the request must have Content-Type: application/json"}
	}
	return caller{actor: s.name, via: s.via, client: r.RemoteAddr, roles: s.roles}, true, nil
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
		a.serve(w, r, func(*route) (caller, error) {
			who := caller{actor: "local", via: viaSocket, roles: everything}
			if uid, ok := peerOf(r.Context()); ok {
				who.actor = "uid:" + strconv.FormatUint(uint64(uid), 10)
			}
			return who, nil
		})
	})
}

// InProcess is the door for a command that holds the trail's lock itself and
// calls the handler directly.
func (a *API) InProcess() http.Handler {
	who := caller{actor: "local", via: viaCLI, roles: everything}
	if uid := os.Getuid(); uid >= 0 {
		who.actor = "uid:" + strconv.Itoa(uid)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.serve(w, r, func(*route) (caller, error) { return who, nil })
	})
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
	a.refuseOf(&a.strangers, r, "admin.refused", viaToken, "no valid admin token", http.StatusUnauthorized)
}

// refuseOf counts a caller who is not let in with others of the same kind.
func (a *API) refuseOf(s *strangers, r *http.Request, action, via, reason string, status int) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	now := a.cfg.Now()
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
		Event:     &trailgate.Event{Action: action, Via: via, Detail: map[string]string{"reason": reason}},
		Outcome:   &trailgate.Outcome{Status: status, End: trailgate.EndRefused},
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
