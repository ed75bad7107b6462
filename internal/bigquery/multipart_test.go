package bigquery_test

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/trailgate/trailgate/internal/bigquery"
)

const related = "multipart/related; boundary=b"

func parts(head, meta, mediaHead, media, tail string) string {
	return "--b\r\n" + head + "\r\n\r\n" + meta + "\r\n--b\r\n" + mediaHead + "\r\n\r\n" + media + "\r\n--b" + tail
}

const (
	jsonPart  = "Content-Type: application/json; charset=UTF-8"
	mediaPart = "Content-Type: text/csv"
)

func TestMultipart(t *testing.T) {
	media := strings.Repeat("a,b\r\n--c\r\n", 10_000)
	meta, rest, err := bigquery.OpenMultipart(related, strings.NewReader(parts(jsonPart, `{"a":1}`, mediaPart, media, "--\r\n")), 1000)
	if err != nil || string(meta) != `{"a":1}` {
		t.Fatalf("%s %v", meta, err)
	}
	contentType, body := rest.Forward([]byte(`{"stamped":true}`))
	kind, params, perr := mime.ParseMediaType(contentType)
	if perr != nil || kind != "multipart/related" || params["boundary"] == "b" {
		t.Fatal(contentType, perr)
	}
	mr := multipart.NewReader(body, params["boundary"])
	for i, want := range []string{`{"stamped":true}`, media} {
		p, err := mr.NextRawPart()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(p)
		if err != nil || string(got) != want {
			t.Errorf("part %d: %d bytes, %v", i, len(got), err)
		}
	}
	if _, err := mr.NextRawPart(); err != io.EOF {
		t.Error(err)
	}
}

func TestBadMultipart(t *testing.T) {
	good := parts(jsonPart, "{}", mediaPart, "x", "--\r\n")
	for name, tt := range map[string]struct{ contentType, body string }{
		"mixed":            {"multipart/mixed; boundary=b", good},
		"no boundary":      {"multipart/related", good},
		"long boundary":    {"multipart/related; boundary=" + strings.Repeat("b", 80), good},
		"other boundary":   {"multipart/related; boundary=c", good},
		"first not json":   {related, parts("Content-Type: text/plain", "{}", mediaPart, "x", "--\r\n")},
		"no type":          {related, parts("X: y", "{}", mediaPart, "x", "--\r\n")},
		"encoding":         {related, parts(jsonPart, "{}", mediaPart+"\r\nContent-Encoding: gzip", "x", "--\r\n")},
		"transfer":         {related, parts(jsonPart+"\r\nContent-Transfer-Encoding: base64", "e30=", mediaPart, "x", "--\r\n")},
		"disposition":      {related, parts(jsonPart+"\r\nContent-Disposition: form-data; name=x", "{}", mediaPart, "x", "--\r\n")},
		"two types":        {related, parts(jsonPart+"\r\nContent-Type: text/plain", "{}", mediaPart, "x", "--\r\n")},
		"large metadata":   {related, parts(jsonPart, strings.Repeat(" ", 2000), mediaPart, "x", "--\r\n")},
		"one part":         {related, "--b\r\n" + jsonPart + "\r\n\r\n{}\r\n--b--\r\n"},
		"empty":            {related, ""},
		"third part":       {related, parts(jsonPart, "{}", mediaPart, "x", "\r\n\r\nmore\r\n--b--\r\n")},
		"cut in the media": {related, "--b\r\n" + jsonPart + "\r\n\r\n{}\r\n--b\r\n" + mediaPart + "\r\n\r\nxx"},
	} {
		_, rest, err := bigquery.OpenMultipart(tt.contentType, strings.NewReader(tt.body), 1000)
		if err != nil {
			continue
		}
		_, body := rest.Forward([]byte("{}"))
		if sent, rerr := io.ReadAll(body); rerr == nil {
			t.Errorf("%s was forwarded: %q", name, sent)
		}
	}
}

func FuzzMultipart(f *testing.F) {
	f.Add(related, parts(jsonPart, "{}", mediaPart, "x", "--\r\n"))
	f.Add(related, parts(jsonPart, "{}", mediaPart, "x", "\r\n\r\nmore\r\n--b--\r\n"))
	f.Fuzz(func(t *testing.T, contentType, text string) {
		meta, rest, err := bigquery.OpenMultipart(contentType, strings.NewReader(text), 1000)
		if err != nil {
			return
		}
		forwarded, body := rest.Forward(meta)
		raw, rerr := io.ReadAll(body)
		if rerr != nil {
			return
		}
		// What goes on has two parts, the first of which was judged.
		again, more, err := bigquery.OpenMultipart(forwarded, strings.NewReader(string(raw)), 1000)
		if err != nil || string(again) != string(meta) {
			t.Fatalf("%q becomes %q: %v", text, raw, err)
		}
		if _, err := io.ReadAll(func() io.Reader { _, r := more.Forward(nil); return r }()); err != nil {
			t.Fatal(fmt.Sprint(err))
		}
	})
}
