package webhook_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/trailgate/trailgate/internal/webhook"
)

// The limits of Slack, told apart from the code's
// (https://docs.slack.dev/reference/block-kit/blocks).
const (
	slackHeader = 150
	slackText   = 3000
	slackField  = 2000
	slackFields = 10
	slackBlocks = 50
)

type slackMessage struct {
	Text   string
	Blocks []struct {
		Type   string
		Text   *slackTextObject
		Fields []slackTextObject
	}
	Links *bool `json:"unfurl_links"`
	Media *bool `json:"unfurl_media"`
}

type slackTextObject struct {
	Type, Text string
	Verbatim   bool
}

var entity = regexp.MustCompile(`&(amp|lt|gt);`)

// checkSlack holds a message to what Slack takes, and to what agents may do in it.
func checkSlack(t *testing.T, raw []byte) slackMessage {
	t.Helper()
	var m slackMessage
	if err := json.Unmarshal(raw, &m); err != nil || len(m.Blocks) == 0 || len(m.Blocks) > slackBlocks {
		t.Fatalf("%v: %s", err, raw)
	}
	if m.Links == nil || m.Media == nil || *m.Links || *m.Media {
		t.Error("links are fetched")
	}
	check := func(o slackTextObject, most int) {
		t.Helper()
		s := o.Text
		if n := len(utf16.Encode([]rune(s))); n == 0 || n > most {
			t.Errorf("a text of %d characters, want 1 to %d", n, most)
		}
		if o.Type != "mrkdwn" && o.Type != "plain_text" || o.Verbatim != (o.Type == "mrkdwn") {
			t.Errorf("%+v", o)
		}
		body, ours := s, strings.HasSuffix(s, "|Look at it and decide>") && strings.HasPrefix(s, "<http")
		if ours {
			body = strings.TrimSuffix(s[1:], "|Look at it and decide>")
		}
		if strings.ContainsAny(body, "<>") || strings.Contains(entity.ReplaceAllString(body, ""), "&") {
			t.Errorf("not escaped: %q", s)
		}
		switch n := strings.Count(s, "`"); {
		case o.Type == "plain_text" && n != 0, n != 0 && n != 2 && n != 6,
			n == 6 && !(strings.HasPrefix(s, "```\n") && strings.HasSuffix(s, "\n```")):
			t.Errorf("code begins or ends where it should not: %q", s)
		}
		for _, r := range s {
			if r != '\n' && r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2060 && r <= 0x206f || r == 0xfeff || r == 0x3164 || r == 0x00ad || r >= 0xe0000 && r <= 0xe0fff) {
				t.Errorf("hidden %U in %q", r, s)
			}
		}
	}
	check(slackTextObject{Type: "plain_text", Text: m.Text}, slackText)
	for i, b := range m.Blocks {
		switch {
		case (b.Type == "header") != (i == 0), (b.Text == nil) == (len(b.Fields) == 0), len(b.Fields) > slackFields:
			t.Errorf("block %d: %+v", i, b)
		case b.Type == "header":
			check(*b.Text, slackHeader)
		case b.Text != nil:
			check(*b.Text, slackText)
		}
		for _, f := range b.Fields {
			check(f, slackField)
		}
	}
	return m
}

func slackOf(t *testing.T, n webhook.Notice) (slackMessage, string) {
	t.Helper()
	raw, err := webhook.Render(webhook.Slack, &n)
	if err != nil {
		t.Fatal(err)
	}
	m := checkSlack(t, raw)
	var all []string
	for _, b := range m.Blocks {
		if b.Text != nil {
			all = append(all, b.Text.Text)
		}
		for _, f := range b.Fields {
			all = append(all, f.Text)
		}
	}
	return m, strings.Join(all, "\n")
}

// TestSlackText: what an agent writes calls nobody, links nowhere, hides nothing, and
// keeps no message from being taken.
func TestSlackText(t *testing.T) {
	for name, tc := range map[string]struct{ text, shown string }{
		"everybody":         {"<!channel> <!here> <!everyone>", "&lt;!channel&gt;"},
		"somebody":          {"<@U123ABC> <!subteam^S1|x>", "&lt;@U123ABC&gt;"},
		"a channel":         {"<#C123|general>", "&lt;#C123|general&gt;"},
		"a link":            {"<https://evil.example|Approve here>", "&lt;https://evil.example|Approve here&gt;"},
		"an escaped one":    {"&lt;!channel&gt;", "&amp;lt;!channel&amp;gt;"},
		"the end of code":   {"SELECT 1 ``` *approved by ada* ```", "\u02cb\u02cb\u02cb *approved"},
		"one tick":          {"SELECT * FROM `p.d.t`", "\u02cbp.d.t\u02cb"},
		"a terminal":        {"a\x1b[2K\x1b]8;;https://evil.example\x07b", "a"},
		"direction":         {"SELECT \u202e1\u2066 --\u200f", "SELECT"},
		"nothing to see":    {"a\u200b\u2060\ufeff\u3164\u00ad\u034f\U000e0041\ufe0fb", "a"},
		"other lines":       {"-- fine\u2028DROP TABLE t\u2029\u0085\rx", "DROP TABLE t"},
		"not even text":     {"\xff\xfe\x00<!here>", "&lt;!here&gt;"},
		"much to escape":    {strings.Repeat("&", 40_000), "&amp;&amp;"},
		"not quite as much": {"xxx" + strings.Repeat("&", 40_000), "xxx&amp;"},
		"just too much":     {"xxx" + strings.Repeat("&", 30), "xxx&amp;"},
		"half escaped":      {strings.Repeat("x", 2_898) + "<<<<", "xxx"},
		"outside the BMP":   {strings.Repeat("\U0001f600", 4_000), "\U0001f600"},
		"many lines":        {strings.Repeat("\n", 40_000) + "DROP TABLE t", ""},
		"one long word":     {strings.Repeat("a", 1<<20), "aaa"},
		"nothing at all":    {"", ""},
		"only white space":  {" \t\u00a0\u3000 ", ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := notice(1)
			n.Title, n.Statement = tc.text, tc.text
			n.Fields = nil
			for range 12 {
				n.Fields = append(n.Fields, webhook.Field{Name: tc.text, Value: tc.text})
			}
			if _, all := slackOf(t, n); !strings.Contains(all, tc.shown) {
				t.Errorf("%q is not in %.300s", tc.shown, all)
			}
			raw, err := webhook.Render(webhook.JSON, &n)
			if err != nil || !json.Valid(raw) {
				t.Errorf("%v %.200s", err, raw)
			}
		})
	}
}

// TestSlackNames: an approver reads the names of tables as they are.
func TestSlackNames(t *testing.T) {
	for _, name := range []string{"acme.prod_eu.t", "acme.prod.eu_t", "acme._a_.b*", "acme.~x~.t", "domain.com:acme.d.t"} {
		n := notice(1)
		n.Fields = []webhook.Field{{Name: "writes", Value: name}}
		if _, all := slackOf(t, n); !strings.Contains(all, "*writes*\n`"+name+"`") {
			t.Errorf("%s is not in %s", name, all)
		}
	}
}

// TestSlackCut: an approver sees, ahead of a statement, that they do not see all of it.
func TestSlackCut(t *testing.T) {
	n := notice(1)
	n.Statement = "SELECT 1 -- " + strings.Repeat("x", 5_000) + "\n; DROP TABLE t"
	_, all := slackOf(t, n)
	cut := strings.Index(all, fmt.Sprintf("of its %d characters are shown", len(n.Statement)))
	if cut < 0 || cut > strings.Index(all, "```") {
		t.Errorf("%s", all)
	}
	n.Statement, n.StatementCut = "SELECT 1", true
	if _, all = slackOf(t, n); !strings.Contains(all, "The statement is cut") {
		t.Errorf("%s", all)
	}
	n.StatementCut = false
	if _, all = slackOf(t, n); strings.Contains(all, "cut") {
		t.Errorf("%s", all)
	}
	n.Fields = []webhook.Field{{Name: "writes", Value: strings.Repeat("acme.d.t ", 300)}}
	if _, all = slackOf(t, n); !strings.Contains(all, "of 2699 characters)") {
		t.Errorf("%s", all)
	}
	n.Fields = make([]webhook.Field, 45)
	if _, all = slackOf(t, n); !strings.Contains(all, "*5 more facts") {
		t.Errorf("%s", all)
	}
}

// TestSlackLink: the one link is the gateway's, and cannot be made two.
func TestSlackLink(t *testing.T) {
	for given, want := range map[string]string{
		"https://audit.example.com/a/apr_1":      "<https://audit.example.com/a/apr_1|Look at it and decide>",
		"https://audit.example.com/?a=1&b=2":     "<https://audit.example.com/?a=1&amp;b=2|Look at it and decide>",
		"https://h/x|y> <!channel>":              "<https://h/x%7Cy%3E%20%3C%21channel%3E|Look at it and decide>",
		"javascript:alert(1)":                    "",
		"/relative":                              "",
		"https://h/\n<!here>":                    "",
		"https://h/" + strings.Repeat("a", 5000): "",
		"":                                       "",
	} {
		n := notice(1)
		n.Link = given
		_, all := slackOf(t, n)
		if strings.Contains(all, "|Look at it") != (want != "") || !strings.Contains(all, want) {
			t.Errorf("%q: %s", given, all)
		}
	}
}

func FuzzSlack(f *testing.F) {
	f.Add("a", "b", "SELECT 1", "https://h/a")
	f.Add("<!here>", "```", "`\u202e\xff", "https://h/|>&")
	f.Add("&&&&", "*_~", strings.Repeat("<", 800), "javascript:x")
	f.Fuzz(func(t *testing.T, title, value, statement, at string) {
		n := notice(1)
		n.Title, n.Statement, n.Link, n.Fields = title, statement, at, []webhook.Field{{Name: value, Value: value}, {Name: title, Value: statement}}
		raw, err := webhook.Render(webhook.Slack, &n)
		if err != nil {
			t.Fatal(err)
		}
		checkSlack(t, raw)
		if raw, err = webhook.Render(webhook.JSON, &n); err != nil || !json.Valid(raw) {
			t.Fatalf("%v %s", err, raw)
		}
	})
}
