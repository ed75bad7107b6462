package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What an agent wrote can hold anything: escape sequences that rewrite the
// screen, bidirectional controls that show one statement and hide another,
// line breaks that forge rows. Nothing of it reaches a terminal as it is.
// JSON output keeps every value and differs in spelling alone; see jsonSafe.

// hostile reports whether a rune may change how the text around it is shown:
// control characters (C0, DEL, C1), format characters (bidirectional controls,
// zero-width characters, tags), separators that break lines, and runes that
// stand for nothing.
func hostile(r rune) bool {
	switch {
	case r == utf8.RuneError, unicode.IsControl(r):
		return true
	case r < 0xa0:
		return false
	}
	return unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs) || !assigned(r)
}

// assigned reports whether the rune is one that Unicode, as Go knows it, gives
// a meaning.
func assigned(r rune) bool {
	return unicode.IsGraphic(r) || unicode.In(r, unicode.Cc, unicode.Cf)
}

// escape spells a hostile rune in Go's way.
func escape(b *strings.Builder, s string, r rune, size int) {
	switch {
	case r == utf8.RuneError && size == 1:
		fmt.Fprintf(b, `\x%02x`, s[0])
	case r == utf8.RuneError:
		b.WriteString(`\ufffd`)
	case r < 0x80:
		fmt.Fprintf(b, `\x%02x`, r)
	case r < 0x10000:
		fmt.Fprintf(b, `\u%04x`, r)
	default:
		fmt.Fprintf(b, `\U%08x`, r)
	}
}

// visible makes text fit to show on one line: white space, line breaks
// included, becomes one space, what is hostile is escaped.
func visible(s string) string {
	var b strings.Builder
	space := false
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == ' ', r == '\n', r == '\t', r == '\r':
			space = b.Len() > 0
		default:
			if space {
				b.WriteByte(' ')
				space = false
			}
			if hostile(r) {
				escape(&b, s[i:], r, size)
			} else {
				b.WriteRune(r)
			}
		}
		i += size
	}
	return b.String()
}

// visibleLines is visible for text that keeps its lines and tabs.
func visibleLines(s string) string {
	var b strings.Builder
	s = strings.ReplaceAll(s, "\r\n", "\n")
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r != '\n' && r != '\t' && hostile(r) {
			escape(&b, s[i:], r, size)
		} else {
			b.WriteString(s[i : i+size])
		}
		i += size
	}
	return b.String()
}

// jsonSafe respells JSON so that it can be shown: characters that JSON may hold
// as they are and a terminal would act on become \u escapes. The value is the
// same; hostile runes occur in JSON inside strings only.
func jsonSafe(raw []byte) []byte {
	clean := true
	for i := 0; i < len(raw) && clean; i++ {
		clean = raw[i] < utf8.RuneSelf && raw[i] != 0x7f
	}
	if clean {
		return raw
	}
	out := make([]byte, 0, len(raw)+32)
	for i := 0; i < len(raw); {
		r, size := utf8.DecodeRune(raw[i:])
		switch {
		case r == '\n' || r == '\t' || r == '\r' || !hostile(r) || r == utf8.RuneError:
			out = append(out, raw[i:i+size]...)
		case r < 0x10000:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			high, low := (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		}
		i += size
	}
	return out
}

// csvSafe makes a text cell harmless in a spreadsheet: what Excel, LibreOffice
// or Google Sheets would take for a formula gets a leading single quote (OWASP,
// "CSV injection": = + - @, tab and carriage return; their full-width twins and
// a line feed too, and all of them behind spaces). Control characters are
// escaped as in a table, lines are kept.
func csvSafe(s string) string {
	s = visibleLines(s)
	if head := strings.TrimLeft(s, " \u00a0\u3000"); head != "" {
		switch r, _ := utf8.DecodeRuneInString(head); r {
		case '=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠':
			return "'" + s
		}
	}
	return s
}

// width is how many columns a rune takes in a terminal: 0 for combining marks,
// 2 for East Asian wide ones and most emoji, 1 otherwise. It is an estimate;
// terminals differ.
func width(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf && r != 0x303f,
		r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6,
		r >= 0x1f300 && r <= 0x1f64f, r >= 0x1f900 && r <= 0x1f9ff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

func textWidth(s string) int {
	n := 0
	for _, r := range s {
		n += width(r)
	}
	return n
}

// shorten cuts text to at most n columns, with "…" where something is missing.
func shorten(s string, n int) string {
	if textWidth(s) <= n {
		return s
	}
	if n < 1 {
		return ""
	}
	used := 0
	for i, r := range s {
		if w := width(r); used+w > n-1 {
			return s[:i] + "…"
		} else {
			used += w
		}
	}
	return s
}
