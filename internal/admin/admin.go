package admin

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/approval"
	"github.com/trailgate/trailgate/internal/bundle"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/recording"
	"github.com/trailgate/trailgate/internal/suspend"
)

// Trail is the log, as *trail.Trail is one. All methods may be called
// concurrently.
type Trail interface {
	// Append makes an entry durable; nil only when it is. Any error means that
	// what the entry tells of must not happen.
	Append(ctx context.Context, e *trailgate.Entry) error
	// Size is the number of durable entries.
	Size() uint64
	// Scan calls fn for durable entries from a place on, in order, until fn
	// returns an error, which it returns.
	Scan(ctx context.Context, from uint64, fn func(seq uint64, raw []byte) error) error
	// Prove waits, until ctx ends, for a checkpoint that covers the entry.
	Prove(ctx context.Context, seq uint64) (*trailgate.Proof, error)
	// GetBlob returns a stored body that was checked against its hash, or an
	// error that is trail.ErrNotFound.
	GetBlob(ctx context.Context, sha256 string) ([]byte, error)
	// Checkpoint is the newest one that was published.
	Checkpoint() (*trailgate.Checkpoint, error)
	// Ready is nil while entries are accepted.
	Ready() error
	// LogDir holds the files of the tiled log.
	LogDir() string
	// PublicKey is the log's verifier key.
	PublicKey() string
}

// Index is the search index, as *index.Index is one. Errors are those of
// package index.
type Index interface {
	Search(ctx context.Context, q index.Query) (rows []index.Row, next string, err error)
	Lookup(ctx context.Context, id string) ([]*trailgate.Entry, error)
	Stats(ctx context.Context, by []string, filter string) ([]index.Group, error)
	Facets(ctx context.Context, filter string, fields []string, limit int) ([]index.Facet, error)
	Histogram(ctx context.Context, filter string, since, until time.Time, buckets int) (*index.Histogram, error)
	Values(ctx context.Context, field, prefix string, limit int) ([]string, error)
	Rebuild(ctx context.Context, progress func(done, total uint64)) error
	// StageSeqs are the places of a row's entries, by that of the first.
	StageSeqs(ctx context.Context, opening uint64) ([]uint64, error)
	// Cursor is the number of entries that searches see.
	Cursor() uint64
	// Wait returns nil once Cursor() > seq, or ctx's error.
	Wait(ctx context.Context, seq uint64) error
}

// Agents is the store of agents and tokens, as *identity.Store is one. Errors
// are those of package identity.
type Agents interface {
	AddAgent(name, note string) (identity.Agent, error)
	RevokeAgent(name string) error
	Agent(name string) (identity.Agent, error)
	Agents() []identity.Agent
	IssueToken(agent string, o identity.TokenOptions) (secret string, t identity.Token, err error)
	RotateToken(id string, o identity.RotateOptions) (secret string, t identity.Token, err error)
	RevokeToken(id string) error
	Token(id string) (identity.Token, error)
	Tokens(agent string) []identity.Token
}

// Sessions are the session tokens, as *identity.Authenticator has them.
type Sessions interface {
	RevokeSession(id string) error
}

// Check is one step of a connection's way to Google, tried.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	Fix    string `json:"fix,omitempty"` // what mends it
}

// ErrNotFound is for what callers of a Config's functions ask for in vain.
var ErrNotFound = errors.New("there is none of that name")

// Connection is a connection of the gateway, as clients need to know it.
type Connection struct {
	Name     string   `json:"name"`
	Projects []string `json:"projects"`
	// Connectors: its calls go through connectors.
	Connectors bool `json:"connectors,omitempty"`
}

// Config says what an API works with.
type Config struct {
	Trail  Trail
	Index  Index
	Agents Agents
	// Gateway is who signs the entries.
	Gateway trailgate.Gateway
	// PublicURL and AdminURL are where agents and humans reach the gateway.
	// Optional: empty where there is no such listener.
	PublicURL, AdminURL string
	Connections         []Connection // Optional.
	// Sessions revokes session tokens. Optional.
	Sessions Sessions
	// Login lets browsers in. Optional: the admin token in a header alone.
	Login *LoginConfig
	// Pages shows the trail to whoever signed in, on every path that is not the API's
	// or this package's own. It reaches the trail through api alone, which answers as
	// to this viewer: roles and records are those of the API. Optional; needs Login.
	Pages func(w http.ResponseWriter, r *http.Request, v Viewer, api http.Handler)
	// Assets are what pages load, under /assets/; anybody may have them. Optional.
	Assets http.Handler
	// Consents are the connections that work by humans' consent; they need Login. Optional.
	Consents map[string]Consenter
	// Check tries a connection's way to Google as an agent. Optional.
	Check func(ctx context.Context, connection, agent, human string) ([]Check, error)
	// Approvals are the calls that wait for a human. Voted hears of a decision. Optional,
	// as all that follows.
	Approvals *approval.Store
	Voted     func(ctx context.Context, q approval.Request)
	// Suspensions says who may make no calls. CutSuspended ends calls under way of who
	// was suspended, CancelSuspended has BigQuery cancel their jobs.
	Suspensions     *suspend.Store
	CutSuspended    func() int
	CancelSuspended func(ctx context.Context) ([]Cancelled, error)
	// Witnesses tells how those do who cosign the log; nil from it: there are none. Optional.
	Witnesses func() *Witnesses
	// Recordings are the rows that were kept, Retention how long they are. Optional.
	Recordings *recording.Store
	Retention  time.Duration
	// Bundles is the trail as evidence bundles are made of it. Optional.
	Bundles bundle.Trail
	// Connectors are what some connections go through. Optional.
	Connectors Connectors
	// SearchesFile holds the searches that humans saved. Optional.
	SearchesFile string
	// Policy is the one in force; Reload reads policy and configuration again.
	Policy  func() Policy
	Reload  func(ctx context.Context) (Reloaded, error)
	Budgets func() []Budget
	// Coverage compares BigQuery's own records with the trail.
	Coverage *Coverage

	Metrics prometheus.Gatherer // Optional; without it there are no metrics.
	Log     *slog.Logger        // Optional; default: discarded.
	Now     func() time.Time    // Optional; default time.Now.
	// Heartbeat is how often a quiet stream gives a sign of life. Optional;
	// default 15 s.
	Heartbeat time.Duration
	// CommitTimeout bounds the wait for an entry to be durable. Optional;
	// default 10 s.
	CommitTimeout time.Duration
}

// Bounds on what callers may ask of the API at a time.
const (
	// maxBusy is how many searches, sums, proofs and stored bodies are worked on.
	maxBusy = 32
	// maxFollowers is how many streams are open.
	maxFollowers = 64
	// maxScrapes is how many times metrics are being gathered.
	maxScrapes = 4
)

// Viewer is who looks at a page.
type Viewer struct {
	Name  string // as entries have it
	Via   string // "oidc", "token", "socket", "demo"
	Roles []string
}

// API answers requests of humans. Its methods are safe for concurrent use.
type API struct {
	cfg       Config
	routes    []*route
	gathered  http.Handler // of metrics; nil if there are none
	busy      gate
	followers gate
	rebuild   gate
	bundles   gate
	readers   readers
	strangers strangers
	searches  searches
	login     *login // nil: no browser is let in
	// adminToken is the hash of the token of TCP, for the form that takes it.
	adminToken atomic.Pointer[[sha256.Size]byte]
}

// New makes an API.
func New(cfg Config) (*API, error) {
	if cfg.Trail == nil || cfg.Index == nil || cfg.Agents == nil {
		return nil, errors.New("admin: Trail, Index and Agents are required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Heartbeat <= 0 {
		cfg.Heartbeat = 15 * time.Second
	}
	if cfg.CommitTimeout <= 0 {
		cfg.CommitTimeout = 10 * time.Second
	}
	cfg.Connections = slices.Clone(cfg.Connections)
	for i := range cfg.Connections {
		if cfg.Connections[i].Projects == nil {
			cfg.Connections[i].Projects = []string{}
		}
	}
	a := &API{cfg: cfg, busy: newGate(maxBusy), followers: newGate(maxFollowers), rebuild: newGate(1), bundles: newGate(maxBundles)}
	a.searches.path = cfg.SearchesFile
	if cfg.Login != nil {
		var err error
		if a.login, err = newLogin(*cfg.Login, cfg.AdminURL, cfg.Now); err != nil {
			return nil, err
		}
	}
	a.routes = a.table()
	if cfg.Metrics != nil {
		a.gathered = promhttp.HandlerFor(cfg.Metrics, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, Timeout: writeTimeout / 2})
	}
	return a, nil
}

// gate lets a number of callers through at a time.
type gate chan struct{}

func newGate(n int) gate { return make(gate, n) }

// enter reports whether there is room; leave must follow then.
func (g gate) enter() bool {
	select {
	case g <- struct{}{}:
		return true
	default:
		return false
	}
}

func (g gate) leave() { <-g }
