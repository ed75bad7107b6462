package bigquery

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/trailgate/trailgate/internal/discovery"
)

// maxDepth bounds the nesting of a request body. BigQuery's own schemas nest a
// dozen deep; records in rows, fifteen.
const maxDepth = 100

// node is a JSON value as it was read. What is forwarded is written from nodes,
// so that nothing can go through which was not looked at.
type node struct {
	kind    byte // '{', '[', '"', or 0 for a scalar or a subtree kept as text
	text    string
	members []member
	elems   []*node
}

type member struct {
	name  string
	value *node
}

// parseBody reads a body strictly: one JSON object, valid UTF-8, no name twice,
// no name that differs from one of the schema's by case alone, no more than
// maxDepth deep (RFC 8259, and RFC 7493 for what it leaves open).
func parseBody(body []byte, schema string) (*node, *Error) {
	if bytes.HasPrefix(body, []byte("\xef\xbb\xbf")) {
		return nil, parseError(errors.New("it begins with a byte order mark"))
	}
	dec := jsontext.NewDecoder(bytes.NewReader(body))
	if dec.PeekKind() != '{' {
		return nil, parseError(errors.New("it is not one JSON object"))
	}
	n, err := readNode(dec, schemas()[schema], 0)
	if err != nil {
		return nil, parseError(err)
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, parseError(errors.New("something follows the JSON object"))
	}
	return n, nil
}

func parseError(err error) *Error {
	return &Error{Status: 400, Reason: "parseError", Message: "Trailgate: the request body cannot be read strictly: " + clip(err.Error(), 300)}
}

func readNode(dec *jsontext.Decoder, s *schema, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, errors.New("it is nested too deep")
	}
	switch dec.PeekKind() {
	case '{':
		if s == nil || s.free {
			return readRaw(dec, depth)
		}
		if _, err := dec.ReadToken(); err != nil {
			return nil, err
		}
		n := &node{kind: '{'}
		for dec.PeekKind() != '}' {
			tok, err := dec.ReadToken()
			if err != nil {
				return nil, err
			}
			name := tok.String()
			if _, known := s.props[name]; !known {
				if right, near := s.folded[strings.ToLower(name)]; near {
					return nil, errors.New("the name " + quote(name) + " differs from " + quote(right) + " by case alone")
				}
			}
			v, err := readNode(dec, s.member(name), depth+1)
			if err != nil {
				return nil, err
			}
			n.members = append(n.members, member{name, v})
		}
		_, err := dec.ReadToken()
		return n, err
	case '[':
		if s == nil || s.free || s.items == nil {
			return readRaw(dec, depth)
		}
		if _, err := dec.ReadToken(); err != nil {
			return nil, err
		}
		n := &node{kind: '['}
		for dec.PeekKind() != ']' {
			v, err := readNode(dec, s.items, depth+1)
			if err != nil {
				return nil, err
			}
			n.elems = append(n.elems, v)
		}
		_, err := dec.ReadToken()
		return n, err
	case '"':
		tok, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		return &node{kind: '"', text: tok.String()}, nil
	default:
		return readRaw(dec, depth)
	}
}

// readRaw keeps a value as its text: checked like all else, but not looked
// into, since its names are the client's own (rows, labels of no concern).
func readRaw(dec *jsontext.Decoder, depth int) (*node, error) {
	v, err := dec.ReadValue()
	if err != nil {
		return nil, err
	}
	if depth+rawDepth(v) > maxDepth {
		return nil, errors.New("it is nested too deep")
	}
	return &node{text: string(v)}, nil
}

func rawDepth(v []byte) (deepest int) {
	depth, inString := 0, false
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// encode writes a tree, compact. Numbers keep their spelling, members their order.
func (n *node) encode(dst []byte) []byte {
	switch n.kind {
	case '{':
		dst = append(dst, '{')
		for i, m := range n.members {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendQuoted(dst, m.name)
			dst = append(dst, ':')
			dst = m.value.encode(dst)
		}
		return append(dst, '}')
	case '[':
		dst = append(dst, '[')
		for i, e := range n.elems {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = e.encode(dst)
		}
		return append(dst, ']')
	case '"':
		return appendQuoted(dst, n.text)
	default:
		return append(dst, n.text...)
	}
}

func appendQuoted(dst []byte, s string) []byte {
	out, err := jsontext.AppendQuote(dst, s)
	if err != nil {
		return append(dst, `""`...) // strings of the tree are valid UTF-8
	}
	return out
}

func quote(s string) string { return string(appendQuoted(nil, clip(s, 64))) }

// get walks down members; nil where there is none.
func (n *node) get(path ...string) *node {
	for _, name := range path {
		if n == nil {
			return nil
		}
		var next *node
		for _, m := range n.members {
			if m.name == name {
				next = m.value
			}
		}
		n = next
	}
	return n
}

// str is a string's value, "" where the node is none.
func (n *node) str() string {
	if n == nil || n.kind != '"' {
		return ""
	}
	return n.text
}

// truth reads the boolean of that name as BigQuery does, which takes the strings
// too; absent is what it means where it is absent or null. Anything else, such
// as 0 or "False", is refused: BigQuery might take it for what it is not here.
func (n *node) truth(name string, absent bool) (bool, *Error) {
	v := n.get(name)
	switch {
	case !v.present():
		return absent, nil
	case v.text == "true" && (v.kind == 0 || v.kind == '"'):
		return true, nil
	case v.text == "false" && (v.kind == 0 || v.kind == '"'):
		return false, nil
	}
	return false, invalid("%s must be true or false", name)
}

// decode reads a subtree into v, as encoding/json does.
func (n *node) decode(v any) error { return json.Unmarshal(n.encode(nil), v) }

func (n *node) present() bool { return n != nil && (n.kind != 0 || n.text != "null") }

// set puts a member in place, or adds it.
func (n *node) set(name string, v *node) {
	for i := range n.members {
		if n.members[i].name == name {
			n.members[i].value = v
			return
		}
	}
	n.members = append(n.members, member{name, v})
}

// object returns the member of that name as an object, made where it is absent.
func (n *node) object(name string) *node {
	v := n.get(name)
	if v == nil || v.kind != '{' {
		v = &node{kind: '{'}
		n.set(name, v)
	}
	return v
}

// schema is as much of a discovery schema as strictness needs.
type schema struct {
	props  map[string]*schema
	folded map[string]string // lower case → the right name
	items  *schema
	others *schema // of the values under names of the client's own
	free   bool    // names are the client's own, or there are none
}

// member is the schema of a member's value; nil where it has none.
func (s *schema) member(name string) *schema {
	if s.others != nil {
		return s.others
	}
	return s.props[name]
}

// schemas are the document's, by name.
var schemas = sync.OnceValue(func() map[string]*schema {
	type raw struct {
		Ref        string                     `json:"$ref"`
		Type       string                     `json:"type"`
		Properties map[string]json.RawMessage `json:"properties"`
		Items      json.RawMessage            `json:"items"`
		Additional json.RawMessage            `json:"additionalProperties"`
	}
	var doc struct {
		Schemas map[string]json.RawMessage `json:"schemas"`
	}
	out := map[string]*schema{}
	if json.Unmarshal(discovery.Document(), &doc) != nil {
		return out // internal/discovery's test says that this cannot be
	}
	for name := range doc.Schemas {
		out[name] = &schema{}
	}
	var fill func(s *schema, text json.RawMessage) *schema
	fill = func(s *schema, text json.RawMessage) *schema {
		var r raw
		if json.Unmarshal(text, &r) != nil {
			return &schema{free: true}
		}
		if r.Ref != "" {
			return out[r.Ref]
		}
		if s == nil {
			s = &schema{}
		}
		switch {
		case len(r.Properties) > 0:
			s.props, s.folded = map[string]*schema{}, map[string]string{}
			for name, p := range r.Properties {
				s.props[name] = fill(nil, p)
				s.folded[strings.ToLower(name)] = name
			}
		case len(r.Items) > 0:
			s.items = fill(nil, r.Items)
		case len(r.Additional) > 0:
			s.others = fill(nil, r.Additional)
		default:
			s.free = true
		}
		return s
	}
	for name, text := range doc.Schemas {
		fill(out[name], text)
	}
	return out
})
