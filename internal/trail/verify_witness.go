package trail

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/trailgate/trailgate"
)

// readCosignatures notes whose cosignatures are on the checkpoint that was just read.
func (v *verifier) readCosignatures(raw []byte, place string) error {
	c, err := v.chain.OpenCosigned(raw, v.o.Witnesses)
	v.noQuorum = nil
	switch {
	case errors.Is(err, trailgate.ErrNoQuorum):
		v.noQuorum = &Bad{Seq: c.Size, Place: place, Reason: err.Error()}
	case err != nil:
		return &Bad{Place: place, Reason: err.Error()}
	}
	v.report.Cosignatures = c.Cosignatures
	return nil
}

// splitNotes takes a file of checkpoints apart: signed notes one after the other, with
// or without empty lines between. A note that was cut off and marked as torn is left
// out, and so is one that the end of the file cuts off.
func splitNotes(raw []byte) [][]byte {
	var notes [][]byte
	sign := []byte("\u2014 ")
	for {
		raw = bytes.TrimLeft(raw, "\n")
		body := bytes.Index(raw, []byte("\n\n"))
		if body < 0 {
			if len(notes) == 0 && len(raw) > 0 {
				notes = append(notes, raw) // whatever it is, it is no checkpoint
			}
			return notes
		}
		end := body + 2
		for bytes.HasPrefix(raw[end:], sign) {
			line := bytes.IndexByte(raw[end:], '\n')
			if line < 0 {
				return notes // cut off by the end of the file
			}
			end += line + 1
		}
		isTorn := bytes.HasSuffix(raw[:body], []byte("\n# torn")) || bytes.HasPrefix(raw, []byte("# torn\n"))
		if rest, ok := bytes.CutPrefix(raw[end:], []byte("# torn\n")); ok { // cut off within a signature
			raw = rest
			continue
		}
		if !isTorn {
			if end == body+2 && len(raw) == end && len(notes) > 0 {
				return notes // cut off before its first signature
			}
			notes = append(notes, raw[:end])
		}
		raw = raw[end:]
		if len(raw) == 0 {
			return notes
		}
	}
}

// witnessed notes, at the end, that too few witnesses cosigned the log's checkpoint. It
// says nothing against the entries.
func (v *verifier) witnessed() {
	if v.noQuorum != nil {
		v.aside(&Bad{Seq: v.noQuorum.Seq, Place: v.noQuorum.Place, Reason: fmt.Sprintf("the witness policy is not met: %s", v.noQuorum.Reason)})
	}
}
