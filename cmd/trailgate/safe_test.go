package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestVisible(t *testing.T) {
	tests := []struct{ in, line, lines string }{
		{"SELECT 1", "SELECT 1", "SELECT 1"},
		{"  SELECT\n\t1 \r\n", "SELECT 1", "  SELECT\n\t1 \n"},
		{"a\x1b[2Jb", `a\x1b[2Jb`, `a\x1b[2Jb`},
		{"a\x1b]0;title\x07b", `a\x1b]0;title\x07b`, `a\x1b]0;title\x07b`},
		{"a\x7f\x00b", `a\x7f\x00b`, `a\x7f\x00b`},
		{"csi\u009b31m", `csi\u009b31m`, `csi\u009b31m`},
		{"x\u202eLECT", `x\u202eLECT`, `x\u202eLECT`},
		{"x\u2066y\u2069", `x\u2066y\u2069`, `x\u2066y\u2069`},
		{"zero\u200bwidth\ufeff", `zero\u200bwidth\ufeff`, `zero\u200bwidth\ufeff`},
		{"line\u2028par\u2029", `line\u2028par\u2029`, `line\u2028par\u2029`},
		{"tag\U000e0041", `tag\U000e0041`, `tag\U000e0041`},
		{"bad\xff\xc3(", `bad\xff\xc3(`, `bad\xff\xc3(`},
		{"true\ufffd", `true\ufffd`, `true\ufffd`},
		{"over\rwrite", "over write", `over\x0dwrite`},
		{"Grüße 東京 🙂", "Grüße 東京 🙂", "Grüße 東京 🙂"},
	}
	for _, tt := range tests {
		if got := visible(tt.in); got != tt.line {
			t.Errorf("visible(%q) = %q, want %q", tt.in, got, tt.line)
		}
		if got := visibleLines(tt.in); got != tt.lines {
			t.Errorf("visibleLines(%q) = %q, want %q", tt.in, got, tt.lines)
		}
	}
}

func TestCSVSafe(t *testing.T) {
	for in, want := range map[string]string{
		"":                     "",
		"SELECT 1":             "SELECT 1",
		"=HYPERLINK(\"x\")":    "'=HYPERLINK(\"x\")",
		"+1":                   "'+1",
		"-- comment\nSELECT 1": "'-- comment\nSELECT 1",
		"@SUM(A1)":             "'@SUM(A1)",
		"\t=1":                 "'\t=1",
		"\r=1":                 `\x0d=1`,
		"\n=1":                 "'\n=1",
		"  =1":                 "'  =1",
		"＝1":                   "'＝1",
		"a=b":                  "a=b",
		"\x1b[31m":             `\x1b[31m`,
	} {
		if got := csvSafe(in); got != want {
			t.Errorf("csvSafe(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestShorten(t *testing.T) {
	tests := []struct {
		in   string
		n    int
		want string
	}{
		{"abc", 3, "abc"},
		{"abcd", 3, "ab…"},
		{"abc", 0, ""},
		{"abc", 1, "…"},
		{"東京都", 6, "東京都"},
		{"東京都", 5, "東京…"},
		{"東京都", 4, "東…"},
		{"e\u0301e\u0301", 2, "e\u0301e\u0301"},
	}
	for _, tt := range tests {
		if got := shorten(tt.in, tt.n); got != tt.want {
			t.Errorf("shorten(%q, %d) = %q, want %q", tt.in, tt.n, got, tt.want)
		}
	}
}

// FuzzSafe holds the promises of every output form for any text at all.
func FuzzSafe(f *testing.F) {
	f.Add("SELECT 1")
	f.Add("\x1b[2J\u202e\u009b\xff\U000e0041")
	f.Fuzz(func(t *testing.T, s string) {
		for _, out := range []string{visible(s), csvSafe(s), visibleLines(s)} {
			for _, r := range out {
				if r != '\n' && r != '\t' && hostile(r) {
					t.Fatalf("%q shows %q", s, r)
				}
			}
		}
		if strings.ContainsAny(visible(s), "\n\t\r") {
			t.Fatalf("%q has more than a line", s)
		}
		if got := textWidth(shorten(visible(s), 9)); got > 9 {
			t.Fatalf("%q shortened to 9 is %d wide", s, got)
		}
		if !utf8.ValidString(s) {
			return
		}
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		safe := jsonSafe(raw)
		var back string
		if err := json.Unmarshal(safe, &back); err != nil || back != s {
			t.Fatalf("%q came back from %s as %q: %v", s, safe, back, err)
		}
		for _, r := range string(bytes.ReplaceAll(safe, []byte("\ufffd"), nil)) {
			if hostile(r) {
				t.Fatalf("JSON of %q shows %q", s, r)
			}
		}
	})
}
