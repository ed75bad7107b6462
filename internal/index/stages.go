package index

import (
	"context"
	"fmt"
	"slices"
)

// StageSeqs returns the places in the log of a row's entries, in order: the opening
// one, which is given, the closing one, and others that name it.
func (x *Index) StageSeqs(ctx context.Context, opening uint64) ([]uint64, error) {
	st, release, err := x.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	seqs, err := st.stageSeqs(ctx, opening)
	return seqs, x.spoiled(ctx, ctx, st, err)
}

// maxStages bounds the entries of one call: votes and settlements are few.
const maxStages = 1000

func (s *store) stageSeqs(ctx context.Context, seq uint64) ([]uint64, error) {
	seqs := []uint64{seq}
	closing, found, err := s.callAt(ctx, seq)
	if err != nil || !found {
		return seqs, err
	}
	if closing != 0 {
		seqs = append(seqs, closing)
	}
	db, err := s.partAt(seq).reader()
	if err != nil {
		return nil, err
	}
	rows, err := db.QueryContext(ctx, `SELECT seq FROM stage WHERE opening = ? ORDER BY seq LIMIT ?`, seq, maxStages)
	if err != nil {
		return nil, fmt.Errorf("look up stages: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var n uint64
		if err := rows.Scan(&n); err != nil {
			return nil, fmt.Errorf("look up stages: %w", err)
		}
		seqs = append(seqs, n)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look up stages: %w", err)
	}
	slices.Sort(seqs)
	return slices.Compact(seqs), nil
}
