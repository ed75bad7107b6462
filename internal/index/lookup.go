package index

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/trailgate/trailgate"
)

const (
	// minIDPrefix is how much of an id has to be given.
	minIDPrefix = 6
	// maxIDMatches is how many entries are looked at for a prefix.
	maxIDMatches = 256
)

// Lookup returns every stage of a call, or an entry that stands alone, in the
// log's order, by the id of any of its entries or a prefix of one that no other
// call's entry has. Errors are [ErrNotFound] and [ErrAmbiguous].
func (x *Index) Lookup(ctx context.Context, id string) ([]*trailgate.Entry, error) {
	st, release, err := x.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	id = strings.ToLower(strings.TrimSpace(id))
	if len(id) < minIDPrefix {
		return nil, ErrNotFound
	}
	entries, err := st.lookup(ctx, id)
	return entries, x.spoiled(ctx, ctx, st, err)
}

func (s *store) lookup(ctx context.Context, id string) ([]*trailgate.Entry, error) {
	seqs, err := s.openings(ctx, id, false)
	if err == nil && len(seqs) == 0 {
		seqs, err = s.openings(ctx, id, true)
	}
	switch {
	case err != nil:
		return nil, err
	case len(seqs) == 0:
		return nil, ErrNotFound
	case len(seqs) > 1:
		return nil, ErrAmbiguous
	}
	return s.stages(ctx, seqs[0])
}

// openings are the places of the rows to which entries with this id, or this
// prefix of it, belong. More than maxIDMatches entries are ErrAmbiguous.
func (s *store) openings(ctx context.Context, id string, prefix bool) ([]uint64, error) {
	ranges := [][2][]byte{{nameKey(id), nameKey(id)}}
	if prefix {
		ranges = nameRanges(id)
	}
	var found []uint64
	for _, p := range s.newestFirst() {
		db, err := p.reader()
		if err != nil {
			return nil, err
		}
		for _, r := range ranges {
			found, err = appendSeqs(ctx, db, found, r)
			if err != nil {
				return nil, err
			}
			if len(found) > maxIDMatches {
				return nil, ErrAmbiguous
			}
		}
	}
	var openings []uint64
	for _, seq := range found {
		o, err := s.openingOf(ctx, seq)
		if err != nil {
			return nil, err
		}
		openings = append(openings, o)
	}
	slices.Sort(openings)
	return slices.Compact(openings), nil
}

func appendSeqs(ctx context.Context, db *sql.DB, list []uint64, r [2][]byte) ([]uint64, error) {
	rows, err := db.QueryContext(ctx, `SELECT seq FROM name WHERE id BETWEEN ? AND ? LIMIT ?`, r[0], r[1], maxIDMatches+1)
	if err != nil {
		return nil, fmt.Errorf("look up id: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var seq uint64
		if err := rows.Scan(&seq); err != nil {
			return nil, fmt.Errorf("look up id: %w", err)
		}
		list = append(list, seq)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look up id: %w", err)
	}
	return list, nil
}

// openingOf is where the row stands that an entry belongs to.
func (s *store) openingOf(ctx context.Context, seq uint64) (uint64, error) {
	if _, has, err := s.callAt(ctx, seq); err != nil || has {
		return seq, err
	}
	e, err := s.entry(ctx, seq)
	if err != nil {
		return 0, err
	}
	for _, p := range s.newestFirst() {
		db, err := p.reader()
		if err != nil {
			return 0, err
		}
		var opening uint64
		err = db.QueryRowContext(ctx, `SELECT seq FROM name WHERE id = ?`, nameKey(e.IntentID)).Scan(&opening)
		if err == nil {
			return opening, nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return 0, fmt.Errorf("look up id: %w", err)
		}
	}
	return 0, fmt.Errorf("%w: entry %d belongs to no row", ErrDamaged, seq)
}

// partAt is the file that covers an entry, or nil.
func (s *store) partAt(seq uint64) *part {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if i := seq / s.entries; i < uint64(len(s.parts)) {
		return s.parts[i]
	}
	return nil
}

// callAt returns the closing entry's place (0: none) of the row at seq.
func (s *store) callAt(ctx context.Context, seq uint64) (closing uint64, found bool, err error) {
	p := s.partAt(seq)
	if p == nil {
		return 0, false, nil
	}
	db, err := p.reader()
	if err != nil {
		return 0, false, err
	}
	err = db.QueryRowContext(ctx, `SELECT closing FROM call WHERE seq = ?`, seq).Scan(&closing)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("look up row: %w", err)
	}
	return closing, true, nil
}

// stages returns all entries of the row at seq.
func (s *store) stages(ctx context.Context, seq uint64) ([]*trailgate.Entry, error) {
	seqs, err := s.stageSeqs(ctx, seq)
	if err != nil {
		return nil, err
	}
	var list []*trailgate.Entry
	for _, n := range seqs {
		e, err := s.entry(ctx, n)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// resolveIDs looks up what the filter's id tests name.
func (x *Index) resolveIDs(ctx context.Context, st *store, n *node) error {
	if n.test != nil && n.test.field.kind == kindID {
		seqs, err := st.openings(ctx, n.test.pat.text, n.test.pat.glob)
		if errors.Is(err, ErrAmbiguous) {
			return &FilterError{Column: n.test.column, Message: fmt.Sprintf("more than %d entries begin with this id; give more of it", maxIDMatches)}
		}
		n.test.seqs = seqs
		return err
	}
	for _, k := range n.kids {
		if err := x.resolveIDs(ctx, st, k); err != nil {
			return err
		}
	}
	return nil
}

// JobOwner returns the opening entry of the call that made a job, or nil: the oldest
// call that was to make a job of this name and is not known to have failed to. A
// script's child jobs are its maker's.
func (x *Index) JobOwner(ctx context.Context, project, job string) (*trailgate.Entry, error) {
	st, release, err := x.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	e, err := st.jobOwner(ctx, clip(project), clip(job))
	if err != nil || e == nil {
		return nil, x.spoiled(ctx, ctx, st, err)
	}
	return e, nil
}

func (s *store) jobOwner(ctx context.Context, project, job string) (*trailgate.Entry, error) {
	for _, p := range s.oldestFirst() {
		db, err := p.reader()
		if err != nil {
			return nil, err
		}
		var id int64
		err = db.QueryRowContext(ctx, `SELECT id FROM job WHERE name = ? AND project = ?`, job, project).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		var seq uint64
		if err == nil {
			err = db.QueryRowContext(ctx, `SELECT c.seq FROM words w CROSS JOIN call c ON c.seq = w.rowid
WHERE w.words MATCH ? AND c.makes ORDER BY w.rowid LIMIT 1`, quoteTerm(makesJobs)+" AND "+quoteTerm(term(termJob, id))).Scan(&seq)
		}
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up job: %w", err)
		}
		return s.entry(ctx, seq)
	}
	return nil, nil
}

// Unfinished returns intents without outcome or settled entry, oldest first,
// that stand before a place in the log; at most limit.
func (x *Index) Unfinished(ctx context.Context, before uint64, limit int) ([]*trailgate.Entry, error) {
	st, release, err := x.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	list, err := st.unfinished(ctx, before, limit)
	return list, x.spoiled(ctx, ctx, st, err)
}

func (s *store) unfinished(ctx context.Context, before uint64, limit int) ([]*trailgate.Entry, error) {
	if before == 0 || limit <= 0 {
		return nil, nil
	}
	c := rangeClause(0, min(before, 1<<62)-1)
	c.pending = true
	var hits []hit
	for _, p := range s.oldestFirst() {
		if p.lo >= before || len(hits) >= limit {
			break
		}
		db, err := p.reader()
		if err != nil {
			return nil, err
		}
		if hits, err = scanHits(ctx, db, c, true, limit, hits); err != nil {
			return nil, err
		}
	}
	list := make([]*trailgate.Entry, 0, len(hits))
	for _, h := range hits {
		e, err := s.entry(ctx, h.seq)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}
