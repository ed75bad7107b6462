package pages_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

// signedLog is a log in memory, as the API would prove and serve it.
type signedLog struct {
	entries [][]byte
	hashes  []tlog.Hash
	signer  note.Signer
	vkey    string
}

func newLog(t *testing.T, n int) *signedLog {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, "trailgate/test")
	if err != nil {
		t.Fatal(err)
	}
	l := &signedLog{vkey: vkey}
	if l.signer, err = note.NewSigner(skey); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		e := &trailgate.Entry{Seq: uint64(i), Time: time.Date(2026, 11, 23, 0, 0, i, 0, time.UTC), ID: fmt.Sprintf("id%d", i), Kind: trailgate.KindGateway, Gateway: trailgate.Gateway{ID: "g", Version: "1"}, Event: &trailgate.Event{Action: "é “x”"}}
		raw, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		l.add(t, raw)
	}
	return l
}

func (l *signedLog) add(t *testing.T, raw []byte) {
	t.Helper()
	stored, err := tlog.StoredHashes(int64(len(l.entries)), raw, l)
	if err != nil {
		t.Fatal(err)
	}
	l.entries, l.hashes = append(l.entries, raw), append(l.hashes, stored...)
}

// ReadHashes implements tlog.HashReader.
func (l *signedLog) ReadHashes(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for i, x := range at {
		out[i] = l.hashes[x]
	}
	return out, nil
}

func (l *signedLog) checkpoint(t *testing.T) string {
	t.Helper()
	root, err := tlog.TreeHash(int64(len(l.entries)), l)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("trailgate/test\n%d\n%s\n", len(l.entries), base64.StdEncoding.EncodeToString(root[:]))}, l.signer)
	if err != nil {
		t.Fatal(err)
	}
	return string(signed)
}

func (l *signedLog) prove(t *testing.T, i int) *trailgate.Proof {
	t.Helper()
	path, err := tlog.ProveRecord(int64(len(l.entries)), int64(i), l)
	if err != nil {
		t.Fatal(err)
	}
	p := &trailgate.Proof{Entry: l.entries[i], Index: uint64(i), Checkpoint: l.checkpoint(t)}
	for _, h := range path {
		p.Hashes = append(p.Hashes, h[:])
	}
	return p
}

// proofCase is a proof that a browser looks at, and what it must say.
type proofCase struct {
	Name  string           `json:"name"`
	Proof *trailgate.Proof `json:"proof"`
	Shown string           `json:"shown"`
	Key   string           `json:"key"`
	Good  bool             `json:"good"`
}

// TestProofScript: the badge's script says of real proofs that they hold, for logs of
// many sizes, and of every proof that was tampered with that it does not.
func TestProofScript(t *testing.T) {
	needNode(t)
	var cases []proofCase
	add := func(name string, p *trailgate.Proof, shown []byte, key string, good bool) {
		cases = append(cases, proofCase{name, p, base64.StdEncoding.EncodeToString(shown), key, good})
	}
	for _, n := range []int{1, 2, 3, 7, 8, 9, 255, 256, 257, 300} {
		l := newLog(t, n)
		for _, i := range []int{0, n / 2, n - 1} {
			p := l.prove(t, i)
			add(fmt.Sprintf("good %d of %d", i, n), p, p.Entry, l.vkey, true)
		}
	}
	l, other := newLog(t, 21), newLog(t, 21)
	good := func() *trailgate.Proof { return l.prove(t, 10) }
	tampered := func(name string, harm func(p *trailgate.Proof)) {
		p := good()
		harm(p)
		add(name, p, p.Entry, l.vkey, false)
	}
	add("another entry is shown", good(), l.entries[11], l.vkey, false)
	add("a foreign key", good(), good().Entry, other.vkey, false)
	add("another log's proof", other.prove(t, 10), other.entries[10], l.vkey, false)
	tampered("the entry is changed", func(p *trailgate.Proof) { p.Entry = []byte(strings.Replace(string(p.Entry), "id10", "id99", 1)) })
	tampered("the entry's place", func(p *trailgate.Proof) { p.Index = 9 })
	tampered("beyond the end", func(p *trailgate.Proof) { p.Index = 40 })
	tampered("a hash", func(p *trailgate.Proof) { p.Hashes[1] = append([]byte{p.Hashes[1][0] ^ 1}, p.Hashes[1][1:]...) })
	tampered("a hash less", func(p *trailgate.Proof) { p.Hashes = p.Hashes[:len(p.Hashes)-1] })
	tampered("a hash more", func(p *trailgate.Proof) { p.Hashes = append(p.Hashes, p.Hashes[0]) })
	tampered("a short hash", func(p *trailgate.Proof) { p.Hashes[0] = p.Hashes[0][:31] })
	tampered("two hashes in another order", func(p *trailgate.Proof) { p.Hashes[0], p.Hashes[1] = p.Hashes[1], p.Hashes[0] })
	tampered("the size in the checkpoint", func(p *trailgate.Proof) { p.Checkpoint = strings.Replace(p.Checkpoint, "\n21\n", "\n22\n", 1) })
	tampered("the origin", func(p *trailgate.Proof) {
		p.Checkpoint = strings.Replace(p.Checkpoint, "trailgate/test\n", "trailgate/tesT\n", 1)
	})
	tampered("no signature", func(p *trailgate.Proof) { p.Checkpoint = p.Checkpoint[:strings.Index(p.Checkpoint, "\n\n")+2] })
	tampered("another's signature", func(p *trailgate.Proof) { p.Checkpoint = other.checkpoint(t) })
	tampered("no checkpoint", func(p *trailgate.Proof) { p.Checkpoint = "" })
	add("a key that does not fit its hash", good(), good().Entry, strings.Replace(l.vkey, "+", "+0", 1), false)
	add("a key that is none", good(), good().Entry, "trailgate/test+00000000+AAAA", false)
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := note.NewEd25519VerifierKey("trailgate/test", pub)
	if err != nil {
		t.Fatal(err)
	}
	add("the same name, another key", good(), good().Entry, ours, false)

	run(t, `
const p = require(process.argv[2] + '/proof.js');
const cases = JSON.parse(require('fs').readFileSync(0, 'utf8'));
(async () => {
  for (const c of cases) {
    let why = '';
    try { await p.checkStage(c.proof, p.fromBase64(c.shown), await p.openKey(c.key)); } catch (e) { why = e.message || 'no reason'; }
    if ((why === '') !== c.good) console.log(c.name + ': ' + (why || 'taken for good'));
    if (why !== '' && !/[a-z]{3}/.test(why)) console.log(c.name + ' says ' + why);
  }
  // What a browser remembers of a log.
  const store = new Map(), local = { getItem: (k) => store.get(k) ?? null, setItem: (k, v) => store.set(k, v) };
  const key = { name: 'l', fingerprint: 'aa' }, head = (size, byte) => ({ size: BigInt(size), root: Uint8Array.of(byte) });
  const expect = (name, got, want) => { if (Boolean(got) !== want) console.log('remembered, ' + name + ': ' + JSON.stringify(got)); };
  expect('the first time', p.remembered(local, key, head(5, 1)), false);
  expect('the same', p.remembered(local, key, head(5, 1)), false);
  expect('another root', p.remembered(local, key, head(5, 2)), true);
  expect('shorter', p.remembered(local, key, head(4, 1)), true);
  expect('longer', p.remembered(local, key, head(6, 3)), false);
  expect('another key', p.remembered(local, { name: 'l', fingerprint: 'bb' }, head(7, 1)), true);
  expect('another log', p.remembered(local, { name: 'm', fingerprint: 'bb' }, head(1, 1)), false);
  console.log(cases.length + ' cases');
})();`, cases, fmt.Sprintf("%d cases\n", len(cases)))
}

// TestLogScript: "verify now" takes a good log for good, whatever its length, and finds
// what was done to another.
func TestLogScript(t *testing.T) {
	needNode(t)
	type logCase struct {
		Name  string            `json:"name"`
		Files map[string]string `json:"files"`
		Key   string            `json:"key"`
		Good  bool              `json:"good"`
	}
	files := func(l *signedLog) map[string]string {
		out := map[string]string{"checkpoint": base64.StdEncoding.EncodeToString([]byte(l.checkpoint(t)))}
		for i := 0; i*256 < len(l.entries); i++ {
			var bundle []byte
			for _, e := range l.entries[i*256 : min(len(l.entries), i*256+256)] {
				bundle = append(append(bundle, byte(len(e)>>8), byte(len(e))), e...)
			}
			path := fmt.Sprintf("tile/entries/%03d", i%1000)
			if i >= 1000 {
				path = fmt.Sprintf("tile/entries/x%03d/%03d", i/1000, i%1000)
			}
			if left := len(l.entries) - i*256; left < 256 {
				path += fmt.Sprintf(".p/%d", left)
			}
			out[path] = base64.StdEncoding.EncodeToString(bundle)
		}
		return out
	}
	var cases []logCase
	for _, n := range []int{1, 2, 255, 256, 257, 1000} {
		l := newLog(t, n)
		cases = append(cases, logCase{fmt.Sprint("good ", n), files(l), l.vkey, true})
	}
	l := newLog(t, 300)
	harm := func(name, path string, change func([]byte) []byte) {
		f := files(l)
		raw, err := base64.StdEncoding.DecodeString(f[path])
		if err != nil {
			t.Fatal(err)
		}
		f[path] = base64.StdEncoding.EncodeToString(change(raw))
		cases = append(cases, logCase{name, f, l.vkey, false})
	}
	harm("a byte", "tile/entries/000", func(b []byte) []byte { b[500] ^= 1; return b })
	harm("an entry less", "tile/entries/001.p/44", func(b []byte) []byte { return b[:len(b)-len(l.entries[299])-2] })
	harm("an entry more", "tile/entries/001.p/44", func(b []byte) []byte { return append(b, b[:len(l.entries[256])+2]...) })
	harm("a bundle that breaks off", "tile/entries/001.p/44", func(b []byte) []byte { return b[:len(b)-1] })
	harm("the checkpoint", "checkpoint", func(b []byte) []byte { return []byte(strings.Replace(string(b), "\n300\n", "\n299\n", 1)) })
	swapped := newLog(t, 300)
	cases = append(cases, logCase{"another log", files(swapped), l.vkey, false})

	run(t, `
Object.assign(globalThis, require(process.argv[2] + '/proof.js'));
`+helpers(t)+`
const v = require(process.argv[2] + '/log.js');
const cases = JSON.parse(require('fs').readFileSync(0, 'utf8'));
(async () => {
  for (const c of cases) {
    let why = '', seen = 0;
    const get = async (path) => { if (!(path in c.files)) throw new Error(path + ' is not there'); return Uint8Array.from(Buffer.from(c.files[path], 'base64')); };
    try { await v.verifyLog(get, c.key, (d) => { seen = d; }); } catch (e) { why = e.message; }
    if ((why === '') !== c.good) console.log(c.name + ': ' + (why || 'taken for good'));
    if (c.good && seen !== 1) console.log(c.name + ': progress ends at ' + seen);
  }
  console.log(cases.length + ' cases');
})();`, cases, fmt.Sprintf("%d cases\n", len(cases)))
}

// helpers are what proof.js shares with log.js on a page, where both are scripts of one
// document.
func helpers(t *testing.T) string {
	t.Helper()
	return `
globalThis.sha256 = async (...parts) => new Uint8Array(await crypto.subtle.digest('SHA-256', Buffer.concat(parts)));
globalThis.nodeHash = (l, r) => sha256(Uint8Array.of(1), l, r);
globalThis.same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);`
}

// run runs a script with node and compares what it says.
func run(t *testing.T, script string, input any, want string) {
	t.Helper()
	raw, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	assets, err := filepath.Abs("assets")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "test.js")
	if err := os.WriteFile(file, []byte("if (!globalThis.crypto) globalThis.crypto = require('node:crypto').webcrypto;\n"+script), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", file, assets)
	cmd.Stdin = strings.NewReader(string(raw))
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != want {
		t.Errorf("%v\n%s", err, out)
	}
}
