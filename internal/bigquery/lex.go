package bigquery

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cloudspannerecosystem/memefish"
	"github.com/cloudspannerecosystem/memefish/token"
)

// maxTokens bounds what is read of a text. A statement beyond it is recorded
// whole all the same, and classed unknown.
const maxTokens = 500_000

// tok is one token. word is its upper-case spelling where it may be a keyword:
// an unquoted word.
type tok struct {
	kind  token.TokenKind
	word  string
	text  string // an identifier's or string's value
	raw   string
	glued bool // nothing stands between it and the token before
}

func (t tok) is(words ...string) bool { return t.word != "" && slices.Contains(words, t.word) }

// named reports whether the token can stand in a name.
func (t tok) named() bool { return t.text != "" && (t.kind == token.TokenIdent || t.word != "") }

// tokens reads all of them; ok is false where the text is not GoogleSQL.
func tokens(sql string) (out []tok, ok bool) {
	if out, ok = lexed(sql); ok {
		return out, true
	}
	// An unquoted project may end in a dash and digits, which the lexer takes
	// for a malformed number: my-project-12.staging.t.
	if fixed := dashedDigits.ReplaceAllString(sql, "$1 $2"); fixed != sql {
		return lexed(fixed)
	}
	return nil, false
}

var dashedDigits = regexp.MustCompile(`([A-Za-z0-9_]-[0-9]+)(\.[A-Za-z_` + "`" + `])`)

// lexed is the text's tokens as memefish cuts them, where it cuts as BigQuery
// does. memefish v0.8.1 takes "/*/" for a whole comment, BigQuery for the
// beginning of one: what follows could be a comment's text to one and a statement
// to the other.
func lexed(sql string) (out []tok, ok bool) {
	lex := &memefish.Lexer{File: &token.File{Buffer: unescape(sql)}}
	for {
		if !nextToken(lex) {
			return nil, false
		}
		t := lex.Token
		for _, c := range t.Comments {
			if hidesLine(c.Raw) || c.Raw == "/*/" {
				return nil, false
			}
		}
		switch {
		case t.Kind == token.TokenEOF:
			return out, true
		case t.Kind == token.TokenBad || len(out) >= maxTokens:
			return nil, false
		}
		next := tok{kind: t.Kind, text: t.AsString, raw: t.Raw, glued: t.Space == "" && len(t.Comments) == 0}
		if len(t.Raw) > 0 && (t.Raw[0] >= 'a' && t.Raw[0] <= 'z' || t.Raw[0] >= 'A' && t.Raw[0] <= 'Z' || t.Raw[0] == '_') &&
			t.Kind != token.TokenString && t.Kind != token.TokenBytes {
			next.word = strings.ToUpper(t.Raw)
			next.text = t.Raw
		}
		out = append(out, next)
	}
}

// hidesLine reports a comment to the end of the line with a lone carriage return
// in it: GoogleSQL ends the comment there, the lexer does not, and what follows
// would be run without having been read.
func hidesLine(comment string) bool {
	if strings.HasPrefix(comment, "/*") {
		return false
	}
	return strings.Contains(strings.TrimSuffix(strings.TrimSuffix(comment, "\n"), "\r"), "\r")
}

// nextToken reads one token. memefish v0.8.1 runs past the end of a literal that
// stops inside an escape ("\0, b'\x) and panics with the index; an agent's text
// must not end the call that records it.
func nextToken(lex *memefish.Lexer) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return lex.NextToken() == nil
}

// unescape decodes the \u and \U escapes of string literals and quoted names
// before the lexer meets them: memefish v0.8.1 takes a megabyte of memory for
// each (a buffer of utf8.MaxRune bytes), so that a statement made of escapes
// would stop the gateway.
//
// It does so without knowing where literals begin and end, so what it writes
// must not begin or end one, nor a comment: only letters, digits and what is
// beyond ASCII are decoded; other characters become \x escapes, which mean the
// same in literals and nothing elsewhere. In raw strings, where neither is an
// escape, only the value is off, and values are looked at for addresses alone.
func unescape(sql string) string {
	if !strings.Contains(sql, `\u`) && !strings.Contains(sql, `\U`) {
		return sql
	}
	out := make([]byte, 0, len(sql))
	for i := 0; i < len(sql); i++ {
		if sql[i] != '\\' || i+1 >= len(sql) {
			out = append(out, sql[i])
			continue
		}
		digits := 0
		switch sql[i+1] {
		case 'u':
			digits = 4
		case 'U':
			digits = 8
		}
		end := i + 2 + digits
		if digits == 0 || end > len(sql) {
			out = append(out, sql[i], sql[i+1])
			i++
			continue
		}
		n, err := strconv.ParseUint(sql[i+2:end], 16, 32)
		if err != nil || n > utf8.MaxRune || !utf8.ValidRune(rune(n)) {
			// Not an escape; the lexer says so without taking the memory.
			out = append(out, sql[i], sql[i+1])
			i++
			continue
		}
		switch c := rune(n); {
		case c >= utf8.RuneSelf || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			out = utf8.AppendRune(out, c)
		default:
			const hex = "0123456789abcdef"
			out = append(out, '\\', 'x', hex[n>>4], hex[n&15])
		}
		i = end - 1
	}
	return string(out)
}
