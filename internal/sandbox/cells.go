package sandbox

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// timestampFormat is how TIMESTAMP values are written in rows.
type timestampFormat int

const (
	timestampFloat  timestampFormat = iota // seconds, "1.792750021E9": the default
	timestampMicros                        // microseconds, "1792750021000000"
	timestampISO
)

// appendRow writes a row as REST has it: {"f":[{"v":"…"},…]}.
func appendRow(dst []byte, cols []googlesql.Column, row []any, tf timestampFormat) []byte {
	dst = append(dst, `{"f":[`...)
	for i, c := range cols {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"v":`...)
		dst = appendCell(dst, c, row[i], tf)
		dst = append(dst, '}')
	}
	return append(dst, `]}`...)
}

func appendCell(dst []byte, c googlesql.Column, v any, tf timestampFormat) []byte {
	if c.Mode == "REPEATED" || c.Type == "RECORD" {
		return appendNested(dst, c, v, tf)
	}
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case int64:
		if c.Type == "BOOLEAN" {
			dst = append(dst, '"')
			dst = strconv.AppendBool(dst, v != 0)
			return append(dst, '"')
		}
		if c.Type == "FLOAT" {
			return appendString(dst, floatText("FLOAT", float64(v)))
		}
		dst = append(dst, '"')
		dst = strconv.AppendInt(dst, v, 10)
		return append(dst, '"')
	case float64:
		return appendString(dst, floatText(c.Type, v))
	case []byte:
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, v)
		return append(dst, '"')
	case string:
		switch c.Type {
		case "TIMESTAMP":
			if t, ok := readTime(v); ok {
				return appendTimestamp(dst, t, tf)
			}
		case "DATETIME", "TIME":
			return appendString(dst, trimMicros(v))
		}
		return appendString(dst, v)
	}
	return append(dst, "null"...)
}

func appendTimestamp(dst []byte, t time.Time, tf timestampFormat) []byte {
	dst = append(dst, '"')
	switch tf {
	case timestampMicros:
		dst = strconv.AppendInt(dst, t.UnixMicro(), 10)
	case timestampISO:
		dst = t.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000Z")
	default:
		dst = strconv.AppendFloat(dst, float64(t.UnixMicro())/1e6, 'E', -1, 64)
		// Go writes "1.5E+09", BigQuery "1.5E9".
		for i := len(dst) - 1; dst[i] != '"'; i-- {
			if dst[i] == 'E' {
				j := i + 1
				if dst[j] == '+' {
					dst = append(dst[:j], dst[j+1:]...)
				} else {
					j++
				}
				for j < len(dst)-1 && dst[j] == '0' {
					dst = append(dst[:j], dst[j+1:]...)
				}
				break
			}
		}
	}
	return append(dst, '"')
}

// appendNested writes a REPEATED column or a RECORD from its JSON text.
func appendNested(dst []byte, c googlesql.Column, v any, tf timestampFormat) []byte {
	text, ok := v.(string)
	if !ok {
		if c.Mode == "REPEATED" {
			return append(dst, "[]"...)
		}
		return append(dst, "null"...)
	}
	var tree any
	if err := json.Unmarshal([]byte(text), &tree); err != nil {
		return append(dst, "null"...)
	}
	return appendTree(dst, c, tree, tf)
}

func appendTree(dst []byte, c googlesql.Column, tree any, tf timestampFormat) []byte {
	if c.Mode == "REPEATED" {
		one := c
		one.Mode = ""
		dst = append(dst, '[')
		l, _ := tree.([]any)
		for i, e := range l {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, `{"v":`...)
			dst = appendTree(dst, one, e, tf)
			dst = append(dst, '}')
		}
		return append(dst, ']')
	}
	if c.Type == "RECORD" {
		o, ok := tree.(object)
		if !ok {
			return append(dst, "null"...)
		}
		dst = append(dst, `{"f":[`...)
		for i, f := range c.Fields {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, `{"v":`...)
			dst = appendTree(dst, f, o[f.Name], tf)
			dst = append(dst, '}')
		}
		return append(dst, `]}`...)
	}
	switch v := tree.(type) {
	case float64:
		if c.Type == "INTEGER" || c.Type == "BOOLEAN" || v == float64(int64(v)) && c.Type != "FLOAT" {
			return appendCell(dst, c, int64(v), tf)
		}
		return appendCell(dst, c, v, tf)
	case bool:
		return appendCell(dst, c, map[bool]int64{true: 1}[v], tf)
	case object, []any:
		raw, err := json.Marshal(v)
		if err != nil {
			return append(dst, "null"...)
		}
		return appendString(dst, string(raw))
	}
	return appendCell(dst, c, tree, tf)
}

// appendString writes a JSON string. Invalid UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		b := s[i]
		if b >= ' ' && b != '"' && b != '\\' && b < utf8.RuneSelf {
			i++
			continue
		}
		if b < utf8.RuneSelf {
			dst = append(dst, s[start:i]...)
			switch b {
			case '"', '\\':
				dst = append(dst, '\\', b)
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			case '\t':
				dst = append(dst, '\\', 't')
			default:
				dst = append(dst, '\\', 'u', '0', '0', hex[b>>4], hex[b&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			dst = append(dst, s[start:i]...)
			dst = append(dst, "\ufffd"...)
			start = i + 1
		}
		i += size
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// jsonRow writes a row as a JSON object, as extract's NDJSON has it.
func jsonRow(cols []googlesql.Column, row []any) object {
	o := object{}
	for i, c := range cols {
		switch v := row[i].(type) {
		case nil:
		case string:
			if c.Mode == "REPEATED" || c.Type == "RECORD" || c.Type == "JSON" {
				o[c.Name] = json.RawMessage(v)
			} else {
				o[c.Name] = plainText(c, v)
			}
		case int64:
			if c.Type == "BOOLEAN" {
				o[c.Name] = v != 0
			} else {
				o[c.Name] = plainText(c, v) // BigQuery writes INT64 as a string
			}
		case float64:
			if text := floatText(c.Type, v); c.Type == "FLOAT" && (text[0] >= '0' && text[0] <= '9' || text[0] == '-' && text != "-Infinity") {
				o[c.Name] = v
			} else {
				o[c.Name] = text
			}
		default:
			o[c.Name] = plainText(c, v)
		}
	}
	return o
}
