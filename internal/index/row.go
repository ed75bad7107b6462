package index

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/trailgate/trailgate"
)

// Row is what a search finds: a call with its outcome, or an entry that stands
// alone. The entries come from the log, not from the index.
type Row struct {
	Entry   *trailgate.Entry // that opened the call, or stands alone
	Closing *trailgate.Entry // outcome or settled; nil where there is none yet
	State   string           // StateOpen, …
}

// timeLayout is the entry's own (trailgate.Entry's encoding).
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// Fold is the row as one entry: the opening entry, with the closing entry's
// job, tables, statement type, upstream identity and outcome where it has them,
// and the flags of both.
func (r Row) Fold() *trailgate.Entry {
	return trailgate.Fold(r.Entry, r.Closing)
}

// MarshalJSON gives the folded entry, with the members of its canonical
// encoding in their order, and after them "state" and, where the call was
// closed, "closing_seq", "closing_id" and "closing_time".
func (r Row) MarshalJSON() ([]byte, error) {
	type body trailgate.Entry // without its methods
	e := r.Fold()
	out := struct {
		V    int    `json:"v"`
		Seq  uint64 `json:"seq"`
		Time string `json:"time"`
		body
		State       string  `json:"state"`
		ClosingSeq  *uint64 `json:"closing_seq,omitempty"`
		ClosingID   string  `json:"closing_id,omitempty"`
		ClosingTime string  `json:"closing_time,omitempty"`
	}{V: trailgate.Version, Seq: e.Seq, Time: e.Time.UTC().Format(timeLayout), body: body(*e), State: r.State}
	if c := r.Closing; c != nil {
		out.ClosingSeq, out.ClosingID, out.ClosingTime = &c.Seq, c.ID, c.Time.UTC().Format(timeLayout)
	}
	if e.Aggregate != nil {
		a := *e.Aggregate
		a.Since = a.Since.UTC()
		out.Aggregate = &a
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(out); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// UnmarshalJSON reads what MarshalJSON wrote. The folded entry becomes Entry;
// of Closing, only Seq, ID, Time and Outcome are known. It is for clients of
// the admin API, which show rows.
func (r *Row) UnmarshalJSON(raw []byte) error {
	type body trailgate.Entry
	var in struct {
		V    int       `json:"v"`
		Seq  uint64    `json:"seq"`
		Time time.Time `json:"time"`
		body
		State       string    `json:"state"`
		ClosingSeq  *uint64   `json:"closing_seq"`
		ClosingID   string    `json:"closing_id"`
		ClosingTime time.Time `json:"closing_time"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return err
	}
	e := trailgate.Entry(in.body)
	e.Seq, e.Time = in.Seq, in.Time
	*r = Row{Entry: &e, State: in.State}
	if in.ClosingSeq != nil {
		r.Closing = &trailgate.Entry{Seq: *in.ClosingSeq, Time: in.ClosingTime, ID: in.ClosingID, Kind: trailgate.KindOutcome, Outcome: e.Outcome}
		if in.State == StateSettled {
			r.Closing.Kind = trailgate.KindSettled
		}
	}
	return nil
}

// rowState is the state of a row by its entries; started is the sequence
// after the gateway's last start.
func rowState(opening, closing *trailgate.Entry, started uint64) string {
	s := openingState(opening.Kind)
	if closing != nil {
		s = closingState(opening.Kind == trailgate.KindHeld, closing)
	}
	return s.name(opening.Seq, started)
}

// newRow joins entries and states what the row's state is.
func newRow(opening, closing *trailgate.Entry, started uint64) Row {
	return Row{Entry: opening, Closing: closing, State: rowState(opening, closing, started)}
}
