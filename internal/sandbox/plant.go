package sandbox

import (
	"context"
	"maps"
	"time"
)

// PlantedJob is a finished job that no request made: for tests that need many jobs,
// jobs of a chosen principal and time, or jobs that are not what they should be. It
// runs nothing.
type PlantedJob struct {
	Project, ID   string // default: the first project, a made-up id
	Location      string // default: US
	Parent        string // id of the script that it is a statement of
	Principal     string
	Type          string // default: QUERY
	Statement     string
	StatementType string // default: SELECT
	Labels        map[string]string
	Reason        string
	Created       time.Time     // default: now
	Took          time.Duration // default: none
	Running       bool          // it has not ended, and never does
	// BytesProcessed, BytesBilled and RowsAffected are its statistics; the last is
	// there for what is not a SELECT.
	BytesProcessed, BytesBilled, RowsAffected int64
	ErrorReason                               string
}

// Plant adds a job; 409 where its id is taken. Jobs are to be planted in the order of
// their creation, the order in which they are listed.
func (s *Sandbox) Plant(p PlantedJob) error {
	if p.Project == "" {
		p.Project = s.cfg.Projects[0]
	}
	if p.ID == "" {
		p.ID = newJobID("job_")
	}
	if p.Created.IsZero() {
		p.Created = s.now()
	}
	j := &job{project: p.Project, id: p.ID, location: p.Location, done: make(chan struct{}), stop: func() {}, ctx: context.Background()}
	if j.location == "" {
		j.location = defaultLocation
	}
	if p.Parent != "" {
		parent, err := s.jobs.find(p.Project, p.Parent, "")
		if err != nil {
			return err
		}
		j.parent = parent
	}
	if err := s.jobs.add(j); err != nil {
		return err
	}
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	j.plantLocked(p)
	if j.state == stateDone {
		close(j.done)
	}
	return nil
}

// plantLocked makes the job what p says; the caller holds the store.
func (j *job) plantLocked(p PlantedJob) {
	j.kind, j.principal, j.reason, j.statement, j.statementType = p.Type, p.Principal, p.Reason, p.Statement, p.StatementType
	if j.kind == "" {
		j.kind = "QUERY"
	}
	if j.statementType == "" && j.kind == "QUERY" {
		j.statementType = "SELECT"
	}
	j.created, j.started, j.ended, j.executed = p.Created, p.Created, p.Created.Add(p.Took), true
	j.state = stateDone
	if p.Running {
		j.state = stateRunning
	}
	j.config = object{"jobType": j.kind}
	if len(p.Labels) > 0 {
		labels := object{}
		for k, v := range p.Labels {
			labels[k] = v
		}
		j.config["labels"] = labels
	}
	j.bytes, j.affected = p.BytesProcessed, nil
	j.statistics = object{}
	if j.kind == "QUERY" {
		j.config["query"] = object{"query": p.Statement, "useLegacySql": false, "priority": "INTERACTIVE"}
		j.statistics = object{
			"statementType": j.statementType, "totalBytesProcessed": decimal(p.BytesProcessed), "totalBytesBilled": decimal(p.BytesBilled), "cacheHit": false,
		}
		if j.statementType != "SELECT" {
			n := p.RowsAffected
			j.affected = &n
			j.statistics["numDmlAffectedRows"] = decimal(n)
		}
	} else if j.kind == "LOAD" {
		j.statistics["outputRows"] = decimal(p.RowsAffected)
	}
	j.err = nil
	if p.ErrorReason != "" {
		j.err = fail(p.ErrorReason, "the job failed")
	}
}

// planted is the job as Plant would have made it.
func (j *job) planted() PlantedJob {
	p := PlantedJob{
		Project: j.project, ID: j.id, Location: j.location, Principal: j.principal, Type: j.kind, Statement: j.statement, StatementType: j.statementType,
		Labels: map[string]string{}, Reason: j.reason, Created: j.created, Took: j.ended.Sub(j.started), Running: j.state != stateDone, BytesProcessed: j.bytes,
	}
	if j.parent != nil {
		p.Parent = j.parent.id
	}
	for k := range sub(j.config, "labels") {
		p.Labels[k] = str(j.config, "labels", k)
	}
	p.BytesBilled, _ = integer(j.statistics, "totalBytesBilled")
	if j.affected != nil {
		p.RowsAffected = *j.affected
	}
	if j.err != nil {
		p.ErrorReason = j.err.reason
	}
	return p
}

// Tamper changes what the sandbox says of a job that has ended, whoever made it: its
// principal, statement, labels and statistics. Project, ID and Parent stay.
func (s *Sandbox) Tamper(project, id string, change func(*PlantedJob)) error {
	j, err := s.jobs.find(project, id, "")
	if err != nil {
		return err
	}
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	if j.state != stateDone {
		return fail("invalid", "Cannot tamper with a job that is not done: %s", id)
	}
	p := j.planted()
	p.Labels = maps.Clone(p.Labels)
	change(&p)
	p.Running = false
	j.plantLocked(p)
	return nil
}

// Forget makes BigQuery lose a job, as jobs.delete does.
func (s *Sandbox) Forget(project, id string) error {
	j, err := s.jobs.find(project, id, "")
	if err != nil {
		return err
	}
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	for _, gone := range append([]*job{j}, j.children...) {
		delete(s.jobs.byID, gone.project+":"+gone.id)
	}
	return nil
}
