package index

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

func bitLen(n int64) int { return bits.Len64(uint64(n)) }

// anyOf is the clause of the rows with any of these terms.
func anyOf(letter byte, ids []int64) clause {
	if len(ids) == 0 {
		return nothing()
	}
	quoted := make([]string, len(ids))
	for i, id := range ids {
		quoted[i] = quoteTerm(term(letter, id))
	}
	c := termClause(strings.Join(quoted, " OR "))
	if column := columns[letter]; column != "" && letter != termType { // of types, call has but one
		c.column = "c." + column + " IN (?" + strings.Repeat(",?", len(ids)-1) + ")"
		for _, id := range ids {
			c.columnArgs = append(c.columnArgs, id)
		}
	}
	return c
}

// values finds rows with any of some texts.
func (p *planner) values(ctx context.Context, letter byte, texts []string) (clause, error) {
	var ids []int64
	for _, text := range texts {
		id, err := p.dictID(ctx, letter, text)
		if err != nil {
			return clause{}, err
		}
		if id != 0 {
			ids = append(ids, id)
		}
	}
	return anyOf(letter, ids), nil
}

// dictID is the number of a text in this file, 0 if it is in none of its rows.
func (p *planner) dictID(ctx context.Context, letter byte, text string) (int64, error) {
	var id int64
	err := p.db.QueryRowContext(ctx, `SELECT id FROM dict WHERE field = ? AND text = ?`, int64(letter), text).Scan(&id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("look up text in index: %w", err)
	}
	return id, nil
}

// columns are those of call that hold a dict number, by letter.
var columns = map[byte]string{
	termAgent: "agent", termHuman: "human", termSession: "session", termConnection: "connection",
	termMethod: "method", termDecision: "decision", termType: "statement_type",
}

// text finds rows by a pattern over dict.
func (p *planner) text(ctx context.Context, letter byte, pat pattern, t *test) (clause, error) {
	if pat.exact() {
		return p.values(ctx, letter, []string{pat.text})
	}
	ids, err := p.dictMatches(ctx, letter, pat.prefix(), pat.match)
	if column := columns[letter]; errors.Is(err, errTooMany) && column != "" && pat.text == "*" {
		return condClause("c." + column + " <> 0"), nil
	}
	if err != nil {
		return clause{}, t.expansionError(err)
	}
	return anyOf(letter, ids), nil
}

// errTooMany means that a pattern matches more than maxExpansion texts.
var errTooMany = errors.New("too many matches")

func (t *test) expansionError(err error) error {
	if errors.Is(err, errTooMany) {
		return &FilterError{Column: t.column, Message: fmt.Sprintf(
			"this pattern matches more than %d different values of %s; make it narrower", maxExpansion, t.field.Name)}
	}
	return err
}

// dictMatches are the numbers of the texts that match. prefix is what all of
// them begin with, as far as it is known.
func (p *planner) dictMatches(ctx context.Context, letter byte, prefix string, match func(string) bool) ([]int64, error) {
	query, args := `SELECT id, text FROM dict WHERE field = ? AND text >= ?`, []any{int64(letter), prefix}
	if end := prefixEnd(prefix); end != "" {
		query, args = query+` AND text < ?`, append(args, end)
	}
	return collect(ctx, p.db, match, query, args...)
}

// collect runs a query for numbers and texts and returns the numbers of the
// texts that match.
func collect(ctx context.Context, db *sql.DB, match func(string) bool, query string, args ...any) ([]int64, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("look up texts in index: %w", err)
	}
	defer rows.Close()
	var ids []int64
	var id int64
	var text sql.RawBytes
	for rows.Next() {
		if err := rows.Scan(&id, &text); err != nil {
			return nil, fmt.Errorf("look up texts in index: %w", err)
		}
		if !match(string(text)) {
			continue
		}
		if len(ids) == maxExpansion {
			return nil, errTooMany
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look up texts in index: %w", err)
	}
	return ids, nil
}

// prefixEnd is the least text above all that begin with prefix, "" if there is none.
func prefixEnd(prefix string) string {
	b := []byte(prefix)
	for len(b) > 0 {
		if b[len(b)-1]++; b[len(b)-1] != 0 {
			return string(b)
		}
		b = b[:len(b)-1]
	}
	return ""
}

// table finds rows by a table pattern. It is compared part by part from the
// right; a part that it leaves out may be anything.
func (p *planner) table(ctx context.Context, t *test) (clause, error) {
	project, dataset, name := tableParts(t.pat.text)
	all := func(part string) bool { return part == "" || part == "*" }
	one := func(part string) func(string) bool {
		if part == "" {
			return func(string) bool { return true }
		}
		return pattern{text: part, glob: strings.Contains(part, "*")}.match
	}
	inProject, inDataset, hasName := one(project), one(dataset), one(name)
	switch {
	case all(project) && all(dataset) && all(name):
		return termClause(quoteTerm(anyTable)), nil
	case all(dataset) && all(name):
		ids, err := p.dictMatches(ctx, termTableOwner, "", inProject)
		return anyOf(termTableOwner, ids), t.expansionError(err)
	case all(name):
		ids, err := p.dictMatches(ctx, termDataset, "", func(s string) bool {
			owner, set, _ := strings.Cut(s, "\x00")
			return inProject(owner) && inDataset(set)
		})
		return anyOf(termDataset, ids), t.expansionError(err)
	}
	query, args := `SELECT id, project || char(0) || dataset || char(0) || name FROM tbl WHERE 1`, []any{}
	if dataset != "" && !strings.Contains(dataset, "*") {
		query, args = query+` AND dataset = ?`, append(args, dataset)
		if head, _, ok := strings.Cut(name, "*"); ok {
			query, args = query+` AND name >= ?`, append(args, head)
			if end := prefixEnd(head); end != "" {
				query, args = query+` AND name < ?`, append(args, end)
			}
		} else {
			query, args = query+` AND name = ?`, append(args, name)
		}
	}
	ids, err := collect(ctx, p.db, func(s string) bool {
		owner, rest, _ := strings.Cut(s, "\x00")
		set, last, _ := strings.Cut(rest, "\x00")
		return inProject(owner) && inDataset(set) && hasName(last)
	}, query, args...)
	return anyOf(termTable, ids), t.expansionError(err)
}

func (p *planner) job(ctx context.Context, t *test) (clause, error) {
	if t.pat.text == "*" {
		return termClause(quoteTerm(anyJob)), nil
	}
	query, args := `SELECT id, name FROM job WHERE name >= ?`, []any{t.pat.prefix()}
	if end := prefixEnd(t.pat.prefix()); end != "" {
		query, args = query+` AND name < ?`, append(args, end)
	}
	if t.pat.exact() {
		query, args = `SELECT id, name FROM job WHERE name = ?`, []any{t.pat.text}
	}
	ids, err := collect(ctx, p.db, t.pat.match, query, args...)
	return anyOf(termJob, ids), t.expansionError(err)
}

func (p *planner) status(ctx context.Context, t *test) (clause, error) {
	ids, err := p.dictMatches(ctx, termStatus, "", func(s string) bool {
		n, err := strconv.ParseInt(s, 10, 64)
		return err == nil && t.lo <= n && n <= t.hi
	})
	return anyOf(termStatus, ids), t.expansionError(err)
}
