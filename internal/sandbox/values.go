package sandbox

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// Values are kept as SQLite has them: int64 (INTEGER, BOOLEAN), float64 (FLOAT,
// NUMERIC), []byte (BYTES), string (all else), nil. Times are text of fixed
// width (googlesql.TimestampLayout and its kin); a REPEATED column or a RECORD
// is JSON.

// badValue complains of a value that a type cannot take.
func badValue(v any, typ string) *apiError {
	return fail("invalid", "Could not parse '%v' as %s", v, sqlType(typ))
}

// sqlType is what GoogleSQL calls a REST type.
func sqlType(rest string) string {
	switch rest {
	case "INTEGER":
		return "INT64"
	case "FLOAT":
		return "FLOAT64"
	case "BOOLEAN":
		return "BOOL"
	case "RECORD":
		return "STRUCT"
	}
	return rest
}

// fromText reads a scalar from text, as CSV files, casts and parameters have it.
func fromText(typ, text string) (any, *apiError) {
	trimmed := strings.TrimSpace(text)
	switch typ {
	case "STRING", "GEOGRAPHY":
		return text, nil
	case "INTEGER":
		n, err := strconv.ParseInt(trimmed, 0, 64)
		if err != nil {
			return nil, badValue(text, typ)
		}
		return n, nil
	case "FLOAT":
		switch strings.ToLower(strings.TrimLeft(trimmed, "+-")) {
		case "inf", "infinity", "nan":
		default:
			if strings.ContainsAny(trimmed, "xXpP_") {
				return nil, badValue(text, typ)
			}
		}
		f, err := strconv.ParseFloat(trimmed, 64)
		if err != nil {
			return nil, badValue(text, typ)
		}
		return f, nil
	case "NUMERIC", "BIGNUMERIC":
		if _, ok := new(big.Rat).SetString(trimmed); !ok || strings.Contains(trimmed, "/") {
			return nil, badValue(text, typ)
		}
		if n, err := strconv.ParseInt(trimmed, 10, 64); err == nil {
			return n, nil
		}
		f, err := strconv.ParseFloat(trimmed, 64)
		if err != nil {
			return nil, badValue(text, typ)
		}
		return f, nil
	case "BOOLEAN":
		switch strings.ToLower(trimmed) {
		case "true", "t", "yes", "y", "1":
			return int64(1), nil
		case "false", "f", "no", "n", "0":
			return int64(0), nil
		}
		return nil, badValue(text, typ)
	case "BYTES":
		b, err := base64.StdEncoding.DecodeString(trimmed)
		if err != nil {
			return nil, badValue(text, typ)
		}
		return b, nil
	case "TIMESTAMP", "DATE", "DATETIME", "TIME":
		s, ok := canonicalTime(typ, trimmed)
		if !ok {
			return nil, badValue(text, typ)
		}
		return s, nil
	case "JSON":
		if !json.Valid([]byte(text)) {
			return nil, badValue(text, typ)
		}
		return text, nil
	}
	return nil, unsupported("values of the type %s", sqlType(typ))
}

// fromJSON reads a column's value from JSON, as insertAll and NDJSON have it.
func fromJSON(c googlesql.Column, v any, ignoreUnknown bool) (any, *apiError) {
	if v == nil {
		if c.Mode == "REQUIRED" {
			return nil, fail("invalid", "Missing required field: %s.", c.Name)
		}
		return nil, nil
	}
	if c.Mode == "REPEATED" {
		l, ok := v.([]any)
		if !ok {
			return nil, fail("invalid", "Array specified for non-repeated field: %s.", c.Name)
		}
		one := c
		one.Mode = ""
		out := make([]any, len(l))
		for i, e := range l {
			if e == nil {
				return nil, fail("invalid", "Only optional fields can be set to NULL. Field: %s", c.Name)
			}
			var err *apiError
			if out[i], err = fromJSON(one, e, ignoreUnknown); err != nil {
				return nil, err
			}
			out[i] = nested(out[i])
		}
		return jsonText(out)
	}
	if c.Type == "RECORD" {
		o, ok := v.(object)
		if !ok {
			return nil, fail("invalid", "This field: %s is a record.", c.Name)
		}
		out := object{}
		for name, e := range o {
			f, ok := column(c.Fields, name)
			if !ok {
				if ignoreUnknown {
					continue
				}
				return nil, fail("invalid", "no such field: %s.%s.", c.Name, name)
			}
			one, err := fromJSON(f, e, ignoreUnknown)
			if err != nil {
				return nil, err
			}
			out[f.Name] = nested(one)
		}
		return jsonText(out)
	}
	if c.Type == "JSON" {
		if s, ok := v.(string); ok {
			return fromText("JSON", s)
		}
		return jsonText(v)
	}
	switch v := v.(type) {
	case string:
		return fromText(c.Type, v)
	case bool:
		switch c.Type {
		case "BOOLEAN":
			return map[bool]int64{true: 1}[v], nil
		case "STRING":
			return strconv.FormatBool(v), nil
		}
	case json.Number:
		switch c.Type {
		case "STRING":
			return v.String(), nil
		case "INTEGER":
			if f, err := v.Float64(); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
				return int64(f), nil
			}
			return fromText(c.Type, v.String())
		case "FLOAT", "NUMERIC", "BIGNUMERIC", "TIMESTAMP":
			return fromText(c.Type, v.String())
		}
	case object:
		return nil, fail("invalid", "This field: %s is not a record.", c.Name)
	case []any:
		return nil, fail("invalid", "Array specified for non-repeated field: %s.", c.Name)
	}
	return nil, badValue(v, c.Type)
}

// jsonText is kept for what SQLite has no type for.
func jsonText(v any) (any, *apiError) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fail("invalid", "encode a nested value: %s", err)
	}
	return string(raw), nil
}

// nested is a stored value on its way into JSON text: text that is itself JSON
// stays what it is, bytes become base64.
func nested(v any) any {
	switch v := v.(type) {
	case string:
		if len(v) > 1 && (v[0] == '{' && v[len(v)-1] == '}' || v[0] == '[' && v[len(v)-1] == ']') && json.Valid([]byte(v)) {
			return json.RawMessage(v)
		}
	case []byte:
		return base64.StdEncoding.EncodeToString(v)
	}
	return v
}

// timeLayouts are the spellings of a time that BigQuery takes.
var timeLayouts = []string{
	"2006-01-02 15:04:05.999999999Z07:00", "2006-01-02T15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999-07", "2006-01-02T15:04:05.999999999-07",
	"2006-01-02 15:04:05.999999999 -07:00", "2006-01-02 15:04:05.999999999 MST", "2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999", "2006-01-02 15:04", "2006-01-02", "2006-1-2",
}

// canonicalTime writes a time of the type as it is kept.
func canonicalTime(typ, text string) (string, bool) {
	if typ == "TIME" {
		for _, l := range []string{"15:04:05.999999999", "15:04"} {
			if t, err := time.Parse(l, text); err == nil {
				return t.Format(googlesql.TimeLayout), true
			}
		}
		return "", false
	}
	for _, l := range timeLayouts {
		t, err := time.Parse(l, text)
		if err != nil {
			continue
		}
		if strings.HasSuffix(l, "MST") && !strings.HasSuffix(text, "UTC") && !strings.HasSuffix(text, "GMT") {
			return "", false
		}
		return layoutTime(typ, t), true
	}
	if typ == "TIMESTAMP" {
		if f, ok := new(big.Rat).SetString(text); ok && !strings.Contains(text, "/") {
			// Seconds since 1970, as insertAll and NDJSON may have it.
			micros, _ := new(big.Rat).Mul(f, big.NewRat(1_000_000, 1)).Float64()
			if math.Abs(micros) < 2.6e17 {
				return layoutTime(typ, time.UnixMicro(int64(math.Round(micros)))), true
			}
		}
	}
	return "", false
}

func layoutTime(typ string, t time.Time) string {
	t = t.UTC().Truncate(time.Microsecond)
	switch typ {
	case "DATE":
		return t.Format(googlesql.DateLayout)
	case "DATETIME":
		return t.Format(googlesql.DatetimeLayout)
	case "TIME":
		return t.Format(googlesql.TimeLayout)
	}
	return t.Format(googlesql.TimestampLayout)
}

// readTime reads a kept TIMESTAMP, DATETIME or DATE.
func readTime(s string) (time.Time, bool) {
	for _, l := range []string{googlesql.TimestampLayout, googlesql.DatetimeLayout, googlesql.DateLayout} {
		if t, err := time.Parse(l, s); err == nil {
			return t, true
		}
	}
	if s, ok := canonicalTime("TIMESTAMP", s); ok {
		t, err := time.Parse(googlesql.TimestampLayout, s)
		return t, err == nil
	}
	return time.Time{}, false
}

// sizeOf is what a value counts for in bytes processed, as BigQuery's pricing
// page has it.
func sizeOf(v any) int64 {
	switch v := v.(type) {
	case nil:
		return 0
	case string:
		return int64(len(v)) + 2
	case []byte:
		return int64(len(v)) + 2
	}
	return 8
}

// plainText writes a scalar as CSV files and casts to STRING have it.
func plainText(c googlesql.Column, v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case int64:
		if c.Type == "BOOLEAN" {
			return strconv.FormatBool(v != 0)
		}
		return strconv.FormatInt(v, 10)
	case float64:
		return floatText(c.Type, v)
	case []byte:
		return base64.StdEncoding.EncodeToString(v)
	case string:
		switch c.Type {
		case "TIMESTAMP":
			if t, ok := readTime(v); ok {
				return t.UTC().Format("2006-01-02 15:04:05.999999") + " UTC"
			}
		case "DATETIME", "TIME":
			return trimMicros(v)
		}
		return v
	}
	return fmt.Sprint(v)
}

func trimMicros(s string) string { return strings.TrimSuffix(s, ".000000") }

func floatText(typ string, f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	if typ == "NUMERIC" || typ == "BIGNUMERIC" {
		return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(f, 'f', 9, 64), "0"), ".")
	}
	s := strconv.FormatFloat(f, 'g', -1, 64)
	if abs := math.Abs(f); abs == 0 || abs >= 1e-5 && abs < 1e15 {
		s = strconv.FormatFloat(f, 'f', -1, 64)
	}
	if !strings.ContainsAny(s, ".e") {
		s += ".0"
	}
	return s
}
