package index

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/trailgate/trailgate"
)

// Page sizes.
const (
	DefaultPageSize = 50
	// MaxPageSize bounds one answer; larger sizes asked for become this. There
	// is no bound on the number of pages.
	MaxPageSize = 1000
)

// Query says what to find.
type Query struct {
	// Filter is in the language of docs/spec/filter.md; "" finds everything.
	Filter string
	// Ascending finds the oldest first, instead of the newest.
	Ascending bool
	// From leaves out rows whose opening entry stands before it in the log.
	From uint64
	// PageSize is how many rows at most. Optional; default [DefaultPageSize].
	PageSize int
	// PageToken is what the page before returned. Filter, Ascending and From
	// are to be the same.
	PageToken string
}

// Search returns one page of rows, and the token of the next page, "" where
// this is the last. Rows added meanwhile do not disturb paging: newest first,
// they are not in later pages; oldest first, they come at the end.
//
// A bad filter or token is a *FilterError. A search that takes too long returns
// what it found so far, with a token, or [ErrTooSlow] where it found nothing.
func (x *Index) Search(ctx context.Context, q Query) (rows []Row, next string, err error) {
	pos, err := x.position(q)
	if err != nil {
		return nil, "", err
	}
	n, err := parseFilter(q.Filter, pos.now)
	if err != nil {
		return nil, "", err
	}
	size := q.PageSize
	if size <= 0 {
		size = DefaultPageSize
	}
	size = min(size, MaxPageSize)

	st, release, err := x.acquire()
	if err != nil {
		return nil, "", err
	}
	defer release()
	limited, cancel := context.WithTimeout(ctx, x.opt.SearchBudget)
	defer cancel()
	if err := x.resolveIDs(limited, st, n); err != nil {
		return nil, "", x.spoiled(limited, ctx, st, err)
	}
	hits, err := st.search(limited, n, pos, q.Ascending, size+1)
	if err != nil && (len(hits) == 0 || ctx.Err() != nil || !interrupted(err)) {
		return nil, "", x.spoiled(limited, ctx, st, err)
	}
	if len(hits) > size || err != nil {
		hits = hits[:min(size, len(hits))]
		pos.seq, pos.set = hits[len(hits)-1].seq, true
		next = pos.token()
	}
	rows, err = st.rows(ctx, hits)
	return rows, next, x.spoiled(ctx, ctx, st, err)
}

// hit is a row as a file has it.
type hit struct{ seq, closing uint64 }

// search finds up to limit hits, in order. What it found before an error it
// returns with the error.
func (s *store) search(ctx context.Context, n *node, pos position, ascending bool, limit int) ([]hit, error) {
	parts := s.newestFirst()
	if ascending {
		slices.Reverse(parts)
	}
	lo, hi := pos.from, uint64(math.MaxInt64)
	if pos.set && ascending {
		lo = max(lo, pos.seq+1)
	} else if pos.set {
		if pos.seq == 0 {
			return nil, nil
		}
		hi = pos.seq - 1
	}
	var hits []hit
	for _, p := range parts {
		if p.hi <= lo || p.lo > hi {
			continue
		}
		pl, err := s.planner(p)
		if err != nil {
			return hits, err
		}
		c, err := pl.plan(ctx, n)
		if err != nil {
			return hits, err
		}
		c = andClauses([]clause{c, rangeClause(lo, hi)})
		if c.never {
			continue
		}
		if hits, err = scanHits(ctx, pl.db, c, ascending, limit, hits); err != nil || len(hits) >= limit {
			return hits, err
		}
	}
	return hits, nil
}

// from is the FROM and WHERE of a clause, and their parameters. Rows are
// c's; order by the column that it names.
func (c clause) from() (sql, order string, args []any) {
	cond := ""
	if c.cond != "" {
		cond = " AND " + c.cond
	}
	switch {
	case c.pending:
		// Few rows are pending; the terms are checked on each.
		c.lo, c.hi, args = 0, math.MaxInt64, []any{c.lo, c.hi}
		all, more := c.condition()
		return " FROM call c INDEXED BY pending WHERE c.state = 0 AND c.seq BETWEEN ? AND ? AND " + all, "c.seq", append(args, more...)
	case c.terms != "":
		args = append([]any{c.expression(), c.lo, c.hi}, c.args...)
		return " FROM words w CROSS JOIN call c ON c.seq = w.rowid WHERE w.words MATCH ? AND w.rowid >= ? AND w.rowid <= ?" + cond, "w.rowid", args
	default:
		args = append([]any{c.lo, c.hi}, c.args...)
		return " FROM call c WHERE c.seq BETWEEN ? AND ?" + cond, "c.seq", args
	}
}

func scanHits(ctx context.Context, db *sql.DB, c clause, ascending bool, limit int, hits []hit) ([]hit, error) {
	from, order, args := c.from()
	direction := " DESC"
	if ascending {
		direction = " ASC"
	}
	query := "SELECT c.seq, c.closing" + from + " ORDER BY " + order + direction + " LIMIT ?"
	rows, err := db.QueryContext(ctx, query, append(args, limit-len(hits))...)
	if err != nil {
		return hits, fmt.Errorf("search: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var h hit
		if err := rows.Scan(&h.seq, &h.closing); err != nil {
			return hits, fmt.Errorf("search: %w", err)
		}
		hits = append(hits, h)
	}
	if err := rows.Err(); err != nil {
		return hits, fmt.Errorf("search: %w", err)
	}
	return hits, nil
}

// rows fetches the entries of hits from the log, in the log's order, which a
// log reads best.
func (s *store) rows(ctx context.Context, hits []hit) ([]Row, error) {
	var seqs []uint64
	for _, h := range hits {
		seqs = append(seqs, h.seq)
		if h.closing != 0 {
			seqs = append(seqs, h.closing)
		}
	}
	slices.Sort(seqs)
	entries := make(map[uint64]*trailgate.Entry, len(seqs))
	for _, seq := range seqs {
		e, err := s.entry(ctx, seq)
		if err != nil {
			return nil, err
		}
		entries[seq] = e
	}
	rows := make([]Row, 0, len(hits))
	for _, h := range hits {
		opening, closing := entries[h.seq], entries[h.closing]
		if h.closing == 0 {
			closing = nil
		}
		if closing != nil && (closing.IntentID != opening.ID || !mayClose(closing.Kind)) {
			return nil, fmt.Errorf("%w: entry %d does not close entry %d", ErrDamaged, h.closing, h.seq)
		}
		rows = append(rows, newRow(opening, closing, s.started.Load()))
	}
	return rows, nil
}

// entry reads one entry from the log.
func (s *store) entry(ctx context.Context, seq uint64) (*trailgate.Entry, error) {
	if size := s.src.Size(); seq >= size {
		return nil, fmt.Errorf("%w: it names entry %d of a log of %d", ErrDamaged, seq, size)
	}
	raw, err := s.src.Get(ctx, seq)
	if err != nil {
		return nil, fmt.Errorf("read entry %d: %w", seq, err)
	}
	var e trailgate.Entry
	if err := e.UnmarshalJSON(raw); err != nil {
		return nil, fmt.Errorf("entry %d: %w", seq, err)
	}
	if e.Seq != seq {
		return nil, fmt.Errorf("entry %d says that it is %d; run trailgate verify", seq, e.Seq)
	}
	return &e, nil
}

// position is where a search stands between pages.
type position struct {
	bound [8]byte   // what the token belongs to
	now   time.Time // what relative times refer to, on all pages
	from  uint64
	seq   uint64 // the last row shown
	set   bool   // some row was
}

const tokenBytes = 1 + 8 + 8 + 8

// position is where the query is to begin.
func (x *Index) position(q Query) (position, error) {
	p := position{now: x.opt.Now(), from: q.From}
	h := sha256.Sum256(fmt.Appendf(nil, "%t %d %s", q.Ascending, q.From, q.Filter))
	p.bound = [8]byte(h[:8])
	if q.PageToken == "" {
		return p, nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(q.PageToken)
	if err != nil || len(raw) != tokenBytes || raw[0] != 1 {
		return p, &FilterError{Message: "the page token is not one of ours; begin again without it"}
	}
	if [8]byte(raw[1:9]) != p.bound {
		return p, &FilterError{Message: "the page token belongs to another filter or order; begin again without it"}
	}
	p.now = time.Unix(0, int64(binary.BigEndian.Uint64(raw[9:])))
	p.seq, p.set = binary.BigEndian.Uint64(raw[17:])&math.MaxInt64, true
	return p, nil
}

func (p position) token() string {
	b := append([]byte{1}, p.bound[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(p.now.UnixNano()))
	b = binary.BigEndian.AppendUint64(b, p.seq)
	return base64.RawURLEncoding.EncodeToString(b)
}
