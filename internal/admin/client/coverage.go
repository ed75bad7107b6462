package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// CoverageCounts is what a stretch of time held.
type CoverageCounts struct {
	Both       int64 `json:"both"`
	Direct     int64 `json:"only_bigquery"`
	Missing    int64 `json:"only_trail"`
	Mismatched int64 `json:"mismatched"`
	Forged     int64 `json:"forged"`
	Settled    int64 `json:"settled"`
	Late       int64 `json:"late"`
	Waiting    int64 `json:"waiting"`
	Others     int64 `json:"others"`
	Children   int64 `json:"children"`
	Own        int64 `json:"own"`
	Jobless    int64 `json:"jobless"`
}

// CoverageDay is one day of a connection.
type CoverageDay struct {
	Date  string `json:"date"`
	Hours int    `json:"hours"`
	CoverageCounts
	Percent float64 `json:"percent"` // -1: no jobs
}

// ConnectionCoverage is how BigQuery's own records and the trail fit together.
type ConnectionCoverage struct {
	Connection string        `json:"connection"`
	Compared   bool          `json:"compared"`
	Source     string        `json:"source,omitempty"`
	Projects   []string      `json:"projects"`
	Every      string        `json:"every,omitempty"`
	Until      time.Time     `json:"until,omitzero"`
	LastRun    time.Time     `json:"last_run,omitzero"`
	LastError  string        `json:"last_error,omitempty"`
	Open       int64         `json:"open"`
	Days       []CoverageDay `json:"days"`
}

// Difference is what the trail and BigQuery say differently of a job.
type Difference struct {
	Field    string `json:"field"`
	Trail    string `json:"trail"`
	BigQuery string `json:"bigquery"`
}

// Finding is something that is not as it should be.
type Finding struct {
	Kind         string       `json:"kind"`
	Connection   string       `json:"connection"`
	Project      string       `json:"project"`
	Job          string       `json:"job,omitempty"`
	Location     string       `json:"location,omitempty"`
	Method       string       `json:"method,omitempty"`
	Created      time.Time    `json:"created,omitzero"`
	Principal    string       `json:"principal,omitempty"`
	Agent        string       `json:"agent,omitempty"`
	Call         string       `json:"call,omitempty"`
	Why          string       `json:"why"`
	Differences  []Difference `json:"differences,omitempty"`
	Type         string       `json:"statement_type,omitempty"`
	Processed    int64        `json:"bytes_processed,omitempty"`
	Source       string       `json:"source,omitempty"`
	Entry        string       `json:"entry,omitempty"`
	New          bool         `json:"new,omitempty"`
	Acknowledged bool         `json:"acknowledged,omitempty"`
}

// Coverage tells of every connection.
func (c *Client) Coverage(ctx context.Context) ([]ConnectionCoverage, error) {
	var out struct {
		Connections []ConnectionCoverage `json:"connections"`
	}
	err := c.do(ctx, http.MethodGet, "coverage", nil, nil, &out)
	return out.Connections, err
}

// Findings lists a page of what was found, the newest first. State is "open",
// "acknowledged" or "all".
func (c *Client) Findings(ctx context.Context, connection, state string, size int, token string) (list []Finding, next string, err error) {
	v := url.Values{}
	set(v, "connection", connection)
	set(v, "state", state)
	set(v, "page_token", token)
	if size > 0 {
		v.Set("page_size", strconv.Itoa(size))
	}
	var out struct {
		Findings []Finding `json:"findings"`
		Next     string    `json:"next_page_token"`
	}
	err = c.do(ctx, http.MethodGet, "coverage/findings", v, nil, &out)
	return out.Findings, out.Next, err
}

// AcknowledgeFinding says that somebody has looked at a finding, and what it was.
func (c *Client) AcknowledgeFinding(ctx context.Context, id, reason string) error {
	in := struct {
		Reason string `json:"reason"`
	}{reason}
	return c.do(ctx, http.MethodPost, "coverage/findings/"+url.PathEscape(id)+":acknowledge", nil, in, nil)
}

// CoverageProgress is how far a run is.
type CoverageProgress struct {
	Since time.Time `json:"since"`
	Done  time.Time `json:"done"`
	Until time.Time `json:"until"`
	CoverageCounts
}

// CoverageReport is what a run came to.
type CoverageReport struct {
	Connection   string         `json:"connection"`
	Source       string         `json:"source"`
	Since        time.Time      `json:"since"`
	Until        time.Time      `json:"until"`
	ResumedFrom  time.Time      `json:"resumed_from,omitzero"`
	Counts       CoverageCounts `json:"counts"`
	Percent      float64        `json:"percent"`
	Findings     int64          `json:"findings"`
	New          int64          `json:"new"`
	Acknowledged int64          `json:"acknowledged"`
	Omitted      int64          `json:"omitted"`
	Principals   int            `json:"principals"`
}

// CoverageRun is what to compare.
type CoverageRun struct {
	Connection, Source string
	Since, Until       time.Time
	// AuditLog is an export, for source "audit-log".
	AuditLog io.Reader
	Progress func(CoverageProgress)
	Found    func(Finding)
}

// maxCoverageLine bounds a line of an answer.
const maxCoverageLine = 1 << 20

// RunCoverage compares now, and returns when that is done.
func (c *Client) RunCoverage(ctx context.Context, r CoverageRun) (*CoverageReport, error) {
	v := url.Values{}
	set(v, "connection", r.Connection)
	set(v, "source", r.Source)
	for name, at := range map[string]time.Time{"since": r.Since, "until": r.Until} {
		if !at.IsZero() {
			v.Set(name, at.UTC().Format(time.RFC3339Nano))
		}
	}
	resp, err := c.sendStream(ctx, "coverage:run", v, r.AuditLog)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxCoverageLine)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var event struct {
			Progress *CoverageProgress `json:"progress"`
			Finding  *Finding          `json:"finding"`
			Report   *CoverageReport   `json:"report"`
			Error    *Error            `json:"error"`
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return nil, fmt.Errorf("%w (%w)", ErrNotTrailgate, err)
		}
		switch {
		case event.Error != nil:
			return nil, event.Error
		case event.Report != nil:
			return event.Report, nil
		case event.Finding != nil && r.Found != nil:
			r.Found(*event.Finding)
		case event.Progress != nil && r.Progress != nil:
			r.Progress(*event.Progress)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the gateway's answer: %w", err)
	}
	return nil, errors.New("the gateway's answer broke off; what it had looked at stays looked at, and the same command goes on from there")
}

// Text is why a finding is one, with what differs.
func (f *Finding) Text() string {
	text := f.Why
	for _, d := range f.Differences {
		text += "; " + d.Field + ": the trail has " + d.Trail + ", BigQuery " + d.BigQuery
	}
	if f.Acknowledged {
		text += " (acknowledged)"
	}
	return text
}
