package index

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// A filter becomes, for each file, a clause: the rows that
//
//   - the inverted index finds for a boolean expression of terms, and
//   - whose sequence lies between two bounds, and
//   - that satisfy an SQL condition on the row.
//
// The expression is evaluated newest first, by merging sorted lists of rows,
// so the work is bounded by the shortest list that an AND has, whatever else
// the filter says. The condition is left to what terms cannot say: exact
// figures, ports, and states that pass. Where such a test stands under OR or
// NOT, the whole of that branch becomes a condition.
//
// Everything that comes from the filter is bound as a parameter, the terms'
// expression included; that one is made of numbered terms and of words as
// eachWord lets them through, in quotes.

// maxExpansion is how many texts a pattern may match in one file.
const maxExpansion = 4096

type clause struct {
	never  bool   // no row
	terms  string // FTS5 expression; "" is all rows
	except bool   // terms says which rows are not meant
	lo, hi uint64 // bounds of seq, ends included
	cond   string // SQL on c; "" is true
	args   []any  // of cond
	// column says the same as terms, as SQL on c, where that can be said. A
	// look at a row's column is cheaper than one at the inverted index.
	column     string
	columnArgs []any
	// pending means that only rows in statePending can satisfy cond.
	pending bool
}

func everything() clause { return clause{hi: math.MaxInt64} }

func nothing() clause { return clause{never: true} }

func termClause(expression string) clause {
	c := everything()
	c.terms = expression
	return c
}

func condClause(cond string, args ...any) clause {
	c := everything()
	c.cond, c.args = cond, args
	return c
}

func rangeClause(lo, hi uint64) clause {
	if lo > hi {
		return nothing()
	}
	return clause{lo: lo, hi: hi}
}

// isEverything reports whether the clause lets all rows through.
func (c clause) isEverything() bool {
	return !c.never && c.terms == "" && c.cond == "" && c.lo == 0 && c.hi == math.MaxInt64
}

// bounded reports whether the clause says something about seq.
func (c clause) bounded() bool { return c.lo != 0 || c.hi != math.MaxInt64 }

// expression is the clause's terms as FTS5 reads them; there are some.
func (c clause) expression() string {
	if c.except {
		return quoteTerm(everyRow) + " NOT (" + c.terms + ")"
	}
	return c.terms
}

// condition is the whole clause as one SQL condition on c.
func (c clause) condition() (string, []any) {
	if c.never {
		return "0", nil
	}
	var parts []string
	var args []any
	if c.bounded() {
		parts, args = append(parts, "c.seq BETWEEN ? AND ?"), append(args, c.lo, c.hi)
	}
	if c.cond != "" {
		parts, args = append(parts, c.cond), append(args, c.args...)
	}
	if c.terms != "" {
		not := ""
		if c.except {
			not = "NOT "
		}
		if c.column != "" {
			parts, args = append(parts, not+c.column), append(args, c.columnArgs...)
		} else {
			parts = append(parts, not+"EXISTS (SELECT 1 FROM words WHERE words MATCH ? AND rowid = c.seq)")
			args = append(args, c.terms)
		}
	}
	if len(parts) == 0 {
		return "1", nil
	}
	return "(" + strings.Join(parts, " AND ") + ")", args
}

// cost orders conditions by what a look at a row costs.
func (c clause) cost() int {
	switch {
	case c.terms != "" && c.column == "" && c.cond == "":
		return 2
	case strings.Contains(c.cond, "EXISTS"):
		return 2
	case c.terms != "" && c.column == "":
		return 1
	default:
		return 0
	}
}

func andClauses(list []clause) clause {
	out := everything()
	var with, without, conds []string
	for _, c := range list {
		if c.never {
			return nothing()
		}
		out.lo, out.hi = max(out.lo, c.lo), min(out.hi, c.hi)
		if out.lo > out.hi {
			return nothing()
		}
		out.pending = out.pending || c.pending
		switch {
		case c.terms == "":
		case c.except:
			without = append(without, "("+c.terms+")")
		default:
			with = append(with, "("+c.terms+")")
		}
		if c.cond != "" {
			conds = append(conds, c.cond)
			out.args = append(out.args, c.args...)
		}
	}
	out.cond = strings.Join(conds, " AND ")
	switch {
	case len(with) > 0 && len(without) > 0:
		out.terms = "(" + strings.Join(with, " AND ") + ") NOT (" + strings.Join(without, " OR ") + ")"
	case len(with) > 0:
		out.terms = strings.Join(with, " AND ")
	case len(without) > 0:
		out.terms, out.except = strings.Join(without, " OR "), true
	}
	return out
}

func orClauses(list []clause) clause {
	var some []clause
	exact, candidates := true, true
	for _, c := range list {
		switch {
		case c.never:
			continue
		case c.isEverything():
			return everything()
		}
		exact = exact && c.cond == "" && !c.bounded()
		candidates = candidates && c.terms != ""
		some = append(some, c)
	}
	switch len(some) {
	case 0:
		return nothing()
	case 1:
		return some[0]
	}
	out := everything()
	if candidates {
		var parts []string
		for _, c := range some {
			parts = append(parts, "("+c.expression()+")")
		}
		out.terms = strings.Join(parts, " OR ")
	}
	if exact {
		return out
	}
	var conds []string
	out.pending = true
	// What is cheap to look at comes first.
	slices.SortStableFunc(some, func(a, b clause) int { return cmp.Compare(a.cost(), b.cost()) })
	for _, c := range some {
		cond, args := c.condition()
		conds, out.args = append(conds, cond), append(out.args, args...)
		out.pending = out.pending && c.pending
	}
	out.cond = "(" + strings.Join(conds, " OR ") + ")"
	return out
}

func notClause(c clause) clause {
	switch {
	case c.never:
		return everything()
	case c.isEverything():
		return nothing()
	case c.cond == "" && !c.bounded():
		c.except = !c.except
		return c
	}
	cond, args := c.condition()
	return condClause("NOT "+cond, args...)
}

// quoteTerm spells a term for FTS5, where '"' quotes. No term has one.
func quoteTerm(t string) string {
	if head, ok := strings.CutSuffix(t, "*"); ok {
		return `"` + head + `"*`
	}
	return `"` + t + `"`
}

// planner makes clauses for one file.
type planner struct {
	part    *part
	db      *sql.DB
	started uint64 // what the store's says
	full    bool   // nothing will be added to the file
}

// planner makes a planner for a file.
func (s *store) planner(p *part) (*planner, error) {
	db, err := p.reader()
	if err != nil {
		return nil, err
	}
	return &planner{part: p, db: db, started: s.started.Load(), full: s.cursor.Load() >= p.hi}, nil
}

func (p *planner) plan(ctx context.Context, n *node) (clause, error) {
	if n.op == opTest {
		return p.test(ctx, n.test)
	}
	list := make([]clause, 0, len(n.kids))
	for _, k := range n.kids {
		c, err := p.plan(ctx, k)
		if err != nil {
			return clause{}, err
		}
		list = append(list, c)
	}
	switch n.op {
	case opAnd:
		return andClauses(list), nil
	case opOr:
		return orClauses(list), nil
	default:
		return notClause(list[0]), nil
	}
}

func (p *planner) test(ctx context.Context, t *test) (clause, error) {
	switch t.field.kind {
	case kindWords:
		list := make([]clause, len(t.words))
		for i, w := range t.words {
			list[i] = termClause(quoteTerm(w))
		}
		return andClauses(list), nil
	case kindWord, kindClass:
		return p.values(ctx, t.field.letter, t.values)
	case kindState:
		return p.states(ctx, t.values)
	case kindTable:
		return p.table(ctx, t)
	case kindJob:
		return p.job(ctx, t)
	case kindClient:
		return p.client(ctx, t)
	case kindStatus:
		return p.status(ctx, t)
	case kindNumber:
		return p.number(ctx, t)
	case kindID:
		list := make([]clause, len(t.seqs))
		for i, s := range t.seqs {
			list[i] = rangeClause(s, s)
		}
		return orClauses(list), nil
	case kindSeq:
		if t.hi < 0 {
			return nothing(), nil
		}
		return p.within(uint64(max(t.lo, 0)), uint64(t.hi)), nil
	case kindTime:
		return p.times(ctx, t)
	default:
		return p.text(ctx, t.field.letter, t.pat, t)
	}
}

// within is a range of seq, left out where it covers the whole file.
func (p *planner) within(lo, hi uint64) clause {
	if lo > hi || lo >= p.part.hi || hi < p.part.lo {
		return nothing()
	}
	if lo <= p.part.lo {
		lo = 0
	}
	if hi >= p.part.hi-1 {
		hi = math.MaxInt64
	}
	return rangeClause(lo, hi)
}

// times turns an interval of time into one of sequence: times never fall in a
// log.
func (p *planner) times(ctx context.Context, t *test) (clause, error) {
	var first, last moment
	const ends = `SELECT seq, time FROM call ORDER BY seq `
	for dst, order := range map[*moment]string{&first: "ASC", &last: "DESC"} {
		err := p.db.QueryRowContext(ctx, ends+order+` LIMIT 1`).Scan(&dst.seq, &dst.time)
		if errors.Is(err, sql.ErrNoRows) {
			return nothing(), nil
		}
		if err != nil {
			return clause{}, fmt.Errorf("find time in index: %w", err)
		}
	}
	if first.time > t.hi || last.time < t.lo || t.lo > t.hi {
		return nothing(), nil
	}
	lo, hi := uint64(0), uint64(math.MaxInt64)
	if !p.full {
		hi = last.seq // not what is added while we look
	}
	if first.time < t.lo {
		seq, err := p.seqAt(ctx, first.seq, last.seq, t.lo)
		if err != nil {
			return clause{}, err
		}
		lo = seq
	}
	if last.time > t.hi {
		seq, err := p.seqAt(ctx, first.seq, last.seq, t.hi+1)
		if err != nil {
			return clause{}, err
		}
		hi = seq - 1 // above first
	}
	return p.within(lo, hi), nil
}

type moment struct {
	seq  uint64
	time int64
}

// seqAt is the first sequence from which on no row is before t. The row at lo
// is, the one at hi is not.
func (p *planner) seqAt(ctx context.Context, lo, hi uint64, t int64) (uint64, error) {
	const next = `SELECT seq, time FROM call WHERE seq >= ? ORDER BY seq LIMIT 1`
	for lo++; lo < hi; {
		mid := lo + (hi-lo)/2
		var at moment
		if err := p.db.QueryRowContext(ctx, next, mid).Scan(&at.seq, &at.time); err != nil {
			return 0, fmt.Errorf("find time in index: %w", err)
		}
		if at.time >= t {
			hi = mid
		} else {
			lo = at.seq + 1
		}
	}
	return lo, nil
}

func (p *planner) states(ctx context.Context, values []string) (clause, error) {
	var list []clause
	for _, v := range values {
		switch v {
		case StateOpen, StateIndeterminate:
			cmp := ">="
			if v == StateIndeterminate {
				cmp = "<"
			}
			c := condClause("(c.state = 0 AND c.seq "+cmp+" ?)", p.started)
			c.pending = true
			list = append(list, c)
		case StateHeld:
			// A held call may have been closed since; its term stays.
			c, err := p.values(ctx, termState, []string{v})
			if err != nil {
				return clause{}, err
			}
			list = append(list, andClauses([]clause{c, condClause("c.state = ?", int64(stateHeld))}))
		default:
			c, err := p.values(ctx, termState, []string{v})
			if err != nil {
				return clause{}, err
			}
			list = append(list, c)
		}
	}
	return orClauses(list), nil
}

func (p *planner) client(ctx context.Context, t *test) (clause, error) {
	host, port := splitClient(t.pat.text)
	if port == 0 {
		return p.text(ctx, t.field.letter, t.pat, t)
	}
	pat := t.pat
	pat.text, pat.glob = host, strings.Contains(host, "*")
	c, err := p.text(ctx, t.field.letter, pat, t)
	if err != nil {
		return clause{}, err
	}
	return andClauses([]clause{c, condClause("c.port = ?", port)}), nil
}

// number compares a figure: candidates by the number of bits, where that
// tells much, and the column itself. Only rows with figures match.
func (p *planner) number(ctx context.Context, t *test) (clause, error) {
	if t.lo > t.hi || t.hi < 0 {
		return nothing(), nil
	}
	cond := condClause("ifnull(c."+t.field.column+" BETWEEN ? AND ?, 0)", t.lo, t.hi)
	if t.lo <= 0 {
		c := termClause(quoteTerm(hasOutput))
		if t.hi == math.MaxInt64 {
			return c, nil
		}
		return andClauses([]clause{c, cond}), nil
	}
	first, last := bitLen(t.lo), bitLen(t.hi)
	var values []string
	for n := first; n <= last; n++ {
		values = append(values, bucket(1<<(n-1)))
	}
	c, err := p.values(ctx, t.field.letter, values)
	if err != nil || t.lo == 1<<(first-1) && uint64(t.hi) == 1<<last-1 {
		return c, err
	}
	return andClauses([]clause{c, cond}), nil
}
