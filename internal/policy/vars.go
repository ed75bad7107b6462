package policy

import (
	"errors"
	"fmt"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/trailgate/trailgate"
)

// A variable is what a rule may look at: a name of its own ("class") or a field of
// one of the objects ("principal.agent"). All are typed, so that CEL's checker
// knows every name.
type variable struct {
	object, name string // object is "" for a variable that is no field
	typ          *types.Type
	// words is the closed set of a text's values, for lint; nil: open.
	words []string
	bytes bool // counts bytes: shown with a unit in messages
	get   func(*evaluation) (ref.Val, error)
}

func (v *variable) path() string {
	if v.object == "" {
		return v.name
	}
	return v.object + "." + v.name
}

var (
	texts  = types.NewListType(types.StringType)
	labels = types.NewMapType(types.StringType, types.StringType)
)

var (
	errNoDryRun  = errors.New("no dry run was made yet")
	errNoTime    = errors.New("the time of the call is not known")
	errTooMany   = fmt.Errorf("more than %d elements, which are not looked at", MaxList)
	errLabels    = fmt.Errorf("more than %d labels, which are not looked at", MaxLabels)
	errOmitted   = errors.New("the call names more tables than are known, so they cannot be judged")
	errDryRunOff = errors.New("BigQuery gave no answer to a dry run")
)

var classWords = []string{
	string(trailgate.ClassUnknown), string(trailgate.ClassAccessChange), string(trailgate.ClassExport), string(trailgate.ClassWrite),
	string(trailgate.ClassMetadataChange), string(trailgate.ClassRead), string(trailgate.ClassMetadataRead),
}

func text(object, name string, get func(in *Input) string, words ...string) variable {
	return variable{object: object, name: name, typ: types.StringType, words: words, get: func(e *evaluation) (ref.Val, error) {
		return types.String(get(e.in)), nil
	}}
}

func number(object, name string, get func(in *Input) int64) variable {
	return variable{object: object, name: name, typ: types.IntType, get: func(e *evaluation) (ref.Val, error) {
		return types.Int(get(e.in)), nil
	}}
}

func sizeOf(object, name string, get func(in *Input) int64) variable {
	v := number(object, name, get)
	v.bytes = true
	return v
}

func truth(object, name string, get func(in *Input) bool) variable {
	return variable{object: object, name: name, typ: types.BoolType, get: func(e *evaluation) (ref.Val, error) {
		return types.Bool(get(e.in)), nil
	}}
}

func moment(object, name string, get func(in *Input) time.Time) variable {
	return variable{object: object, name: name, typ: types.TimestampType, get: func(e *evaluation) (ref.Val, error) {
		t := get(e.in)
		if t.IsZero() {
			return nil, errNoTime
		}
		return types.Timestamp{Time: t}, nil
	}}
}

func list(object, name string, get func(in *Input) ([]string, error), words ...string) variable {
	return variable{object: object, name: name, typ: texts, words: words, get: func(e *evaluation) (ref.Val, error) {
		all, err := get(e.in)
		if err == nil && len(all) > MaxList {
			err = errTooMany
		}
		if err != nil {
			return nil, err
		}
		return newTextList(all), nil
	}}
}

// fromDryRun makes a variable one that only a dry run tells.
func fromDryRun(v variable) variable {
	get := v.get
	v.get = func(e *evaluation) (ref.Val, error) {
		switch d := e.in.DryRun; {
		case d == nil:
			e.wantsDryRun = true
			return nil, errNoDryRun
		case v.name == "ran" || v.name == "error":
			return get(e)
		case !d.Ran:
			if d.Error != "" {
				return nil, fmt.Errorf("%w: %s", errDryRunOff, clip(d.Error, MaxTextBytes))
			}
			return nil, errDryRunOff
		default:
			return get(e)
		}
	}
	return v
}

func readTables(in *Input) ([]string, error)    { return in.Tables.Read, omitted(in) }
func writtenTables(in *Input) ([]string, error) { return in.Tables.Written, omitted(in) }

func allTables(in *Input) ([]string, error) {
	if len(in.Tables.Written) == 0 {
		return readTables(in)
	}
	all := make([]string, 0, len(in.Tables.Read)+len(in.Tables.Written))
	return append(append(all, in.Tables.Read...), in.Tables.Written...), omitted(in)
}

func omitted(in *Input) error {
	if in.Tables.Omitted > 0 {
		return errOmitted
	}
	return nil
}

func classes(in *Input) ([]string, error) {
	if len(in.Classes) == 0 {
		return []string{string(in.Class)}, nil
	}
	out := make([]string, len(in.Classes))
	for i, c := range in.Classes {
		out[i] = string(c)
	}
	return out, nil
}

func known(get func(*Input) []string) func(*Input) ([]string, error) {
	return func(in *Input) ([]string, error) { return get(in), nil }
}

// variables is the whole vocabulary, in the order of docs/spec/policy.md, which a
// test holds to it.
var variables = []variable{
	text("principal", "agent", func(in *Input) string { return in.Principal.Agent }),
	text("principal", "issuer", func(in *Input) string { return in.Principal.Issuer }),
	text("principal", "subject", func(in *Input) string { return in.Principal.Subject }),
	text("principal", "human", func(in *Input) string { return in.Principal.Human }),
	text("principal", "human_by", func(in *Input) string { return in.Principal.HumanBy }, "", trailgate.HumanByIssuer, trailgate.HumanByAdmin),
	list("principal", "actors", known(func(in *Input) []string { return in.Principal.Actors })),
	text("principal", "auth_mode", func(in *Input) string { return in.Principal.AuthMode },
		trailgate.AuthGatewayToken, trailgate.AuthJWT, trailgate.AuthCertificate, trailgate.AuthTokenExchange),
	text("principal", "token_id", func(in *Input) string { return in.Principal.TokenID }),

	text("claims", "human", func(in *Input) string { return in.Claims.Human }),
	text("claims", "user_agent", func(in *Input) string { return in.Claims.UserAgent }),
	text("claims", "reason", func(in *Input) string { return in.Claims.Reason }),
	{object: "claims", name: "labels", typ: labels, get: func(e *evaluation) (ref.Val, error) {
		if len(e.in.Claims.Labels) > MaxLabels {
			return nil, errLabels
		}
		return types.NewStringStringMap(types.DefaultTypeAdapter, e.in.Claims.Labels), nil
	}},
	text("claims", "title", func(in *Input) string { return in.Claims.Title }),
	text("claims", "purpose", func(in *Input) string { return in.Claims.Purpose }),

	text("", "connection", func(in *Input) string { return in.Connection }),
	text("", "project", func(in *Input) string { return in.Project }),
	text("", "location", func(in *Input) string { return in.Location }),
	text("", "method", func(in *Input) string { return in.Method }),
	text("", "class", func(in *Input) string { return string(in.Class) }, classWords...),
	list("", "classes", classes, classWords...),
	text("", "statement_type", func(in *Input) string { return in.StatementType }),
	text("", "statement", func(in *Input) string { return clip(in.Statement, MaxStatementBytes) }),
	truth("", "risky", (*Input).risky),

	list("tables", "read", readTables),
	list("tables", "written", writtenTables),
	list("tables", "all", allTables),
	list("", "destinations", known(func(in *Input) []string { return in.Destinations })),
	list("", "flags", known(func(in *Input) []string { return in.Flags })),

	text("job", "id", func(in *Input) string { return in.Job.ID }),
	text("job", "project", func(in *Input) string { return in.Job.Project }),
	text("job", "type", func(in *Input) string { return in.Job.Type }, "", "QUERY", "LOAD", "COPY", "EXTRACT"),
	text("job", "owner_agent", func(in *Input) string { return in.Job.OwnerAgent }),
	truth("job", "own", (*Input).jobOwn),
	truth("job", "foreign", (*Input).jobForeign),
	truth("job", "created_here", func(in *Input) bool { return in.Job.OwnerAgent != "" }),

	truth("request", "dry_run", func(in *Input) bool { return in.Request.DryRun }),
	sizeOf("request", "bytes", func(in *Input) int64 { return in.Request.Bytes }),
	sizeOf("request", "maximum_bytes_billed", func(in *Input) int64 { return in.Request.MaximumBytesBilled }),
	text("request", "priority", func(in *Input) string { return in.Request.Priority }, "", "INTERACTIVE", "BATCH"),

	fromDryRun(truth("dry_run", "ran", func(in *Input) bool { return in.DryRun.Ran })),
	fromDryRun(text("dry_run", "error", func(in *Input) string { return in.DryRun.Error })),
	fromDryRun(text("dry_run", "statement_type", func(in *Input) string { return in.DryRun.StatementType })),
	fromDryRun(list("dry_run", "read", known(func(in *Input) []string { return in.DryRun.Read }))),
	fromDryRun(list("dry_run", "written", known(func(in *Input) []string { return in.DryRun.Written }))),
	fromDryRun(sizeOf("dry_run", "bytes", func(in *Input) int64 { return in.DryRun.Bytes })),
	fromDryRun(truth("dry_run", "differs", (*Input).differs)),

	text("session", "id", func(in *Input) string { return in.Session.ID }),
	number("session", "calls", func(in *Input) int64 { return in.Session.Calls }),
	number("session", "rows", func(in *Input) int64 { return in.Session.Rows }),
	sizeOf("session", "bytes", func(in *Input) int64 { return in.Session.Bytes }),
	sizeOf("session", "bytes_billed", func(in *Input) int64 { return in.Session.BytesBilled }),
	moment("session", "started", func(in *Input) time.Time { return in.Session.Started }),

	truth("budget", "limited", func(in *Input) bool { return in.Budget.Limited }),
	text("budget", "name", func(in *Input) string { return in.Budget.Name }),
	sizeOf("budget", "limit", func(in *Input) int64 { return in.Budget.Limit }),
	sizeOf("budget", "used", func(in *Input) int64 { return in.Budget.Used }),
	sizeOf("budget", "remaining", func(in *Input) int64 { return in.Budget.remaining() }),
	truth("budget", "warning", func(in *Input) bool { return in.Budget.Warning }),

	moment("", "now", func(in *Input) time.Time { return in.Now }),
}

// Where a variable stands in variables: by name, and by object and name.
var plainIndex, fieldIndex, objectNames = indexVariables()

func indexVariables() (plain map[string]int, fields map[string]map[string]int, objects []string) {
	plain, fields = map[string]int{}, map[string]map[string]int{}
	for i := range variables {
		v := &variables[i]
		if v.object == "" {
			plain[v.name] = i
			continue
		}
		if fields[v.object] == nil {
			fields[v.object] = map[string]int{}
			objects = append(objects, v.object)
		}
		fields[v.object][v.name] = i
	}
	return plain, fields, objects
}

// riskyFlags are those of the gateway's reading that mean: what runs, or where
// data goes to, is not all in the statement.
var riskyFlags = map[string]bool{
	"dynamic_sql": true, "calls_procedure": true, "remote_function": true, "remote_model": true, "external_query": true, "spark": true,
	"table_function": true, "calls_function": true, "calls_model": true, "code_from_uri": true, "statement_unparsed": true, "not_legacy_sql": true, "statement_too_complex": true,
	"name_unread": true, "target_unread": true, "tables_omitted": true, "bidi_in_statement": true, "dataset_project_id": true,
}

// risky: what the call does is not surely what its text says, or goes beyond
// tables. The spec lists it.
func (in *Input) risky() bool {
	switch in.Class {
	case trailgate.ClassRead, trailgate.ClassMetadataRead, trailgate.ClassMetadataChange, trailgate.ClassWrite:
	default: // export, access_change, unknown, and whatever comes to be
		return true
	}
	switch in.StatementType {
	case "SCRIPT", "CALL", "UNKNOWN", "EXPORT_DATA", "EXPORT_MODEL", "EXECUTE_IMMEDIATE":
		return true
	}
	for _, f := range in.Flags {
		if riskyFlags[f] {
			return true
		}
	}
	for _, c := range in.Classes {
		if c.Gravity() > trailgate.ClassWrite.Gravity() {
			return true
		}
	}
	return false
}

// differs: BigQuery's dry run says another statement type than the gateway's
// reading, or a written table that the reading does not have.
func (in *Input) differs() bool {
	d := in.DryRun
	if d.StatementType != "" && in.StatementType != "" && in.StatementType != "UNKNOWN" && d.StatementType != in.StatementType {
		return true
	}
	for _, t := range d.Written {
		if !contains(in.Tables.Written, t) {
			return true
		}
	}
	return false
}

func contains(all []string, one string) bool {
	for _, s := range all {
		if s == one {
			return true
		}
	}
	return false
}

// clip cuts a text to at most n bytes, between characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}
