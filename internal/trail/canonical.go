package trail

import (
	"bytes"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/trailgate/trailgate"
)

// A full [trailgate.Decode] of each entry would make Verify four times slower.
// This file checks that bytes are an entry in canonical form without building
// the entry: it walks the bytes along the shape of the struct and accepts what
// the encoder may have written, and nothing else. Whatever it is not sure of goes to
// Decode, which decides. A fuzz test holds that it accepts nothing that Decode refuses.

// shape is what a value looks like in canonical form.
type shape struct {
	kind   reflect.Kind // String, Int64, Uint64, Bool, Struct, Slice, Map; Invalid for what goes to Decode
	fields []field      // of a Struct, in order
	elem   *shape       // of a Slice
}

type field struct {
	key      []byte // `"name":`
	optional bool   // left out if zero
	shape    *shape
	role     role
}

// role says what a member means to Verify.
type role uint8

const (
	roleNone role = iota
	roleID
	roleKind
	roleIntent
	roleBlob
	roleRecording
	roleEvent
)

// summary is what Verify needs to know of an entry; the slices alias its bytes.
type summary struct {
	seq              uint64
	id, kind, intent []byte
	blobs            [][]byte
	// beside: the entry names recorded rows, or says that bodies were erased.
	beside bool
}

var entryShape = shapeOf(reflect.TypeFor[trailgate.Entry]())

func shapeOf(t reflect.Type) *shape {
	switch t.Kind() {
	case reflect.Pointer:
		return shapeOf(t.Elem())
	case reflect.String:
		return &shape{kind: reflect.String}
	case reflect.Int, reflect.Int64:
		return &shape{kind: reflect.Int64}
	case reflect.Bool:
		return &shape{kind: reflect.Bool}
	case reflect.Slice:
		return &shape{kind: reflect.Slice, elem: shapeOf(t.Elem())}
	case reflect.Map:
		if t.Elem().Kind() == reflect.String {
			return &shape{kind: reflect.Map}
		}
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			break
		}
		s := &shape{kind: reflect.Struct}
		for f := range t.Fields() {
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "-" {
				continue
			}
			s.fields = append(s.fields, field{
				key: []byte(strconv.Quote(name) + ":"), optional: options == "omitempty", shape: shapeOf(f.Type), role: roleOf(t, name),
			})
		}
		return s
	}
	return &shape{}
}

func roleOf(t reflect.Type, name string) role {
	switch {
	case t == reflect.TypeFor[trailgate.Entry]() && name == "id":
		return roleID
	case t == reflect.TypeFor[trailgate.Entry]() && name == "kind":
		return roleKind
	case t == reflect.TypeFor[trailgate.Entry]() && name == "intent_id":
		return roleIntent
	case t == reflect.TypeFor[trailgate.Entry]() && name == "recording":
		return roleRecording
	case t == reflect.TypeFor[trailgate.Entry]() && name == "event":
		return roleEvent
	case t == reflect.TypeFor[trailgate.Statement]() && (name == "blob" || name == "parameters_blob"),
		t == reflect.TypeFor[trailgate.Principal]() && name == "evidence":
		return roleBlob
	}
	return roleNone
}

// canonical reports whether raw is certainly an entry in canonical form, and
// what it says.
func canonical(raw []byte) (summary, bool) {
	// Decode refuses by an upper bound of the length; near it, let it decide.
	if len(raw) > trailgate.MaxEntryBytes-100 {
		return summary{}, false
	}
	seq, stamp, err := entryHeader(raw)
	if err != nil || !validStamp(stamp) {
		return summary{}, false
	}
	at := len(headerPrefix) + digits(seq) + len(timeKey)
	if !bytes.HasPrefix(raw[at:], stamp) { // leading zeros
		return summary{}, false
	}
	at += len(stamp)
	if at+1 >= len(raw) || raw[at] != '"' || raw[at+1] != ',' {
		return summary{}, false
	}
	w := walker{b: raw, at: at + 2, sum: summary{seq: seq}}
	if !w.members(entryShape) || w.at != len(raw) {
		return summary{}, false
	}
	return w.sum, true
}

func digits(n uint64) int {
	d := 1
	for ; n >= 10; n /= 10 {
		d++
	}
	return d
}

// validStamp reports whether a time is one that the encoder writes.
func validStamp(s []byte) bool {
	const like = "dddd-dd-ddTdd:dd:dd.dddddddddZ"
	if len(s) != len(like) {
		return false
	}
	for i := range s {
		if like[i] == 'd' {
			if s[i] < '0' || s[i] > '9' {
				return false
			}
		} else if s[i] != like[i] {
			return false
		}
	}
	two := func(at int) int { return int(s[at]-'0')*10 + int(s[at+1]-'0') }
	month, day := two(5), two(8)
	if month < 1 || month > 12 || day < 1 || two(11) > 23 || two(14) > 59 || two(17) > 59 {
		return false
	}
	if day <= 28 {
		return true
	}
	_, err := time.Parse(timeLayout, string(s)) // knows the months
	return err == nil
}

// walker goes through an entry's bytes.
type walker struct {
	b   []byte
	at  int
	sum summary
}

func (w *walker) lit(c byte) bool {
	if w.at < len(w.b) && w.b[w.at] == c {
		w.at++
		return true
	}
	return false
}

// members goes through an object's members and its closing brace.
func (w *walker) members(s *shape) bool {
	first := true
	for i := range s.fields {
		f := &s.fields[i]
		at := w.at
		if !first {
			if at >= len(w.b) || w.b[at] != ',' {
				if f.optional {
					continue
				}
				return false
			}
			at++
		}
		if !bytes.HasPrefix(w.b[at:], f.key) {
			if f.optional {
				continue
			}
			return false
		}
		w.at = at + len(f.key)
		start := w.at
		if !w.value(f.shape, f.optional) {
			return false
		}
		first = false
		switch f.role {
		case roleNone:
		case roleRecording:
			w.sum.beside = w.sum.beside || bytes.Contains(w.b[start:w.at], namesKey)
		case roleEvent:
			w.sum.beside = w.sum.beside || bytes.HasPrefix(w.b[start:w.at], erases) || bytes.HasPrefix(w.b[start:w.at], ofTheLog)
		default:
			if !w.note(f.role, w.b[start+1:w.at-1]) {
				return false
			}
		}
	}
	return w.lit('}')
}

var (
	namesKey = []byte(`,"key":"`)
	erases   = []byte(`{"action":"` + EraseRecording + `"`)
	ofTheLog = []byte(`{"action":"log.`) // see lifeOf
)

// note keeps a string that Verify needs; one with escapes goes to Decode.
func (w *walker) note(r role, text []byte) bool {
	if bytes.IndexByte(text, '\\') >= 0 {
		return false
	}
	switch r {
	case roleID:
		w.sum.id = text
	case roleKind:
		w.sum.kind = text
	case roleIntent:
		w.sum.intent = text
	case roleBlob:
		w.sum.blobs = append(w.sum.blobs, text)
	}
	return true
}

// value goes through a value, which must not be zero if it is optional.
func (w *walker) value(s *shape, optional bool) bool {
	switch s.kind {
	case reflect.String:
		start := w.at
		return w.text() && (!optional || w.at-start > 2)
	case reflect.Int64:
		return w.integer(optional)
	case reflect.Bool:
		if bytes.HasPrefix(w.b[w.at:], []byte("true")) {
			w.at += 4
			return true
		}
		return false // a false one is left out, or left to Decode
	case reflect.Struct:
		return w.lit('{') && w.members(s)
	case reflect.Slice:
		if !w.lit('[') {
			return false
		}
		for {
			if !w.value(s.elem, false) {
				return false
			}
			if !w.lit(',') {
				return w.lit(']')
			}
		}
	case reflect.Map:
		return w.pairs()
	default:
		return false
	}
}

// pairs goes through a map from names to strings.
func (w *walker) pairs() bool {
	if !w.lit('{') {
		return false
	}
	var last []byte
	for first := true; ; first = false {
		start := w.at
		if !w.text() {
			return false
		}
		// Sorted by what the names are; with escapes that is not what they look like.
		name := w.b[start+1 : w.at-1]
		if bytes.IndexByte(name, '\\') >= 0 || (!first && bytes.Compare(last, name) >= 0) {
			return false
		}
		last = name
		if !w.lit(':') || !w.text() {
			return false
		}
		if !w.lit(',') {
			return w.lit('}')
		}
	}
}

// integer goes through a number.
func (w *walker) integer(optional bool) bool {
	start := w.at
	w.lit('-')
	first := w.at
	for w.at < len(w.b) && w.b[w.at] >= '0' && w.b[w.at] <= '9' {
		w.at++
	}
	n := w.at - first
	switch {
	case n == 0 || n > len(strconv.Itoa(math.MaxInt64)):
		return false
	case w.b[first] == '0':
		return n == 1 && first == start && !optional
	case n < len(strconv.Itoa(math.MaxInt64)):
		return true
	}
	_, err := strconv.ParseInt(string(w.b[start:w.at]), 10, 64)
	return err == nil
}

// plain are the bytes that stand for themselves in a string and need no look at
// what follows.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// text goes through a string.
func (w *walker) text() bool {
	if !w.lit('"') {
		return false
	}
	b := w.b
	for at := w.at; at < len(b); {
		c := b[at]
		switch {
		case plain[c]:
			at++
		case c == '"':
			w.at = at + 1
			return true
		case c == '\\':
			n := escape(b[at:])
			if n == 0 {
				return false
			}
			at += n
		case c < 0x20:
			return false
		default:
			r, n := utf8.DecodeRune(b[at:])
			if (r == utf8.RuneError && n == 1) || r == '\u2028' || r == '\u2029' {
				return false
			}
			at += n
		}
	}
	return false
}

// escape is the length of the escape that b begins with, 0 if the encoder does
// not write that one.
func escape(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
	default:
		return 0
	}
	if len(b) < 6 {
		return 0
	}
	switch hex := string(b[2:6]); hex {
	case "2028", "2029":
		return 6
	case "0008", "0009", "000a", "000c", "000d":
		return 0 // these have short ones
	default:
		if hex[:2] == "00" && (hex[2] == '0' || hex[2] == '1') && strings.IndexByte("0123456789abcdef", hex[3]) >= 0 {
			return 6
		}
		return 0
	}
}
