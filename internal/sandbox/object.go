package sandbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"
)

// object is a JSON object as it came, or as it goes out. Numbers that came are
// json.Number.
type object = map[string]any

// decodeObject reads one JSON object and nothing after it.
func decodeObject(raw []byte) (object, *apiError) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var o object
	if err := d.Decode(&o); err != nil {
		return nil, fail("invalid", "Invalid JSON payload received. %s", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fail("invalid", "Invalid JSON payload received. Unexpected data after the end of the object")
	}
	if o == nil {
		o = object{}
	}
	return o, nil
}

// get walks down nested objects; nil where a step is missing.
func get(o object, path ...string) any {
	var v any = o
	for _, p := range path {
		m, ok := v.(object)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

func str(o object, path ...string) string {
	switch v := get(o, path...).(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

func sub(o object, path ...string) object {
	m, _ := get(o, path...).(object)
	return m
}

func list(o object, path ...string) []any {
	l, _ := get(o, path...).([]any)
	return l
}

// integer reads a number, or a string of one, as REST has int64s.
func integer(o object, path ...string) (int64, bool) {
	switch v := get(o, path...).(type) {
	case json.Number:
		n, err := strconv.ParseInt(v.String(), 10, 64)
		return n, err == nil
	case string:
		n, err := strconv.ParseInt(v, 10, 64)
		return n, err == nil
	case int64:
		return v, true
	}
	return 0, false
}

// boolean reads a bool, or the string of one; or gives what is said to be the
// default.
func boolean(o object, def bool, path ...string) bool {
	switch v := get(o, path...).(type) {
	case bool:
		return v
	case string:
		if b, err := strconv.ParseBool(v); err == nil {
			return b
		}
	}
	return def
}

func texts(o object, path ...string) []string {
	var out []string
	for _, v := range list(o, path...) {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// clone copies an object, all the way down.
func clone(o object) object {
	out := make(object, len(o))
	for k, v := range o {
		out[k] = cloneValue(v)
	}
	return out
}

func cloneValue(v any) any {
	switch v := v.(type) {
	case object:
		return clone(v)
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = cloneValue(e)
		}
		return out
	}
	return v
}

// merge applies a PATCH: objects are merged, null removes, all else replaces.
// Labels are merged key by key, as BigQuery does.
func merge(into, patch object) {
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(into, k)
		case object:
			old, ok := into[k].(object)
			if !ok {
				old = object{}
			} else {
				old = maps.Clone(old)
			}
			merge(old, v)
			into[k] = old
		default:
			into[k] = cloneValue(v)
		}
	}
}

// etagOf names a resource's state.
func etagOf(o object) string {
	raw, err := json.Marshal(o) // map keys are sorted: the same state, the same bytes
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(raw)
	return base64.RawURLEncoding.EncodeToString(sum[:16]) + "=="
}

func decimal[T ~int | ~int64](n T) string { return strconv.FormatInt(int64(n), 10) }

// selectFields applies the "fields" parameter: a partial response. mask is
// like "kind,jobs(id,statistics/query)".
func selectFields(o object, mask string) (object, *apiError) {
	m, rest, ok := parseMask(mask)
	if !ok || rest != "" {
		return nil, fail("invalid", "Invalid field selection %s", mask)
	}
	out, _ := m.apply(o).(object)
	return out, nil
}

// fieldMask is a parsed "fields" parameter; nil below a name means all of it.
type fieldMask map[string]fieldMask

// add takes in one more selection: of what is named twice, both.
func (m fieldMask) add(name string, below fieldMask) {
	old, seen := m[name]
	switch {
	case !seen || below == nil:
		m[name] = below
	case old != nil:
		for k, v := range below {
			old.add(k, v)
		}
	}
}

func parseMask(s string) (m fieldMask, rest string, ok bool) {
	m = fieldMask{}
	for {
		end := strings.IndexAny(s, ",/()")
		name := s
		if end >= 0 {
			name, s = s[:end], s[end:]
		} else {
			s = ""
		}
		name = strings.TrimSpace(name)
		if name == "" {
			return nil, s, false
		}
		var below fieldMask
		switch {
		case strings.HasPrefix(s, "/"):
			// One name below: read it as a list that ends at the next comma.
			end := topLevelComma(s[1:])
			below, _, ok = parseMask(s[1 : 1+end])
			if !ok {
				return nil, s, false
			}
			s = s[1+end:]
		case strings.HasPrefix(s, "("):
			below, s, ok = parseMask(s[1:])
			if !ok || !strings.HasPrefix(s, ")") {
				return nil, s, false
			}
			s = s[1:]
		}
		m.add(name, below)
		if !strings.HasPrefix(s, ",") {
			return m, s, true
		}
		s = s[1:]
	}
}

// topLevelComma is where the path that s begins with ends.
func topLevelComma(s string) int {
	depth := 0
	for i, r := range s {
		switch r {
		case '(':
			depth++
		case ')':
			if depth == 0 {
				return i
			}
			depth--
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	return len(s)
}

func (m fieldMask) apply(v any) any {
	if m == nil {
		return v
	}
	switch v := v.(type) {
	case object:
		out := object{}
		for k, e := range v {
			below, ok := m[k]
			if !ok {
				below, ok = m["*"]
			}
			if ok {
				out[k] = below.apply(e)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = m.apply(e)
		}
		return out
	case []object:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = m.apply(e)
		}
		return out
	}
	return v
}

// validateLabels holds labels to BigQuery's rules for them.
func validateLabels(labels object) *apiError {
	if len(labels) > 64 {
		return fail("invalid", "Too many labels: %d; a resource has 64 at most", len(labels))
	}
	for k, v := range labels {
		s, ok := v.(string)
		if !ok {
			return fail("invalid", "Label %q is not a string", k)
		}
		if k == "" || len(k) > 63 || k[0] < 'a' || k[0] > 'z' || !labelText(k) {
			return fail("invalid", "Label key %q is invalid: it must begin with a lower case letter and hold up to 63 of lower case letters, digits, _ and -", k)
		}
		if len(s) > 63 || !labelText(s) {
			return fail("invalid", "Label value %q of %q is invalid: it may hold up to 63 of lower case letters, digits, _ and -", s, k)
		}
	}
	return nil
}

func labelText(s string) bool {
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' || r == '-') {
			return false
		}
	}
	return true
}

// pageOf cuts a list into pages; tokens are offsets, dressed up.
func pageOf[T any](items []T, maxResults int64, token string) (page []T, next string, err *apiError) {
	from, err := tokenOffset(token)
	if err != nil {
		return nil, "", err
	}
	if from > int64(len(items)) {
		from = int64(len(items))
	}
	if maxResults <= 0 {
		maxResults = 1000
	}
	to := min(from+maxResults, int64(len(items)))
	if to < int64(len(items)) {
		next = offsetToken(to)
	}
	return items[from:to], next, nil
}

func offsetToken(n int64) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "sandbox:%d", n))
}

func tokenOffset(token string) (int64, *apiError) {
	if token == "" {
		return 0, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	rest, ok := strings.CutPrefix(string(raw), "sandbox:")
	n, perr := strconv.ParseInt(rest, 10, 64)
	if err != nil || !ok || perr != nil || n < 0 {
		return 0, fail("invalid", "Invalid page token")
	}
	return n, nil
}
