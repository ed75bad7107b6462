package trailgate

import "slices"

// Fold is a call as one entry: the one that opened it, with the closing entry's job,
// tables, statement type, upstream identity, recording and outcome where it has them, and
// the flags of both. Closing may be nil; neither is changed. What it returns is no entry
// of a log.
func Fold(opening, closing *Entry) *Entry {
	e := *opening
	c := closing
	if c == nil {
		return &e
	}
	if c.StatementType != nil {
		e.StatementType = c.StatementType
	}
	if c.Tables != nil {
		e.Tables = c.Tables
	}
	if c.Job != nil {
		e.Job = c.Job
	}
	if c.Upstream != nil { // as whom the call went on is known only then
		e.Upstream = c.Upstream
	}
	if c.Outcome != nil {
		e.Outcome = c.Outcome
	}
	if c.Recording != nil {
		e.Recording = c.Recording
	}
	e.Flags = slices.Clone(e.Flags)
	for _, f := range c.Flags {
		if !slices.Contains(e.Flags, f) {
			e.Flags = append(e.Flags, f)
		}
	}
	return &e
}
