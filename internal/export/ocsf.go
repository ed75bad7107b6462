package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
)

// ocsfVersion is the version of the schema that the events are written to
// (https://schema.ocsf.io/1.3.0).
const ocsfVersion = "1.3.0"

// Classes and activities of OCSF's category 6, Application Activity.
const (
	ocsfApplication = 6
	ocsfAPI         = 6003
	ocsfDatastore   = 6005

	datastoreRead, datastoreUpdate, datastoreQuery   = 1, 2, 4
	datastoreWrite, datastoreCreate, datastoreDelete = 5, 6, 7
	datastoreList                                    = 8

	apiCreate, apiRead, apiUpdate, apiDelete = 1, 2, 3, 4

	severityInformational, severityLow, severityMedium, severityHigh = 1, 2, 3, 4

	statusSuccess, statusFailure             = 1, 2
	userPerson, userSystem                   = 1, 3
	databaseRelational, datastoreTable       = 1, 3
	ocsfUnknown, ocsfDatabaseType, ocsfOther = 0, 1, 99
)

// event is an OCSF event of either class; members in the order of the encoding.
type event struct {
	ActivityID   int    `json:"activity_id"`
	ActivityName string `json:"activity_name"`
	CategoryUID  int    `json:"category_uid"`
	CategoryName string `json:"category_name"`
	ClassUID     int    `json:"class_uid"`
	ClassName    string `json:"class_name"`
	TypeUID      int    `json:"type_uid"`
	TypeName     string `json:"type_name"`
	Time         int64  `json:"time"` // ms
	StartTime    int64  `json:"start_time,omitempty"`
	EndTime      int64  `json:"end_time,omitempty"`
	Duration     int64  `json:"duration,omitempty"` // ms
	SeverityID   int    `json:"severity_id"`
	Severity     string `json:"severity"`
	StatusID     int    `json:"status_id"`
	Status       string `json:"status"`
	StatusCode   string `json:"status_code,omitempty"`
	StatusDetail string `json:"status_detail,omitempty"`
	Message      string `json:"message"`

	Actor    ocsfActor     `json:"actor"`
	API      *ocsfAPICall  `json:"api,omitempty"`
	Src      ocsfEndpoint  `json:"src_endpoint"`
	Dst      *ocsfEndpoint `json:"dst_endpoint,omitempty"`
	Database *ocsfDatabase `json:"database,omitempty"`
	Table    *ocsfTable    `json:"table,omitempty"`
	Query    *ocsfQuery    `json:"query_info,omitempty"`
	TypeID   *int          `json:"type_id,omitempty"`
	Type     string        `json:"type,omitempty"`
	Request  *ocsfRequest  `json:"http_request,omitempty"`
	Response *ocsfResponse `json:"http_response,omitempty"`
	Metadata ocsfMetadata  `json:"metadata"`
	// Unmapped is what the schema has no place for.
	Unmapped map[string]any `json:"unmapped,omitempty"`
}

type ocsfActor struct {
	AppName string       `json:"app_name,omitempty"`
	IDP     *ocsfNamed   `json:"idp,omitempty"`
	Session *ocsfSession `json:"session,omitempty"`
	User    *ocsfUser    `json:"user,omitempty"`
}

type ocsfUser struct {
	Name   string `json:"name,omitempty"`
	UID    string `json:"uid,omitempty"`
	TypeID int    `json:"type_id"`
	Type   string `json:"type"`
}

type ocsfSession struct {
	UID    string `json:"uid"`
	Issuer string `json:"issuer,omitempty"`
}

type ocsfNamed struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

type ocsfAPICall struct {
	Operation string        `json:"operation"`
	Service   *ocsfNamed    `json:"service,omitempty"`
	Request   *ocsfUID      `json:"request,omitempty"`
	Response  *ocsfAPIReply `json:"response,omitempty"`
}

type ocsfUID struct {
	UID string `json:"uid"`
}

type ocsfAPIReply struct {
	Code  int    `json:"code,omitempty"`
	Error string `json:"error,omitempty"`
}

type ocsfEndpoint struct {
	Hostname string `json:"hostname,omitempty"`
	IP       string `json:"ip,omitempty"`
	Port     int    `json:"port,omitempty"`
	SvcName  string `json:"svc_name,omitempty"`
}

type ocsfDatabase struct {
	Name   string `json:"name"`
	TypeID int    `json:"type_id"`
}

type ocsfTable struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

type ocsfQuery struct {
	QueryString string `json:"query_string"`
	UID         string `json:"uid,omitempty"`
	BytesOut    int64  `json:"bytes,omitempty"`
	QueryTime   int64  `json:"query_time"`
}

type ocsfRequest struct {
	Method    string   `json:"http_method,omitempty"`
	URL       *ocsfURL `json:"url,omitempty"`
	UserAgent string   `json:"user_agent,omitempty"`
	Length    int64    `json:"length,omitempty"`
}

type ocsfURL struct {
	Path string `json:"path"`
}

type ocsfResponse struct {
	Code   int   `json:"code"`
	Length int64 `json:"length,omitempty"`
}

type ocsfMetadata struct {
	Version        string      `json:"version"`
	Product        ocsfProduct `json:"product"`
	LogName        string      `json:"log_name,omitempty"`
	LogProvider    string      `json:"log_provider"`
	UID            string      `json:"uid"`
	CorrelationUID string      `json:"correlation_uid,omitempty"`
	Sequence       uint64      `json:"sequence"`
	EventCode      string      `json:"event_code"`
	OriginalTime   string      `json:"original_time"`
}

type ocsfProduct struct {
	Name       string `json:"name"`
	VendorName string `json:"vendor_name"`
	Version    string `json:"version"`
}

// OCSF is a call as one event, a line of JSON without its end. Origin is the log's name.
func OCSF(c Call, origin string) ([]byte, error) {
	e, f := c.Stages[0], c.Folded
	out := event{
		CategoryUID: ocsfApplication, CategoryName: "Application Activity",
		Time: e.Time.UnixMilli(), StartTime: e.Time.UnixMilli(),
		Actor: actorOf(f), Src: source(e.Client),
		Metadata: ocsfMetadata{
			Version: ocsfVersion, Product: ocsfProduct{"Trailgate", "Trailgate", e.Gateway.Version},
			LogName: origin, LogProvider: e.Gateway.ID, UID: e.ID, Sequence: e.Seq, EventCode: string(e.Kind),
			OriginalTime: e.Time.UTC().Format(time.RFC3339Nano),
		},
	}
	if e.Session != "" {
		out.Metadata.CorrelationUID = e.Session
	}
	if !c.Ended.IsZero() {
		out.EndTime = c.Ended.UnixMilli()
		out.Duration = out.EndTime - out.StartTime
	}
	out.status(c)
	if touchesData(f) {
		out.datastore(f)
	} else {
		out.api(f)
	}
	out.TypeUID = out.ClassUID*100 + out.ActivityID
	out.TypeName = out.ClassName + ": " + out.ActivityName
	out.http(f)
	out.Unmapped = unmapped(c)
	out.Message = message(c)
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	if err := enc.Encode(out); err != nil {
		return nil, fmt.Errorf("render entry %d for OCSF: %w", e.Seq, err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// touchesData reports whether a call is about rows, statements or tables: Datastore
// Activity. Everything else is API Activity. The former must name a database or a table.
func touchesData(f *trailgate.Entry) bool {
	if f.Method == "" || f.Project == "" && f.Tables == nil {
		return false
	}
	return len(f.Statements) > 0 || f.Tables != nil || f.Class == trailgate.ClassRead || f.Class == trailgate.ClassWrite || f.Class == trailgate.ClassExport
}

func actorOf(f *trailgate.Entry) ocsfActor {
	a := ocsfActor{AppName: "trailgate"}
	if p := f.Principal; p != nil && p.Agent != "" {
		a.AppName = p.Agent
	}
	if f.Session != "" {
		a.Session = &ocsfSession{UID: f.Session}
	}
	p := f.Principal
	switch {
	case p != nil && p.Human != "":
		a.User = &ocsfUser{Name: p.Human, TypeID: userPerson, Type: "User"}
	case p != nil && p.Agent != "":
		a.User = &ocsfUser{Name: p.Agent, UID: p.Subject, TypeID: userSystem, Type: "System"}
	case f.Event != nil && f.Event.Actor != "":
		a.User = &ocsfUser{Name: f.Event.Actor, TypeID: ocsfUnknown, Type: "Unknown"}
	case f.Kind == trailgate.KindGap && f.Upstream != nil && f.Upstream.Principal != "":
		// Of what went past the gateway all that is known is as whom it ran.
		a.User = &ocsfUser{Name: f.Upstream.Principal, TypeID: ocsfUnknown, Type: "Unknown"}
	}
	if p != nil && p.Issuer != "" {
		a.IDP = &ocsfNamed{Name: p.Issuer}
		if a.Session != nil {
			a.Session.Issuer = p.Issuer
		}
	}
	return a
}

// source is the peer, by the address that the kernel gave. The schema wants something
// there always.
func source(client string) ocsfEndpoint {
	if a, err := netip.ParseAddrPort(client); err == nil {
		return ocsfEndpoint{IP: a.Addr().String(), Port: int(a.Port())}
	}
	if client != "" {
		return ocsfEndpoint{Hostname: client}
	}
	return ocsfEndpoint{SvcName: "trailgate"}
}

func (ev *event) status(c Call) {
	ev.StatusID, ev.Status = ocsfUnknown, "Unknown"
	ev.SeverityID, ev.Severity = severityInformational, "Informational"
	o := c.Folded.Outcome
	switch c.State {
	case "done", "recorded":
		ev.StatusID, ev.Status = statusSuccess, "Success"
	case "failed", "denied", "refused", "expired":
		ev.StatusID, ev.Status = statusFailure, "Failure"
		ev.SeverityID, ev.Severity = severityLow, "Low"
	case "settled":
		ev.StatusID, ev.Status = ocsfOther, "settled"
	default:
		ev.StatusID, ev.Status = ocsfOther, c.State
	}
	if c.State == "denied" || c.State == "refused" || len(c.Folded.Flags) > 0 {
		ev.SeverityID, ev.Severity = severityMedium, "Medium"
	}
	if c.Folded.Kind == trailgate.KindGap || c.Folded.Class == trailgate.ClassAccessChange && ev.StatusID == statusSuccess {
		ev.SeverityID, ev.Severity = severityHigh, "High"
	}
	if o != nil {
		ev.StatusCode, ev.StatusDetail = o.ErrorReason, o.ErrorMessage
	}
	if c.Folded.Kind == trailgate.KindGap {
		// That the finding was written down is no success of what it tells of.
		ev.StatusID, ev.Status = ocsfOther, "finding"
		if c.Folded.Event != nil {
			ev.StatusDetail = c.Folded.Event.Detail["why"]
		}
	}
	if d := c.Folded.Decision; d != nil && ev.StatusDetail == "" && ev.StatusID == statusFailure {
		ev.StatusCode, ev.StatusDetail = d.Rule, d.Reason
	}
}

func (ev *event) datastore(f *trailgate.Entry) {
	ev.ClassUID, ev.ClassName = ocsfDatastore, "Datastore Activity"
	ev.ActivityID, ev.ActivityName = datastoreActivity(f)
	project := f.Project
	if project == "" {
		project = f.Connection
	}
	if project != "" {
		ev.Database = &ocsfDatabase{Name: project, TypeID: databaseRelational}
	}
	id := ocsfDatabaseType
	ev.TypeID, ev.Type = &id, "Database"
	if t := f.Tables; t != nil {
		name := ""
		if len(t.Written) > 0 {
			name = t.Written[0]
		} else if len(t.Read) > 0 {
			name = t.Read[0]
		}
		if name != "" {
			ev.Table = &ocsfTable{Name: name[strings.LastIndexByte(name, '.')+1:], UID: name}
			*ev.TypeID, ev.Type = datastoreTable, "Table"
		}
	}
	if len(f.Statements) > 0 {
		s := &f.Statements[0]
		q := &ocsfQuery{QueryString: s.Text, UID: f.ID, QueryTime: f.Time.UnixMilli()}
		if s.Text == "" { // the schema wants something there
			q.QueryString = fmt.Sprintf("(%d bytes, sha256 %s)", s.Length, s.SHA256)
		}
		if f.Job != nil && f.Job.ID != "" {
			q.UID = f.Job.ID
		}
		if f.Outcome != nil {
			q.BytesOut = f.Outcome.Bytes
		}
		ev.Query = q
	}
}

// datastoreActivity says what a call does, by the statement's type where it is known.
func datastoreActivity(f *trailgate.Entry) (int, string) {
	kind := ""
	if s := f.StatementType; s != nil {
		if kind = s.Final; kind == "" {
			kind = s.Local
		}
	}
	switch {
	case strings.HasPrefix(kind, "DELETE"), strings.HasPrefix(kind, "DROP"), strings.HasPrefix(kind, "TRUNCATE"), strings.HasSuffix(f.Method, ".delete"):
		return datastoreDelete, "Delete"
	case strings.HasPrefix(kind, "CREATE"):
		return datastoreCreate, "Create"
	case strings.HasPrefix(kind, "UPDATE"), strings.HasPrefix(kind, "MERGE"), strings.HasPrefix(kind, "ALTER"):
		return datastoreUpdate, "Update"
	case kind == "SELECT":
		return datastoreQuery, "Query"
	}
	switch f.Class {
	case trailgate.ClassWrite:
		return datastoreWrite, "Write"
	case trailgate.ClassRead, trailgate.ClassExport:
		return datastoreRead, "Read"
	case trailgate.ClassMetadataChange, trailgate.ClassAccessChange:
		return datastoreUpdate, "Update"
	case trailgate.ClassMetadataRead:
		return datastoreList, "List"
	default:
		return ocsfOther, "Other"
	}
}

func (ev *event) api(f *trailgate.Entry) {
	ev.ClassUID, ev.ClassName = ocsfAPI, "API Activity"
	operation, service := f.Method, "bigquery.googleapis.com"
	if f.Event != nil {
		operation, service = f.Event.Action, "trailgate"
	}
	if operation == "" {
		operation, service = string(f.Kind), "trailgate"
	}
	ev.API = &ocsfAPICall{Operation: operation, Service: &ocsfNamed{Name: service}, Request: &ocsfUID{f.ID}}
	if o := f.Outcome; o != nil {
		ev.API.Response = &ocsfAPIReply{Code: o.Status, Error: o.ErrorReason}
	}
	verb := operation[strings.LastIndexByte(operation, '.')+1:]
	switch verb {
	case "insert", "create", "add", "issue", "open", "grant":
		ev.ActivityID, ev.ActivityName = apiCreate, "Create"
	case "get", "list", "query", "search", "show", "export", "read", "prove", "follow", "stats":
		ev.ActivityID, ev.ActivityName = apiRead, "Read"
	case "update", "patch", "rotate", "setIamPolicy", "reload", "approve", "deny":
		ev.ActivityID, ev.ActivityName = apiUpdate, "Update"
	case "delete", "remove", "revoke", "erase":
		ev.ActivityID, ev.ActivityName = apiDelete, "Delete"
	default:
		ev.ActivityID, ev.ActivityName = ocsfOther, "Other"
	}
}

func (ev *event) http(f *trailgate.Entry) {
	if r := f.Request; r != nil {
		ev.Request = &ocsfRequest{Method: r.Verb, URL: &ocsfURL{r.Path}, Length: r.Bytes}
		if f.Claims != nil {
			ev.Request.UserAgent = f.Claims.UserAgent
		}
	}
	if o := f.Outcome; o != nil && o.Status > 0 {
		ev.Response = &ocsfResponse{o.Status, o.Bytes}
	}
	if u := f.Upstream; u != nil && u.Host != "" {
		ev.Dst = &ocsfEndpoint{Hostname: u.Host}
	}
}

// unmapped is what an investigator would miss.
func unmapped(c Call) map[string]any {
	f := c.Folded
	out := map[string]any{"state": c.State}
	put := func(name string, v any, has bool) {
		if has {
			out[name] = v
		}
	}
	put("class", f.Class, f.Class != "")
	put("connection", f.Connection, f.Connection != "")
	put("decision", f.Decision, f.Decision != nil)
	put("tables", f.Tables, f.Tables != nil)
	put("flags", f.Flags, len(f.Flags) > 0)
	put("event", f.Event, f.Event != nil)
	put("aggregate", f.Aggregate, f.Aggregate != nil)
	put("job", f.Job, f.Job != nil)
	put("upstream", f.Upstream, f.Upstream != nil)
	put("principal", f.Principal, f.Principal != nil)
	put("claims", f.Claims, f.Claims != nil)
	put("policy_digest", f.Gateway.PolicyDigest, f.Gateway.PolicyDigest != "")
	put("destinations", f.Destinations, len(f.Destinations) > 0)
	if o := f.Outcome; o != nil {
		put("rows", o.Rows, o.Rows > 0)
		put("rows_affected", o.RowsAffected, o.RowsAffected > 0)
		put("bytes_processed", o.BytesProcessed, o.BytesProcessed > 0)
		put("bytes_billed", o.BytesBilled, o.BytesBilled > 0)
		put("end", o.End, o.End != "")
	}
	if len(f.Statements) > 0 {
		put("statement_sha256", f.Statements[0].SHA256, true)
		put("statement_blob", f.Statements[0].Blob, f.Statements[0].Blob != "")
		put("statements", len(f.Statements), len(f.Statements) > 1)
	}
	if len(c.Stages) > 1 {
		seqs := make([]uint64, len(c.Stages))
		for i, s := range c.Stages {
			seqs[i] = s.Seq
		}
		out["stages"] = seqs
	}
	return out
}

// message is one line for people.
func message(c Call) string {
	f := c.Folded
	who := "somebody"
	switch {
	case f.Principal != nil && f.Principal.Agent != "":
		who = f.Principal.Agent
	case f.Event != nil && f.Event.Actor != "":
		who = f.Event.Actor
	case f.Kind == trailgate.KindGap && f.Upstream != nil && f.Upstream.Principal != "":
		who = f.Upstream.Principal
	case f.Kind == trailgate.KindGateway, f.Kind == trailgate.KindGap:
		who = "gateway " + f.Gateway.ID
	}
	what := f.Method
	if f.Event != nil {
		what = strings.TrimSpace(f.Event.Action + " " + f.Event.Target)
	}
	if what == "" {
		what = string(f.Kind)
	}
	return who + ": " + what + " (" + c.State + ")"
}
