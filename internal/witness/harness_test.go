package witness_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/witness"
)

// fakeLog is a log of made-up entries, which can show different trees to different people.
type fakeLog struct {
	signer   note.Signer
	verifier note.Verifier
}

func newLog(t testing.TB, origin string) *fakeLog {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return &fakeLog{s, v}
}

// tree is one history of a log: the first common entries are those of every
// history, the rest only of this one.
type tree struct {
	log    *fakeLog
	hashes []tlog.Hash
}

func (l *fakeLog) tree(t testing.TB, size, common int, name string) *tree {
	t.Helper()
	tr := &tree{log: l}
	for i := range size {
		leaf := fmt.Sprintf("entry %d", i)
		if i >= common {
			leaf += " of " + name
		}
		h, err := tlog.StoredHashes(int64(i), []byte(leaf), tr)
		if err != nil {
			t.Fatal(err)
		}
		tr.hashes = append(tr.hashes, h...)
	}
	return tr
}

// ReadHashes makes a tree a [tlog.HashReader].
func (tr *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = tr.hashes[x]
	}
	return out, nil
}

func (tr *tree) checkpoint(t testing.TB, size int) *trailgate.Checkpoint {
	t.Helper()
	root, err := tlog.TreeHash(int64(size), tr)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", tr.log.signer.Name(), size, root)}, tr.log.signer)
	if err != nil {
		t.Fatal(err)
	}
	cp, err := trailgate.OpenCheckpoint(raw, tr.log.verifier)
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

func (tr *tree) prove(t testing.TB, from, to int) tlog.TreeProof {
	t.Helper()
	if from == 0 || from >= to {
		return nil
	}
	p, err := tlog.ProveTree(int64(to), int64(from), tr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// body is an add-checkpoint request from size old to size.
func (tr *tree) body(t testing.TB, old, size int) string {
	t.Helper()
	return rawBody(old, tr.prove(t, old, size), tr.checkpoint(t, size).Raw)
}

func rawBody(old int, proof tlog.TreeProof, cp []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "old %d\n", old)
	for _, h := range proof {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	return b.String() + "\n" + string(cp)
}

// server is a witness that can be reached.
type server struct {
	*witness.Witness
	dir, vkey string
	http      *httptest.Server
}

func start(t testing.TB, name string, logs ...*fakeLog) *server {
	t.Helper()
	dir := t.TempDir()
	vkey, err := witness.Init(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return open(t, dir, vkey, witness.Options{}, logs...)
}

func open(t testing.TB, dir, vkey string, o witness.Options, logs ...*fakeLog) *server {
	t.Helper()
	o.Dir = dir
	for _, l := range logs {
		o.Logs = append(o.Logs, l.verifier)
	}
	w, err := witness.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Witness: w, dir: dir, vkey: vkey, http: httptest.NewServer(w.Handler("", witness.Limits{PerSecond: 1e6, Burst: 1e6}))}
	t.Cleanup(s.stop)
	return s
}

// stop ends the witness; it may be called twice.
func (s *server) stop() {
	s.http.Close()
	_ = s.Close()
}

// add posts a request and returns what came back.
func (s *server) add(t testing.TB, body string) (status int, kind, answer string) {
	t.Helper()
	resp, err := http.Post(s.http.URL+"/add-checkpoint", "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(raw)
}

// cosigned reports whether an answer is this witness's cosignature on a checkpoint.
func (s *server) cosigned(t testing.TB, cp *trailgate.Checkpoint, answer string) bool {
	t.Helper()
	v, err := trailgate.NewCosignatureVerifier(s.vkey)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(append(bytes.Clone(cp.Raw), answer...), note.VerifierList(v))
	return err == nil && len(n.Sigs) == 1
}

// recorder asks a handler from some address and returns the status.
func recorder(h http.Handler, path, from string) int {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.RemoteAddr = from
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec.Code
}
