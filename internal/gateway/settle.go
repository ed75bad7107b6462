package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/identity"
)

// How an intent without an outcome was settled; in Outcome.End.
const (
	settledFound   = "job_found"  // BigQuery has the job, and the entry what it says of it
	settledAbsent  = "job_absent" // BigQuery has no such job: the call had no effect
	settledUnknown = "not_a_job"  // the call made no job that could be asked about
	settleEvery    = time.Minute  // between rounds while some could not be settled
	settleBatch    = 500          // intents a round
	settlePages    = 200
	maxJobBytes    = 64 << 20 // of a job resource, or a page of the job list
)

var errTooEarly = errors.New("BigQuery has no such job yet")

// settleAll settles the intents below seq that an earlier run left without an
// outcome, by asking BigQuery about their jobs. It goes on until none is left
// or ctx ends: what cannot be asked now (BigQuery is down) stays visibly
// indeterminate and is asked again.
func (g *Gateway) settleAll(ctx context.Context, below uint64) {
	if g.cfg.Unfinished == nil || below == 0 {
		return
	}
	// What was settled in this run is not asked again, even if the index takes
	// its time to see it.
	done := map[string]bool{}
	for {
		intents, err := g.cfg.Unfinished(ctx, below, settleBatch)
		if err != nil && ctx.Err() == nil {
			g.cfg.Log.ErrorContext(ctx, "list unfinished intents", "err", err)
		}
		settled, wait := 0, settleEvery
		for _, e := range intents {
			if ctx.Err() != nil {
				return
			}
			if done[e.ID] {
				continue
			}
			switch err := g.settle(ctx, e); {
			case errors.Is(err, errTooEarly):
				wait = min(wait, g.cfg.SettleAfter/4+time.Second)
				continue
			case err != nil:
				g.cfg.Log.WarnContext(ctx, "settle an intent", "entry", e.ID, "err", err)
				continue
			}
			done[e.ID] = true
			settled++
		}
		g.metrics.unsettled.Set(float64(len(intents) - settled))
		if err == nil && len(intents) == 0 {
			return
		}
		if settled > 0 {
			wait = time.Second // the index needs a moment to see what was just written
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// settle asks BigQuery what became of one intent and records the answer.
func (g *Gateway) settle(ctx context.Context, intent *trailgate.Entry) error {
	result := &trailgate.Entry{
		Kind: trailgate.KindSettled, IntentID: intent.ID, Session: intent.Session, Connection: intent.Connection, Project: intent.Project,
		Method: intent.Method, Class: intent.Class, Outcome: &trailgate.Outcome{End: settledUnknown},
	}
	if intent.Principal != nil {
		result.Principal = &trailgate.Principal{Agent: intent.Principal.Agent}
	}
	if intent.Request != nil && !intent.Request.DryRun && makesJob(intent) {
		facts, err := g.findJob(ctx, intent)
		if err != nil {
			return err
		}
		if facts == nil {
			// A request may still be on its way when the gateway that sent it is
			// long dead; that a job is absent is believed only after a while.
			if g.cfg.Now().Sub(intent.Time) < g.cfg.SettleAfter {
				return errTooEarly
			}
			result.Outcome.End = settledAbsent
		} else {
			o := facts.Outcome
			o.End = settledFound
			result.Outcome, result.Job = &o, facts.Job
			if facts.StatementType != "" {
				result.StatementType = &trailgate.StatementType{Final: facts.StatementType}
			}
			if facts.Tables != nil {
				result.Tables = tables(facts.Tables.Read, facts.Tables.Written)
			}
		}
	}
	return g.append(ctx, result)
}

func makesJob(e *trailgate.Entry) bool {
	switch e.Method {
	case "bigquery.jobs.insert", "bigquery.jobs.query":
		return true
	}
	return false
}

// findJob looks for the job of an intent: by its id, or where BigQuery chose
// that (jobs.query) by the label that names the entry. nil: there is none.
func (g *Gateway) findJob(ctx context.Context, e *trailgate.Entry) (*bigquery.Facts, error) {
	conn := g.connectionNamed(e.Connection)
	if conn == nil {
		return nil, fmt.Errorf("connection %q is no longer configured", e.Connection)
	}
	if e.Job != nil && e.Job.ID != "" {
		path := "/bigquery/v2/projects/" + url.PathEscape(e.Job.Project) + "/jobs/" + url.PathEscape(e.Job.ID)
		if e.Job.Location != "" {
			path += "?location=" + url.QueryEscape(e.Job.Location)
		}
		raw, status, err := g.ask(ctx, conn, asked(e, identity.Identity{}, conn), path)
		if err != nil {
			return nil, err
		}
		if status == http.StatusNotFound {
			return nil, nil
		}
		return jobFacts(raw, status)
	}
	// A job is made within moments of its intent; only if it is not there is the
	// wider window searched, which a busy project fills with others' jobs.
	for _, w := range settleWindows {
		facts, err := g.findLabelled(ctx, conn, e, asked(e, identity.Identity{}, conn), e.Time.Add(-w.before), e.Time.Add(w.after))
		if facts != nil || err != nil {
			return facts, err
		}
	}
	return nil, nil
}

var settleWindows = []struct{ before, after time.Duration }{{5 * time.Second, 30 * time.Second}, {time.Minute, 10 * time.Minute}}

// findLabelled looks through the jobs made between two moments for the one that
// carries the entry's label. nil: there is none.
func (g *Gateway) findLabelled(ctx context.Context, conn *Connection, e *trailgate.Entry, as federation.Request, from, to time.Time) (*bigquery.Facts, error) {
	q := url.Values{
		"projection": {"full"}, "allUsers": {"true"}, "maxResults": {"500"},
		"minCreationTime": {millis(from)}, "maxCreationTime": {millis(to)},
	}
	var found *bigquery.Facts
	err := g.listJobs(ctx, conn, as, q, func(job json.RawMessage, labels map[string]string) (bool, error) {
		if labels[labelEntry] != e.ID {
			return true, nil
		}
		var err error
		found, err = jobFacts(job, http.StatusOK)
		return false, err
	})
	return found, err
}

// Labels that tie a job to its entry, and to whose it is.
const (
	labelEntry = "trailgate_entry"
	labelAgent = "trailgate_agent"
)

// listJobs hands the jobs of a project to visit, page by page, until that has seen
// enough.
func (g *Gateway) listJobs(ctx context.Context, conn *Connection, as federation.Request, q url.Values, visit func(job json.RawMessage, labels map[string]string) (more bool, err error)) error {
	for range settlePages {
		raw, status, err := g.ask(ctx, conn, as, "/bigquery/v2/projects/"+url.PathEscape(as.Project)+"/jobs?"+q.Encode())
		if err != nil {
			return err
		}
		if status == http.StatusForbidden && q.Get("allUsers") != "" {
			// An agent's own account need not see others' jobs; the one that is
			// looked for was made by this very principal.
			q.Del("allUsers")
			continue
		}
		if status != http.StatusOK {
			return fmt.Errorf("list jobs: BigQuery answered %d", status)
		}
		var page struct {
			Jobs          []json.RawMessage `json:"jobs"`
			NextPageToken string            `json:"nextPageToken"`
		}
		if err := json.Unmarshal(raw, &page); err != nil {
			return fmt.Errorf("list jobs: %w", err)
		}
		for _, job := range page.Jobs {
			var labelled struct {
				Configuration struct {
					Labels map[string]string `json:"labels"`
				} `json:"configuration"`
			}
			if json.Unmarshal(job, &labelled) != nil {
				continue
			}
			if more, err := visit(job, labelled.Configuration.Labels); err != nil || !more {
				return err
			}
		}
		if page.NextPageToken == "" {
			return nil
		}
		q.Set("pageToken", page.NextPageToken)
	}
	return errors.New("list jobs: too many jobs in the window to look through")
}

// millis is a time as BigQuery's parameters have it.
func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

func jobFacts(raw []byte, status int) (*bigquery.Facts, error) {
	if status != http.StatusOK {
		return nil, fmt.Errorf("get job: BigQuery answered %d", status)
	}
	call, refusal := bigquery.Route(bigquery.Request{Verb: http.MethodGet, EscapedPath: "/bigquery/v2/projects/p/jobs/j"})
	if refusal != nil {
		return nil, refusal
	}
	c := bigquery.NewCapture(call)
	if _, err := c.Write(raw); err != nil {
		return nil, err
	}
	f := c.Facts()
	return &f, nil
}

// ask is a read of the gateway's own, with the principal's credential. What it
// asks and hears stands in the entry that comes of it.
//
// Where an intent of an earlier run is settled the agent's own JWT is not at hand
// any more, so where a connection takes nothing else it stays visibly
// indeterminate: asking as somebody else would be a fallback to another's
// credential.
func (g *Gateway) ask(ctx context.Context, conn *Connection, as federation.Request, path string) ([]byte, int, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	credential, err := conn.Credential.Credential(ctx, as)
	if err != nil {
		return nil, 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(conn.Upstream.String(), "/")+path, nil)
	if err != nil {
		return nil, 0, err
	}
	if credential.Token != "" {
		req.Header.Set("Authorization", "Bearer "+credential.Token)
	}
	req.Header.Set("X-Goog-Request-Reason", "trailgate settle")
	resp, _, err := g.roundTrip(conn, req, Hop{Project: as.Project, Session: as.Session, Principal: as.Principal})
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxJobBytes))
	if err != nil {
		return nil, 0, err
	}
	return raw, resp.StatusCode, nil
}
