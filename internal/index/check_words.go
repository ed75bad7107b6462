package index

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The inverted index is compared through fts5vocab
// (https://sqlite.org/fts5.html#the_fts5vocab_virtual_table_module): as a table
// of terms with their counts, and as one of terms and rows. That one has tens of
// rows an entry, so SQLite puts a range of it together as a text, and texts are
// compared.

// rangePairs is about how many pairs of term and row are compared at once.
const rangePairs = 50_000

// vocab makes the two tables, as far as one connection sees them.
const vocab = `CREATE VIRTUAL TABLE IF NOT EXISTS temp.terms USING fts5vocab(main, words, row);
CREATE VIRTUAL TABLE IF NOT EXISTS temp.pairs USING fts5vocab(main, words, instance);`

// compareWords compares the inverted index with the reference's.
func compareWords(ctx context.Context, f, mine *file, p *part) (_ *Difference, pairs uint64, err error) {
	for _, x := range []*file{f, mine} {
		if _, err := x.conn.ExecContext(ctx, vocab); err != nil {
			return nil, 0, fmt.Errorf("read the inverted index: %w", err)
		}
	}
	ends, pairs, err := termRanges(ctx, mine)
	if err != nil {
		return nil, 0, err
	}
	// After the last term that there should be, there must be none.
	for i := range len(ends) + 1 {
		var lo, hi string
		if i > 0 {
			lo = ends[i-1]
		}
		if i < len(ends) {
			hi = ends[i]
		}
		theirs, err := pairText(ctx, f, lo, hi)
		if err != nil {
			return nil, pairs, err
		}
		want, err := pairText(ctx, mine, lo, hi)
		if err != nil {
			return nil, pairs, err
		}
		if theirs != want {
			return wordDifference(f, p, theirs, want), pairs, nil
		}
	}
	return nil, pairs, nil
}

// termRanges are the terms at which to cut, so that a range has about rangePairs
// pairs, and how many pairs there are.
func termRanges(ctx context.Context, f *file) (ends []string, pairs uint64, err error) {
	rows, err := f.conn.QueryContext(ctx, `SELECT term, doc FROM temp.terms`)
	if err != nil {
		return nil, 0, fmt.Errorf("read the inverted index: %w", err)
	}
	defer rows.Close()
	var n uint64
	var term string
	for rows.Next() {
		var docs uint64
		if err := rows.Scan(&term, &docs); err != nil {
			return nil, 0, fmt.Errorf("read the inverted index: %w", err)
		}
		pairs += docs
		if n += docs; n >= rangePairs {
			ends, n = append(ends, term), 0
		}
	}
	if n > 0 {
		ends = append(ends, term)
	}
	return ends, pairs, rows.Err()
}

// pairText is the pairs of the terms after lo, up to hi, a line each; "" for hi is
// no end.
func pairText(ctx context.Context, f *file, lo, hi string) (string, error) {
	query, args := `SELECT ifnull(group_concat(term || ' ' || doc, char(10)), '') FROM temp.pairs WHERE term >= ? AND term <> ?`, []any{lo, lo}
	if lo == "" {
		query, args = `SELECT ifnull(group_concat(term || ' ' || doc, char(10)), '') FROM temp.pairs WHERE term >= ?`, []any{""}
	}
	if hi != "" {
		query, args = query+` AND term <= ?`, append(args, hi)
	}
	var text string
	if err := f.conn.QueryRowContext(ctx, query, args...).Scan(&text); err != nil {
		return "", fmt.Errorf("read the inverted index: %w", err)
	}
	return text, nil
}

// wordDifference names the first pair that one has and the other has not.
func wordDifference(f *file, p *part, theirs, want string) *Difference {
	d := &Difference{File: f.path, Table: "words", Seq: p.lo}
	for theirs != want {
		mine, restMine, _ := strings.Cut(want, "\n")
		other, restOther, _ := strings.Cut(theirs, "\n")
		if mine == other {
			theirs, want = restOther, restMine
			continue
		}
		pair, reason := mine, "searches for this term do not find the entry: it is missing from the inverted index"
		if mine == "" || other != "" && pairBefore(other, mine) {
			pair, reason = other, "the inverted index is forged: the entry does not have this term"
		}
		term, seq, _ := strings.Cut(pair, " ")
		d.Seq, _ = strconv.ParseUint(seq, 10, 64)
		d.Row, d.Reason = fmt.Sprintf("term %q of entry %s", term, seq), reason
		return d
	}
	d.Reason = errors.New("the inverted index differs").Error()
	return d
}

// pairBefore reports whether pair a stands before b in the inverted index.
func pairBefore(a, b string) bool {
	termA, seqA, _ := strings.Cut(a, " ")
	termB, seqB, _ := strings.Cut(b, " ")
	if termA != termB {
		return termA < termB
	}
	if len(seqA) != len(seqB) {
		return len(seqA) < len(seqB)
	}
	return seqA < seqB
}
