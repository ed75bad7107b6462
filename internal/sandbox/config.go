package sandbox

import (
	"slices"
	"strings"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// implemented lists what a job's configuration may ask for. All else of the
// schema is refused where it is set to something.
var implemented = map[string][]string{
	"": {"query", "load", "copy", "extract", "dryRun", "labels", "jobType", "jobTimeoutMs"},
	"query": {
		"query", "destinationTable", "createDisposition", "writeDisposition", "defaultDataset", "priority", "preserveNulls", "allowLargeResults", "flattenResults",
		"useQueryCache", "maximumBytesBilled", "maximumBillingTier", "useLegacySql", "parameterMode", "queryParameters", "timePartitioning", "clustering", "destinationEncryptionConfiguration",
	},
	"load": {
		"sourceUris", "schema", "destinationTable", "destinationTableProperties", "createDisposition", "writeDisposition", "nullMarker", "fieldDelimiter", "skipLeadingRows", "encoding", "quote",
		"maxBadRecords", "allowQuotedNewlines", "sourceFormat", "allowJaggedRows", "ignoreUnknownValues", "autodetect", "timePartitioning", "clustering", "destinationEncryptionConfiguration",
	},
	"copy":    {"sourceTable", "sourceTables", "destinationTable", "createDisposition", "writeDisposition", "operationType", "destinationEncryptionConfiguration"},
	"extract": {"sourceTable", "destinationUri", "destinationUris", "printHeader", "fieldDelimiter", "destinationFormat", "compression"},
}

// checkJob refuses what the sandbox would have to ignore.
func checkJob(config object) *apiError {
	if err := checkMembers(config, "", "configuration"); err != nil {
		return err
	}
	for _, kind := range []string{"query", "load", "copy", "extract"} {
		if err := checkMembers(sub(config, kind), kind, "configuration."+kind); err != nil {
			return err
		}
	}
	if v := strings.ToUpper(str(config, "copy", "operationType")); v != "" && v != "COPY" && v != "OPERATION_TYPE_UNSPECIFIED" {
		return unsupported("copy jobs of the operationType %s", v)
	}
	return validateLabels(sub(config, "labels"))
}

func checkMembers(o object, kind, at string) *apiError {
	names := make([]string, 0, len(o))
	for name := range o {
		names = append(names, name)
	}
	slices.Sort(names) // the same complaint each time
	for _, name := range names {
		if isSet(o[name]) && !slices.Contains(implemented[kind], name) {
			return unsupported("%s.%s", at, name)
		}
	}
	return nil
}

// disposition reads one of the create and write dispositions.
func disposition(o object, name, def string, allowed ...string) (string, *apiError) {
	v := str(o, name)
	switch {
	case v == "" || strings.HasSuffix(v, "_UNSPECIFIED"):
		return def, nil
	case slices.Contains(allowed, v):
		return v, nil
	case v == "WRITE_TRUNCATE_DATA":
		return "", unsupported("the write disposition %s", v)
	}
	return "", fail("invalid", "Invalid value for %s: %s", name, v)
}

// landing is where a job puts rows, and how.
type landing struct {
	table         googlesql.Name
	create, write string
	resource      object // for a table that is made
}

// landingOf reads a job's destination. defWrite is the write disposition of
// such jobs where none is given.
func landingOf(o object, project, defWrite string) (*landing, *apiError) {
	l := &landing{table: nameFrom(sub(o, "destinationTable"), project)}
	if l.table.Dataset == "" || l.table.Table == "" {
		return nil, fail("required", "Required parameter is missing: destinationTable")
	}
	var err *apiError
	if l.create, err = disposition(o, "createDisposition", "CREATE_IF_NEEDED", "CREATE_IF_NEEDED", "CREATE_NEVER"); err != nil {
		return nil, err
	}
	if l.write, err = disposition(o, "writeDisposition", defWrite, "WRITE_TRUNCATE", "WRITE_APPEND", "WRITE_EMPTY"); err != nil {
		return nil, err
	}
	l.resource = object{}
	for _, k := range []string{"timePartitioning", "clustering"} {
		if o[k] != nil {
			l.resource[k] = cloneValue(o[k])
		}
	}
	if v := o["destinationEncryptionConfiguration"]; v != nil {
		l.resource["encryptionConfiguration"] = cloneValue(v)
	}
	if p := sub(o, "destinationTableProperties"); p != nil {
		for k, v := range p {
			if k == "expirationTime" {
				continue
			}
			l.resource[k] = cloneValue(v)
		}
	}
	return l, nil
}

// queryParameters reads a query's parameters.
func queryParameters(q object) (positional []parameter, named map[string]parameter, err *apiError) {
	named = map[string]parameter{}
	mode := strings.ToUpper(str(q, "parameterMode"))
	if mode != "" && mode != "POSITIONAL" && mode != "NAMED" {
		return nil, nil, fail("invalid", "Invalid parameterMode %q", mode)
	}
	for _, p := range list(q, "queryParameters") {
		o, _ := p.(object)
		param, err := readParameter(sub(o, "parameterType"), sub(o, "parameterValue"))
		if err != nil {
			return nil, nil, err
		}
		name := strings.ToLower(str(o, "name"))
		switch {
		case name == "" && mode == "NAMED":
			return nil, nil, fail("invalid", "Query parameters without a name cannot be used in the parameterMode NAMED")
		case name != "" && mode == "POSITIONAL":
			return nil, nil, fail("invalid", "Query parameters with a name cannot be used in the parameterMode POSITIONAL")
		case name == "":
			positional = append(positional, param)
		default:
			if _, ok := named[name]; ok {
				return nil, nil, fail("invalid", "Duplicate query parameter: %s", name)
			}
			named[name] = param
		}
	}
	if len(positional) > 0 && len(named) > 0 {
		return nil, nil, fail("invalid", "Named and positional query parameters cannot be mixed")
	}
	return positional, named, nil
}

func readParameter(typ, value object) (parameter, *apiError) {
	name := str(typ, "type")
	if strings.EqualFold(name, "ARRAY") {
		inner := googlesql.RESTType(str(typ, "arrayType", "type"))
		if inner == "" || inner == "RECORD" {
			return parameter{}, unsupported("query parameters of the type ARRAY<%s>", str(typ, "arrayType", "type"))
		}
		p := parameter{column: googlesql.Column{Type: inner, Mode: "REPEATED"}}
		elements := []any{}
		for _, e := range list(value, "arrayValues") {
			o, _ := e.(object)
			v, err := fromText(inner, str(o, "value"))
			if err != nil {
				return p, err
			}
			elements = append(elements, nested(v))
		}
		text, err := jsonText(elements)
		p.value = text
		return p, err
	}
	col := googlesql.Column{Type: googlesql.RESTType(name)}
	if col.Type == "" || col.Type == "RECORD" {
		return parameter{}, unsupported("query parameters of the type %q", name)
	}
	if value == nil || value["value"] == nil {
		return parameter{column: col}, nil
	}
	v, err := fromText(col.Type, str(value, "value"))
	return parameter{column: col, value: v}, err
}
