// Package gateway is the data path: the one function that every call of an
// agent takes, and what it needs at hand.
//
//	arrive → identify → classify → judge → commit intent → credential → forward → capture → commit outcome → answer
//
// Invariants, each held by a test:
//
//   - Nothing of a call goes upstream before its intent entry is durable.
//   - The last byte of an answer does not reach the agent before the outcome
//     entry is durable. If that fails the answer is cut or replaced by an error.
//   - What is forwarded is encoded from the same tree that was judged and recorded.
//   - The agent's credential never goes upstream, Google's never comes back.
//   - An agent that goes away cancels neither entry.
//
// The package keeps no record of its own beyond bounded caches; who made which
// job is asked of the index where the cache does not know it.
package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/approval"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/recording"
)

// Trail is where entries become durable.
type Trail interface {
	// Append returns nil only when the entry is durable, and sets its Seq and
	// Time. On an error the entry may still turn up in the trail; the call that
	// it speaks of must then be refused.
	Append(ctx context.Context, e *trailgate.Entry) error
	// PutBlob stores data durably under its SHA-256, which it returns in hex.
	PutBlob(ctx context.Context, data []byte) (string, error)
}

// Authenticate says whose credential this is. It is called once a call and must
// not wait for the network where it has seen the credential before. With
// [identity.ErrSource] and [identity.ErrUnknownAgent] it tells who it was.
type Authenticate func(ctx context.Context, p identity.Presented) (identity.Identity, error)

// PublicKeys are what an OpenID Connect issuer publishes, as *federation.Issuer
// has it.
type PublicKeys interface {
	Discovery() []byte
	JWKS() []byte
}

// Connection is one BigQuery behind the gateway.
type Connection struct {
	Name string
	// Projects are the project ids that calls may name; "*" stands for all.
	Projects []string
	// Upstream is the API's root, such as https://bigquery.googleapis.com.
	Upstream   *url.URL
	Credential federation.Source
	// Recording is the level at which calls are recorded where no rule says so, one of
	// the root package's. Optional: "request". RecordBytes bounds what is stored of an
	// answer's rows. Optional: the store's own bound.
	Recording   string
	RecordBytes int64
	// Transport reaches Upstream. Optional; the default follows no proxy from
	// the environment and no redirect.
	Transport http.RoundTripper
	// Forward takes calls through a connector, in place of Transport. It must send a
	// request once. Its errors are a [*HopError] or the context's; passed is nil where no
	// connector took the call. Optional.
	Forward func(req *http.Request, hop Hop) (resp *http.Response, passed func() Passed, err error)
}

// Config is what a Gateway is made of. Fields without "Optional" must be set.
type Config struct {
	ID           string // this gateway, in every entry
	Version      string
	ConfigDigest string

	Trail        Trail
	Authenticate Authenticate
	Sessions     *identity.Sessions
	// Exchange trades a credential for a session token (RFC 8693), Introspect
	// tells of a token (RFC 7662). Optional: without them the paths are not served.
	Exchange   func(ctx context.Context, r identity.ExchangeRequest) (identity.Exchanged, error)
	Introspect func(ctx context.Context, token string) identity.Introspection
	// Issuer is the gateway as an OpenID Connect issuer, for whoever must check
	// assertions that it signed. Optional.
	Issuer      PublicKeys
	Connections []Connection
	Policy      Policy // Optional: RecordOnly.
	// Approvals is where calls wait that need one. Optional: without it they are
	// denied. ApprovalWait is how long a call other than jobs.insert is kept waiting;
	// 0: it is told at once to come again. Notify hears of what becomes of held calls;
	// it must not block. Optional.
	Approvals    *approval.Store
	ApprovalWait time.Duration
	Notify       func(ctx context.Context, what string, a approval.Request)
	// Budgets bound the bytes billed. Optional.
	Budgets Budgets
	// Suspended tells whether calls are suspended. Optional. Whoever suspends calls
	// CutSuspended after.
	Suspended Suspended

	// Recordings keeps the rows of calls that are to be recorded with their results,
	// Redactor says what is left out of them. Optional: without the first, none are
	// kept, and entries say so.
	Recordings Recorder
	Redactor   *recording.Redactor

	// JobOwner tells who made a job that the gateway's own cache no longer
	// knows. Optional.
	JobOwner func(ctx context.Context, project, job string) (owner Owner, found bool, err error)
	// Begun lists the calls with jobs, of agents and connections that which names, that
	// began between two moments: their intents, one for each principal, connection and
	// project, at most n. Optional: without it, jobs of earlier runs of the gateway are
	// not cancelled when their agents are suspended.
	Begun func(ctx context.Context, from, to time.Time, which func(agent, connection string) bool, n int) ([]*trailgate.Entry, error)
	// Unfinished lists intents below seq that have neither outcome nor
	// settlement, oldest first. It must know every entry below seq, or it would
	// have things settled twice; it may wait for that. Optional: without it
	// nothing is settled.
	Unfinished func(ctx context.Context, before uint64, limit int) ([]*trailgate.Entry, error)

	// PublicURL is the root under which agents reach the gateway; it stands in
	// the discovery document and in upload locations. Optional: the request's
	// own scheme and Host.
	PublicURL string

	Log      *slog.Logger
	Registry prometheus.Registerer // Optional.
	Now      func() time.Time      // Optional: time.Now.

	MaxBodyBytes    int64         // of a JSON body, decoded. Optional: 10 MiB, BigQuery's own limit.
	MaxInFlight     int           // calls at a time; more are refused with 503. Optional: 4096.
	UpstreamTimeout time.Duration // until the first byte of an answer. Optional: 10 minutes.
	StallTimeout    time.Duration // between two reads or writes of a body. Optional: 60 s.
	GraceTimeout    time.Duration // how long an answer is awaited whose agent has gone. Optional: 30 s.
	SettleAfter     time.Duration // how old an intent must be before its job's absence is believed. Optional: 30 s.
	CommitTimeout   time.Duration // for an entry to become durable. Optional: 30 s.
}

// Gateway is an http.Handler for agents. It is safe for concurrent use.
type Gateway struct {
	cfg     Config
	rules   atomic.Pointer[rules]
	conns   []*Connection
	local   http.RoundTripper // answers what needs no upstream
	owners  *owners
	uploads *uploads
	nobody  *aggregate // calls without a valid credential
	slots   chan struct{}
	waiting chan struct{} // calls that wait for a human
	bills   chan struct{} // jobs that are asked about for a budget
	metrics *metrics
	flights *flights
	running *running
	tallies *tallies
	reads   *reads
	places  *places
	schemas *schemas

	failedMu sync.Mutex // guards both
	failed   recent[*bigquery.Error]
	releases map[string]chan struct{} // held jobs on their way to BigQuery

	started time.Time
	lostMu  sync.Mutex // guards lost
	lost    []unsettled

	calls sync.WaitGroup // calls in flight; Close waits for them
	held  sync.WaitGroup // those that wait to release what was held, or ask about a bill
	life  context.Context
	end   context.CancelFunc // of life
}

// New checks cfg and returns a Gateway. Run must be called for its background
// work; Close ends it.
func New(cfg Config) (*Gateway, error) {
	switch {
	case cfg.ID == "" || cfg.Version == "":
		return nil, errors.New("gateway: ID and Version are required")
	case cfg.Trail == nil || cfg.Authenticate == nil || cfg.Sessions == nil || cfg.Log == nil:
		return nil, errors.New("gateway: Trail, Authenticate, Sessions and Log are required")
	case len(cfg.Connections) == 0:
		return nil, errors.New("gateway: no connection is configured; name one under 'connections'")
	}
	setDefault(&cfg.MaxBodyBytes, 10<<20)
	setDefault(&cfg.MaxInFlight, 4096)
	setDefault(&cfg.UpstreamTimeout, 10*time.Minute)
	setDefault(&cfg.StallTimeout, time.Minute)
	setDefault(&cfg.GraceTimeout, 30*time.Second)
	setDefault(&cfg.SettleAfter, 30*time.Second)
	setDefault(&cfg.CommitTimeout, 30*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Policy == nil {
		cfg.Policy = RecordOnly{}
	}
	g := &Gateway{
		cfg:     cfg,
		owners:  newOwners(),
		uploads: newUploads(cfg.Now),
		nobody:  newAggregate(cfg.Now),
		slots:   make(chan struct{}, cfg.MaxInFlight),
		waiting: make(chan struct{}, max(cfg.MaxInFlight/4, 1)),
		bills:   make(chan struct{}, maxBillAsks),
		metrics: newMetrics(cfg.Registry),
		flights: newFlights(), running: newRunning(), tallies: newTallies(cfg.Now), reads: newReads(),
		places: &places{all: recent[*int64]{most: maxPlaces}}, schemas: newSchemas(),
		failed: recent[*bigquery.Error]{most: maxFailed}, releases: map[string]chan struct{}{},
	}
	g.started = cfg.Now()
	g.life, g.end = context.WithCancel(context.Background())
	g.SetPolicy(cfg.Policy)
	g.local = &localDiscovery{root: cfg.PublicURL, byRoot: map[string][]byte{}}
	seen := map[string]bool{}
	for _, c := range cfg.Connections {
		if c.Name == "" || seen[c.Name] || c.Upstream == nil || c.Upstream.Host == "" || c.Credential == nil || len(c.Projects) == 0 {
			return nil, fmt.Errorf("gateway: connection %q needs a name of its own, projects, an upstream URL and a credential", c.Name)
		}
		seen[c.Name] = true
		if c.Transport == nil {
			c.Transport = NewTransport(cfg.UpstreamTimeout)
		}
		g.conns = append(g.conns, &c)
	}
	if cfg.Registry != nil {
		if err := cfg.Registry.Register(remembered{g}); err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
	}
	return g, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// NewTransport returns the transport that connections use by default: enough
// idle connections that a burst is not spent on handshakes, no proxy from the
// environment, and no decompression, since answers pass as they are.
func NewTransport(headerTimeout time.Duration) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	t.DisableCompression = true
	t.MaxIdleConns = 512
	t.MaxIdleConnsPerHost = 256
	t.ResponseHeaderTimeout = headerTimeout
	t.MaxResponseHeaderBytes = 1 << 20
	t.WriteBufferSize = 64 << 10
	t.ReadBufferSize = 64 << 10
	t.HTTP2 = &http.HTTP2Config{MaxReadFrameSize: 256 << 10} // few large frames for a large answer
	return t
}

// connection finds the connection for a project. A call that names no project
// (projects.list, and discovery, with which every run of bq begins) goes to the
// first one that the caller's credential may use.
func (g *Gateway) connection(project string, who identity.Identity) *Connection {
	if project == "" {
		for _, c := range g.conns {
			if who.MayUse(c.Name) {
				return c
			}
		}
		return g.conns[0]
	}
	var wild *Connection
	for _, c := range g.conns {
		for _, p := range c.Projects {
			if p == project {
				return c
			}
			if p == "*" && wild == nil {
				wild = c
			}
		}
	}
	return wild
}

// firstProject is the project for calls that name none: a service account's name may
// hold one. Empty where the connection names none either.
func (c *Connection) firstProject() string {
	for _, p := range c.Projects {
		if p != "*" {
			return p
		}
	}
	return ""
}

func (g *Gateway) connectionNamed(name string) *Connection {
	for _, c := range g.conns {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Run does the background work until ctx ends: it writes the aggregates of
// refused strangers, closes idle sessions, and settles what an earlier run left
// unfinished below seq settleBefore.
func (g *Gateway) Run(ctx context.Context, settleBefore uint64) error {
	var wg sync.WaitGroup
	wg.Go(func() { g.settleAll(ctx, settleBefore) })
	wg.Go(func() { g.settleLost(ctx) })
	if g.cfg.Approvals != nil {
		wg.Go(func() {
			g.cfg.Approvals.Run(ctx, func(a approval.Request) error { return g.expired(ctx, a) })
		})
	}
	tick := time.NewTicker(aggregateEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			wg.Wait()
			return nil
		case <-tick.C:
			g.flushNobody(ctx)
			g.CloseIdle(ctx)
		}
	}
}

// CloseIdle writes the ends of the sessions that have been idle for too long, or whose
// credential ended. Run calls it every few seconds.
func (g *Gateway) CloseIdle(ctx context.Context) {
	for _, s := range g.cfg.Sessions.Expire() {
		g.tallies.drop(s.ID)
		g.sessionEntry(ctx, s, "session.close", cmp.Or(s.Ended, "idle"))
	}
}

// Close waits for the calls in flight until ctx ends, then writes what is still
// to be said: sessions that end with the gateway, and the last aggregate.
func (g *Gateway) Close(ctx context.Context) error {
	g.end() // what waits for humans goes on waiting without this gateway
	done := make(chan struct{})
	go func() {
		g.held.Wait()
		g.calls.Wait()
		g.held.Wait() // what the last calls left to be asked about ends at once
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = errors.New("calls are still in flight; their outcomes will be settled at the next start")
		ctx = context.WithoutCancel(ctx)
	}
	for _, s := range g.cfg.Sessions.CloseAll() {
		g.sessionEntry(ctx, s, "session.close", cmp.Or(s.Ended, "gateway stops"))
	}
	g.flushNobody(ctx)
	return err
}

// newID makes an entry's id. Lower case, because BigQuery's labels are.
func (g *Gateway) newID() string {
	return strings.ToLower(ulid.MustNew(ulid.Timestamp(g.cfg.Now()), rand.Reader).String())
}

func (g *Gateway) self() trailgate.Gateway { return g.selfUnder(g.rules.Load()) }

// selfUnder is the gateway as the entries of a call have it that these rules judge.
func (g *Gateway) selfUnder(by *rules) trailgate.Gateway {
	return trailgate.Gateway{ID: g.cfg.ID, Version: g.cfg.Version, ConfigDigest: g.cfg.ConfigDigest, PolicyDigest: by.digest}
}

// append commits an entry, detached from the agent's connection: an agent that
// goes away must not take its own record with it.
func (g *Gateway) append(ctx context.Context, e *trailgate.Entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.cfg.CommitTimeout)
	defer cancel()
	if e.ID == "" {
		e.ID = g.newID()
	}
	if e.Gateway.ID == "" {
		e.Gateway = g.self()
	}
	start := time.Now()
	err := g.cfg.Trail.Append(ctx, e)
	g.metrics.commit(e.Kind, time.Since(start), err)
	if err != nil {
		g.cfg.Log.ErrorContext(ctx, "trail refuses an entry", "kind", string(e.Kind), "method", e.Method, "err", err)
		return fmt.Errorf("append %s: %w", e.Kind, err)
	}
	return nil
}

// How a session is told from the agent's others, its entry's detail "how".
const (
	howRun      = "run"            // a token that was made for it
	howExchange = "token_exchange" // a session token (RFC 8693)
	howIdle     = "idle_gap"       // a credential's calls, until none came for a while
)

// openEntry records that a session begins: whose, and what was said of it, by whoever
// made the token and by the first call.
func (g *Gateway) openEntry(ctx context.Context, s identity.Session, who identity.Identity, said *trailgate.Claims) error {
	p := who.Principal
	how := howIdle
	switch {
	case who.Token.SessionBound:
		how = howRun
	case p.AuthMode == trailgate.AuthTokenExchange:
		how = howExchange
	}
	e := &trailgate.Entry{
		Kind: trailgate.KindSession, Session: s.ID, Principal: &p,
		Event: &trailgate.Event{Action: "session.open", Target: s.ID, Detail: map[string]string{"how": how}},
	}
	claims := trailgate.Claims{Title: s.Title, Purpose: s.Purpose}
	if said != nil {
		claims.TraceParent, claims.UserAgent, claims.Human = said.TraceParent, said.UserAgent, said.Human
	}
	if claims.Title+claims.Purpose+claims.TraceParent+claims.UserAgent+claims.Human != "" {
		e.Claims = &claims
	}
	return g.append(ctx, e)
}

func (g *Gateway) sessionEntry(ctx context.Context, s identity.Session, action, why string) error {
	e := &trailgate.Entry{
		Kind: trailgate.KindSession, Session: s.ID,
		Principal: &trailgate.Principal{Agent: s.Agent, TokenID: s.TokenID},
		Event:     &trailgate.Event{Action: action, Target: s.ID},
	}
	if s.Title != "" || s.Purpose != "" {
		e.Claims = &trailgate.Claims{Title: s.Title, Purpose: s.Purpose}
	}
	if why != "" {
		e.Event.Detail = map[string]string{"reason": why, "calls": fmt.Sprint(s.Calls)}
	}
	return g.append(ctx, e)
}
