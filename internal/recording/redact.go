package recording

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
)

// What is done with a value before it is stored.
const (
	Drop = "drop"
	Hash = "hash"
	Keep = "keep"
)

// RedactRule says what is done with values. Patterns have * and ? as wildcards and
// ignore case. A list that is empty fits everything.
type RedactRule struct {
	Connections []string
	// Tables that the rows come from, as "project.dataset.table"; a pattern with fewer
	// parts is compared with the last ones.
	Tables []string
	// Columns of the result; one in a RECORD is "record.column".
	Columns []string
	Action  string
}

// Redactor has all rules. A nil one redacts nothing. It is safe for concurrent use.
type Redactor struct{ rules []RedactRule }

// NewRedactor checks the rules; the first that fits a column decides about it.
func NewRedactor(rules []RedactRule) (*Redactor, error) {
	r := &Redactor{}
	for i, rule := range rules {
		if !slices.Contains([]string{Drop, Hash, Keep}, rule.Action) {
			return nil, fmt.Errorf("redaction %d: %w: the action is %q; want %s, %s or %s", i+1, ErrInvalid, rule.Action, Drop, Hash, Keep)
		}
		own := RedactRule{Action: rule.Action}
		for _, list := range []struct {
			from []string
			to   *[]string
		}{{rule.Connections, &own.Connections}, {rule.Tables, &own.Tables}, {rule.Columns, &own.Columns}} {
			for _, p := range list.from {
				p = strings.ToLower(p)
				if _, err := path.Match(p, "x"); err != nil {
					return nil, fmt.Errorf("redaction %d: %w: %q is no pattern", i+1, ErrInvalid, p)
				}
				*list.to = append(*list.to, p)
			}
		}
		r.rules = append(r.rules, own)
	}
	return r, nil
}

// fits reports whether a pattern in lower case fits a name; dots and slashes are
// characters like others.
func fits(pattern, name string) bool {
	name = strings.ReplaceAll(strings.ToLower(name), "/", "\x00")
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", "\x00"), name)
	return ok && err == nil
}

func anyFits(patterns []string, name string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { return fits(p, name) })
}

func tableFits(pattern, table string) bool {
	parts := strings.Split(table, ".")
	if n := strings.Count(pattern, ".") + 1; n < len(parts) {
		if fits(pattern, strings.Join(parts[len(parts)-n:], ".")) {
			return true
		}
	}
	return fits(pattern, table)
}

// Redaction is what holds for the rows of one answer.
type Redaction struct{ rules []RedactRule }

// For is what holds for rows of a connection that come from these tables; nil tables
// are not known, and may be any. It is nil where nothing is to be redacted.
func (r *Redactor) For(connection string, tables []string) *Redaction {
	if r == nil {
		return nil
	}
	out := &Redaction{}
	takes := false
	for _, rule := range r.rules {
		if !anyFits(rule.Connections, connection) {
			continue
		}
		if len(rule.Tables) > 0 && tables != nil && !slices.ContainsFunc(rule.Tables, func(p string) bool {
			return slices.ContainsFunc(tables, func(t string) bool { return tableFits(p, t) })
		}) {
			continue
		}
		if len(rule.Tables) > 0 && tables == nil && rule.Action == Keep {
			continue // it may be another table that this rule is for
		}
		takes = takes || rule.Action != Keep
		out.rules = append(out.rules, rule)
	}
	if !takes {
		return nil
	}
	return out
}

func (r *Redaction) hashes() bool {
	return slices.ContainsFunc(r.rules, func(rule RedactRule) bool { return rule.Action == Hash })
}

// action is what is done with a column; "" where no rule fits.
func (r *Redaction) action(column string) string {
	for _, rule := range r.rules {
		if anyFits(rule.Columns, column) {
			return rule.Action
		}
	}
	return ""
}

// redacting is a redaction at work on one answer.
type redacting struct {
	Redaction
	key     []byte // of hashes; nil: values that should be hashed are dropped
	plan    []planned
	known   bool // plan is
	cells   int64
	problem string
	out     []byte
}

// planned is a column with what is done to it.
type planned struct {
	action string
	fields []planned // of a RECORD that no rule names
}

func (r *redacting) fault(why string) {
	if r.problem == "" {
		r.problem = why
	}
}

// learn takes the schema.
func (r *redacting) learn(raw []byte) {
	list, err := columns(raw)
	if err != nil {
		r.fault("the schema cannot be read, so that all values were left out")
		return
	}
	r.plan, r.known = r.planFor(list, "", 0), true
}

// maxRecords bounds RECORDs in RECORDs; BigQuery has 15.
const maxRecords = 64

func (r *redacting) planFor(list []Column, prefix string, depth int) []planned {
	out := make([]planned, len(list))
	for i, c := range list {
		name := prefix + c.Name
		out[i].action = r.action(name)
		if out[i].action == "" && len(c.Fields) > 0 {
			if depth >= maxRecords {
				out[i].action = Drop
				continue
			}
			out[i].fields = r.planFor(c.Fields, name+".", depth+1)
		}
	}
	return out
}

type cell struct {
	V json.RawMessage `json:"v"`
}

type record struct {
	F []cell `json:"f"`
}

var null = json.RawMessage("null")

// row puts the redacted row in place of the one that begins at start in buf.
func (r *redacting) row(buf []byte, start int) []byte {
	var in record
	err := json.Unmarshal(buf[start:], &in)
	switch {
	case err != nil || in.F == nil:
		r.cells++
		r.fault("a row could not be read, and was left out")
		r.out = append(r.out[:0], null...)
	case !r.known:
		r.fault("the columns have no names, so that all values were left out")
		r.out = r.drop(r.out[:0], len(in.F))
	case len(in.F) != len(r.plan):
		r.fault("a row has not as many values as the schema, and was left out")
		r.out = r.drop(r.out[:0], len(in.F))
	default:
		r.out = r.record(r.out[:0], in, r.plan)
	}
	return append(buf[:start], r.out...)
}

// drop writes a row of nothing.
func (r *redacting) drop(out []byte, n int) []byte {
	r.cells += int64(n)
	out = append(out, `{"f":[`...)
	for i := range n {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, `{"v":null}`...)
	}
	return append(out, "]}"...)
}

func (r *redacting) record(out []byte, in record, plan []planned) []byte {
	out = append(out, `{"f":[`...)
	for i, c := range in.F {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, `{"v":`...)
		out = r.value(out, c.V, plan[i], true)
		out = append(out, '}')
	}
	return append(out, "]}"...)
}

// value writes a value as its column's plan has it. A REPEATED column's value is a list
// of cells.
func (r *redacting) value(out []byte, v json.RawMessage, p planned, listed bool) []byte {
	v = bytes.TrimSpace(v)
	switch {
	case len(v) == 0 || bytes.Equal(v, null):
		return append(out, null...)
	case p.action == Keep, p.action == "" && p.fields == nil:
		return append(out, v...)
	case p.action == Drop, p.action == Hash && r.key == nil:
		r.cells++
		return append(out, null...)
	case v[0] == '[' && listed:
		var list []cell
		if json.Unmarshal(v, &list) != nil {
			r.cells++
			return append(out, null...)
		}
		out = append(out, '[')
		for i, c := range list {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(out, `{"v":`...)
			out = r.value(out, c.V, p, false)
			out = append(out, '}')
		}
		return append(out, ']')
	case p.action == Hash:
		r.cells++
		text := []byte(v)
		var s string
		if v[0] == '"' && json.Unmarshal(v, &s) == nil {
			text = []byte(s)
		}
		mac := hmac.New(sha256.New, r.key)
		mac.Write(text)
		out = append(out, `"hmac:`...)
		out = append(out, hex.EncodeToString(mac.Sum(nil)[:16])...)
		return append(out, '"')
	}
	var in record
	if json.Unmarshal(v, &in) != nil || len(in.F) != len(p.fields) {
		r.cells++
		r.fault("a RECORD is not as the schema has it, and was left out")
		return append(out, null...)
	}
	return r.record(out, in, p.fields)
}
