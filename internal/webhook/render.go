package webhook

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
	"unicode"
)

// Slack's own limits, with room for what escaping adds
// (https://api.slack.com/reference/block-kit/blocks).
const (
	maxTitle     = 140
	maxFields    = 10
	maxField     = 350
	maxStatement = 2_000
)

// render is the notice's body.
func render(format string, n *Notice) ([]byte, error) {
	var v any
	if format == Slack {
		v = slack(n)
	} else {
		v = struct {
			Type string    `json:"type"`
			Time time.Time `json:"timestamp"`
			Data any       `json:"data"`
		}{n.Type, n.Time.UTC(), struct {
			ID        string  `json:"id"`
			Gateway   string  `json:"gateway"`
			Subject   string  `json:"subject"`
			Title     string  `json:"title"`
			Fields    []Field `json:"fields"`
			Statement string  `json:"statement,omitempty"`
			Link      string  `json:"link,omitempty"`
		}{n.ID, n.Gateway, n.Subject, n.Title, n.Fields, n.Statement, n.Link}}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

type block struct {
	Type   string `json:"type"`
	Text   *text  `json:"text,omitempty"`
	Fields []text `json:"fields,omitempty"`
}

type text struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// slack is a message in Slack's blocks. What agents write in it can call nobody, link
// nowhere, and end no code block.
func slack(n *Notice) any {
	blocks := []block{{Type: "section", Text: &text{"mrkdwn", "*" + plain(n.Title, maxTitle) + "*"}}}
	if len(n.Fields) > 0 {
		b := block{Type: "section"}
		for i, f := range n.Fields {
			if i == maxFields {
				break
			}
			b.Fields = append(b.Fields, text{"mrkdwn", "*" + plain(f.Name, 60) + "*\n" + plain(f.Value, maxField)})
		}
		blocks = append(blocks, b)
	}
	if n.Statement != "" {
		blocks = append(blocks, block{Type: "section", Text: &text{"mrkdwn", "```" + code(n.Statement, maxStatement) + "```"}})
	}
	if n.Link != "" {
		blocks = append(blocks, block{Type: "section", Text: &text{"mrkdwn", "<" + link(n.Link) + "|Look at it and decide>"}})
	}
	return struct {
		Text   string  `json:"text"`
		Blocks []block `json:"blocks"`
		Links  bool    `json:"unfurl_links"` // nothing that agents write is fetched
		Media  bool    `json:"unfurl_media"`
	}{Text: plain(n.Title, maxTitle), Blocks: blocks}
}

// escape is what Slack wants of text: without it "<!channel>" would call everybody
// (https://api.slack.com/reference/surfaces/formatting#escaping).
var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// plain is text without meaning to Slack: no markup, no mentions, no line breaks.
func plain(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '*', r == '_', r == '~', r == '`':
			return '\u2024' // a dot that is no markup
		case hidden(r), unicode.IsSpace(r):
			return ' '
		}
		return r
	}, cut(s, most))
	return escape.Replace(s)
}

// code is text inside a code block.
func code(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '`':
			return '\u02cb' // looks alike, and ends nothing
		case r == '\n', r == '\t':
			return r
		case hidden(r):
			return '\u00b7'
		}
		return r
	}, cut(s, most))
	return escape.Replace(s)
}

// link is an address inside "<…|…>".
func link(s string) string { return strings.NewReplacer("<", "%3C", ">", "%3E", "|", "%7C").Replace(s) }

// hidden are characters that make text read otherwise than it is: controls, and those
// that change its direction or cannot be seen.
func hidden(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }

// cut bounds text in characters, and shows that it did.
func cut(s string, most int) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	n := 0
	for i := range s {
		if n == most {
			return s[:i] + "…"
		}
		n++
	}
	return s
}
