package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// maxShown bounds one value in a message, in bytes.
const maxShown = 300

// message is a text with variables in braces: "would process {dry_run.bytes}".
type message struct {
	parts       []messagePart
	readsDryRun bool
}

type messagePart struct {
	text     string
	variable int // where text is empty
}

// text reads a rule's message. "{{" and "}}" stand for braces.
func (l *loader) text(n *lined[string], key string) message {
	var m message
	bad := func(format string, args ...any) message {
		l.errorf(n.Line, key, format, args...)
		return message{}
	}
	s := n.Value
	if len(s) > MaxTextBytes {
		return bad("longer than %d bytes", MaxTextBytes)
	}
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			m.parts = append(m.parts, messagePart{text: literal.String()})
			literal.Reset()
		}
	}
	for s != "" {
		i := strings.IndexAny(s, "{}")
		if i < 0 {
			literal.WriteString(s)
			break
		}
		literal.WriteString(s[:i])
		switch rest := s[i:]; {
		case strings.HasPrefix(rest, "{{") || strings.HasPrefix(rest, "}}"):
			literal.WriteByte(rest[0])
			s = rest[2:]
		case rest[0] == '}':
			return bad("a } without a {; write }} for a brace")
		default:
			path, after, ok := strings.Cut(rest[1:], "}")
			if !ok {
				return bad("a { without a }; write {{ for a brace")
			}
			v, known := lookup(strings.TrimSpace(path))
			if !known {
				return bad("{%s} is no variable%s; write {{ for a brace", clip(path, 100), hint(path, paths()))
			}
			if variables[v].typ.Kind() == types.MapKind {
				return bad("{%s} has no short form", path)
			}
			flush()
			m.parts = append(m.parts, messagePart{variable: v})
			m.readsDryRun = m.readsDryRun || variables[v].object == dryRunObject
			s = after
		}
	}
	flush()
	return m
}

const dryRunObject = "dry_run"

// lookup finds a variable by its whole name.
func lookup(path string) (int, bool) {
	object, field, dotted := strings.Cut(path, ".")
	if !dotted {
		i, ok := plainIndex[path]
		return i, ok
	}
	i, ok := fieldIndex[object][field]
	return i, ok
}

func paths() []string {
	out := make([]string, len(variables))
	for i := range variables {
		out[i] = variables[i].path()
	}
	return out
}

// text writes the message for a call. Control characters of values are taken out:
// the message goes to logs, terminals and JSON.
func (m *message) text(e *evaluation) string {
	if len(m.parts) == 1 && m.parts[0].text != "" {
		return m.parts[0].text
	}
	var b strings.Builder
	for _, p := range m.parts {
		if p.text != "" {
			b.WriteString(p.text)
			continue
		}
		v, err := e.value(p.variable)
		if err != nil {
			b.WriteString("(unknown)")
			continue
		}
		b.WriteString(clip(strings.Map(printable, show(&variables[p.variable], v)), maxShown))
	}
	return clip(b.String(), 2*MaxTextBytes)
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return ' '
}

func show(v *variable, val ref.Val) string {
	switch x := val.(type) {
	case types.Int:
		if v.bytes {
			return formatBytes(int64(x))
		}
		return strconv.FormatInt(int64(x), 10)
	case types.Bool:
		return strconv.FormatBool(bool(x))
	case types.Timestamp:
		return x.UTC().Format(time.RFC3339)
	}
	if list, ok := val.(*textList); ok {
		return strings.Join(list.raw[:min(len(list.raw), 10)], ", ")
	}
	return fmt.Sprint(val.Value())
}
