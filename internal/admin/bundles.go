package admin

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bundle"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/recording"
)

const (
	// maxBundles is how many bundles are made at a time.
	maxBundles = 2
	// maxBundleFilter bounds the filter, which the entry of a bundle's creation names whole.
	maxBundleFilter = 4 << 10
	// bundleWait bounds the wait for the index to have all that is in the log, and for a
	// checkpoint.
	bundleWait = 30 * time.Second
)

// wantedBundle is the body of POST bundles.
type wantedBundle struct {
	Filter     string `json:"filter"`
	First      *int64 `json:"first"` // of a range
	Last       *int64 `json:"last"`
	Statements bool   `json:"statements"`
	Rows       bool   `json:"rows"`
	// FromCheckpoint is one that the auditor has kept. Optional.
	FromCheckpoint string `json:"from_checkpoint"`
}

// createBundle is POST bundles: an evidence bundle, as a file. That it is made, with the
// hash of all that is in it, is an entry before its first byte leaves; the entry is in it.
// A file that breaks off is no bundle, and no verifier takes it for one.
func (a *API) createBundle(w http.ResponseWriter, r *request) error {
	if a.cfg.Bundles == nil {
		return &Error{Code: http.StatusNotFound, Message: "no bundles are made here"}
	}
	var in wantedBundle
	if err := decode(w, r, &in, false); err != nil {
		return err
	}
	if !a.bundles.enter() {
		return busy()
	}
	defer a.bundles.leave()
	q, err := a.bundleRequest(r, &in)
	if err != nil {
		return err
	}
	var rows bundle.Rows
	if in.Rows {
		store, err := a.recordings()
		if err != nil {
			return err
		}
		rows = store
	}
	m, err := bundle.New(r.Context(), a.cfg.Bundles, rows, *q)
	if errors.Is(err, bundle.ErrTooMany) {
		return invalid(err.Error())
	}
	if err != nil {
		return err
	}
	e, err := a.recordEntry(r, trailgate.ActionBundle, "", m.Detail())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), bundleWait)
	defer cancel()
	if _, err := a.cfg.Bundles.Covering(ctx, e.Seq); err != nil {
		return err
	}
	w.Header().Set("Content-Disposition", `attachment; filename="bundle-`+e.ID+`.tar"`)
	w.Header().Set("Trailgate-Entry", e.ID)
	out := newStream(w, "application/x-tar")
	if err := m.Write(r.Context(), tarStream{out}, e.Seq); err != nil {
		if !out.begun {
			return err
		}
		if r.Context().Err() == nil {
			a.cfg.Log.ErrorContext(r.Context(), "a bundle ended early", "entry", e.ID, "err", err)
		}
	}
	return nil
}

// tarStream writes to a stream.
type tarStream struct{ s *stream }

func (t tarStream) Write(p []byte) (int, error) {
	if err := t.s.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// bundleRequest finds the entries that a bundle is to hold.
func (a *API) bundleRequest(r *request, in *wantedBundle) (*bundle.Request, error) {
	q := &bundle.Request{Filter: in.Filter, Statements: in.Statements, Rows: in.Rows, Absent: absentRows}
	var err error
	if q.First, err = a.cfg.Trail.Checkpoint(); err != nil {
		return nil, err
	}
	q.Origin = q.First.Origin
	if in.FromCheckpoint != "" {
		keys, err := a.logKeys()
		if err != nil {
			return nil, err
		}
		if q.First, err = keys.Open([]byte(in.FromCheckpoint)); err != nil {
			return nil, invalid("from_checkpoint: " + err.Error())
		}
	}
	size := a.cfg.Trail.Size()
	if q.First.Size > size {
		return nil, invalid("from_checkpoint: it is of " + strconv.FormatUint(q.First.Size, 10) + " entries, and the log has " + strconv.FormatUint(size, 10) + ": entries are missing; run verify")
	}
	if in.First == nil && in.Last == nil {
		if len(in.Filter) > maxBundleFilter {
			return nil, invalid("filter: longer than " + strconv.Itoa(maxBundleFilter) + " bytes")
		}
		q.Seqs, err = a.found(r.Context(), in.Filter, size)
		return q, err
	}
	switch {
	case in.First == nil || in.Last == nil || in.Filter != "":
		return nil, invalid("a range has a first and a last entry, and no filter")
	case *in.First < 0 || *in.First > *in.Last || uint64(*in.Last) >= size:
		return nil, invalid("the log has the entries 0 to " + strconv.FormatUint(size-min(size, 1), 10))
	case *in.Last-*in.First >= bundle.MaxEntries:
		return nil, invalid(bundle.ErrTooMany.Error())
	}
	q.Range = &[2]uint64{uint64(*in.First), uint64(*in.Last)}
	for seq := q.Range[0]; seq <= q.Range[1]; seq++ {
		q.Seqs = append(q.Seqs, seq)
	}
	return q, nil
}

func absentRows(err error) string {
	switch {
	case errors.Is(err, recording.ErrErased):
		return "erased"
	case errors.Is(err, recording.ErrNotFound):
		return "missing"
	case errors.Is(err, recording.ErrDamaged):
		return "damaged"
	}
	return ""
}

// found are the entries of all calls that a filter finds, with all of their stages, and with
// the calls that share an approval: what was held, the votes, and what went on for them.
func (a *API) found(ctx context.Context, filter string, size uint64) ([]uint64, error) {
	if size > 0 {
		wait, cancel := context.WithTimeout(ctx, bundleWait)
		defer cancel()
		if err := a.cfg.Index.Wait(wait, size-1); err != nil {
			return nil, err
		}
	}
	seqs := map[uint64]bool{}
	approvals := map[string]bool{}
	if err := a.gather(ctx, filter, size, seqs, approvals); err != nil {
		return nil, err
	}
	for id := range approvals {
		if err := a.gather(ctx, "approval = "+strconv.Quote(id), size, seqs, map[string]bool{}); err != nil {
			return nil, err
		}
	}
	out := make([]uint64, 0, len(seqs))
	for seq := range seqs {
		out = append(out, seq)
	}
	slices.Sort(out)
	return out, nil
}

// gather adds what a filter finds in the log of that size.
func (a *API) gather(ctx context.Context, filter string, size uint64, seqs map[uint64]bool, approvals map[string]bool) error {
	q := index.Query{Filter: filter, Ascending: true, PageSize: index.MaxPageSize}
	for {
		rows, next, err := a.cfg.Index.Search(ctx, q)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if row.Entry.Seq >= size {
				return nil // committed since: it is not what was asked for
			}
			stages, err := a.cfg.Index.StageSeqs(ctx, row.Entry.Seq)
			if err != nil {
				return err
			}
			for _, seq := range stages {
				if seq < size {
					seqs[seq] = true
				}
			}
			if d := row.Entry.Decision; d != nil && d.ApprovalID != "" {
				approvals[d.ApprovalID] = true
			}
		}
		if len(seqs) > bundle.MaxEntries {
			return invalid(bundle.ErrTooMany.Error())
		}
		if next == "" {
			return nil
		}
		q.PageToken = next
	}
}
