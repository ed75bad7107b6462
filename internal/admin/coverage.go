package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/trailgate/trailgate/internal/reconcile"
)

// Coverage is how BigQuery's own records and the trail fit together, as the gateway has
// found out so far. All its functions may be called concurrently.
type Coverage struct {
	// Connections tells of each connection, whether it is compared or not.
	Connections func(ctx context.Context) ([]ConnectionCoverage, error)
	// Findings lists what was found, the newest first; "" is every connection.
	Findings func(ctx context.Context, connection string) ([]*reconcile.Finding, error)
	// Run compares now. Its error is ErrNotFound for a connection that is not there, or is
	// not compared, and ErrBusy where a run of that connection is under way.
	Run func(ctx context.Context, r CoverageRun) (*reconcile.Report, error)
}

// ErrBusy means that the same is being done already.
var ErrBusy = errors.New("it is being done already")

// ConnectionCoverage is what is known of one connection.
type ConnectionCoverage struct {
	Connection string          `json:"connection"`
	Compared   bool            `json:"compared"` // a credential is configured to do it with
	Source     string          `json:"source,omitempty"`
	Projects   []string        `json:"projects"`
	Every      string          `json:"every,omitempty"` // a run on the schedule; empty: none
	Until      *time.Time      `json:"until,omitempty"` // how far scheduled runs have come
	LastRun    *time.Time      `json:"last_run,omitempty"`
	LastError  string          `json:"last_error,omitempty"`
	Open       int64           `json:"open"` // findings that nobody acknowledged
	Days       []reconcile.Day `json:"days"` // newest first
}

// CoverageRun is what to compare.
type CoverageRun struct {
	Connection string
	Since      time.Time
	Until      time.Time // zero: as close to now as makes sense
	Source     string    // "": the connection's own
	AuditLog   io.Reader // with source "audit-log"
	Progress   func(reconcile.Progress)
	Found      func(*reconcile.Finding)
}

const (
	actionCoverage    = "coverage.show"
	actionCoverageRun = "coverage.run"
	coverageWindow    = 24 * time.Hour
	findingsPage      = 100
	maxFindingsPage   = 1_000
	maxAuditLog       = 64 << 30 // bytes of an export
	auditLogTimeout   = 2 * time.Minute
)

func (a *API) coverageOff() error {
	if a.cfg.Coverage == nil {
		return &Error{Code: http.StatusNotFound, Message: "nothing is compared where no gateway runs"}
	}
	return nil
}

// coverage is GET coverage.
func (a *API) coverage(w http.ResponseWriter, r *request) error {
	if err := a.coverageOff(); err != nil {
		return err
	}
	if _, err := a.record(r, actionCoverage, "", nil); err != nil {
		return err
	}
	list, err := a.cfg.Coverage.Connections(r.Context())
	if err != nil {
		return err
	}
	if list == nil {
		list = []ConnectionCoverage{}
	}
	return reply(w, http.StatusOK, struct {
		Connections []ConnectionCoverage `json:"connections"`
	}{list})
}

// findings is GET coverage/findings.
func (a *API) findings(w http.ResponseWriter, r *request) error {
	if err := a.coverageOff(); err != nil {
		return err
	}
	size, err := number(r, "page_size", findingsPage, maxFindingsPage)
	if err != nil {
		return err
	}
	state := r.query.Get("state")
	switch state {
	case "", "all", "open", "acknowledged":
	default:
		return invalid("state: want open, acknowledged or all")
	}
	from := 0
	if token := r.query.Get("page_token"); token != "" {
		if from, err = strconv.Atoi(token); err != nil || from < 0 {
			return invalid("page_token: not one of this API's")
		}
	}
	if !a.busy.enter() {
		return busy()
	}
	defer a.busy.leave()
	connection := r.query.Get("connection")
	if _, err := a.record(r, actionCoverage, connection, map[string]string{"findings": "all", "state": state}); err != nil {
		return err
	}
	all, err := a.cfg.Coverage.Findings(r.Context(), connection)
	if err != nil {
		return err
	}
	out := struct {
		Findings []*reconcile.Finding `json:"findings"`
		Next     string               `json:"next_page_token,omitempty"`
	}{Findings: []*reconcile.Finding{}}
	seen := 0
	for _, f := range all {
		if state == "open" && f.Acknowledged || state == "acknowledged" && !f.Acknowledged {
			continue
		}
		if seen++; seen <= from {
			continue
		}
		if int64(len(out.Findings)) == size {
			out.Next = strconv.Itoa(from + len(out.Findings))
			break
		}
		out.Findings = append(out.Findings, f)
	}
	return reply(w, http.StatusOK, out)
}

// acknowledgeFinding is POST coverage/findings/{finding_id}:acknowledge: a human has looked
// at it. The entry of the finding stays as it is; this is another.
func (a *API) acknowledgeFinding(w http.ResponseWriter, r *request) error {
	if err := a.coverageOff(); err != nil {
		return err
	}
	var in struct {
		Reason string `json:"reason"`
	}
	if err := decode(w, r, &in, false); err != nil {
		return err
	}
	if strings.TrimSpace(in.Reason) == "" {
		return invalid("reason: say what it was; the trail has it then")
	}
	id := r.args["finding_id"]
	list, err := a.cfg.Coverage.Findings(r.Context(), "")
	if err != nil {
		return err
	}
	for _, f := range list {
		if f.Entry != id {
			continue
		}
		if f.Acknowledged {
			return &Error{Code: http.StatusConflict, Message: "finding " + id + " was acknowledged before"}
		}
		entry, err := a.record(r, reconcile.ActionAcknowledge, id, map[string]string{"reason": in.Reason, "finding": f.Kind, "connection": f.Connection, "job": f.Job})
		if err != nil {
			return err
		}
		return reply(w, http.StatusOK, struct {
			Finding string `json:"finding"`
			Entry   string `json:"entry"`
		}{id, entry})
	}
	return &Error{Code: http.StatusNotFound, Message: "there is no finding " + clip(id, 64) + "; its id is that of the entry that tells of it"}
}

// coverageEvent is a line of the answer to coverage:run.
type coverageEvent struct {
	Progress *reconcile.Progress `json:"progress,omitempty"`
	Finding  *reconcile.Finding  `json:"finding,omitempty"`
	Report   *reconcile.Report   `json:"report,omitempty"`
}

// runCoverage is POST coverage:run. The answer is a line for each finding, for progress now
// and then, and at the end the report, or an error. The run ends with the caller's
// connection; what was looked at stays looked at.
func (a *API) runCoverage(w http.ResponseWriter, r *request) error {
	if err := a.coverageOff(); err != nil {
		return err
	}
	run := CoverageRun{Connection: r.query.Get("connection"), Source: r.query.Get("source")}
	switch run.Source {
	case "", "jobs", "information-schema", "audit-log":
	default:
		return invalid("source: want jobs, information-schema or audit-log")
	}
	for name, at := range map[string]*time.Time{"since": &run.Since, "until": &run.Until} {
		s := r.query.Get(name)
		if s == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return invalid(name + ": want a time as in RFC 3339, such as 2026-11-23T00:00:00Z")
		}
		*at = t
	}
	if run.Since.IsZero() {
		run.Since = a.cfg.Now().Add(-coverageWindow)
	}
	if run.Source == "audit-log" {
		run.AuditLog = &auditLogBody{r: http.MaxBytesReader(w, r.Body, maxAuditLog), rc: http.NewResponseController(w)}
	} else if err := decode(w, r, &struct{}{}, true); err != nil {
		return err
	}
	if _, err := a.record(r, actionCoverageRun, run.Connection, map[string]string{
		"source": run.Source, "since": run.Since.UTC().Format(time.RFC3339), "until": r.query.Get("until"),
	}); err != nil {
		return err
	}
	out := newStream(w, "application/x-ndjson")
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	var mu sync.Mutex // held by who writes to out
	last := time.Now()
	say := func(e coverageEvent) {
		mu.Lock()
		defer mu.Unlock()
		last = time.Now()
		if err := out.json(e); err != nil {
			cancel() // nobody reads any more
		}
	}
	run.Found = func(f *reconcile.Finding) { say(coverageEvent{Finding: f}) }
	run.Progress = func(p reconcile.Progress) { say(coverageEvent{Progress: &p}) }
	stop, beats := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(beats)
		tick := time.NewTicker(a.cfg.Heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				mu.Lock()
				if out.begun && time.Since(last) >= a.cfg.Heartbeat && out.beat() != nil {
					cancel()
				}
				mu.Unlock()
			}
		}
	}()
	report, err := a.cfg.Coverage.Run(ctx, run)
	close(stop)
	<-beats
	if err != nil {
		if errors.Is(err, ErrBusy) {
			err = &Error{Code: http.StatusConflict, Message: err.Error()}
		}
		if !out.begun {
			return err
		}
		return out.json(errorBody{explain(err)})
	}
	return out.json(coverageEvent{Report: report})
}

// auditLogBody is a body that comes for as long as it takes, as long as it comes.
type auditLogBody struct {
	r  io.Reader
	rc *http.ResponseController
}

func (e *auditLogBody) Read(p []byte) (int, error) {
	_ = e.rc.SetReadDeadline(time.Now().Add(auditLogTimeout)) // in process there is none
	n, err := e.r.Read(p)
	if err != nil {
		_ = e.rc.SetReadDeadline(time.Time{}) // else the server would take the waiting caller for gone
	}
	return n, err
}
