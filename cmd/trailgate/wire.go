package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/approval"
	"github.com/trailgate/trailgate/internal/budget"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/connector"
	"github.com/trailgate/trailgate/internal/gateway"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/recording"
	"github.com/trailgate/trailgate/internal/suspend"
	"github.com/trailgate/trailgate/internal/trail"
	"github.com/trailgate/trailgate/internal/webhook"
	"github.com/trailgate/trailgate/internal/witness"
)

// parts are what a gateway, or a command that does without one, is made of: one
// data directory, opened. The trail's lock makes it the only one.
type parts struct {
	cfg      *config.Config
	log      *slog.Logger
	self     trailgate.Gateway // as entries name this gateway
	registry *prometheus.Registry
	now      func() time.Time // for what is recorded

	trail    *trail.Trail
	agents   *identity.Store
	sessions *identity.Sessions
	callers  *identity.Authenticator // nil in commands
	index    *index.Index
	proxy    *gateway.Gateway // nil in commands

	decider     atomic.Pointer[decider] // nil in commands, as are the next two
	approvals   *approval.Store         // where calls wait for humans
	suspensions *suspend.Store
	recordings  *recording.Store
	connectors  *connector.Registry // nil where connectors cannot connect
	connectorCA *authority
	hub         *connector.Hub  // nil in commands, too
	budgets     *budget.Ledger  // nil where none is configured
	webhooks    *webhook.Sender // nil where nobody is told

	witnesses     *witness.Client // nil where there are none
	witnessPolicy *trailgate.WitnessPolicy

	adminURL   string
	api        atomic.Pointer[admin.API]
	reconciler *reconciler
	// reload reads policy and configuration again; nil in commands.
	reload func(ctx context.Context) (admin.Reloaded, error)
}

// Names in the data directory; the trail keeps its own.
const (
	agentsName = "agents.json"
	indexName  = "index"

	recordingsName    = "recordings"
	recordingKeysName = "recording-keys" // where the configuration names no other place
)

// openParts opens the data directory. Its error says what to do next.
func openParts(ctx context.Context, cfg *config.Config, log *slog.Logger, now func() time.Time) (_ *parts, err error) {
	dir := cfg.DataDir.String()
	p := &parts{
		cfg: cfg, log: log,
		self:     trailgate.Gateway{ID: cfg.ID, Version: thisBuild().Version, ConfigDigest: cfg.Digest},
		registry: newRegistry(), now: now,
	}
	trail.RedirectTesseraLogs(log)
	minFree := int64(cfg.Trail.MinFreeBytes)
	if minFree == 0 {
		minFree = -1 // the trail takes 0 for "the default"
	}
	witnesses, err := p.witnessing()
	if err != nil {
		return nil, err
	}
	p.trail, err = trail.Open(ctx, dir, trail.Options{
		Log: log, Gateway: p.self, Now: now, Witnesses: witnesses,
		SegmentBytes:       int64(cfg.Trail.SegmentBytes),
		MinFreeBytes:       minFree,
		MaxJournalBytes:    int64(cfg.Trail.MaxJournalBytes),
		CheckpointInterval: cfg.Trail.CheckpointInterval,
	})
	if err != nil {
		return nil, trailError(err, cfg)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close(context.WithoutCancel(ctx)))
		}
	}()
	if p.agents, err = identity.OpenAt(filepath.Join(dir, agentsName), now); err != nil {
		return nil, fmt.Errorf("open agents: %w", err)
	}
	if p.recordings, err = recording.Open(recording.Options{
		Dir: filepath.Join(dir, recordingsName), KeyDir: cfg.Recording.KeyDir.String(), Log: log, Now: now,
	}); err != nil {
		return nil, fmt.Errorf("open recordings: %w", err)
	}
	if err := p.openConnectors(); err != nil {
		return nil, fmt.Errorf("open connectors: %w", err)
	}
	p.sessions = identity.NewSessions(cfg.Sessions.IdleTimeout, now)
	if p.index, err = index.Open(ctx, filepath.Join(dir, indexName), p.trail, index.Options{Log: log, Now: now}); err != nil {
		if full := p.trail.Ready(); full != nil {
			return nil, fmt.Errorf("%w; %w", err, full)
		}
		return nil, hinted(err, "the index holds nothing of its own: once what is in the way is gone, %s can be removed, and is made anew from the log", filepath.Join(dir, indexName))
	}
	if err := p.registry.Register(&trailMetrics{p.trail, p.index}); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	if p.witnesses != nil {
		if err := p.registry.Register(witnessMetrics{p}); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return p, nil
}

// trailError adds what to do where a trail cannot be opened.
func trailError(err error, cfg *config.Config) error {
	switch {
	case errors.Is(err, trail.ErrLocked):
		return hinted(err, "a gateway, or a command that works on the trail, has %s open; two must not share it", cfg.DataDir)
	case errors.Is(err, trail.ErrInterrupted):
		return hinted(err, "trailgate log rotate-key")
	case errors.Is(err, trail.ErrMissing):
		return hinted(err, "if this gateway is new: trailgate init; if not: the log is gone, restore %s from a backup and run trailgate verify", cfg.DataDir)
	case errors.Is(err, trail.ErrRolledBack):
		return hinted(err, "this is evidence: stop, keep a copy of %s, and find the newest copy of the log (docs/witnesses.md)", cfg.DataDir)
	case errors.Is(err, trail.ErrTruncated), errors.Is(err, trail.ErrForeign):
		return hinted(err, "this is evidence: keep a copy of %s, and run trailgate verify", cfg.DataDir)
	}
	return err
}

// close gives everything back. It may be called on parts that were opened in part.
func (p *parts) close(ctx context.Context) error {
	var errs []error
	if p.reconciler != nil {
		errs = append(errs, p.reconciler.close())
	}
	if p.index != nil {
		errs = append(errs, p.index.Close())
	}
	if p.trail != nil {
		errs = append(errs, p.trail.Close(ctx))
	}
	if p.witnesses != nil {
		p.witnesses.Wait() // each has a time of its own
	}
	return errors.Join(errs...)
}

// gateway makes the data path.
func (p *parts) gateway(out *outbound, publicURL string) (*gateway.Gateway, error) {
	cfg := gateway.Config{
		ID: p.self.ID, Version: p.self.Version, ConfigDigest: p.self.ConfigDigest,
		Trail:        p.trail,
		Authenticate: p.callers.Authenticate,
		Exchange:     p.callers.Exchange,
		Introspect:   p.callers.Introspect,
		Sessions:     p.sessions,
		Connections:  out.connections,
		Policy:       p.decider.Load(),
		Approvals:    p.approvals,
		ApprovalWait: p.cfg.Approval.Wait,
		Notify:       p.notify,
		Suspended:    p.suspended,
		JobOwner:     p.jobOwner,
		Recordings:   p.recordings,
		Unfinished:   p.unfinished,
		Begun:        p.begun,
		PublicURL:    publicURL,
		Log:          p.log,
		Registry:     p.registry,
		Now:          p.now,
	}
	if out.issuer != nil {
		cfg.Issuer = out.issuer
	}
	if p.budgets != nil {
		cfg.Budgets = budgets{p.budgets}
	}
	var rules []recording.RedactRule
	for _, r := range p.cfg.Recording.Redact {
		rules = append(rules, recording.RedactRule(r))
	}
	redactor, err := recording.NewRedactor(rules)
	if err != nil {
		return nil, fmt.Errorf("recording.redact: %w", err)
	}
	cfg.Redactor = redactor
	gw, err := gateway.New(cfg)
	if err != nil {
		return nil, err
	}
	p.proxy = gw
	return gw, nil
}

// admin makes the API for humans. URLs are empty where there is no listener, and
// out is nil in commands, which hold no credentials.
func (p *parts) admin(out *outbound, publicURL, adminURL string) (*admin.API, error) {
	conns := make([]admin.Connection, 0, len(p.cfg.Connections))
	for _, c := range p.cfg.Connections {
		conns = append(conns, admin.Connection{Name: c.Name, Projects: c.Projects, Connectors: c.Connectors})
	}
	cfg := admin.Config{
		Trail: p.trail, Index: p.index, Agents: endingAgents{p.agents, p.sessions}, Gateway: p.self,
		PublicURL: publicURL, AdminURL: adminURL, Connections: conns,
		Metrics: p.registry, Log: p.log, Now: p.now,
		SearchesFile: filepath.Join(p.cfg.DataDir.String(), "searches.json"),
		Bundles:      p.trail,
		Recordings:   p.recordings, Retention: p.cfg.Recording.Retention.Results,
		Witnesses: p.witnessInfo,
	}
	if p.callers != nil {
		cfg.Sessions = p.callers
	}
	if p.connectors != nil {
		cfg.Connectors = connectorAdmin{p}
	}
	if p.proxy != nil {
		p.adminDecisions(&cfg)
	}
	if p.reconciler != nil {
		cfg.Coverage = p.reconciler.coverage()
	}
	if out != nil {
		cfg.Consents, cfg.Check = out.consenters(), p.checker(out)
		login, err := login(p.cfg)
		if err != nil {
			return nil, err
		}
		cfg.Login = login
		if err := p.pages(&cfg); err != nil {
			return nil, err
		}
	}
	api, err := admin.New(cfg)
	p.api.Store(api)
	return api, err
}

// endingAgents is the store of agents whose sessions end with their credential: that
// of "trailgate run" with the command, and not when it has been idle for long.
type endingAgents struct {
	*identity.Store
	sessions *identity.Sessions
}

const whyRevoked = "revoked" // why a session ended

func (a endingAgents) RevokeToken(id string) error {
	if err := a.Store.RevokeToken(id); err != nil {
		return err
	}
	a.sessions.End(func(s identity.Session) bool { return s.TokenID == id }, whyRevoked)
	return nil
}

func (a endingAgents) RevokeAgent(name string) error {
	if err := a.Store.RevokeAgent(name); err != nil {
		return err
	}
	a.sessions.End(func(s identity.Session) bool { return s.Agent == name }, whyRevoked)
	return nil
}

// unfinished asks the index once it has all that an earlier run left: with less,
// what was settled then would be settled again.
func (p *parts) unfinished(ctx context.Context, before uint64, limit int) ([]*trailgate.Entry, error) {
	if before > 0 {
		if err := p.index.Wait(ctx, before-1); err != nil {
			return nil, err
		}
	}
	return p.index.Unfinished(ctx, before, limit)
}

// minAdminToken is the shortest token that is taken: 128 bits in base64.
const minAdminToken = 22

// readAdminToken reads the token of remote administration. It is needed only
// where humans have a TCP listener.
func readAdminToken(cfg *config.Config) (string, error) {
	if cfg.Admin.Off() {
		return "", nil
	}
	path := filepath.Join(cfg.DataDir.String(), adminTokenName)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		if _, derr := os.Stat(cfg.DataDir.String()); derr != nil {
			return "", hinted(fmt.Errorf("open %s: %w", cfg.DataDir, os.ErrNotExist), `"trailgate init" makes it; data_dir in %s says where`, cfg.Path)
		}
		return "", hinted(fmt.Errorf("read the admin token: %w", err), "write 32 random bytes in base64 there (mode 0600), or set admin.listen: off")
	}
	if err != nil {
		return "", fmt.Errorf("read the admin token: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", hinted(fmt.Errorf("read the admin token: %s can be read by others (mode %04o)", path, info.Mode().Perm()), "chmod 600 %s; if others may have read it, put a new one there", path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the admin token: %w", err)
	}
	token := strings.TrimSpace(string(raw))
	if len(token) < minAdminToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("read the admin token: %s must hold one token of at least %d characters on one line", path, minAdminToken)
	}
	return token, nil
}
