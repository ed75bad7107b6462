package webhook

import (
	"bytes"
	"encoding/json"
	"time"
	"unicode/utf8"
)

// Bounds on what is kept and sent of a notice, bytes.
const (
	maxID            = 255
	maxShort         = 1 << 10 // type, gateway, title, subject, a field's name
	maxLink          = 2 << 10
	maxValue         = 8 << 10
	maxStatementText = 64 << 10
	maxFieldCount    = 100
)

// withinBounds cuts what is too long. A cut value ends in "…"; a cut statement is
// flagged. A link that is too long is left out: its half would lead elsewhere.
func withinBounds(n Notice) Notice {
	for _, s := range []*string{&n.Type, &n.Gateway, &n.Title, &n.Subject} {
		*s = cutBytes(*s, maxShort)
	}
	if len(n.Link) > maxLink {
		n.Link = ""
	}
	if len(n.Statement) > maxStatementText {
		n.Statement, n.StatementCut = runesWithin(n.Statement, maxStatementText), true
	}
	fields := make([]Field, 0, min(len(n.Fields), maxFieldCount))
	for _, f := range n.Fields[:min(len(n.Fields), maxFieldCount)] {
		fields = append(fields, Field{cutBytes(f.Name, maxShort), cutBytes(f.Value, maxValue)})
	}
	n.Fields = fields
	return n
}

// goodID reports whether a receiver gets an id as it is.
func goodID(id string) bool {
	for _, b := range []byte(id) {
		if b <= ' ' || b > '~' {
			return false
		}
	}
	return id != "" && len(id) <= maxID
}

// runesWithin is the longest beginning of s that ends with a whole character.
func runesWithin(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// cutBytes bounds a text and shows that it did.
func cutBytes(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return runesWithin(s, most-len("…")) + "…"
}

// render is the notice's body.
func render(format string, n *Notice) ([]byte, error) {
	var v any
	if format == Slack {
		v = slack(n)
	} else {
		v = jsonBody(n)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

// data is the body of the format JSON. Its members are documented and stay.
type data struct {
	ID           string  `json:"id"`
	Gateway      string  `json:"gateway"`
	Subject      string  `json:"subject"`
	Title        string  `json:"title"`
	Fields       []Field `json:"fields"`
	Statement    string  `json:"statement,omitempty"`
	StatementCut bool    `json:"statement_cut,omitempty"`
	Link         string  `json:"link,omitempty"`
}

func jsonBody(n *Notice) any {
	fields := n.Fields
	if fields == nil {
		fields = []Field{} // an array, always
	}
	return struct {
		Type string    `json:"type"`
		Time time.Time `json:"timestamp"`
		Data data      `json:"data"`
	}{n.Type, n.Time.UTC(), data{n.ID, n.Gateway, n.Subject, n.Title, fields, n.Statement, n.StatementCut, n.Link}}
}
