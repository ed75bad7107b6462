package webhook

import (
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Slack's limits (https://docs.slack.dev/reference/block-kit/blocks): 150 characters in
// a header, 3,000 in a section's text, 2,000 in each of its 10 fields, 50 blocks. What
// is over one has Slack refuse the whole message, so an agent could keep its approvers
// from hearing of a call. Ours are counted after escaping, in UTF-16: the longest that
// Slack may take the text for.
const (
	maxTitle      = 150
	maxText       = 2_900
	maxFieldName  = 60
	maxFieldValue = 1_500
	maxPerSection = 10
	maxSlack      = 40 // fields in all
)

type block struct {
	Type   string `json:"type"`
	Text   *text  `json:"text,omitempty"`
	Fields []text `json:"fields,omitempty"`
}

type text struct {
	Type string `json:"type"`
	Text string `json:"text"`
	// Verbatim keeps Slack from making links and mentions of plain words.
	Verbatim bool `json:"verbatim,omitempty"`
}

type message struct {
	Text   string  `json:"text"` // for notifications
	Blocks []block `json:"blocks"`
	Links  bool    `json:"unfurl_links"` // nothing that agents write is fetched
	Media  bool    `json:"unfurl_media"`
}

func mrkdwn(s string) text { return text{Type: "mrkdwn", Text: s, Verbatim: true} }

func section(s string) block { t := mrkdwn(s); return block{Type: "section", Text: &t} }

// slack is a message in Slack's blocks. What agents write in it can call nobody, link
// nowhere, end no code block, and is not taken for words of the gateway: it stands in
// code, where Slack changes no character, or in the header, which is plain text.
func slack(n *Notice) any {
	title := fit(n.Title, inTitle, maxTitle)
	if title.text == "" {
		title.text = "Trailgate"
	}
	head := text{Type: "plain_text", Text: title.text}
	m := message{Text: title.text, Blocks: []block{{Type: "header", Text: &head}}}
	shown := n.Fields[:min(len(n.Fields), maxSlack)]
	for len(shown) > 0 {
		b := block{Type: "section"}
		for _, f := range shown[:min(len(shown), maxPerSection)] {
			b.Fields = append(b.Fields, field(f))
		}
		m.Blocks = append(m.Blocks, b)
		shown = shown[len(b.Fields):]
	}
	if more := len(n.Fields) - maxSlack; more > 0 {
		m.Blocks = append(m.Blocks, section(fmt.Sprintf("*%d more facts are not shown here.*", more)))
	}
	if n.Statement != "" {
		s := fit(n.Statement, inCode, maxText)
		// Ahead of the statement, where its length cannot push it out of sight.
		switch {
		case n.StatementCut:
			m.Blocks = append(m.Blocks, section(fmt.Sprintf("*The statement is cut:* its first %d characters are shown. Read all of it before you decide.", s.shown)))
		case s.shown < s.total:
			m.Blocks = append(m.Blocks, section(fmt.Sprintf("*The statement is cut:* %d of its %d characters are shown. Read all of it before you decide.", s.shown, s.total)))
		}
		m.Blocks = append(m.Blocks, section("```\n"+s.text+"\n```"))
	}
	if at := link(n.Link); at != "" {
		m.Blocks = append(m.Blocks, section("<"+at+"|Look at it and decide>"))
	}
	return m
}

func field(f Field) text {
	name := fit(f.Name, inName, maxFieldName)
	value := fit(strings.TrimSpace(f.Value), inLine, maxFieldValue)
	s := value.text
	if strings.TrimSpace(s) == "" {
		s = "–" // code of nothing is no code
	}
	s = "*" + name.text + "*\n`" + s + "`"
	if value.shown < value.total {
		s += fmt.Sprintf(" (cut: %d of %d characters)", value.shown, value.total)
	}
	return mrkdwn(s)
}

// fitted is a text ready for Slack, and how many of its characters that shows.
type fitted struct {
	text         string
	shown, total int
}

// fit puts as much of s through change, and escapes it, as takes no more than most
// UTF-16 units. What does not fit is cut between characters, never within an escape.
func fit(s string, change func(rune) rune, most int) fitted {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\r\n", "\n")
	f := fitted{total: utf8.RuneCountInString(s)}
	var b strings.Builder
	units := 0
	kept, keptShown := 0, 0 // where "…" would still fit
	for _, r := range s {
		r = change(r)
		out, size := string(r), 1
		switch {
		case r == '&':
			out, size = "&amp;", 5
		case r == '<':
			out, size = "&lt;", 4
		case r == '>':
			out, size = "&gt;", 4
		case r > 0xffff:
			size = 2
		}
		if units+size > most {
			f.shown = keptShown
			f.text = b.String()[:kept] + "…"
			return f
		}
		units += size
		b.WriteString(out)
		f.shown++
		if units < most {
			kept, keptShown = b.Len(), f.shown
		}
	}
	f.text = b.String()
	return f
}

// inLine is for code of one line.
func inLine(r rune) rune {
	switch {
	case r == '`':
		return '\u02cb' // looks alike, and ends nothing
	case hidden(r), unicode.IsSpace(r):
		return ' '
	}
	return r
}

// inTitle is for the title, which is plain text in the message but may be taken for
// markup in a notification.
func inTitle(r rune) rune {
	switch r {
	case '*', '~':
		return ' '
	}
	return inLine(r)
}

// inName is for the names of fields, which stand as markup.
func inName(r rune) rune {
	if unicode.IsLetter(r) || unicode.IsDigit(r) {
		if !hidden(r) {
			return r
		}
	}
	return ' '
}

// inCode is for text inside a code block.
func inCode(r rune) rune {
	switch {
	case r == '`':
		return inLine(r)
	case r == '\n', r == '\t':
		return r
	case hidden(r):
		return '\u00b7'
	}
	return r
}

// hidden are characters that make text read otherwise than it is: controls, those that
// change its direction, and those that cannot be seen
// (https://www.unicode.org/reports/tr44/#Default_Ignorable_Code_Point).
func hidden(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)
}

// link is an address as it may stand inside "<…|…>", or nothing.
func link(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	s = strings.NewReplacer("<", "%3C", ">", "%3E", "|", "%7C", " ", "%20", "&", "&amp;").Replace(u.String())
	if len(s) > maxText || !goodLink(s) {
		return ""
	}
	return s
}

func goodLink(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}
