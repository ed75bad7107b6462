package googlesql

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/cloudspannerecosystem/memefish"
	"github.com/cloudspannerecosystem/memefish/token"
)

// Reasons of an [Error], in BigQuery's words.
const (
	ReasonInvalidQuery   = "invalidQuery"
	ReasonNotImplemented = "notImplemented"
)

// Error is why a statement cannot be run.
type Error struct {
	Reason  string // BigQuery's reason, such as ReasonInvalidQuery
	Message string
}

func (e *Error) Error() string { return e.Message }

// Position is a place in the text, both counted from one.
type Position struct{ Line, Column int }

func (p Position) String() string { return fmt.Sprintf("[%d:%d]", p.Line, p.Column) }

// tok is one token and where it stands.
type tok struct {
	kind     token.TokenKind
	raw      string // as written
	text     string // of an identifier, string, bytes or parameter: unquoted
	pos, end int    // bytes
	quoted   bool   // an identifier in backticks
	field    bool   // an identifier after a dot
}

// is reports whether t is the word, reserved or not, in any case.
func (t tok) is(word string) bool {
	if t.kind == token.TokenIdent {
		return !t.quoted && !t.field && strings.EqualFold(t.text, word)
	}
	return string(t.kind) == word
}

func (t tok) isAny(words ...string) bool {
	for _, w := range words {
		if t.is(w) {
			return true
		}
	}
	return false
}

func (t tok) ident() bool { return t.kind == token.TokenIdent }

// eof is what lies beyond the last token.
var eof = tok{kind: token.TokenEOF}

func syntaxError(src string, pos int, format string, args ...any) *Error {
	return &Error{Reason: ReasonInvalidQuery, Message: "Syntax error: " + fmt.Sprintf(format, args...) + " at " + positionOf(src, pos).String()}
}

func notImplemented(format string, args ...any) *Error {
	return &Error{Reason: ReasonNotImplemented, Message: "The sandbox does not implement " + fmt.Sprintf(format, args...)}
}

// positionOf counts lines and characters up to the byte at pos.
func positionOf(src string, pos int) Position {
	pos = min(max(pos, 0), len(src))
	before := src[:pos]
	line := strings.Count(before, "\n")
	return Position{Line: line + 1, Column: utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1}
}

// Bounds of a script. BigQuery's own is on its length; that on escapes is for
// memefish v0.8.1, which takes a megabyte for each while it reads it.
const (
	maxScriptBytes = 1 << 20
	maxEscapes     = 5000
)

// lex cuts src into tokens, comments left out.
func lex(src string) ([]tok, error) {
	if len(src) > maxScriptBytes {
		return nil, &Error{Reason: ReasonInvalidQuery, Message: "The query is too large. The maximum standard SQL query length is 1024.00K characters, including comments and white space characters."}
	}
	if strings.Count(src, `\u`)+strings.Count(src, `\U`) > maxEscapes {
		return nil, notImplemented("scripts with more than %d \\u escapes", maxEscapes)
	}
	l := &memefish.Lexer{File: &token.File{Buffer: src}}
	var toks []tok
	for {
		if err := nextToken(l); err != nil {
			var le *memefish.Error
			if errors.As(err, &le) && le.Position != nil {
				return nil, syntaxError(src, int(le.Position.Pos), "%s", le.Message)
			}
			return nil, &Error{Reason: ReasonInvalidQuery, Message: "Syntax error: " + err.Error()}
		}
		t := tok{kind: l.Token.Kind, raw: l.Token.Raw, text: l.Token.AsString, pos: int(l.Token.Pos), end: int(l.Token.End)}
		switch t.kind {
		case token.TokenEOF:
			return toks, nil
		case token.TokenBad:
			return nil, syntaxError(src, t.pos, "Unexpected %q", t.raw)
		case token.TokenIdent:
			t.quoted = strings.HasPrefix(t.raw, "`")
			t.field = len(toks) > 0 && toks[len(toks)-1].kind == "." && toks[len(toks)-1].end == t.pos
		}
		toks = append(toks, t)
	}
}

// nextToken guards against a lexer that reaches beyond the text, as memefish
// v0.8.1 does for a string that ends within an octal escape ("\0).
func nextToken(l *memefish.Lexer) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("unclosed literal at the end of the script (%v)", r)
		}
	}()
	return l.NextToken()
}

// unbracket turns legacy SQL's [project:dataset.table] into backticks, of the
// same length, so that positions hold.
func unbracket(src string) string {
	out := []byte(src)
	for i := 0; i < len(src); i++ {
		switch c := src[i]; c {
		case '\'', '"':
			for i++; i < len(src) && src[i] != c; i++ {
				if src[i] == '\\' {
					i++
				}
			}
		case '-', '#', '/':
			switch {
			case c == '#', strings.HasPrefix(src[i:], "--"), strings.HasPrefix(src[i:], "//"):
				for i < len(src) && src[i] != '\n' {
					i++
				}
			case strings.HasPrefix(src[i:], "/*"):
				if end := strings.Index(src[i+2:], "*/"); end >= 0 {
					i += end + 3
				} else {
					i = len(src)
				}
			}
		case '[':
			end := strings.IndexByte(src[i:], ']')
			if end < 0 {
				return string(out)
			}
			out[i], out[i+end] = '`', '`'
			if colon := strings.LastIndexByte(src[i:i+end], ':'); colon > 0 {
				out[i+colon] = '.'
			}
			i += end
		}
	}
	return string(out)
}

// cursor walks over tokens.
type cursor struct {
	src  string
	toks []tok
	i    int
}

func (c *cursor) peek(n int) tok {
	if c.i+n < 0 || c.i+n >= len(c.toks) {
		return eof
	}
	return c.toks[c.i+n]
}

func (c *cursor) done() bool { return c.i >= len(c.toks) }

// take skips the words if they stand next, all of them.
func (c *cursor) take(words ...string) bool {
	for n, w := range words {
		if !c.peek(n).is(w) {
			return false
		}
	}
	c.i += len(words)
	return true
}

// expect is take, or an error that says what was there instead.
func (c *cursor) expect(word string) error {
	if c.take(word) {
		return nil
	}
	return c.unexpected("Expected " + quoteWord(word) + " but got ")
}

func quoteWord(w string) string {
	if w != "" && (w[0] >= 'A' && w[0] <= 'Z') {
		return "keyword " + w
	}
	return `"` + w + `"`
}

// unexpected complains of the token at the cursor, in BigQuery's manner.
func (c *cursor) unexpected(lead string) *Error {
	t := c.peek(0)
	pos := t.pos
	var what string
	switch {
	case t.kind == token.TokenEOF:
		what, pos = "end of script", len(c.src)
		if len(c.toks) > 0 {
			pos = c.toks[len(c.toks)-1].end
		}
	case t.ident():
		what = fmt.Sprintf("identifier %q", t.text)
	case t.kind == token.TokenString, t.kind == token.TokenBytes:
		what = "string literal"
	case t.kind == token.TokenInt, t.kind == token.TokenFloat:
		what = fmt.Sprintf("number %q", t.raw)
	case t.kind[0] >= 'A' && t.kind[0] <= 'Z':
		what = "keyword " + string(t.kind)
	default:
		what = fmt.Sprintf("%q", t.raw)
	}
	if lead == "" {
		lead = "Unexpected "
	}
	return syntaxError(c.src, pos, "%s%s", lead, what)
}

// closing is the index of the bracket that closes the one at open, or -1.
func closing(toks []tok, open int) int {
	depth := 0
	for i := open; i < len(toks); i++ {
		switch toks[i].kind {
		case "(", "[", "{":
			depth++
		case ")", "]", "}":
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}
