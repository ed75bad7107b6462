package reconcile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
)

// The kinds of finding. An entry of kind "gap" tells of each, its event.action being
// "reconcile." and the kind.
const (
	// Bypassed: BigQuery ran it for an agent's principal, and the trail has no entry.
	Bypassed = "bypassed"
	// Forged: the job's labels say that it is the gateway's, and it is not.
	Forged = "forged"
	// Mismatched: the trail and BigQuery say different things of the same job.
	Mismatched = "mismatched"
	// Unseen: BigQuery told the gateway of a job that it does not have now.
	Unseen = "unseen"
)

// Kinds are all kinds of finding.
var Kinds = []string{Bypassed, Forged, Mismatched, Unseen}

// actionPrefix begins the event.action of findings and runs.
const actionPrefix = "reconcile."

// Actions of a run's entries, of kind "gateway".
const (
	ActionStart = actionPrefix + "start"
	ActionEnd   = actionPrefix + "end"
)

// ActionAcknowledge is the admin entry by which a human acknowledges a finding.
const ActionAcknowledge = "finding.acknowledge"

// Difference is something that the trail and BigQuery say differently of one job.
type Difference struct {
	Field    string `json:"field"` // "statement", "principal", "bytes_processed", "bytes_billed", "rows_affected", "label"
	Trail    string `json:"trail"`
	BigQuery string `json:"bigquery"`
}

// Finding is one thing that is not as it should be.
type Finding struct {
	Kind        string       `json:"kind"`
	Connection  string       `json:"connection"`
	Project     string       `json:"project"`
	Job         string       `json:"job,omitempty"`
	Location    string       `json:"location,omitempty"`
	Method      string       `json:"method,omitempty"`    // of what makes no job
	Created     time.Time    `json:"created,omitzero"`    // by BigQuery's clock; of unseen ones the call's time by the gateway's
	Principal   string       `json:"principal,omitempty"` // as whom BigQuery ran it
	Agent       string       `json:"agent,omitempty"`     // of the call
	Call        string       `json:"call,omitempty"`      // the entry of the call
	Why         string       `json:"why"`
	Differences []Difference `json:"differences,omitempty"`
	Statement   *Statement   `json:"-"`
	Type        string       `json:"statement_type,omitempty"`
	Processed   int64        `json:"bytes_processed,omitempty"`
	Source      string       `json:"source,omitempty"`

	// Entry is the entry that tells of it; New that this run wrote it, and
	// Acknowledged that a human said that it is known.
	Entry        string `json:"entry,omitempty"`
	New          bool   `json:"new,omitempty"`
	Acknowledged bool   `json:"acknowledged,omitempty"`
}

// Key is the same for the same finding, whenever and by whichever source it is found.
func (f *Finding) Key() string {
	h := sha256.New()
	write := func(parts ...string) {
		for _, p := range parts {
			fmt.Fprintf(h, "%d:%s,", len(p), p)
		}
	}
	write(f.Kind, f.Connection, f.Project, f.Job, f.Method)
	if f.Kind == Unseen {
		write(f.Call)
	}
	for _, d := range f.Differences {
		write(d.Field, d.Trail, d.BigQuery)
	}
	switch {
	case f.Kind == Unseen:
	case f.Job == "":
		write(f.Created.UTC().Format(time.RFC3339Nano), f.Principal)
	default:
		// A name may be another job's too, in another location. Its time tells them apart, to
		// the millisecond, as all sources have it; not all have the location.
		write(strconv.FormatInt(f.Created.UnixMilli(), 10))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// modeObserved is the upstream.mode of findings: the principal is the one that
// BigQuery names, and not one that the gateway had a credential of.
const modeObserved = "observed"

// KeyDetail is the member of event.detail that has a finding's key.
const KeyDetail = "finding"

// Entry writes a finding down; textless leaves the statement's text out, where a
// connection records none.
func (f *Finding) entry(textless bool) *trailgate.Entry {
	detail := map[string]string{KeyDetail: f.Key(), "why": clip(f.Why, 500)}
	put := func(name, value string) {
		if value != "" {
			detail[name] = clip(value, 300)
		}
	}
	put("source", f.Source)
	put("call", f.Call)
	put("bypass_method", f.Method)
	if !f.Created.IsZero() {
		put("created", f.Created.UTC().Format(time.RFC3339Nano))
	}
	for _, d := range f.Differences {
		put("trail."+d.Field, d.Trail)
		put("bigquery."+d.Field, d.BigQuery)
	}
	e := &trailgate.Entry{
		Kind: trailgate.KindGap, Connection: f.Connection, Project: clip(f.Project, 256), Location: clip(f.Location, 64),
		Event: &trailgate.Event{Action: actionPrefix + f.Kind, Target: clip(f.target(), 1200), Via: "self", Detail: detail},
	}
	if f.Agent != "" {
		e.Principal = &trailgate.Principal{Agent: f.Agent}
	}
	if f.Job != "" {
		e.Job = &trailgate.Job{Project: clip(f.Project, 256), ID: clip(f.Job, 1024), Location: clip(f.Location, 64), OwnerEntry: f.Call}
	}
	if f.Principal != "" {
		e.Upstream = &trailgate.Upstream{Mode: modeObserved, Principal: clip(f.Principal, 300)}
	}
	if f.Type != "" {
		e.StatementType = &trailgate.StatementType{Final: clip(f.Type, 64)}
	}
	if f.Processed > 0 {
		e.Outcome = &trailgate.Outcome{BytesProcessed: f.Processed}
	}
	if s := f.Statement; s != nil {
		st := trailgate.Statement{Where: "query", SHA256: hex.EncodeToString(s.SHA256[:]), Length: s.Length}
		if !textless && validText(s.Text) {
			st.Text = s.Text
		}
		e.Statements = []trailgate.Statement{st}
	}
	return e
}

func (f *Finding) target() string {
	switch {
	case f.Job != "":
		return f.Project + ":" + f.Job
	case f.Call != "":
		return f.Call
	}
	return f.Project + " " + f.Method
}

// FromEntry reads back what [Finding] wrote; nil where an entry tells of none.
func FromEntry(e *trailgate.Entry) *Finding {
	if e.Kind != trailgate.KindGap || e.Event == nil {
		return nil
	}
	kind, ok := strings.CutPrefix(e.Event.Action, actionPrefix)
	if !ok || !slices.Contains(Kinds, kind) {
		return nil
	}
	d := e.Event.Detail
	f := &Finding{
		Kind: kind, Connection: e.Connection, Project: e.Project, Location: e.Location, Method: d["bypass_method"], Call: d["call"], Why: d["why"],
		Source: d["source"], Entry: e.ID,
	}
	if e.Job != nil {
		f.Job = e.Job.ID
	}
	if t, err := time.Parse(time.RFC3339Nano, d["created"]); err == nil {
		f.Created = t
	}
	if e.Upstream != nil {
		f.Principal = e.Upstream.Principal
	}
	if e.Principal != nil {
		f.Agent = e.Principal.Agent
	}
	if e.StatementType != nil {
		f.Type = e.StatementType.Final
	}
	if e.Outcome != nil {
		f.Processed = e.Outcome.BytesProcessed
	}
	for _, field := range differenceFields {
		ours, theirs := d["trail."+field], d["bigquery."+field]
		if ours != "" || theirs != "" {
			f.Differences = append(f.Differences, Difference{field, ours, theirs})
		}
	}
	return f
}

// differenceFields are all fields that may differ, in their order.
var differenceFields = []string{"label", "agent", "session", "statement", "principal", "bytes_processed", "bytes_billed", "rows_affected"}

// differences holds a call to what BigQuery says of its job.
func differences(c *call, j *Job) (list []Difference) {
	add := func(field, ours, theirs string) { list = append(list, Difference{field, ours, theirs}) }
	if c.hasStatement && j.Statement != nil && j.Statement.SHA256 != c.statement {
		add("statement", "sha256:"+hex.EncodeToString(c.statement[:]), "sha256:"+hex.EncodeToString(j.Statement.SHA256[:]))
	}
	if c.principal != "" && j.who() != "" && !j.ranAs(c.principal) {
		add("principal", c.principal, j.who())
	}
	if !c.final || !j.Done {
		return list // figures that were not the last ones prove nothing
	}
	number := func(field string, ours, theirs int64) {
		// An entry leaves zero out, so that it cannot be told from a figure that
		// BigQuery's answer did not have.
		if ours != 0 && theirs >= 0 && ours != theirs {
			add(field, strconv.FormatInt(ours, 10), strconv.FormatInt(theirs, 10))
		}
	}
	number("bytes_processed", c.figures.BytesProcessed, j.Processed)
	number("bytes_billed", c.figures.BytesBilled, j.Billed)
	number("rows_affected", c.figures.RowsAffected, j.Affected)
	return list
}

// validText reports whether a text can stand in an entry as it is.
func validText(s string) bool { return s != "" && strings.ToValidUTF8(s, "") == s }
