package witness_test

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/witness"
)

// TestForeignLines has somebody who holds a checkpoint of the log's, which anybody can
// get, send it with lines that the log did not write: they are under nobody's signature.
// The witness must be able to read its own memory afterwards.
func TestForeignLines(t *testing.T) {
	log := newLog(t, "log.example/hostile")
	tr := log.tree(t, 40, 40, "")
	for name, lines := range map[string]func(v *trailgate.CosignatureVerifier) string{
		"a bad one in the witness's own name": func(v *trailgate.CosignatureVerifier) string {
			raw := binary.BigEndian.AppendUint32(nil, v.KeyHash())
			return fmt.Sprintf("— %s %s\n", v.Name(), base64.StdEncoding.EncodeToString(append(raw, make([]byte, 72)...)))
		},
		"as many as a note may have": func(*trailgate.CosignatureVerifier) string {
			var b strings.Builder
			for i := range 99 {
				raw := append(binary.BigEndian.AppendUint32(nil, uint32(i)), make([]byte, 64)...)
				fmt.Fprintf(&b, "— other.example/%d %s\n", i, base64.StdEncoding.EncodeToString(raw))
			}
			return b.String()
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "witness.example/w1", log)
			v, err := trailgate.NewCosignatureVerifier(s.vkey)
			if err != nil {
				t.Fatal(err)
			}
			old := tr.checkpoint(t, 10)
			if status, _, answer := s.add(t, rawBody(0, nil, append(old.Raw, lines(v)...))); status != 200 || !s.cosigned(t, old, answer) {
				t.Fatalf("status %d: %s", status, answer)
			}
			s.stop()
			again := open(t, s.dir, s.vkey, witness.Options{}, log)
			next := tr.checkpoint(t, 20)
			if status, _, answer := again.add(t, tr.body(t, 10, 20)); status != 200 || !again.cosigned(t, next, answer) {
				t.Errorf("after a restart: status %d: %s", status, answer)
			}
		})
	}
}
