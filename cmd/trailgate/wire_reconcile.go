package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/gateway"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/reconcile"
	"github.com/trailgate/trailgate/internal/webhook"
)

// newEntryID makes an entry's id.
func newEntryID(now time.Time) string {
	return strings.ToLower(ulid.MustNew(ulid.Timestamp(now), rand.Reader).String())
}

// reconcileName is the directory of what was reconciled, in the data directory.
const reconcileName = "reconcile"

// reconciler compares BigQuery's own records with the trail: on the schedule, and when
// somebody asks.
type reconciler struct {
	p     *parts
	store *reconcile.Store
	conns map[string]*reconciled
	// settleBefore is the place in the log before which calls of earlier runs stand.
	settleBefore uint64
	// notBefore is how far back there is anything to compare: a demo's sandbox forgets
	// its jobs when it ends.
	notBefore time.Time
	metrics   reconcileMetrics
}

// reconciled is one connection.
type reconciled struct {
	p      *parts
	conf   config.Connection
	turn   chan struct{} // of capacity 1: held by the run
	mu     sync.Mutex    // guards the making of both
	source federation.Source
	http   http.RoundTripper
}

type reconcileMetrics struct {
	findings *prometheus.CounterVec
	runs     *prometheus.CounterVec
	jobs     *prometheus.GaugeVec
	percent  *prometheus.GaugeVec
	last     *prometheus.GaugeVec
}

// newReconciler makes one for a gateway, or for a command on its data directory.
func (p *parts) newReconciler(settleBefore uint64) (*reconciler, error) {
	r := &reconciler{
		p: p, store: reconcile.OpenStore(filepath.Join(p.cfg.DataDir.String(), reconcileName)), conns: map[string]*reconciled{}, settleBefore: settleBefore,
		metrics: reconcileMetrics{
			findings: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "trailgate_reconcile_findings_total", Help: "New findings, by connection and kind."}, []string{"connection", "kind"}),
			runs:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "trailgate_reconcile_runs_total", Help: "Comparisons with BigQuery's own records, by connection and result: ok or failed."}, []string{"connection", "result"}),
			jobs:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "trailgate_reconcile_jobs", Help: "Jobs in the last run's window, by connection and who has them: both, only_bigquery, only_trail."}, []string{"connection", "side"}),
			percent:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "trailgate_reconcile_covered_percent", Help: "Of a hundred jobs of agents' principals in BigQuery's job list, how many have their entry; last run."}, []string{"connection"}),
			last:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "trailgate_reconcile_last_run_seconds", Help: "When the last run without an error ended, in seconds since 1970."}, []string{"connection"}),
		},
	}
	if p.cfg.Demo {
		r.notBefore = p.now()
	}
	for _, c := range []prometheus.Collector{r.metrics.findings, r.metrics.runs, r.metrics.jobs, r.metrics.percent, r.metrics.last} {
		if err := p.registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	for _, c := range p.cfg.Connections {
		r.conns[c.Name] = &reconciled{p: p, conf: c, turn: make(chan struct{}, 1)}
	}
	return r, nil
}

// open finds every credential, so that one that cannot be had is found out at the
// gateway's start.
func (r *reconciler) open() error {
	for _, c := range r.conns {
		if err := c.open(r.p.cfg); err != nil {
			return err
		}
	}
	return nil
}

// open finds the connection's credential, once.
func (c *reconciled) open(cfg *config.Config) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.source != nil || !c.conf.Reconcile.On() {
		return nil
	}
	if c.conf.Connectors && c.p.hub == nil {
		return hinted(fmt.Errorf("connection %s goes through connectors, and they are connected to the gateway, which does not run", c.conf.Name), "start it (trailgate serve), and ask again")
	}
	client, err := httpClient(cfg.Federation.Endpoints.CAFile)
	if err != nil {
		return fmt.Errorf("federation.endpoints.ca_file: %w", err)
	}
	e := cfg.Federation.Endpoints
	source, err := auditorSource(c.conf.Name, c.conf.Reconcile.Credential, federation.Endpoints{
		STS: e.STS, IAMCredentials: e.IAMCredentials, OAuthAuth: e.OAuthAuth, OAuthToken: e.OAuthToken, OAuthRevoke: e.OAuthRevoke, UserInfo: e.UserInfo, HTTP: client,
	})
	if err != nil {
		return fmt.Errorf("connection %s: reconcile: %w", c.conf.Name, err)
	}
	c.source, c.http = source, gateway.NewTransport(2*time.Minute)
	if c.conf.Connectors {
		c.http = hubTransport{c.p.hub, c.conf.Name}
	}
	return nil
}

// auditorSource is the credential of who may list all jobs.
func auditorSource(connection string, a config.Auditor, ends federation.Endpoints) (federation.Source, error) {
	switch a.Mode {
	case config.CredentialConnector:
		return connectorCredential{}, nil
	case config.CredentialNone:
		return federation.None(), nil
	case config.CredentialStatic:
		return federation.Static(a.TokenFile.String())
	case config.CredentialADC:
		return federation.ADC(federation.Base{File: a.CredentialFile.String()})
	}
	return federation.Impersonation(federation.ImpersonationConfig{
		Connection: connection, Base: federation.Base{File: a.CredentialFile.String()}, Template: a.ServiceAccount, Delegates: a.Delegates, Endpoints: ends,
	})
}

// close ends what credentials do in the background.
func (r *reconciler) close() error {
	var errs []error
	for _, c := range r.conns {
		if closer, ok := c.source.(io.Closer); ok {
			errs = append(errs, closer.Close())
		}
	}
	return errors.Join(errs...)
}

// schedule runs every connection's comparison until ctx ends.
func (r *reconciler) schedule(ctx context.Context) {
	every := r.p.cfg.Reconcile.Every
	if every == 0 {
		return
	}
	var wait sync.WaitGroup
	for _, c := range r.conns {
		if !c.conf.Reconcile.On() {
			continue
		}
		wait.Go(func() {
			// Not at once: a gateway that has just started settles its own first.
			next := min(every, firstReconcile)
			for {
				select {
				case <-ctx.Done():
					return
				case <-time.After(next):
				}
				next = every
				report, err := r.run(ctx, c, admin.CoverageRun{Connection: c.conf.Name}, true)
				switch {
				case ctx.Err() != nil:
					return
				case err != nil:
					r.p.log.ErrorContext(ctx, "compare with BigQuery's own records", "connection", c.conf.Name, "err", err)
				case report.New > 0:
					r.p.log.WarnContext(ctx, "BigQuery's own records and the trail do not fit", "connection", c.conf.Name, "new_findings", report.New)
				}
			}
		})
	}
	wait.Wait()
}

// firstReconcile is how long after the start the first run is.
const firstReconcile = time.Minute

// ask compares because somebody asks.
func (r *reconciler) ask(ctx context.Context, q admin.CoverageRun) (*reconcile.Report, error) {
	c := r.conns[q.Connection]
	switch {
	case c == nil:
		return nil, fmt.Errorf("%w: connection %q", admin.ErrNotFound, q.Connection)
	case !c.conf.Reconcile.On() && q.Source != "audit-log":
		return nil, fmt.Errorf("%w: connection %s has no credential under reconcile, so that BigQuery cannot be asked about all jobs (docs/completeness.md)", admin.ErrNotFound, q.Connection)
	}
	return r.run(ctx, c, q, false)
}

func (r *reconciler) run(ctx context.Context, c *reconciled, q admin.CoverageRun, scheduled bool) (*reconcile.Report, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	default:
		return nil, fmt.Errorf("a comparison of connection %s: %w", c.conf.Name, admin.ErrBusy)
	}
	if q.Source != "audit-log" { // a file has all that is to be read
		if err := c.open(r.p.cfg); err != nil {
			return nil, err
		}
	}
	cfg, o, done, err := r.prepare(ctx, c, q, scheduled)
	if err != nil {
		return nil, err
	}
	defer done()
	report, err := reconcile.Run(ctx, cfg, o)
	name := c.conf.Name
	if err != nil {
		r.metrics.runs.WithLabelValues(name, "failed").Inc()
		return report, err
	}
	r.metrics.runs.WithLabelValues(name, "ok").Inc()
	if cfg.Source.Name() != "audit-log" {
		for side, n := range map[string]int64{"both": report.Counts.Both, "only_bigquery": report.Counts.Direct, "only_trail": report.Counts.Missing} {
			r.metrics.jobs.WithLabelValues(name, side).Set(float64(n))
		}
		if report.Percent >= 0 {
			r.metrics.percent.WithLabelValues(name).Set(report.Percent)
		}
		r.metrics.last.WithLabelValues(name).SetToCurrentTime()
	}
	return report, nil
}

// prepare says what a run compares, over which window.
func (r *reconciler) prepare(ctx context.Context, c *reconciled, q admin.CoverageRun, scheduled bool) (cfg reconcile.Config, o reconcile.Options, done func(), err error) {
	done = func() {}
	now, settings := r.p.now(), r.p.cfg.Reconcile
	o = reconcile.Options{Since: q.Since, Until: now.Add(-settings.Grace), Scheduled: scheduled, Progress: q.Progress, Found: q.Found}
	if scheduled {
		st, err := r.store.Load(c.conf.Name)
		if err != nil {
			return cfg, o, done, err
		}
		o.Since = now.Add(-settings.Window)
		if !st.Until.IsZero() {
			o.Since = st.Until.Add(-settings.Late)
		}
	} else if !q.Until.IsZero() || q.Source == "audit-log" {
		o.Until = cmp.Or(q.Until, now)
	} else if r.p.cfg.Demo {
		o.Until = now // a sandbox shows its jobs at once, and who tries it out should not wait
	}
	if o.Until.After(now) {
		o.Until = now
	}
	if o.Since.Before(r.notBefore) {
		o.Since = r.notBefore
	}
	runID := newEntryID(now)
	cfg = reconcile.Config{
		Connection: c.conf.Name, Projects: c.conf.ReconciledProjects(), Trail: r.p.trail, Run: runID, Store: r.store, Now: r.p.now,
		Append: r.append, Lookup: r.lookUp, JobOwner: r.p.index.JobOwner, Deleted: r.deleted,
		Upstream:     func(ctx context.Context) ([]string, error) { return r.upstream(ctx, c.conf.Name) },
		Known:        func(ctx context.Context) ([]*reconcile.Finding, error) { return r.findings(ctx, c.conf.Name) },
		Told:         r.tell,
		Principals:   c.conf.Reconcile.Principals,
		Ignored:      c.conf.Reconcile.Ignore,
		SettleBefore: r.settleBefore, Late: settings.Late, NotBefore: r.notBefore,
		Textless: c.conf.Recording.Level == config.RecordingMetadata,
	}
	// What the index has not seen yet would be taken for missing.
	if size := r.p.trail.Size(); size > 0 {
		if err := r.wait(ctx, size-1); err != nil {
			return cfg, o, done, err
		}
	}
	api := &reconcile.API{Root: c.conf.UpstreamURL(), HTTP: c.http, Reason: runID, Token: func(ctx context.Context) (string, error) {
		credential, err := c.source.Credential(ctx, federation.Request{
			Principal: &trailgate.Principal{Agent: "reconcile"}, Connection: c.conf.Name, Project: cfg.Projects[0], Session: runID,
		})
		return credential.Token, err
	}}
	switch cmp.Or(q.Source, c.conf.Reconcile.Source) {
	case config.ReconcileView:
		if c.conf.Reconcile.Region == "" {
			return cfg, o, done, fmt.Errorf("connection %s has no region to read INFORMATION_SCHEMA of: set source: information-schema and region under its reconcile key", c.conf.Name)
		}
		cfg.Source = &reconcile.JobsView{API: api, Region: c.conf.Reconcile.Region, Run: runID}
	case "audit-log":
		spool, err := reconcile.NewSpool(filepath.Join(r.p.cfg.DataDir.String(), reconcileName))
		if err != nil {
			return cfg, o, done, err
		}
		done = func() {
			if err := spool.Close(); err != nil {
				r.p.log.WarnContext(ctx, "clear spooled audit logs away", "err", err)
			}
		}
		if err := spool.Add(q.AuditLog); err != nil {
			done()
			return cfg, o, func() {}, err
		}
		if len(cfg.Projects) == 0 {
			cfg.Projects = spool.Projects()
		}
		cfg.Source = spool
	default:
		cfg.Source = &reconcile.List{API: api}
	}
	return cfg, o, done, nil
}

// wait lets the index come as far as a place in the log. In a command nothing else feeds
// it.
func (r *reconciler) wait(ctx context.Context, seq uint64) error {
	if r.p.proxy == nil {
		return r.p.index.CatchUp(ctx, nil)
	}
	return r.p.index.Wait(ctx, seq)
}

func (r *reconciler) append(ctx context.Context, e *trailgate.Entry) error {
	if e.ID == "" {
		e.ID = newEntryID(r.p.now())
	}
	e.Gateway = r.p.self
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return r.p.trail.Append(ctx, e)
}

// lookUp finds the call of the entry of exactly this id.
func (r *reconciler) lookUp(ctx context.Context, id string) ([]*trailgate.Entry, error) {
	if strings.ContainsAny(id, "*\" ") {
		return nil, nil // no id of ours
	}
	stages, err := r.p.index.Lookup(ctx, id)
	if errors.Is(err, index.ErrNotFound) || errors.Is(err, index.ErrAmbiguous) {
		return nil, nil
	}
	if err != nil || !slices.ContainsFunc(stages, func(e *trailgate.Entry) bool { return e.ID == id }) {
		return nil, err
	}
	return stages, nil
}

// deleted finds the call by which a job's record was deleted.
func (r *reconciler) deleted(ctx context.Context, project, job string) (string, error) {
	rows, _, err := r.p.index.Search(ctx, index.Query{
		Filter:   `method = "bigquery.jobs.delete" AND project = ` + strconv.Quote(project) + ` AND job = ` + strconv.Quote(job) + ` AND kind = "intent" AND status < 300`,
		PageSize: 1,
	})
	if err != nil || len(rows) == 0 {
		return "", err
	}
	return rows[0].Entry.ID, nil
}

// maxPrincipals bounds those of a connection.
const maxPrincipals = 10_000

// upstream lists as whom calls of a connection went on.
func (r *reconciler) upstream(ctx context.Context, connection string) ([]string, error) {
	all, err := r.p.index.Values(ctx, "upstream", "", maxPrincipals)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range all {
		rows, _, err := r.p.index.Search(ctx, index.Query{
			Filter: `connection = ` + strconv.Quote(connection) + ` AND kind = "intent" AND upstream = ` + strconv.Quote(p), PageSize: 1,
		})
		if err != nil {
			return nil, err
		}
		if len(rows) > 0 {
			out = append(out, p)
		}
	}
	return out, nil
}

// maxKnownFindings bounds how many are looked at; the newest count.
const maxKnownFindings = 100_000

// findings lists what was found, the newest first, and says what was acknowledged. The
// trail is asked: nothing else remembers it.
func (r *reconciler) findings(ctx context.Context, connection string) ([]*reconcile.Finding, error) {
	if size := r.p.trail.Size(); size > 0 {
		if err := r.wait(ctx, size-1); err != nil {
			return nil, err
		}
	}
	known := map[string]bool{}
	err := r.each(ctx, `kind = "admin" AND action = "`+reconcile.ActionAcknowledge+`"`, func(e *trailgate.Entry) {
		if e.Event != nil && e.Event.Detail["failed"] == "" {
			known[e.Event.Target] = true
		}
	})
	if err != nil {
		return nil, err
	}
	filter := `kind = "gap" AND action = "reconcile.*"`
	if connection != "" {
		filter += ` AND connection = ` + strconv.Quote(connection)
	}
	var out []*reconcile.Finding
	err = r.each(ctx, filter, func(e *trailgate.Entry) {
		if f := reconcile.FromEntry(e); f != nil {
			f.Acknowledged = known[f.Entry]
			out = append(out, f)
		}
	})
	return out, err
}

func (r *reconciler) each(ctx context.Context, filter string, fn func(*trailgate.Entry)) error {
	q := index.Query{Filter: filter, PageSize: 1000}
	for n := 0; n < maxKnownFindings; {
		rows, next, err := r.p.index.Search(ctx, q)
		if err != nil {
			return err
		}
		for _, row := range rows {
			fn(row.Entry)
		}
		if n += len(rows); next == "" {
			return nil
		}
		q.PageToken = next
	}
	return nil
}

// connections tells of each connection, for people.
func (r *reconciler) connections(ctx context.Context) ([]admin.ConnectionCoverage, error) {
	all, err := r.findings(ctx, "")
	if err != nil {
		return nil, err
	}
	open := map[string]int64{}
	for _, f := range all {
		if !f.Acknowledged {
			open[f.Connection]++
		}
	}
	var out []admin.ConnectionCoverage
	for _, conf := range r.p.cfg.Connections {
		st, err := r.store.Load(conf.Name)
		if err != nil {
			return nil, err
		}
		c := admin.ConnectionCoverage{
			Connection: conf.Name, Compared: conf.Reconcile.On(), Projects: conf.ReconciledProjects(), LastError: st.LastError,
			Open: open[conf.Name], Days: st.Days(), Until: when(st.Until), LastRun: when(st.LastRun),
		}
		if c.Projects == nil {
			c.Projects = []string{}
		}
		if c.Compared {
			c.Source = conf.Reconcile.Source
			if every := r.p.cfg.Reconcile.Every; every > 0 && r.p.proxy != nil {
				c.Every = every.String()
			}
		}
		out = append(out, c)
	}
	return out, nil
}

func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// tell counts a new finding, and tells the webhooks.
func (r *reconciler) tell(ctx context.Context, f *reconcile.Finding) {
	r.metrics.findings.WithLabelValues(f.Connection, f.Kind).Inc()
	r.p.log.WarnContext(ctx, "BigQuery's own records and the trail do not fit", "finding", f.Kind, "connection", f.Connection, "entry", f.Entry)
	if r.p.webhooks == nil {
		return
	}
	n := webhook.Notice{
		ID: f.Entry + ".reconcile." + f.Kind, Type: "reconcile." + f.Kind, Time: r.p.now(), Gateway: r.p.cfg.ID, Subject: f.Entry,
		Title: findingTitle(f), Link: r.p.findingLink(f.Entry),
	}
	add := func(name, value string) {
		if value != "" {
			n.Fields = append(n.Fields, webhook.Field{Name: name, Value: value})
		}
	}
	add("connection", f.Connection)
	add("job", strings.Trim(f.Project+":"+f.Job, ":"))
	add("ran as", f.Principal)
	add("agent", f.Agent)
	add("why", f.Why)
	add("entry", f.Entry)
	if c := r.conns[f.Connection]; c != nil && f.Statement != nil && c.conf.Recording.Level != config.RecordingMetadata {
		n.Statement = f.Statement.Text
	}
	r.p.webhooks.Send(ctx, n)
}

func (p *parts) findingLink(id string) string {
	if p.adminURL == "" {
		return ""
	}
	return strings.TrimSuffix(p.adminURL, "/") + "/entries/" + id
}

// findingTitle is a finding in one line.
func findingTitle(f *reconcile.Finding) string {
	switch f.Kind {
	case reconcile.Bypassed:
		return "BigQuery ran something for an agent's principal that went past the gateway"
	case reconcile.Forged:
		return "A job's labels say that it is the gateway's, and it is not"
	case reconcile.Mismatched:
		return "The trail and BigQuery say different things of the same job"
	}
	return "BigQuery does not have a job that it told the gateway of"
}

// coverage hands the admin API what it tells of.
func (r *reconciler) coverage() *admin.Coverage {
	return &admin.Coverage{Connections: r.connections, Findings: r.findings, Run: r.ask}
}
