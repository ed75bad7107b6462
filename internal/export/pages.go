package export

import (
	"fmt"
	"html"
	"io"
	"strings"
	"unicode/utf8"
)

// out writes until something fails.
type out struct {
	w    io.Writer
	fail error
}

func (o *out) put(parts ...string) {
	for _, p := range parts {
		if o.fail == nil {
			_, o.fail = io.WriteString(o.w, p)
		}
	}
}

func (o *out) err() error { return o.fail }

// htmlPage is one page that loads nothing and runs nothing.
type htmlPage struct{ out }

const htmlHead = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; background: #fff; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #d0d7de; padding-bottom: .3rem; }
h3 { font-size: 1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { text-align: left; vertical-align: top; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #eaeef2; overflow-wrap: anywhere; unicode-bidi: isolate; }
th { font-weight: 600; color: #57606a; min-width: 6rem; }
pre { background: #f6f8fa; padding: .7rem 1rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.45 ui-monospace, monospace; unicode-bidi: isolate; }
@media print { body { max-width: none; } h3 { break-after: avoid; } }
</style>
<title>`

func (p *htmlPage) begin(title string) {
	p.put(htmlHead, esc(title), "</title>\n</head>\n<body>\n")
}

func esc(s string) string { return html.EscapeString(shown(s, false)) }

func (p *htmlPage) heading(level int, text, anchor string) {
	id := ""
	if anchor != "" {
		id = ` id="` + anchor + `"`
	}
	p.put(fmt.Sprintf("<h%d%s>", level, id), esc(text), fmt.Sprintf("</h%d>\n", level))
}

func (p *htmlPage) paragraph(text string) { p.put("<p>", esc(text), "</p>\n") }

func (p *htmlPage) table(head []string, rows [][]string) {
	p.put("<table>\n")
	if strings.Join(head, "") != "" {
		p.put("<tr>")
		for _, h := range head {
			p.put("<th>", esc(h), "</th>")
		}
		p.put("</tr>\n")
	}
	for _, row := range rows {
		p.put("<tr>")
		for i, cell := range row {
			tag := "td"
			if i == 0 && strings.Join(head, "") == "" {
				tag = "th"
			}
			p.put("<", tag, ">", esc(cell), "</", tag, ">")
		}
		p.put("</tr>\n")
	}
	p.put("</table>\n")
}

func (p *htmlPage) code(text string) {
	p.put("<pre>", html.EscapeString(shown(text, true)), "</pre>\n")
}

func (p *htmlPage) end() { p.put("</body>\n</html>\n") }

// markdownPage is CommonMark with tables, in which nothing of what is shown is markup.
type markdownPage struct{ out }

func (p *markdownPage) begin(string) {}

// markdownSpecial are the characters that may mean something within a line of Markdown,
// those included that turn an address into a link where addresses are (GitHub's autolinks).
const markdownSpecial = "\\`*_[]<>#!|~&:@"

// plainMarkdown escapes them, and so leaves no link, image, emphasis, HTML or table bar to
// what is shown.
func plainMarkdown(s string) string {
	var b strings.Builder
	for _, r := range shown(s, false) {
		if r < utf8.RuneSelf && strings.ContainsRune(markdownSpecial, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return strings.ReplaceAll(b.String(), "www.", `www\.`)
}

func (p *markdownPage) heading(level int, text, _ string) {
	p.put(strings.Repeat("#", level), " ", plainMarkdown(text), "\n\n")
}

func (p *markdownPage) paragraph(text string) { p.put(plainMarkdown(text), "\n\n") }

func (p *markdownPage) table(head []string, rows [][]string) {
	line := func(cells []string) {
		for _, c := range cells {
			p.put("| ", plainMarkdown(c), " ")
		}
		p.put("|\n")
	}
	line(head)
	p.put(strings.Repeat("|---", len(head)), "|\n")
	for _, row := range rows {
		line(row)
	}
	p.put("\n")
}

// code is a fenced block whose fence is longer than any run of back ticks in it.
func (p *markdownPage) code(text string) {
	text = shown(text, true)
	longest, run := 2, 0
	for _, r := range text {
		if run++; r != '`' {
			run = 0
		}
		longest = max(longest, run)
	}
	fence := strings.Repeat("`", longest+1)
	p.put(fence, "\n", text, "\n", fence, "\n\n")
}

func (p *markdownPage) end() {}

// plainPage is for a terminal.
type plainPage struct{ out }

func (p *plainPage) begin(string) {}

func (p *plainPage) heading(level int, text, _ string) {
	if level > 1 {
		p.put("\n")
	}
	text = shown(text, false)
	p.put(text, "\n")
	if level < 3 {
		p.put(strings.Repeat("=", utf8.RuneCountInString(text)), "\n")
	}
}

func (p *plainPage) paragraph(text string) { p.put(shown(text, false), "\n") }

func (p *plainPage) table(head []string, rows [][]string) {
	if strings.Join(head, "") != "" {
		rows = append([][]string{head}, rows...)
	}
	widths := make([]int, len(head))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(shown(c, false)))
		}
	}
	for _, row := range rows {
		p.put(" ")
		for i, c := range row {
			c = shown(c, false)
			p.put(" ", c)
			if i < len(row)-1 {
				p.put(strings.Repeat(" ", min(widths[i], 40)-min(utf8.RuneCountInString(c), min(widths[i], 40))+1))
			}
		}
		p.put("\n")
	}
}

func (p *plainPage) code(text string) {
	for line := range strings.Lines(shown(text, true)) {
		p.put("    ", strings.TrimSuffix(line, "\n"), "\n")
	}
}

func (p *plainPage) end() {}
