package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder fills a Config from YAML nodes and gathers every mistake with its
// line. yaml.v3's own strict mode stops short of that: it names Go types
// where a user wants keys, and expands aliases.
type decoder struct {
	file  string
	text  []string       // the file's lines
	lines map[string]int // key path to line, for what the file says
	errs  Errors
}

func (d *decoder) errorf(line int, key, format string, args ...any) {
	if len(d.errs) < maxErrors {
		d.errs = append(d.errs, Error{File: d.file, Line: line, Key: key, Message: fmt.Sprintf(format, args...)})
	}
}

// yamlLine finds the line in yaml.v3's own error texts ("yaml: line 3: …").
var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func (d *decoder) decode(raw []byte, into *Config) { d.decodeInto(raw, reflect.ValueOf(into).Elem()) }

// decodeInto is decode for the file of something else.
func (d *decoder) decodeInto(raw []byte, into reflect.Value) {
	d.text = strings.Split(string(raw), "\n")
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return // an empty file: all defaults
	case err != nil:
		line := 0
		text := err.Error()
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
	if len(doc.Content) != 1 {
		return
	}
	d.value(doc.Content[0], into, "")
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	bytesType    = reflect.TypeFor[Bytes]()
	rulesType    = reflect.TypeFor[Rules]()

	// elementDefaults are what holds for an element of a list where it says nothing.
	elementDefaults = map[reflect.Type]func() any{
		reflect.TypeFor[Connection]():       func() any { return defaultConnection() },
		reflect.TypeFor[ServedConnection](): func() any { return defaultServedConnection() },
		reflect.TypeFor[Issuer]():           func() any { return defaultIssuer() },
		reflect.TypeFor[Certificates]():     func() any { return defaultCertificates() },
		reflect.TypeFor[Webhook]():          func() any { return defaultWebhook() },
		reflect.TypeFor[Budget]():           func() any { return defaultBudget() },
	}
)

// value stores one node. A null leaves the default, as a key with nothing
// after it does in a file whose comments were all that it had.
func (d *decoder) value(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.errorf(n.Line, key, "anchors and aliases are not supported; write the value out")
		return
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return
	}
	switch {
	case v.Type() == rulesType:
		d.rules(n, v, key)
	case v.Kind() == reflect.Struct:
		d.mapping(n, v, key)
	case v.Kind() == reflect.Slice:
		d.sequence(n, v, key)
	case v.Kind() == reflect.Map:
		d.names(n, v, key)
	case n.Kind != yaml.ScalarNode:
		d.errorf(n.Line, key, "want %s, not %s", wanted(v.Type()), kindName(n))
	default:
		d.scalar(n, v, key)
	}
}

// rules keeps a list of rules as the text that it is, at the lines where it stands, for
// those who know what rules are.
func (d *decoder) rules(n *yaml.Node, v reflect.Value, key string) {
	line := d.lines[key]
	if n.Kind != yaml.SequenceNode || n.Style&yaml.FlowStyle != 0 || n.Line <= line || line > len(d.text) {
		d.errorf(n.Line, key, "want rules one below the other, each after \"- \"")
		return
	}
	indent := func(s string) int { return len(s) - len(strings.TrimLeft(s, " ")) }
	at := indent(d.text[line-1])
	end := line
	for ; end < len(d.text); end++ {
		s := d.text[end]
		if t := strings.TrimSpace(s); t == "" || strings.HasPrefix(t, "#") {
			continue
		}
		if i := indent(s); i < at || i == at && !strings.HasPrefix(strings.TrimSpace(s), "-") {
			break
		}
	}
	var b strings.Builder
	b.WriteString("version: 1\n" + strings.Repeat("\n", max(line-2, 0)) + "rules:\n")
	for _, s := range d.text[line:end] {
		b.WriteString(s + "\n")
	}
	v.SetString(b.String())
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.MappingNode {
		d.errorf(n.Line, key, "want keys and values, not %s", kindName(n))
		return
	}
	fields := fieldsOf(v.Type())
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		name := k.Value
		path := join(key, name)
		if k.Kind != yaml.ScalarNode || k.ShortTag() == "!!merge" {
			d.errorf(k.Line, key, "want a plain key, not %s", kindName(k))
			continue
		}
		if first, twice := seen[name]; twice {
			d.errorf(k.Line, path, "given twice, first on line %d", first)
			continue
		}
		seen[name] = k.Line
		index, known := fields[name]
		if !known {
			d.unknown(k, key, fields)
			continue
		}
		d.lines[path] = k.Line
		d.value(val, v.Field(index), path)
	}
}

// names fills a map from names, which the file chooses, to texts.
func (d *decoder) names(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.MappingNode {
		d.errorf(n.Line, key, "want names and values, not %s", kindName(n))
		return
	}
	out := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		path := join(key, k.Value)
		switch {
		case k.Kind != yaml.ScalarNode || k.ShortTag() == "!!merge" || k.Anchor != "":
			d.errorf(k.Line, key, "want a plain name, not %s", kindName(k))
		case val.Kind != yaml.ScalarNode || val.Anchor != "" || val.ShortTag() == "!!null":
			d.errorf(val.Line, path, "want text, not %s", kindName(val))
		case d.lines[path] != 0:
			d.errorf(k.Line, path, "given twice, first on line %d", d.lines[path])
		default:
			d.lines[path] = k.Line
			out[k.Value] = val.Value
		}
	}
	v.Set(reflect.ValueOf(out))
}

// unknown reports a key that nothing documents.
func (d *decoder) unknown(k *yaml.Node, parent string, fields map[string]int) {
	best, distance := "", 3
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	for _, name := range names {
		if n := editDistance(k.Value, name); n < distance || n == distance && name < best {
			best, distance = name, n
		}
	}
	hint := ""
	if best != "" && distance < 3 {
		hint = fmt.Sprintf("; did you mean %q?", best)
	}
	d.errorf(k.Line, join(parent, k.Value), "unknown key%s", hint)
}

func (d *decoder) sequence(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.SequenceNode {
		d.errorf(n.Line, key, "want a list, not %s", kindName(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		path := fmt.Sprintf("%s[%d]", key, i)
		d.lines[path] = item.Line
		if defaults := elementDefaults[v.Type().Elem()]; defaults != nil {
			out.Index(i).Set(reflect.ValueOf(defaults()))
		}
		d.value(item, out.Index(i), path)
	}
	v.Set(out)
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, key string) {
	tag := n.ShortTag()
	switch {
	case v.Type() == durationType:
		x, err := parseDuration(n.Value)
		if err != nil {
			d.errorf(n.Line, key, "%q: %v", n.Value, err)
			return
		}
		v.SetInt(int64(x))
	case v.Type() == bytesType:
		x, err := parseBytes(n.Value)
		if err != nil {
			d.errorf(n.Line, key, "%q: %v", n.Value, err)
			return
		}
		v.SetInt(int64(x))
	case v.Kind() == reflect.Bool:
		if tag != "!!bool" {
			d.errorf(n.Line, key, "want true or false, not %q", n.Value)
			return
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
	case v.Kind() == reflect.String:
		// A number where text is wanted is what it looks like: a project named 123.
		if tag == "!!binary" {
			d.errorf(n.Line, key, "want text, not binary data")
			return
		}
		v.SetString(n.Value)
	default:
		d.errorf(n.Line, key, "cannot be set")
	}
}

// fieldsOf maps the documented keys of a struct to its fields.
func fieldsOf(t reflect.Type) map[string]int {
	fields := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("yaml"); name != "" && name != "-" {
			fields[name] = i
		}
	}
	return fields
}

func join(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "." + name
}

func wanted(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration"
	case t == bytesType:
		return "a size"
	case t.Kind() == reflect.Bool:
		return "true or false"
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
		return fmt.Sprintf("%q", n.Value)
	}
}

// editDistance is Levenshtein's, for hints.
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
