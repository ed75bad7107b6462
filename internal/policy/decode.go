package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxErrors bounds how many mistakes are reported.
const maxErrors = 50

// Error is a mistake in a file.
type Error struct {
	File    string
	Line    int    // 0: the file as a whole
	Key     string // such as "rules[2].when"; may be empty
	Message string
}

func (e Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Message)
	return b.String()
}

// Errors are all mistakes that were found, in the order of files and lines.
type Errors []Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// decoder fills a struct from YAML, strictly, as internal/config does: unknown and
// repeated keys, aliases and a second document are mistakes, each with its line.
type decoder struct {
	file string
	errs Errors
}

func (d *decoder) errorf(line int, key, format string, args ...any) {
	if len(d.errs) < maxErrors {
		d.errs = append(d.errs, Error{File: d.file, Line: line, Key: key, Message: fmt.Sprintf(format, args...)})
	}
}

// yamlLine finds the line in yaml.v3's own error texts ("yaml: line 3: …").
var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func (d *decoder) decode(f File, into any) {
	if len(f.Data) > MaxFileBytes {
		d.errorf(0, "", "larger than %d bytes; split it", MaxFileBytes)
		return
	}
	if !utf8.Valid(f.Data) {
		d.errorf(0, "", "not valid UTF-8")
		return
	}
	dec := yaml.NewDecoder(bytes.NewReader(f.Data))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		d.errorf(0, "", "the file is empty; it begins with \"version: 1\"")
		return
	case err != nil:
		line, text := 0, err.Error()
		if m := yamlLine.FindStringSubmatch(text); m != nil {
			line, _ = strconv.Atoi(m[1])
			text = strings.TrimPrefix(text, m[0])
		}
		d.errorf(line, "", "not valid YAML: %s", text)
		return
	}
	var next yaml.Node
	if err := dec.Decode(&next); !errors.Is(err, io.EOF) {
		d.errorf(next.Line, "", "a second YAML document; put everything in one")
		return
	}
	if len(doc.Content) == 1 {
		d.value(doc.Content[0], reflect.ValueOf(into).Elem(), "")
	}
}

// size is a number of bytes in a file.
type size int64

// lined is a value of a file with the line on which it stands, and whether the file
// gives it at all.
type lined[T any] struct {
	Line  int
	Given bool
	Value T
}

// liner is how the decoder finds the value inside a lined one.
type liner interface{ given(line int) reflect.Value }

func (l *lined[T]) given(line int) reflect.Value {
	l.Line, l.Given = line, true
	return reflect.ValueOf(&l.Value).Elem()
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	sizeType     = reflect.TypeFor[size]()
	timeType     = reflect.TypeFor[time.Time]()
)

func (d *decoder) value(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.errorf(n.Line, key, "anchors and aliases are not supported; write the value out")
		return
	}
	if l, ok := v.Addr().Interface().(liner); ok {
		v = l.given(n.Line)
	}
	switch {
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		d.errorf(n.Line, key, "has no value; leave the key out, or write what it is to be")
	case v.Type() == timeType:
		d.scalar(n, v, key)
	case v.Kind() == reflect.Struct:
		d.mapping(n, v, key)
	case v.Kind() == reflect.Slice:
		d.sequence(n, v, key)
	case v.Kind() == reflect.Map:
		d.texts(n, v, key)
	default:
		d.scalar(n, v, key)
	}
}

// pairs gives the keys of a mapping, each once, and their values.
func (d *decoder) pairs(n *yaml.Node, key string, each func(k, v *yaml.Node, path string)) {
	if n.Kind != yaml.MappingNode {
		d.errorf(n.Line, key, "want keys and values, not %s", kindName(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		path := k.Value
		if key != "" {
			path = key + "." + k.Value
		}
		if k.Kind != yaml.ScalarNode || k.ShortTag() == "!!merge" || k.Anchor != "" {
			d.errorf(k.Line, key, "want a plain key, not %s", kindName(k))
			continue
		}
		if first, twice := seen[k.Value]; twice {
			d.errorf(k.Line, path, "given twice, first on line %d", first)
			continue
		}
		seen[k.Value] = k.Line
		each(k, n.Content[i+1], path)
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, key string) {
	fields, names := map[string]int{}, []string{}
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("yaml"); name != "" {
			fields[name] = i
			names = append(names, name)
		}
	}
	d.pairs(n, key, func(k, val *yaml.Node, path string) {
		i, known := fields[k.Value]
		if !known {
			d.errorf(k.Line, path, "unknown key%s", hint(k.Value, names))
			return
		}
		d.value(val, v.Field(i), path)
	})
}

func (d *decoder) texts(n *yaml.Node, v reflect.Value, key string) {
	out := map[string]string{}
	d.pairs(n, key, func(k, val *yaml.Node, path string) {
		if val.Kind != yaml.ScalarNode || val.Anchor != "" || val.ShortTag() == "!!null" {
			d.errorf(val.Line, path, "want text, not %s", kindName(val))
			return
		}
		out[k.Value] = val.Value
	})
	v.Set(reflect.ValueOf(out))
}

func (d *decoder) sequence(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.SequenceNode {
		d.errorf(n.Line, key, "want a list, not %s", kindName(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.value(item, out.Index(i), fmt.Sprintf("%s[%d]", key, i))
	}
	v.Set(out)
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.ScalarNode {
		d.errorf(n.Line, key, "want %s, not %s", wanted(v.Type()), kindName(n))
		return
	}
	var err error
	switch {
	case v.Type() == timeType:
		var t time.Time
		if t, err = time.Parse(time.RFC3339, n.Value); err == nil {
			v.Set(reflect.ValueOf(t))
		}
	case v.Type() == durationType:
		var x time.Duration
		if x, err = time.ParseDuration(n.Value); err == nil {
			v.SetInt(int64(x))
		}
	case v.Type() == sizeType:
		var x int64
		if x, err = parseSize(n.Value); err == nil {
			v.SetInt(x)
		}
	case v.Kind() == reflect.Int64 || v.Kind() == reflect.Int:
		var x int64
		if x, err = strconv.ParseInt(n.Value, 10, 64); err == nil {
			v.SetInt(x)
		}
	case v.Kind() == reflect.Bool:
		if n.ShortTag() != "!!bool" {
			err = errors.New("not a bool")
		} else {
			v.SetBool(strings.EqualFold(n.Value, "true"))
		}
	case n.ShortTag() == "!!binary":
		err = errors.New("binary")
	default:
		v.SetString(n.Value)
	}
	if err != nil {
		d.errorf(n.Line, key, "%q: want %s", clip(n.Value, 100), wanted(v.Type()))
	}
}

func wanted(t reflect.Type) string {
	switch {
	case t == timeType:
		return "a time such as 2026-11-23T10:00:00Z"
	case t == durationType:
		return "a duration such as 30s, 10m or 2h"
	case t == sizeType:
		return "a size such as 10MB, 2TB or 1GiB"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int64 || t.Kind() == reflect.Int:
		return "a whole number"
	default:
		return "text"
	}
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	default:
		return fmt.Sprintf("%q", clip(n.Value, 100))
	}
}

// hint is "; did you mean …?" where a known name is close.
func hint(got string, names []string) string {
	best, distance := "", 3
	for _, name := range slices.Sorted(slices.Values(names)) {
		if n := editDistance(got, name); n < distance {
			best, distance = name, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
