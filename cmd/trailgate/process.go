package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/policy"
)

// gatewayProcess is a gateway that runs: its parts, its listeners, and the
// goroutines that it owns.
type gatewayProcess struct {
	cfg   *config.Config
	log   *slog.Logger
	level *slog.LevelVar
	parts *parts
	out   *outbound
	doors []*door // agents, humans (unless off), socket
	// failed yields what made a listener or a background task give up.
	failed chan error

	endCalls  context.CancelFunc // of every call; used only after the drain
	endAdmin  context.CancelFunc // of every request of a human
	endWork   context.CancelFunc // of the background work
	reloading sync.Mutex         // held by who reloads; guards what of cfg that changes
	work      sync.WaitGroup
	serving   sync.WaitGroup
	publicURL string
}

// startGateway brings a gateway up. The order matters: what can fail without
// writing anything (configuration, certificates, credentials, ports) goes
// first; then the trail is locked and opened; the start is in the trail before
// the first call is answered.
func startGateway(ctx context.Context, cfg *config.Config, stderr io.Writer) (*gatewayProcess, error) {
	return startGatewayAs(ctx, cfg, stderr, time.Now, true)
}

// startGatewayAs is startGateway with a clock for what is recorded, and with a socket
// for commands or without.
func startGatewayAs(ctx context.Context, cfg *config.Config, stderr io.Writer, now func() time.Time, withSocket bool) (_ *gatewayProcess, err error) {
	if len(cfg.Connections) == 0 {
		return nil, hinted(config.Errors{{File: cfg.Path, Key: "connections", Message: "none; the gateway has nowhere to send calls"}},
			"copy the example in the file, put your project in it, and start again")
	}
	g := &gatewayProcess{cfg: cfg, failed: make(chan error, 8)}
	g.log, g.level = newLog(stderr, cfg.Log)
	adminToken, err := readAdminToken(cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.abandon(ctx))
		}
	}()
	if err := g.listen(); err != nil {
		return nil, err
	}
	g.publicURL = cfg.Gateway.PublicURL
	if g.publicURL == "" {
		g.publicURL = g.doors[0].url()
	}
	g.publicURL = strings.TrimSuffix(g.publicURL, "/")
	verifier, err := newVerifier(cfg, g.publicURL, g.log, func(ctx context.Context, evidence []byte) (string, error) {
		return g.parts.trail.PutBlob(ctx, evidence) // nobody calls before the trail is open
	})
	if err != nil {
		return nil, err
	}
	decider, err := loadPolicy(cfg)
	if err != nil {
		return nil, err
	}
	if g.out, err = newOutbound(cfg, g.publicURL, g.urls()[doorHumans]); err != nil {
		return nil, err
	}

	if g.parts, err = openParts(ctx, cfg, g.log, now); err != nil {
		return nil, err
	}
	g.parts.decider.Store(decider)
	g.parts.reload = g.reload
	if withSocket {
		socket, err := listenSocket(filepath.Join(cfg.DataDir.String(), socketName))
		if err != nil {
			return nil, err
		}
		g.doors = append(g.doors, &door{name: doorSocket, listener: socket})
	}

	before := g.parts.trail.Size()
	if err := g.recordStart(ctx); err != nil {
		return nil, err
	}
	if err := g.parts.openCallers(verifier); err != nil {
		return nil, err
	}
	g.parts.adminURL = g.urls()[doorHumans]
	if err := g.parts.openDecisions(ctx); err != nil {
		return nil, err
	}
	if err := g.parts.newHub(g.out, g.publicURL); err != nil {
		return nil, err
	}
	if g.parts.reconciler, err = g.parts.newReconciler(before); err == nil {
		err = g.parts.reconciler.open()
	}
	if err != nil {
		return nil, err
	}
	gw, err := g.parts.gateway(g.out, g.publicURL)
	if err != nil {
		return nil, err
	}
	urls := g.urls()
	api, err := g.parts.admin(g.out, urls[doorAgents], urls[doorHumans])
	if err != nil {
		return nil, err
	}
	calls, endCalls := context.WithCancel(context.WithoutCancel(ctx))
	humans, endAdmin := context.WithCancel(context.WithoutCancel(ctx))
	work, endWork := context.WithCancel(context.WithoutCancel(ctx))
	g.endCalls, g.endAdmin, g.endWork = endCalls, endAdmin, endWork
	g.background(func() error { return gw.Run(work, before) })
	g.background(func() error { return g.parts.index.Run(work) })
	g.background(func() error { return g.parts.agents.Run(work) })
	g.background(func() error { g.parts.api.Load().RunRetention(work); return nil })
	g.background(func() error { return g.parts.countBudgets(work) })
	g.background(func() error { return g.parts.watchWitnesses(work) })
	g.background(func() error { g.parts.reconciler.schedule(work); return nil })
	if mail, err := g.parts.newMailout(); err != nil {
		return nil, err
	} else if mail != nil {
		if err := g.parts.registry.Register(mailoutMetrics{mail}); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
		g.background(func() error { mail.Run(work); return nil })
	}
	if hooks := g.parts.webhooks; hooks != nil {
		g.background(func() error { hooks.Run(work); return nil })
		g.parts.remind(work)
	}
	for _, d := range g.doors {
		switch d.name {
		case doorConnectors:
			g.background(func() error { return g.parts.hub.Serve(d.listener) })
			continue
		case doorAgents:
			d.clientCertificates = verifier.WantsCertificates()
			d.handle(calls, gw, g.log)
		case doorHumans:
			d.handle(humans, api.TCP(admin.HashToken(adminToken)), g.log)
		case doorSocket:
			d.handle(humans, api.Socket(), g.log)
			d.server.ConnContext = admin.ConnContext
		}
		g.serving.Go(func() {
			if err := d.serve(); err != nil {
				g.fail(err)
			}
		})
	}
	return g, nil
}

const (
	doorAgents = "agents"
	doorHumans = "humans"
	doorSocket = "socket"
)

// background runs a task until endWork; a task that ends otherwise fails the gateway.
func (g *gatewayProcess) background(task func() error) {
	g.work.Go(func() {
		if err := task(); err != nil && !errors.Is(err, context.Canceled) {
			g.fail(err)
		}
	})
}

func (g *gatewayProcess) fail(err error) {
	select {
	case g.failed <- err:
	default: // the first failures are enough to stop for
	}
}

// listen binds the TCP ports.
func (g *gatewayProcess) listen() error {
	agents, err := listenTCP(doorAgents, g.cfg.Gateway.Listen, g.cfg.Gateway.TLS)
	if err != nil {
		return err
	}
	g.doors = append(g.doors, agents)
	if g.cfg.Connectors.On() {
		connectors, err := listenConnectors(g.cfg)
		if err != nil {
			return err
		}
		g.doors = append(g.doors, connectors)
	}
	if g.cfg.Admin.Off() {
		return nil
	}
	humans, err := listenTCP(doorHumans, g.cfg.Admin.Listen, g.cfg.Admin.TLS)
	if err != nil {
		return err
	}
	g.doors = append(g.doors, humans)
	return nil
}

// urls are the addresses of the TCP listeners by name.
func (g *gatewayProcess) urls() map[string]string {
	urls := map[string]string{}
	for _, d := range g.doors {
		if d.name != doorSocket && d.name != doorConnectors {
			urls[d.name] = d.url()
		}
	}
	urls[doorAgents] = g.publicURL
	if g.cfg.Admin.PublicURL != "" {
		urls[doorHumans] = strings.TrimSuffix(g.cfg.Admin.PublicURL, "/")
	}
	return urls
}

func (g *gatewayProcess) recordStart(ctx context.Context) error {
	previous, err := previousStop(ctx, g.parts.trail)
	if err != nil {
		return err
	}
	decider := g.parts.decider.Load()
	detail := map[string]string{
		"previous_stop":  previous,
		"gateway_listen": g.doors[0].listener.Addr().String(),
		"public_url":     g.publicURL,
		"admin_listen":   g.cfg.Admin.Listen,
		"gateway_tls":    fmt.Sprint(g.cfg.Gateway.TLS.On()),
		"admin_tls":      fmt.Sprint(g.cfg.Admin.TLS.On()),
		"session_idle":   g.cfg.Sessions.IdleTimeout.String(),
		"log_key":        g.parts.trail.PublicKey(),
		"revision":       thisBuild().Revision,
		"go":             thisBuild().Go,
		"platform":       thisBuild().Platform,
		"policy":         decider.describe(),
	}
	if len(g.cfg.Budgets) > 0 {
		detail["budgets"] = describeBudgets(g.cfg)
	}
	if digest := decider.Digest(); digest != "" {
		detail["policy_digest"] = digest
	}
	for _, iss := range g.cfg.Identity.Issuers {
		detail["issuer."+iss.Name] = iss.Issuer
	}
	if g.cfg.Admin.Login.On() {
		detail["login"] = g.cfg.Admin.Login.Issuer
	}
	for _, conn := range g.cfg.Connections {
		way := ""
		if conn.Connectors {
			way = " through connectors"
		}
		detail["connection."+conn.Name] = fmt.Sprintf("%s %s %s%s", conn.Upstream, conn.Credential.Mode, strings.Join(conn.Projects, ","), way)
	}
	_, err = g.parts.gatewayEntry(ctx, actionStart, detail)
	if err == nil && previous == previousUnclean {
		g.log.WarnContext(ctx, "the gateway did not stop cleanly; calls that were under way are being settled")
	}
	return err
}

// tell says where the gateway is, when it is ready.
func (g *gatewayProcess) tell(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "trailgate: ready\n  agents  %s\n", g.publicURL)
	for _, d := range g.doors[1:] {
		if d.name == doorConnectors {
			fmt.Fprintf(&b, "  connectors  %s\n", d.listener.Addr())
		}
		if d.name == doorHumans {
			fmt.Fprintf(&b, "  humans  %s (token in %s)\n", d.url(), filepath.Join(g.cfg.DataDir.String(), adminTokenName))
		}
	}
	fmt.Fprintf(&b, "  socket  %s\n", filepath.Join(g.cfg.DataDir.String(), socketName))
	_, err := io.WriteString(w, b.String())
	return err
}

// reload takes in what can be changed while the gateway runs. The policy is taken in
// whole or not at all, and with it all the rest.
func (g *gatewayProcess) reload(ctx context.Context) (done admin.Reloaded, err error) {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	next, err := config.Load(g.cfg.Path)
	if err != nil {
		return done, fmt.Errorf("the configuration stays as it is: %w", err)
	}
	rules, err := loadPolicy(next)
	if err != nil {
		return done, fmt.Errorf("policy and configuration stay as they are: %w", err)
	}
	was := g.parts.decider.Load()
	done = admin.Reloaded{Digest: rules.Digest(), Previous: was.Digest(), Changes: []string{}, NeedsRestart: needRestart(g.cfg, next)}
	detail := map[string]string{"config_digest": next.Digest}
	newBudgets := g.parts.budgets != nil && !reflect.DeepEqual(next.Budgets, g.cfg.Budgets)
	if newBudgets {
		detail["budgets"] = describeBudgets(next)
	}
	newRules := rules.Digest() != was.Digest() || (rules.set == nil) != (was.set == nil)
	if newRules {
		changes := policy.Diff(was.set, rules.set)
		for _, c := range changes {
			done.Changes = append(done.Changes, c.String())
		}
		detail["policy"], detail["policy_changes"] = rules.describe(), policy.Summary(changes, maxChanges)
		detail["policy_digest"], detail["policy_previous"] = rules.Digest(), was.Digest()
	}
	if next.Log.Level != g.cfg.Log.Level {
		detail["log.level"] = next.Log.Level
	}
	g.level.Set(logLevel(next.Log.Level))
	for _, d := range g.doors {
		if d.cert == nil {
			continue
		}
		detail[d.name+".tls"] = "read"
		if err := d.cert.reload(); err != nil {
			g.log.ErrorContext(ctx, "reload: the certificate in use stays", "listener", d.name, "err", err)
			detail[d.name+".tls"] = "failed"
		}
	}
	if g.out.issuer != nil {
		detail["issuer_keys"] = "read"
		if err := g.out.issuer.Reload(); err != nil {
			g.log.ErrorContext(ctx, "reload: the issuer's keys in use stay", "err", err)
			detail["issuer_keys"] = "failed"
		}
	}
	if rest := done.NeedsRestart; len(rest) > 0 {
		detail["needs_restart"] = strings.Join(rest, ",")
		g.log.WarnContext(ctx, "reload: these settings changed and need a restart", "keys", strings.Join(rest, ","))
	} else {
		done.NeedsRestart = []string{}
	}
	for key, value := range detail {
		if value == "" {
			delete(detail, key)
		}
	}
	// The policy holds from here on, and the entry says so before: a call that is
	// judged by rules stands behind the entry that names them.
	if _, err := g.parts.gatewayEntry(ctx, actionReload, detail); err != nil {
		return done, fmt.Errorf("the policy stays as it is, for the trail does not take the news: %w", err)
	}
	g.cfg.Log.Level = next.Log.Level
	if newBudgets {
		if err := g.parts.budgets.Set(budgetsOf(next)); err != nil {
			return done, fmt.Errorf("the budgets stay as they are: %w", err)
		}
		g.cfg.Budgets = next.Budgets
	}
	g.cfg.Policy = next.Policy
	if newRules {
		g.parts.decider.Store(rules)
		g.parts.proxy.SetPolicy(rules)
	}
	g.log.InfoContext(ctx, "reloaded", "config_digest", next.Digest, "policy_digest", rules.Digest())
	return done, nil
}

// maxChanges is how many changes of a policy an entry names.
const maxChanges = 50

// needRestart names the top-level keys that differ and that reload leaves alone.
func needRestart(old, next *config.Config) []string {
	a, b := *old, *next
	a.Log.Level, a.Policy = b.Log.Level, b.Policy
	if len(a.Budgets) > 0 { // a ledger is there to take them
		a.Budgets = b.Budgets
	}
	var keys []string
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		key := va.Type().Field(i).Tag.Get("yaml")
		if key != "-" && !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			keys = append(keys, key)
		}
	}
	return keys
}

// stopTimeout bounds what comes after the drain: the last entries, and their
// way into the log.
const stopTimeout = 30 * time.Second

// stop ends the gateway in good order: no new calls, those under way finish or
// are cut at the drain timeout, the sessions and the stop are recorded, the log
// is brought up to date, and the lock is given back.
func (g *gatewayProcess) stop(ctx context.Context, why string) error {
	g.log.InfoContext(ctx, "stopping", "reason", why, "drain_timeout", g.cfg.Shutdown.DrainTimeout.String())
	drain, cancel := context.WithTimeout(ctx, g.cfg.Shutdown.DrainTimeout)
	defer cancel()
	drained := g.shutDoors(drain)

	after, cancelAfter := context.WithTimeout(ctx, stopTimeout)
	defer cancelAfter()
	var errs []error
	if err := g.parts.proxy.Close(after); err != nil {
		drained = false
		g.log.WarnContext(ctx, "calls were cut", "err", err)
	}
	if g.parts.hub != nil {
		g.parts.hub.Close() // no call is left that could need it
	}
	g.endWork()
	g.work.Wait()
	_, err := g.parts.gatewayEntry(after, actionStop, map[string]string{"reason": why, "drained": fmt.Sprint(drained)})
	errs = append(errs, err, g.out.close(), g.parts.close(after))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	g.log.InfoContext(ctx, "stopped", "drained", drained)
	return nil
}

// adminGrace is how long requests of humans may take when the gateway stops.
// Who follows the trail sees it to the end of the drain.
const adminGrace = 2 * time.Second

// shutDoors takes no more calls and waits for those under way; at the end of
// ctx it cuts them. It reports whether all calls finished by themselves.
func (g *gatewayProcess) shutDoors(ctx context.Context) bool {
	drained := true
	for _, d := range g.doors {
		if d.name != doorAgents {
			continue
		}
		if err := d.server.Shutdown(ctx); err != nil {
			drained = false
			_ = d.server.Close() // cuts what did not end; there is nothing else to do
		}
	}
	g.endCalls()
	g.endAdmin()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminGrace)
	defer cancel()
	for _, d := range g.doors {
		if d.name != doorAgents && d.server != nil && d.server.Shutdown(grace) != nil {
			_ = d.server.Close()
		}
	}
	g.serving.Wait()
	_ = os.Remove(filepath.Join(g.cfg.DataDir.String(), socketName)) // else the next start does it
	return drained
}

// abandon gives back what a start that failed had taken.
func (g *gatewayProcess) abandon(ctx context.Context) error {
	var errs []error
	for _, d := range g.doors {
		errs = append(errs, d.listener.Close())
		if d.name == doorSocket {
			errs = append(errs, os.Remove(filepath.Join(g.cfg.DataDir.String(), socketName)))
		}
	}
	if g.out != nil {
		errs = append(errs, g.out.close())
	}
	if g.parts != nil {
		if g.parts.hub != nil {
			g.parts.hub.Close()
		}
		ctx, cancel := context.WithTimeout(ctx, stopTimeout)
		defer cancel()
		errs = append(errs, g.parts.close(ctx))
	}
	return errors.Join(errs...)
}
