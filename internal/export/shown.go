package export

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// shown makes text fit to be read: what may change how the text around it looks
// (control characters, bidirectional controls, characters without a width) is spelt out,
// and where lines is set, line ends and tabs stay as they are.
func shown(s string, lines bool) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case lines && (r == '\n' || r == '\t'):
			b.WriteRune(r)
		case r == ' ', unicode.IsGraphic(r) && !unicode.In(r, unicode.Zl, unicode.Zp, unicode.Zs):
			b.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += n
	}
	return b.String()
}
