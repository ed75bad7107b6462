package index

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxWordBytes is how much of a word counts; longer words are cut, in the
	// index and in filters alike.
	maxWordBytes = 64
	// maxTextBytes is how much of one statement is indexed. BigQuery's own
	// limit is 1 MB of GoogleSQL.
	maxTextBytes = 1 << 20
	// maxWords is how many different words one call may bring.
	maxWords = 20_000
)

// eachWord calls fn with the words of text in lower case, until fn returns
// false. A word is a run of letters, digits, combining marks and '_', so that
// `staging.imports` is two words. The words hold nothing that FTS5 takes for
// syntax.
func eachWord(text string, fn func(word string) bool) {
	for len(text) > 0 {
		start := strings.IndexFunc(text, isWordRune)
		if start < 0 {
			return
		}
		text = text[start:]
		end := strings.IndexFunc(text, isNotWordRune)
		if end < 0 {
			end = len(text)
		}
		if !fn(cutWord(strings.ToLower(text[:end]))) {
			return
		}
		text = text[end:]
	}
}

func isWordRune(r rune) bool {
	if r < utf8.RuneSelf {
		return r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
	}
	return r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsMark(r))
}

func isNotWordRune(r rune) bool { return !isWordRune(r) }

func cutWord(w string) string { return cut(w, maxWordBytes) }

// cut shortens s to at most n bytes, at a rune's edge.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
