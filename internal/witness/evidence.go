package witness

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/trailgate/trailgate"
)

// maxEvidence bounds the files that are kept. Only who has a log's key can have one
// made; the first ones say what there is to say.
const maxEvidence = 1000

// Evidence is what a witness keeps of an attempt to have it contradict itself:
// two checkpoints that one log signed, and that no proof brings together.
type Evidence struct {
	Time    time.Time `json:"time"`
	Origin  string    `json:"origin"`
	Witness string    `json:"witness"` // verifier key
	Reason  string    `json:"reason"`
	// Cosigned is the checkpoint that the witness has cosigned, with both signatures;
	// empty where the offered one contradicts itself.
	Cosigned string `json:"cosigned,omitempty"`
	// Offered is the checkpoint that was to follow it, signed by the log.
	Offered string `json:"offered"`
	// Proof is the consistency proof that came along, and that fails.
	Proof []string `json:"proof"`
}

// evidence keeps an attempt. It never fails a call: the checkpoint is refused in
// any case, and the log of the process says what was not kept. The lock of l is held.
func (w *Witness) evidence(ctx context.Context, l *witnessed, cp *trailgate.Checkpoint, r *request, reason string) {
	e := Evidence{Time: w.now().UTC(), Origin: l.origin, Witness: w.Key(), Reason: reason, Offered: string(cp.Raw), Proof: []string{}}
	if l.last != nil {
		e.Cosigned = string(l.last.Raw)
	}
	for _, h := range r.proof {
		e.Proof = append(e.Proof, base64.StdEncoding.EncodeToString(h[:]))
	}
	w.log.LogAttrs(ctx, slog.LevelError, "a log contradicts what it had cosigned", slog.String("origin", l.origin), slog.String("reason", reason), slog.Uint64("offered_size", cp.Size))
	// One file for one pair of checkpoints, however often it is tried.
	sum := sha256.Sum256([]byte(e.Cosigned + "\x00" + e.Offered))
	path := w.path(evidenceDir, hex.EncodeToString(sum[:8])+".json")
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	files, err := os.ReadDir(w.path(evidenceDir))
	if err == nil && len(files) >= maxEvidence {
		err = errors.New("there are a thousand pieces of evidence already")
	}
	raw, jerr := json.MarshalIndent(e, "", "  ")
	if err = errors.Join(err, jerr); err == nil {
		err = w.fs.WriteFile(path, append(raw, '\n'), 0o600)
	}
	if err != nil {
		w.log.LogAttrs(ctx, slog.LevelError, "the evidence could not be kept", slog.String("origin", l.origin), slog.Any("err", err))
		return
	}
	w.log.LogAttrs(ctx, slog.LevelError, "evidence was kept", slog.String("file", path))
}
