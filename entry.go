package trailgate

import "time"

// Version is the entry format that this package writes, the "v" field.
const Version = 1

// MaxEntryBytes is the largest encoded entry, the limit that C2SP tlog-tiles
// sets by giving an entry a 16-bit length (https://c2sp.org/tlog-tiles).
const MaxEntryBytes = 1<<16 - 1

// Kind says what an entry records.
type Kind string

// The kinds of entry.
const (
	KindIntent   Kind = "intent"   // a call is about to go upstream
	KindOutcome  Kind = "outcome"  // how a call ended
	KindDenied   Kind = "denied"   // policy said no; nothing went upstream
	KindHeld     Kind = "held"     // a call waits for a human
	KindApproved Kind = "approved" // a human approved a held call
	KindRefused  Kind = "refused"  // not a call that may be judged: malformed, unknown method, bad credential
	KindExpired  Kind = "expired"  // a held call waited too long
	KindSession  Kind = "session"  // a session began or ended
	KindAdmin    Kind = "admin"    // a human changed or searched something
	KindGateway  Kind = "gateway"  // the gateway started, stopped, changed its state
	KindGap      Kind = "gap"      // something the trail should hold is known to be missing
	KindSettled  Kind = "settled"  // what became of an intent that had no outcome
)

// Class is what a call does with data, from the gravest to the lightest as
// [Class.Gravity] orders them.
type Class string

// The classes of call.
const (
	ClassUnknown        Class = "unknown"         // could not be told; treat as the gravest
	ClassAccessChange   Class = "access_change"   // grants, policies, row access
	ClassExport         Class = "export"          // moves data out of BigQuery, or to another project
	ClassWrite          Class = "write"           // changes rows
	ClassMetadataChange Class = "metadata_change" // DDL, creates, updates, deletes, job control
	ClassRead           Class = "read"            // reads rows
	ClassMetadataRead   Class = "metadata_read"   // reads all but rows
)

// Gravity orders classes: the higher, the more a reviewer cares.
func (c Class) Gravity() int {
	switch c {
	case ClassMetadataRead:
		return 1
	case ClassRead:
		return 2
	case ClassMetadataChange:
		return 3
	case ClassWrite:
		return 4
	case ClassExport:
		return 5
	case ClassAccessChange:
		return 6
	default:
		return 7
	}
}

// Entry is one record in the trail. The zero value of a field means "absent",
// and absent fields are not encoded.
//
// Seq and Time are given by the log when the entry is committed: Seq is the
// entry's index in the transparency log, Time the gateway's clock, UTC, never
// before the time of the entry at Seq-1.
type Entry struct {
	Seq  uint64    `json:"-"`
	Time time.Time `json:"-"`

	// ID is the entry's own name, a ULID in lower case.
	ID   string `json:"id"`
	Kind Kind   `json:"kind"`
	// IntentID links a later stage (outcome, settled, approved, expired) to the
	// entry that opened the call.
	IntentID string `json:"intent_id,omitempty"`

	Gateway   Gateway    `json:"gateway"`
	Principal *Principal `json:"principal,omitempty"`
	Claims    *Claims    `json:"claims,omitempty"`
	Session   string     `json:"session,omitempty"`
	Client    string     `json:"client,omitempty"` // the peer's address, "host:port", as the kernel gave it

	Connection string   `json:"connection,omitempty"`
	Project    string   `json:"project,omitempty"`
	Location   string   `json:"location,omitempty"`
	Method     string   `json:"method,omitempty"` // BigQuery's method id, such as "bigquery.jobs.insert"
	Class      Class    `json:"class,omitempty"`  // the gravest of Classes
	Classes    []Class  `json:"classes,omitempty"`
	Request    *Request `json:"request,omitempty"`

	Statements    []Statement    `json:"statements,omitempty"`
	StatementType *StatementType `json:"statement_type,omitempty"`
	Tables        *Tables        `json:"tables,omitempty"`
	Destinations  []string       `json:"destinations,omitempty"` // URIs and other places that data goes to or comes from
	Job           *Job           `json:"job,omitempty"`

	Decision *Decision `json:"decision,omitempty"`
	Upstream *Upstream `json:"upstream,omitempty"`
	Outcome  *Outcome  `json:"outcome,omitempty"`
	// Recording describes captured rows; absent where none were asked for.
	Recording *Recording `json:"recording,omitempty"`
	Aggregate *Aggregate `json:"aggregate,omitempty"`
	// Event describes what is not a call: sessions, admin actions, the gateway's own life.
	Event *Event `json:"event,omitempty"`
	// Flags are short words for what an auditor should look at, from a closed
	// set (docs/spec/entry.md), such as "foreign_job" or "duplicate_job_id".
	Flags []string `json:"flags,omitempty"`
}

// Gateway says which gateway wrote the entry, and under which rules.
type Gateway struct {
	ID           string `json:"id"`
	Version      string `json:"version"`
	ConfigDigest string `json:"config_digest,omitempty"` // SHA-256, hex
	PolicyDigest string `json:"policy_digest,omitempty"` // SHA-256, hex
}

// Principal is the verified identity chain. Nothing in it is the client's word.
type Principal struct {
	Agent   string `json:"agent,omitempty"`
	TokenID string `json:"token_id,omitempty"`
	Issuer  string `json:"issuer,omitempty"`
	Subject string `json:"subject,omitempty"`
	// Human is on whose behalf the agent acts, and HumanBy who vouches for that.
	Human   string `json:"human,omitempty"`
	HumanBy string `json:"human_by,omitempty"` // HumanByIssuer or HumanByAdmin
	// Actors is the RFC 8693 "act" chain, nearest first: parties between the
	// subject and the agent, each as "subject" or "issuer|subject".
	Actors   []string `json:"actors,omitempty"`
	AuthMode string   `json:"auth_mode,omitempty"` // one of the Auth constants
	// CredentialSHA256 is of the JWT, or of the certificate's DER, that was
	// verified, hex.
	CredentialSHA256 string `json:"credential_sha256,omitempty"`
	// Evidence is the SHA-256, hex, of what was verified of that credential and with
	// which key, which is stored as a blob (docs/identity.md).
	Evidence string `json:"evidence,omitempty"`
}

// How a caller was identified, a principal's AuthMode.
const (
	AuthGatewayToken  = "gateway_token"      // an opaque token that this gateway issued
	AuthJWT           = "oidc_jwt"           // a JWT of a configured issuer
	AuthCertificate   = "client_certificate" // an X.509 certificate, such as an X.509-SVID
	AuthTokenExchange = "token_exchange"     // a session token got for one of the above (RFC 8693)
)

// Who vouches for a principal's Human.
const (
	HumanByIssuer = "issuer" // an identity provider's signed claim
	HumanByAdmin  = "admin"  // whoever issued the gateway token
)

// Claims is what the client merely says. Nothing in it was verified.
type Claims struct {
	UserAgent     string            `json:"user_agent,omitempty"`
	APIClient     string            `json:"api_client,omitempty"` // X-Goog-Api-Client
	Reason        string            `json:"reason,omitempty"`     // X-Goog-Request-Reason
	Human         string            `json:"human,omitempty"`
	TraceParent   string            `json:"trace_parent,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`         // the client's own job labels
	DroppedLabels map[string]string `json:"dropped_labels,omitempty"` // labels under trailgate_ that the client sent
	QuotaProject  string            `json:"quota_project,omitempty"`  // X-Goog-User-Project
	Title         string            `json:"title,omitempty"`
	Purpose       string            `json:"purpose,omitempty"`
}

// Request is the call as it came over the wire.
type Request struct {
	Verb      string `json:"verb"`             // the effective HTTP method
	Path      string `json:"path"`             // escaped path, and query with secrets taken out
	Bytes     int64  `json:"bytes,omitempty"`  // length of the body that is forwarded
	SHA256    string `json:"sha256,omitempty"` // of that body, hex; absent where it streams (see outcome)
	RequestID string `json:"request_id,omitempty"`
	DryRun    bool   `json:"dry_run,omitempty"`
	// DuplicateOf is the entry that first sent the same job id or request id.
	DuplicateOf string `json:"duplicate_of,omitempty"`
	// For is the entry of the call for whose sake the gateway itself sent this one,
	// such as a dry run.
	For string `json:"for,omitempty"`
}

// Statement is one piece of SQL (or of a routine's code) inside a call.
type Statement struct {
	Where   string `json:"where"`             // JSON path in the request, such as "configuration.query.query"
	Text    string `json:"text,omitempty"`    // whole, or absent where Blob is set
	Blob    string `json:"blob,omitempty"`    // SHA-256, hex, of the stored text
	SHA256  string `json:"sha256"`            // of the text, hex
	Length  int64  `json:"length"`            // of the text, bytes
	Dialect string `json:"dialect,omitempty"` // "googlesql", "legacy", or the routine's language
	// Parameters is the request's queryParameters as JSON, whole, or absent where ParametersBlob is set.
	Parameters     string `json:"parameters,omitempty"`
	ParametersBlob string `json:"parameters_blob,omitempty"`
}

// StatementType is BigQuery's statementType, as told by each who told it.
type StatementType struct {
	Local    string `json:"local,omitempty"`
	DryRun   string `json:"dry_run,omitempty"`
	Final    string `json:"final,omitempty"`
	Disagree bool   `json:"disagree,omitempty"`
}

// Tables lists tables as "project.dataset.table"; a part that could not be
// told is missing from the left.
type Tables struct {
	Read    []string `json:"read,omitempty"`
	Written []string `json:"written,omitempty"`
	Omitted int64    `json:"omitted,omitempty"` // how many more there were
	Final   bool     `json:"final,omitempty"`   // told by BigQuery's statistics, not by our reading
}

// Job names the BigQuery job that a call makes or asks about.
type Job struct {
	Project  string `json:"project,omitempty"`
	ID       string `json:"id,omitempty"`
	Location string `json:"location,omitempty"`
	// AssignedBy is "client", "gateway" or "bigquery".
	AssignedBy string `json:"assigned_by,omitempty"`
	Type       string `json:"type,omitempty"` // QUERY, LOAD, COPY, EXTRACT
	// OwnerAgent and OwnerEntry say who made the job, where the trail knows it.
	OwnerAgent string   `json:"owner_agent,omitempty"`
	OwnerEntry string   `json:"owner_entry,omitempty"`
	Children   []string `json:"children,omitempty"`
}

// Decision is the policy's answer.
type Decision struct {
	Effect     string            `json:"effect"` // "allow", "deny", "require_approval", "refuse"
	Rule       string            `json:"rule,omitempty"`
	Reason     string            `json:"reason,omitempty"`
	Limits     map[string]string `json:"limits,omitempty"`
	ApprovalID string            `json:"approval_id,omitempty"`
	Approvers  []string          `json:"approvers,omitempty"`
}

// Upstream is as whom, and where to, the call went on.
type Upstream struct {
	// Mode is the connection's federation mode: "none", "static", "adc",
	// "impersonation", "oauth", "workload"; "local" is answered by the gateway,
	// "connector" is left to the connector (of an intent).
	Mode      string `json:"mode"`
	Principal string `json:"principal,omitempty"`
	Shared    bool   `json:"shared,omitempty"` // the credential is not the agent's own
	// Assertion is whose JWT was exchanged for the credential: "agent" or "gateway".
	Assertion string `json:"assertion,omitempty"`
	Host      string `json:"host,omitempty"`
	// Connector is what the call went through, where its connection has connectors; of
	// an outcome.
	Connector *ConnectorUse `json:"connector,omitempty"`
}

// How a call ended.
const (
	EndComplete     = "complete"      // the whole answer was handed to the agent's connection
	EndClientGone   = "client_gone"   // the agent went away first
	EndUpstreamCut  = "upstream_cut"  // BigQuery's answer broke off
	EndUpstreamDown = "upstream_down" // BigQuery could not be reached, or did not answer
	EndNotForwarded = "not_forwarded" // nothing went upstream after all
	EndRefused      = "refused"       // the gateway answered instead
)

// Outcome is how a call ended.
type Outcome struct {
	Status        int    `json:"status,omitempty"` // HTTP status that the agent was given
	End           string `json:"end,omitempty"`
	ErrorReason   string `json:"error_reason,omitempty"` // BigQuery's reason, such as "notFound"
	ErrorMessage  string `json:"error_message,omitempty"`
	JobState      string `json:"job_state,omitempty"`
	Bytes         int64  `json:"bytes,omitempty"`         // of the response body
	RequestBytes  int64  `json:"request_bytes,omitempty"` // of a streamed request body
	RequestSHA256 string `json:"request_sha256,omitempty"`
	Rows          int64  `json:"rows,omitempty"`       // in this response
	TotalRows     int64  `json:"total_rows,omitempty"` // of the whole result
	RowsAffected  int64  `json:"rows_affected,omitempty"`
	// BytesProcessed and BytesBilled are BigQuery's own figures.
	BytesProcessed int64 `json:"bytes_processed,omitempty"`
	BytesBilled    int64 `json:"bytes_billed,omitempty"`
	CacheHit       bool  `json:"cache_hit,omitempty"`
	SlotMillis     int64 `json:"slot_ms,omitempty"`
	DurationNanos  int64 `json:"duration_ns,omitempty"`
	// CaptureError says why the figures above may be incomplete.
	CaptureError string `json:"capture_error,omitempty"`
}

// Recording says at which level a call is recorded and, in its outcome, which of the
// rows that went back to the agent were kept (docs/spec/recording.md). It is absent at
// the level "request" where no rows were to be kept.
type Recording struct {
	Level string `json:"level,omitempty"` // one of the Recording constants
	// SHA256 commits to all rows of the answer, hex; without the data key it tells
	// nothing of them, even to who could guess them.
	SHA256 string `json:"sha256,omitempty"`
	Rows   int64  `json:"rows,omitempty"`  // of the answer
	Bytes  int64  `json:"bytes,omitempty"` // of those rows, a line of JSON each
	// StartRow is the place of the first row in the whole result, from 0 on;
	// PlaceUnknown says that it could not be told.
	StartRow     int64 `json:"start_row,omitempty"`
	PlaceUnknown bool  `json:"place_unknown,omitempty"`
	// Body commits to the rows that are stored, and names them; it is SHA256 where all are.
	Body        string `json:"body,omitempty"`
	StoredRows  int64  `json:"stored_rows,omitempty"`
	StoredBytes int64  `json:"stored_bytes,omitempty"`
	Schema      string `json:"schema,omitempty"`   // names the stored schema, as Body names rows
	Key         string `json:"key,omitempty"`      // the data key, "connection/year-month"
	Redacted    int64  `json:"redacted,omitempty"` // cells that were dropped or hashed before
	Truncated   bool   `json:"truncated,omitempty"`
	Error       string `json:"error,omitempty"` // why something is missing
}

// Recording levels, a recording's Level: each holds what the one before does, and more.
const (
	RecordingMetadata = "metadata" // who, what, when, which tables, how much
	RecordingRequest  = "request"  // the statement and its parameters
	RecordingResults  = "results"  // the rows that went back
)

// Aggregate counts events that are too many and too anonymous for an entry each.
type Aggregate struct {
	Count     int64     `json:"count"`
	Since     time.Time `json:"since"`
	Addresses []string  `json:"addresses,omitempty"` // some of the peers, not all
}

// Event is something that happened beside the calls.
type Event struct {
	Action string            `json:"action"` // such as "agent.add", "serve.start", "search"
	Target string            `json:"target,omitempty"`
	Actor  string            `json:"actor,omitempty"` // who did it, as the admin listener knows them
	Via    string            `json:"via,omitempty"`   // "socket", "token", "cli"
	Detail map[string]string `json:"detail,omitempty"`
}

// Blobs are the SHA-256 sums of the stored texts of statements and parameters that an
// entry names, in hex.
func (e *Entry) Blobs() []string {
	var out []string
	for i := range e.Statements {
		for _, sha := range []string{e.Statements[i].Blob, e.Statements[i].ParametersBlob} {
			if sha != "" {
				out = append(out, sha)
			}
		}
	}
	return out
}
