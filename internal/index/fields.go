package index

import (
	"slices"
	"strconv"
	"strings"

	"github.com/trailgate/trailgate"
)

// fieldKind says what a field may be compared with, and how it is looked up.
type fieldKind int

const (
	kindText   fieldKind = iota // one of dict's texts
	kindWord                    // one of a closed set
	kindClass                   // a class
	kindState                   // a state
	kindWords                   // words of the statements
	kindTable                   // a table name, by parts
	kindJob                     // a job id
	kindClient                  // host, or host:port
	kindID                      // an entry's id
	kindStatus                  // an HTTP status
	kindNumber                  // a figure
	kindTime                    // a moment
	kindSeq                     // a place in the log
)

// Field is one of the names that a filter may use.
type Field struct {
	Name string
	// Doc says in a line what it is.
	Doc string
	// Example is a filter that uses it.
	Example string
	// Values are all the values that it can have, where they are few.
	Values []string

	kind   fieldKind
	letter byte   // of the terms
	column string // of call, for exact comparison of figures
	unit   unit
	within bool // ":" finds a part of the text too
}

// unit is what figures may be written in.
type unit int

const (
	unitNone unit = iota
	unitBytes
	unitMillis
)

func kinds() []string {
	var list []string
	for _, k := range []trailgate.Kind{
		trailgate.KindIntent, trailgate.KindOutcome, trailgate.KindDenied, trailgate.KindHeld, trailgate.KindApproved,
		trailgate.KindRefused, trailgate.KindExpired, trailgate.KindSession, trailgate.KindAdmin, trailgate.KindGateway,
		trailgate.KindGap, trailgate.KindSettled,
	} {
		list = append(list, string(k))
	}
	return list
}

func classNames() []string {
	var list []string
	for _, c := range classesByGravity {
		list = append(list, string(c))
	}
	return list
}

var stateValues = []string{
	StateOpen, StateIndeterminate, StateDone, StateFailed, StateDenied, StateHeld,
	StateRefused, StateSettled, StateRecorded,
}

// fields are the names that filters know, in the order of the documentation.
var fields = []*Field{
	{Name: "agent", Doc: "the agent's name", Example: `agent = "etl-bot"`, letter: termAgent},
	{Name: "human", Doc: "the verified human on whose behalf it acts", Example: `human = "ada@example.com"`, letter: termHuman},
	{Name: "token_id", Doc: "the id of the token that was used", Example: `token_id = "tok_01j…"`, letter: termToken},
	{Name: "claimed_human", Doc: "the human that the client merely says it acts for", Example: `claimed_human : "ada"`, letter: termClaimedHuman, within: true},
	{Name: "issuer", Doc: "who vouched for the caller", Example: `issuer = "https://accounts.google.com"`, letter: termIssuer},
	{Name: "subject", Doc: "what the issuer calls the caller", Example: `subject = "system:serviceaccount:agents:etl-bot"`, letter: termSubject},
	{Name: "auth_mode", Doc: "how the caller was identified", Example: `auth_mode = "oidc_jwt"`, letter: termAuthMode},
	{Name: "upstream", Doc: "the Google identity that the call carried", Example: `upstream : "agent-etl-bot@*"`, letter: termUpstream},
	{Name: "session", Doc: "the session's id", Example: `session = "01j…"`, letter: termSession},
	{Name: "client", Doc: "the peer's address, with or without its port", Example: `client = "10.0.0.7"`, letter: termHost, kind: kindClient},
	{Name: "connection", Doc: "the connection's name", Example: `connection = "prod"`, letter: termConnection},
	{Name: "project", Doc: "the project that the call names", Example: `project = "acme-prod"`, letter: termProject},
	{Name: "location", Doc: "the location that the call names", Example: `location = "EU"`, letter: termLocation},
	{Name: "method", Doc: "BigQuery's method id", Example: `method = "bigquery.jobs.*"`, letter: termMethod},
	{Name: "class", Doc: "what the call does with data; any of a call's classes matches", Example: `class = "write"`, Values: classNames(), letter: termClass, kind: kindClass},
	{Name: "kind", Doc: "the kind of any of a call's entries", Example: `kind = "denied"`, Values: kinds(), letter: termKind, kind: kindWord},
	{Name: "state", Doc: "how the call stands", Example: `state = "indeterminate"`, Values: stateValues, letter: termState, kind: kindState},
	{Name: "status", Doc: "the HTTP status that the agent was given", Example: `status >= 400`, letter: termStatus, kind: kindStatus},
	{Name: "decision", Doc: "the policy's answer", Example: `decision = "deny"`, letter: termDecision},
	{Name: "rule", Doc: "the rule that decided", Example: `rule = "no-prod-writes"`, letter: termRule},
	{Name: "approval", Doc: "the approval that the call waited for, or used", Example: `approval = "apr_01j…"`, letter: termApproval},
	{Name: "approver", Doc: "a human who approved the call", Example: `approver = "ada@example.com"`, letter: termApprover},
	{Name: "table", Doc: "a table that was read or written; parts may be left out from the left", Example: `table : "staging.*"`, letter: termTable, kind: kindTable},
	{Name: "statement", Doc: "words of the SQL, in any order; a last * matches any ending", Example: `statement : "delete imports"`, kind: kindWords},
	{Name: "text", Doc: "the same as statement", Example: `text : "batch_id"`, kind: kindWords},
	{Name: "statement_type", Doc: "BigQuery's statement type, as told by anyone", Example: `statement_type = "DELETE"`, letter: termType},
	{Name: "job", Doc: "the id of a job that the call makes or asks about", Example: `job = "bqjob_r1_1"`, letter: termJob, kind: kindJob},
	{Name: "id", Doc: "the id of any of a call's entries, or its beginning", Example: `id = "01jd3m…"`, kind: kindID},
	{Name: "time", Doc: "when the call arrived: RFC 3339, a date (UTC), or a span before now", Example: `time >= "-24h"`, kind: kindTime},
	{Name: "seq", Doc: "the opening entry's place in the log", Example: `seq >= 1000`, kind: kindSeq},
	{Name: "error_reason", Doc: "BigQuery's reason for an error", Example: `error_reason = "notFound"`, letter: termError},
	{Name: "bytes_billed", Doc: "bytes billed", Example: `bytes_billed > 1GiB`, letter: termBilled, kind: kindNumber, column: "billed", unit: unitBytes},
	{Name: "bytes_processed", Doc: "bytes processed", Example: `bytes_processed > 10GB`, letter: termProcessed, kind: kindNumber, column: "processed", unit: unitBytes},
	{Name: "rows", Doc: "rows in the answer", Example: `rows > 10000`, letter: termRows, kind: kindNumber, column: "rows"},
	{Name: "rows_affected", Doc: "rows that a DML statement changed", Example: `rows_affected > 0`, letter: termAffected, kind: kindNumber, column: "affected"},
	{Name: "duration_ms", Doc: "how long the call took, in milliseconds or with a unit", Example: `duration_ms > 30s`, letter: termDuration, kind: kindNumber, column: "duration", unit: unitMillis},
	{Name: "flag", Doc: "a flag of any of a call's entries", Example: `flag = "foreign_job"`, letter: termFlag},
	{Name: "user_agent", Doc: "what the client calls itself; \":\" finds a part of it", Example: `user_agent : "google-cloud-sdk"`, letter: termUserAgent, within: true},
	{Name: "action", Doc: "what happened beside the calls", Example: `action = "agent.revoke"`, letter: termAction},
}

// Fields are the names that a filter may use, for help and completion.
func Fields() []Field {
	list := make([]Field, len(fields))
	for i, f := range fields {
		list[i] = *f
		list[i].Values = slices.Clone(f.Values)
	}
	return list
}

func fieldByName(name string) *Field {
	for _, f := range fields {
		if f.Name == name {
			return f
		}
	}
	return nil
}

// nearest returns the word that is most like s, or "" where none is much like it.
func nearest(s string, words []string) string {
	s = strings.ToLower(s)
	best, found := len(s)/2+1, ""
	for _, w := range words {
		if d := distance(s, w); d < best {
			best, found = d, w
		}
	}
	if found == "" && len(s) >= 3 {
		for _, w := range words {
			if strings.HasPrefix(w, s) || strings.HasSuffix(w, s) {
				return w
			}
		}
	}
	return found
}

// didYouMean begins a sentence about all the words there are.
func didYouMean(s string, words []string) string {
	if near := nearest(s, words); near != "" {
		return "did you mean " + strconv.Quote(near) + "? The"
	}
	return "the"
}

// distance is Levenshtein's, over bytes; names are short ASCII.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		diag := prev[0]
		prev[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = prev[j+1]
			prev[j+1] = min(cost, prev[j]+1, prev[j+1]+1)
		}
	}
	return prev[len(b)]
}
