package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/trailgate/trailgate/internal/identity"
)

const (
	// longestJob is how long a job can run: a script a day, a query six hours
	// (https://cloud.google.com/bigquery/quotas#query_jobs).
	longestJob = 24 * time.Hour
	maxBefore  = 1000 // principals that are asked about
)

// runningBefore are the jobs of suspended agents that earlier runs of the gateway began
// and that BigQuery says are running: a restart forgets who began what, the trail and
// BigQuery do not. failed are those for whom BigQuery could not be asked.
func (g *Gateway) runningBefore(ctx context.Context) (jobs []*runningJob, failed []Cancelled) {
	from := g.cfg.Now().Add(-longestJob)
	if g.cfg.Begun == nil || !from.Before(g.started) {
		return nil, nil
	}
	suspended := func(agent, connection string) bool {
		_, _, is := g.cfg.Suspended(agent, connection)
		return is
	}
	begun, err := g.cfg.Begun(ctx, from, g.started, suspended, maxBefore)
	if err != nil {
		g.cfg.Log.ErrorContext(ctx, "list jobs of before the start", "err", err)
		failed = append(failed, Cancelled{Error: "jobs of before the gateway's start are not known: " + rootCause(err)})
	}
	seen := map[string]bool{}
	for _, e := range begun {
		conn := g.connectionNamed(e.Connection)
		if conn == nil || e.Principal == nil {
			continue
		}
		q := url.Values{
			"projection": {"full"}, "maxResults": {"500"}, "stateFilter": {"running", "pending"},
			"minCreationTime": {millis(from)}, "maxCreationTime": {millis(g.started)},
		}
		err := g.listJobs(ctx, conn, asked(e, identity.Identity{}, conn), q, func(raw json.RawMessage, labels map[string]string) (bool, error) {
			facts, err := jobFacts(raw, http.StatusOK)
			if err != nil || facts.Job == nil || labels[labelAgent] != e.Principal.Agent {
				return true, nil
			}
			key := jobKey(facts.Job.Project, facts.Job.ID)
			if seen[key] || g.running.began(key) != nil {
				return true, nil
			}
			// Another gateway may write the same label: the trail says whether it is ours.
			maker, known := g.owners.get(key)
			if !known && g.cfg.JobOwner != nil {
				of, found, err := g.cfg.JobOwner(ctx, facts.Job.Project, facts.Job.ID)
				if err != nil {
					return false, err
				}
				maker, known = owner{agent: of.Agent, entry: of.Entry}, found
			}
			if !known && labels[labelEntry] == e.ID {
				maker, known = owner{agent: e.Principal.Agent, entry: e.ID}, true
			}
			if !known || maker.agent != e.Principal.Agent {
				return true, nil
			}
			seen[key] = true
			began := *e
			began.ID = maker.entry
			jobs = append(jobs, &runningJob{key: key, job: *facts.Job, entry: &began, connection: e.Connection})
			return true, nil
		})
		if err != nil {
			failed = append(failed, Cancelled{
				Agent: e.Principal.Agent, Connection: e.Connection, Project: e.Project,
				Error: "jobs of before the gateway's start cannot be listed: " + rootCause(err),
			})
		}
	}
	return jobs, failed
}
