package bundlejs_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/trailgate/trailgate/internal/bundle"
	"github.com/trailgate/trailgate/internal/bundle/bundletest"
)

// swap changes the first occurrence of a text in a member.
func swap(p bundletest.Parts, member, old, now string) bundletest.Parts {
	m := p.At(member)
	if !bytes.Contains(m.Data, []byte(old)) {
		panic(member + " does not hold " + old) // a mistake in the table
	}
	m.Data = bytes.Replace(m.Data, []byte(old), []byte(now), 1)
	return p
}

// lineOf is a member's lines.
func lineOf(p bundletest.Parts, member string, change func([]string) []string) bundletest.Parts {
	m := p.At(member)
	lines := strings.SplitAfter(string(m.Data), "\n")
	m.Data = []byte(strings.Join(change(lines[:len(lines)-1]), ""))
	return p
}

func move[T any](list []T, a, b int) []T {
	list[a], list[b] = list[b], list[a]
	return list
}

// fields are members of entries, each changed to something of the same form.
var fields = map[string][2]string{
	"seq":              {`"seq":3,`, `"seq":4,`},
	"time":             {`"time":"2026-11-23T09:00:03`, `"time":"2026-11-23T08:00:03`},
	"id":               {`"id":"01kapq00000000000000000003"`, `"id":"01kapq00000000000000000009"`},
	"kind":             {`"kind":"denied"`, `"kind":"intent"`},
	"intent id":        {`"intent_id":"01kapq00000000000000000003"`, `"intent_id":"01kapq00000000000000000012"`},
	"gateway":          {`"gateway":{"id":"gw-1"`, `"gateway":{"id":"gw-2"`},
	"agent":            {`"agent":"etl-bot"`, `"agent":"bi-bot2"`},
	"human":            {`"human":"ada@example.com"`, `"human":"eve@example.com"`},
	"evidence":         {`"evidence":"8`, `"evidence":"9`},
	"client":           {`"client":"192.0.2.7`, `"client":"192.0.2.8`},
	"statement":        {"DELETE FROM `demo.sales.orders` WHERE id = 7", "DELETE FROM `demo.sales.orders` WHERE id = 8"},
	"blob":             {`"blob":"5`, `"blob":"6`},
	"class":            {`"class":"write"`, `"class":"read"`},
	"decision":         {`"effect":"deny"`, `"effect":"allow"`},
	"approver":         {`"approvers":["grace@`, `"approvers":["alice@`},
	"rows":             {`"rows":2`, `"rows":3`},
	"bytes billed":     {`"bytes_billed":10485760`, `"bytes_billed":10485761`},
	"row commitment":   {`"body":"4`, `"body":"5`},
	"stored rows":      {`"stored_rows":2`, `"stored_rows":1`},
	"a member more":    {`"kind":"denied",`, `"kind":"denied","session":"x",`},
	"a member less":    {`"session":"ses-1",`, ``},
	"white space":      {`"kind":"denied",`, `"kind": "denied",`},
	"an unknown name":  {`"kind":"denied",`, `"kind":"denied","x":1,`},
	"a name twice":     {`"kind":"denied",`, `"kind":"denied","kind":"denied",`},
	"another spelling": {`"human":"ada@`, `"human":"\u0061da@`},
}

// byAnybody are changes that whoever gets hold of a bundle can make.
func byAnybody(other *bundletest.Made) map[string]func(bundletest.Parts) bundletest.Parts {
	type parts = bundletest.Parts
	table := map[string]func(parts) parts{
		"readme changed":   func(p parts) parts { return swap(p, "README.txt", "Do not believe", "Please believe") },
		"checkpoint: size": func(p parts) parts { return swap(p, "checkpoint", "\n28\n", "\n27\n") },
		"checkpoint: root": func(p parts) parts {
			return lineOf(p, "checkpoint", func(l []string) []string { l[2] = strings.ToLower(l[2]); return l })
		},
		"checkpoint: origin": func(p parts) parts {
			return swap(p, "checkpoint", "example.com/trailgate/bundle\n", "example.com/trailgate/bumble\n")
		},
		"checkpoint: signature": func(p parts) parts {
			return lineOf(p, "checkpoint", func(l []string) []string { l[4] = flipSignature(l[4]); return l })
		},
		"checkpoint: signature gone": func(p parts) parts {
			return lineOf(p, "checkpoint", func(l []string) []string { return slices.Delete(l, 4, 5) })
		},
		"checkpoint: cosignature": func(p parts) parts {
			return lineOf(p, "checkpoint", func(l []string) []string { l[5] = flipSignature(l[5]); return l })
		},
		"checkpoint: cosignature gone": func(p parts) parts {
			return lineOf(p, "checkpoint", func(l []string) []string { return l[:6] })
		},
		"checkpoint: cosignature of another witness": func(p parts) parts {
			return lineOf(p, "checkpoint", func(l []string) []string {
				_, one, _ := strings.Cut(l[5][len("— "):], " ")
				name, _, _ := strings.Cut(l[6][len("— "):], " ")
				l[6] = "— " + name + " " + one
				return l
			})
		},
		"checkpoint of another log": func(p parts) parts { p[1].Data = split(other).At("checkpoint").Data; return p },
		"checkpoint: the first one": func(p parts) parts { p[1].Data = p.At("checkpoint.first").Data; return p },
		"first checkpoint: size":    func(p parts) parts { return swap(p, "checkpoint.first", "\n5\n", "\n6\n") },
		"first checkpoint: of another log": func(p parts) parts {
			p.At("checkpoint.first").Data = split(other).At("checkpoint.first").Data
			return p
		},
		"first checkpoint: the last one": func(p parts) parts { p.At("checkpoint.first").Data = p[1].Data; return p },
		"consistency: a hash changed":    func(p parts) parts { return flipFirst(p, "consistency") },
		"consistency: a hash less": func(p parts) parts {
			m := p.At("consistency")
			m.Data = rehash(m.Data, func(b []byte) []byte { return b[32:] })
			return p
		},
		"consistency: a hash more": func(p parts) parts {
			m := p.At("consistency")
			m.Data = rehash(m.Data, func(b []byte) []byte { return append(b, make([]byte, 32)...) })
			return p
		},
		"consistency: empty":       func(p parts) parts { p.At("consistency").Data = []byte("\n"); return p },
		"consistency: no line end": func(p parts) parts { m := p.At("consistency"); m.Data = bytes.TrimSpace(m.Data); return p },
		"creation: who":            func(p parts) parts { return swap(p, "creation.json", "uid:0", "uid:1") },
		"creation: filter":         func(p parts) parts { return swap(p, "creation.json", "etl-bot", "bi-bot2") },
		"creation: fewer entries":  func(p parts) parts { return swap(p, "creation.json", `"entries":"9"`, `"entries":"8"`) },
		"creation: another entry": func(p parts) parts {
			p.At("creation.json").Data = bytes.TrimSuffix([]byte(strings.SplitAfter(string(p.At("entries.jsonl").Data), "\n")[0]), []byte("\n"))
			return p
		},
		"creation of another bundle": func(p parts) parts { p.At("creation.json").Data = split(other).At("creation.json").Data; return p },
		"proofs: a hash changed":     func(p parts) parts { return flipFirst(p, "proofs") },
		"proofs: lines swapped":      func(p parts) parts { return lineOf(p, "proofs", func(l []string) []string { return move(l, 0, 1) }) },
		"proofs: a line less":        func(p parts) parts { return lineOf(p, "proofs", func(l []string) []string { return l[:len(l)-1] }) },
		"proofs: a line more":        func(p parts) parts { return lineOf(p, "proofs", func(l []string) []string { return append(l, "\n") }) },
		"proofs: not base64": func(p parts) parts {
			return lineOf(p, "proofs", func(l []string) []string { l[0] = "=" + l[0]; return l })
		},
		"entries: a stage missing":      func(p parts) parts { return entries(p, func(l []string) []string { return slices.Delete(l, 1, 2) }) },
		"entries: the last one missing": func(p parts) parts { return entries(p, func(l []string) []string { return l[:len(l)-1] }) },
		"entries: all missing":          func(p parts) parts { return entries(p, func([]string) []string { return nil }) },
		"entries: one twice":            func(p parts) parts { return entries(p, func(l []string) []string { return slices.Insert(l, 1, l[0]) }) },
		"entries: two swapped":          func(p parts) parts { return entries(p, func(l []string) []string { return move(l, 0, 1) }) },
		"entries: one of the log put in": func(p parts) parts {
			return entries(p, func(l []string) []string { return slices.Insert(l, 0, string(other.Log.Entries[0])+"\n") })
		},
		"entries: of another log": func(p parts) parts {
			p.At("entries.jsonl").Data = split(other).At("entries.jsonl").Data
			return p.Resum()
		},
		"entries: an empty line": func(p parts) parts { return entries(p, func(l []string) []string { return append(l, "\n") }) },
		"entries: a long line": func(p parts) parts {
			return entries(p, func(l []string) []string { return append(l, strings.Repeat("x", 1<<17)+"\n") })
		},
		"entries: no last line end": func(p parts) parts {
			m := p.At("entries.jsonl")
			m.Data = bytes.TrimSuffix(m.Data, []byte("\n"))
			return p.Resum()
		},
		"entries: line ends of Windows": func(p parts) parts {
			return entries(p, func(l []string) []string {
				return strings.SplitAfter(strings.ReplaceAll(strings.Join(l, ""), "\n", "\r\n"), "\n")
			})
		},
		"sums: a hash changed":                func(p parts) parts { m := p.At("SHA256SUMS"); m.Data[0] ^= 1; return p },
		"sums: a line missing":                func(p parts) parts { return lineOf(p, "SHA256SUMS", func(l []string) []string { return l[1:] }) },
		"blob changed":                        func(p parts) parts { return swap(p, "blobs/", "'x'", "'y'") },
		"blob changed, sums too":              func(p parts) parts { return swap(p, "blobs/", "'x'", "'y'").Resum() },
		"blob missing":                        func(p parts) parts { return p.Without("blobs/") },
		"blob missing, sums too":              func(p parts) parts { return p.Without("blobs/").Resum() },
		"identity evidence changed":           func(p parts) parts { return swap(p, "identity/", "etl", "bob") },
		"identity evidence missing, sums too": func(p parts) parts { return p.Without("identity/").Resum() },
		"a row changed":                       func(p parts) parts { return swap(p, "rows/4f28", `"v":"1"`, `"v":"7"`) },
		"a row changed, sums too":             func(p parts) parts { return swap(p, "rows/", `"`, `'`).Resum() },
		"rows missing":                        func(p parts) parts { return p.Without("rows/4f28") },
		"an opening changed": func(p parts) parts {
			for i := range p {
				if strings.HasSuffix(p[i].Name, ".opening") {
					p[i].Data[0] = 'z'
					break
				}
			}
			return p
		},
		"a reason of absent rows changed": func(p parts) parts { return swap(p, "rows/absent.txt", "erased", "missing") },
		"report changed":                  func(p parts) parts { return swap(p, "rendered/report.html", "grace@example.com", "alice@example.com") },
		"report changed, sums too":        func(p parts) parts { return swap(p, "rendered/report.md", "grace", "alice").Resum() },
		"report missing":                  func(p parts) parts { return p.Without("rendered/report.html") },
		"OCSF event changed":              func(p parts) parts { return swap(p, "rendered/ocsf.jsonl", `"status":"Failure"`, `"status":"Success"`) },
		"a file more":                     func(p parts) parts { return p.With("notes.txt", "all is well") },
		"a file more, sums too":           func(p parts) parts { return p.With("notes.txt", "all is well").Resum() },
		"a blob more, sums too":           func(p parts) parts { return p.With("blobs/"+strings.Repeat("0", 64), "x").Resum() },
		"a member twice":                  func(p parts) parts { return append(p, *p.At("rows/absent.txt")) },
		"entries twice": func(p parts) parts {
			return slices.Insert(p, slices.IndexFunc(p, func(m bundletest.Part) bool { return m.Name == "entries.jsonl" }), *p.At("entries.jsonl"))
		},
		"contents in another order":      func(p parts) parts { return move(p, 7, 8) },
		"fixed members in another order": func(p parts) parts { return move(p, 1, 2) },
		"a fixed member missing":         func(p parts) parts { return p.Without("consistency") },
		"no contents":                    func(p parts) parts { return p[:7] },
		"nothing at all":                 func(parts) parts { return nil },
		"a large checkpoint":             func(p parts) parts { p[1].Data = append(p[1].Data, bytes.Repeat([]byte("x"), 1<<17)...); return p },
	}
	for name, f := range fields {
		table["entry: "+name] = func(p parts) parts { return swap(p, "entries.jsonl", f[0], f[1]) }
		table["entry, sums too: "+name] = func(p parts) parts { return swap(p, "entries.jsonl", f[0], f[1]).Resum() }
	}
	return table
}

func split(m *bundletest.Made) bundletest.Parts {
	p, err := bundletest.Split(m.File)
	if err != nil {
		panic(err) // it was made by us
	}
	return p
}

func entries(p bundletest.Parts, change func([]string) []string) bundletest.Parts {
	return lineOf(p, "entries.jsonl", change).Resum()
}

func rehash(line []byte, change func([]byte) []byte) []byte {
	raw, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(line)))
	if err != nil {
		panic(err) // a mistake in the table
	}
	return []byte(base64.StdEncoding.EncodeToString(change(raw)) + "\n")
}

func flipFirst(p bundletest.Parts, member string) bundletest.Parts {
	return lineOf(p, member, func(l []string) []string {
		l[0] = string(rehash([]byte(l[0]), func(b []byte) []byte { b[5] ^= 4; return b }))
		return l
	})
}

// flipSignature changes a bit of the signature in a line of a note, behind the key's hash.
func flipSignature(line string) string {
	at := strings.LastIndexByte(line, ' ') + 1
	return line[:at] + string(rehash([]byte(line[at:]), func(b []byte) []byte { b[20] ^= 1; return b }))
}

// byOwner are bundles that are wrong although the log's owner signed for them.
var byOwner = map[string]struct {
	change func(bundletest.Parts) bundletest.Parts
	detail func(map[string]string)
}{
	"a blob is missing":             {change: func(p bundletest.Parts) bundletest.Parts { return p.Without("blobs/") }},
	"a blob that was not asked for": {detail: func(d map[string]string) { delete(d, "statements") }},
	"a blob that no entry names":    {change: func(p bundletest.Parts) bundletest.Parts { return p.With("blobs/"+strings.Repeat("0", 64), "x") }},
	"evidence is missing":           {change: func(p bundletest.Parts) bundletest.Parts { return p.Without("identity/") }},
	"evidence is another":           {change: func(p bundletest.Parts) bundletest.Parts { return swap(p, "identity/", "etl", "bob") }},
	"rows are missing":              {change: func(p bundletest.Parts) bundletest.Parts { return p.Without("rows/4f28").Without("rows/4f28") }},
	"rows without an opening": {change: func(p bundletest.Parts) bundletest.Parts {
		p[slices.IndexFunc(p, func(m bundletest.Part) bool { return strings.HasSuffix(m.Name, ".opening") })].Name = "rows/" + strings.Repeat("5", 64) + ".opening"
		return p.With("notes", "").Without("notes")
	}},
	"rows are others":              {change: func(p bundletest.Parts) bundletest.Parts { return swap(p, "rows/4f28", `"`, `'`) }},
	"rows that were not asked for": {detail: func(d map[string]string) { delete(d, "rows") }},
	"rows are said to be absent twice": {change: func(p bundletest.Parts) bundletest.Parts {
		m := p.At("rows/absent.txt")
		m.Data = append(m.Data, m.Data...)
		return p
	}},
	"rows that are there are said to be absent": {change: func(p bundletest.Parts) bundletest.Parts {
		m := p.At("rows/absent.txt")
		m.Data = append([]byte(strings.TrimSuffix(strings.TrimPrefix(p.At("rows/4f28").Name, "rows/"), ".body")+" erased\n"), m.Data...)
		return p
	}},
	"rows are absent for no good reason": {change: func(p bundletest.Parts) bundletest.Parts { return swap(p, "rows/absent.txt", "erased", "lost it") }},
	"a file of another kind":             {change: func(p bundletest.Parts) bundletest.Parts { return p.With("rendered/notes.txt", "x") }},
	"fewer entries than there are":       {detail: func(d map[string]string) { d["entries"] = "8" }},
	"more entries than there are":        {detail: func(d map[string]string) { d["entries"] = "10" }},
	"a number in another spelling":       {detail: func(d map[string]string) { d["entries"] = "09" }},
	"another format":                     {detail: func(d map[string]string) { d["format"] = "trailgate-bundle/2" }},
	"no format":                          {detail: func(d map[string]string) { delete(d, "format") }},
	"a failed creation":                  {detail: func(d map[string]string) { d["failed"] = "yes" }},
	"a range that it is not":             {detail: func(d map[string]string) { d["range"] = "3-11" }},
	"a range of another length":          {detail: func(d map[string]string) { d["range"] = "3-19" }},
	"a range that ends before it begins": {detail: func(d map[string]string) { d["range"] = "9-3" }},
	"a range in another spelling":        {detail: func(d map[string]string) { d["range"] = "3-0011" }},
	"an endless range":                   {detail: func(d map[string]string) { d["range"] = "0-18446744073709551615" }},
	"no list of contents":                {detail: func(d map[string]string) { delete(d, "contents") }},
	"the list of other contents":         {detail: func(d map[string]string) { d["contents"] = strings.Repeat("0", 64) }},
	"the list in capitals":               {detail: func(d map[string]string) { d["contents"] = strings.ToUpper(d["contents"]) }},
}

func TestTampered(t *testing.T) {
	n := startNode(t)
	made := make1(t, 1, bundle.Request{Statements: true, Rows: true})
	other := make1(t, 9, bundle.Request{Statements: true, Rows: true})
	whole := split(made)
	if got := whole.Clone().Pack(); !bytes.Equal(got, made.File) {
		t.Fatal("what is taken apart and put together is another file")
	}
	if v := n.agree(t, made.File, made.Log.Key, made.Log.Policy); !v.Good {
		t.Fatalf("the good one is refused: %+v", v)
	}
	tampered := 0
	refused := func(t *testing.T, file []byte, key, policy string) {
		t.Helper()
		tampered++
		if bytes.Equal(file, made.File) && key == made.Log.Key && policy != other.Log.Policy {
			t.Fatal("nothing was changed")
		}
		if v := n.agree(t, file, key, policy); v.Good {
			t.Error("accepted")
		}
	}
	for name, change := range byAnybody(other) {
		t.Run(name, func(t *testing.T) {
			refused(t, change(whole.Clone()).Pack(), made.Log.Key, made.Log.Policy)
		})
	}
	for name, c := range byOwner {
		t.Run("owner: "+name, func(t *testing.T) {
			again := make1(t, 1, bundle.Request{Statements: true, Rows: true})
			parts := whole.Clone()
			if c.change != nil {
				parts = c.change(parts)
			}
			slices.SortStableFunc(parts[7:], func(a, b bundletest.Part) int { return strings.Compare(a.Name, b.Name) })
			parts, err := again.Log.Relog(parts, c.detail)
			if err != nil {
				t.Fatal(err)
			}
			refused(t, parts.Pack(), made.Log.Key, made.Log.Policy)
		})
	}
	t.Run("owner: nothing", func(t *testing.T) { // that it can be done at all
		again := make1(t, 1, bundle.Request{Statements: true, Rows: true})
		parts, err := again.Log.Relog(whole.Clone(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if v := n.agree(t, parts.Pack(), made.Log.Key, made.Log.Policy); !v.Good {
			t.Errorf("a new creation of the same is refused: %+v", v)
		}
	})
	t.Run("another key", func(t *testing.T) { refused(t, made.File, other.Log.Key, "") })
	t.Run("another log", func(t *testing.T) { refused(t, other.File, made.Log.Key, "") })
	t.Run("witnesses of another log", func(t *testing.T) { refused(t, made.File, made.Log.Key, other.Log.Policy) })
	for name, change := range files {
		t.Run("file: "+name, func(t *testing.T) { refused(t, change(bytes.Clone(made.File)), made.Log.Key, "") })
	}
	t.Logf("%d tampered bundles", tampered)
	if tampered < 30 {
		t.Error("too few")
	}
}

// files are changes of the file that no member shows.
var files = map[string]func([]byte) []byte{
	"empty":                    func([]byte) []byte { return nil },
	"cut":                      func(f []byte) []byte { return f[:len(f)/1024*512] },
	"no end":                   func(f []byte) []byte { return f[:len(f)-1024] },
	"half an end":              func(f []byte) []byte { return f[:len(f)-512] },
	"zeros behind it":          func(f []byte) []byte { return append(f, make([]byte, 512)...) },
	"a bundle behind it":       func(f []byte) []byte { return append(f, f...) },
	"a byte in the padding":    func(f []byte) []byte { f[512+1000] = 'x'; return f },
	"a byte in the end":        func(f []byte) []byte { f[len(f)-1] = 'x'; return f },
	"a time in a header":       func(f []byte) []byte { return header(f, 136, "15123456701") },
	"an owner in a header":     func(f []byte) []byte { return header(f, 108, "0000001") },
	"a mode in a header":       func(f []byte) []byte { return header(f, 100, "0000755") },
	"a type in a header":       func(f []byte) []byte { return header(f, 156, "2") },
	"a size in a header":       func(f []byte) []byte { return header(f, 124, "00000000001") },
	"a size in base 256":       func(f []byte) []byte { return header(f, 124, "\x80\x00\x00") },
	"a name in a header":       func(f []byte) []byte { return header(f, 0, "../etc/pass") },
	"a prefix in a header":     func(f []byte) []byte { return header(f, 345, "dir") },
	"a header without its sum": func(f []byte) []byte { f[148] = '7'; return f },
}

// header changes the first header, and its sum.
func header(f []byte, at int, text string) []byte {
	copy(f[at:], text)
	copy(f[148:], "        ")
	sum := 0
	for _, b := range f[:512] {
		sum += int(b)
	}
	copy(f[148:], fmt.Sprintf("%06o\x00 ", sum))
	return f
}
