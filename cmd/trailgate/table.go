package main

import (
	"io"
	"strings"
)

// table lays out rows in columns. Cells must be fit to show already ([visible]).
type table struct {
	head  []string
	right []bool // columns that are set flush right: numbers
	rows  [][]string
	// limit is the width that rows should not exceed, 0 for none. It is the last
	// column that gives way, down to lastMin.
	limit int
}

const (
	columnGap = 2
	lastMin   = 16
	cellMax   = 48 // of any column but the last
)

func (t *table) add(cells ...string) {
	for i := range cells[:len(cells)-1] {
		cells[i] = shorten(cells[i], cellMax)
	}
	t.rows = append(t.rows, cells)
}

func (t *table) write(w io.Writer) error {
	return t.writeRows(w, true)
}

// writeRows lays the rows out; columns are as wide as the widest cell in them.
func (t *table) writeRows(w io.Writer, head bool) error {
	all := t.rows
	if head {
		all = append([][]string{t.head}, t.rows...)
	}
	widths := t.widths(all)
	var b strings.Builder
	for _, row := range all {
		b.Reset()
		for i, cell := range row {
			last := i == len(row)-1
			if last && t.limit > 0 && !t.isRight(i) {
				used := 0
				for _, n := range widths[:i] {
					used += n + columnGap
				}
				cell = shorten(cell, max(t.limit-used, lastMin))
			}
			pad := strings.Repeat(" ", max(widths[i]-textWidth(cell), 0))
			switch {
			case t.isRight(i):
				b.WriteString(pad + cell)
			case last:
				b.WriteString(cell)
			default:
				b.WriteString(cell + pad)
			}
			if !last {
				b.WriteString("  ")
			}
		}
		if _, err := io.WriteString(w, strings.TrimRight(b.String(), " ")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) isRight(column int) bool { return column < len(t.right) && t.right[column] }

func (t *table) widths(rows [][]string) []int {
	widths := make([]int, len(t.head))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], textWidth(cell))
		}
	}
	return widths
}
