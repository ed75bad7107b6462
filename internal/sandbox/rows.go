package sandbox

import (
	"bufio"
	"encoding/json"
	"io"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// rowSource is a result or table, as pages are cut from it. It never changes.
type rowSource interface {
	columns() []googlesql.Column
	count() int64
	// appendRow writes the row at i, counted from zero, as REST has it.
	appendRow(dst []byte, i int64, tf timestampFormat) []byte
}

// resultSet is rows in memory.
type resultSet struct {
	cols []googlesql.Column
	rows [][]any
}

func (r *resultSet) columns() []googlesql.Column { return r.cols }
func (r *resultSet) count() int64                { return int64(len(r.rows)) }
func (r *resultSet) appendRow(dst []byte, i int64, tf timestampFormat) []byte {
	return appendRow(dst, r.cols, r.rows[i], tf)
}

// tableWindow is some rows of a table, as they were when it was read.
type tableWindow struct {
	resultSet
	from, total int64
}

func (w *tableWindow) count() int64 { return w.total }
func (w *tableWindow) appendRow(dst []byte, i int64, tf timestampFormat) []byte {
	return w.resultSet.appendRow(dst, i-w.from, tf)
}

// rowPage is an answer with rows in it, written as it is made.
type rowPage struct {
	head     object // all but rows and pageToken
	src      rowSource
	from, to int64 // of the rows that are left to send
	maxBytes int64
	format   timestampFormat
	// token names the member that holds the next page's token.
	token           string
	noRows, noToken bool // left out by a "fields" parameter
}

// restrict applies a "fields" parameter.
func (p *rowPage) restrict(mask string) *apiError {
	m, rest, ok := parseMask(mask)
	if !ok || rest != "" {
		return fail("invalid", "Invalid field selection %s", mask)
	}
	p.head, _ = m.apply(p.head).(object)
	_, all := m["*"]
	_, rows := m["rows"]
	_, token := m[p.token]
	p.noRows, p.noToken = !rows && !all, !token && !all
	return nil
}

// stream writes the page. The token comes last, since only then is it known
// how many rows the page holds.
func (p *rowPage) stream(w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	head, err := json.Marshal(p.head)
	if err != nil {
		return err
	}
	out.Write(head[:len(head)-1]) // a bufio.Writer keeps its first error for Flush
	comma := len(p.head) > 0
	next := p.from
	var size int64
	var buf []byte
	for next < p.to && (size < p.maxBytes || next == p.from) {
		buf = p.src.appendRow(buf[:0], next, p.format)
		size += int64(len(buf)) + 1
		next++
		if p.noRows {
			continue
		}
		if next == p.from+1 {
			if comma {
				out.WriteByte(',')
			}
			out.WriteString(`"rows":[`)
			comma = true
		} else {
			out.WriteByte(',')
		}
		if _, err := out.Write(buf); err != nil {
			return err
		}
	}
	if next > p.from && !p.noRows {
		out.WriteByte(']')
	}
	if next < p.src.count() && !p.noToken {
		if comma {
			out.WriteByte(',')
		}
		out.WriteString(`"` + p.token + `":`)
		out.Write(appendString(nil, offsetToken(next)))
	}
	out.WriteString("}\n")
	return out.Flush()
}

// pageFrom reads the parameters that say which rows are wanted.
func pageFrom(o object, src rowSource, pageToken, startIndex string) (from, to int64, err *apiError) {
	if pageToken != "" {
		from, err = tokenOffset(pageToken)
	} else if startIndex != "" {
		var ok bool
		if from, ok = integer(object{"n": startIndex}, "n"); !ok || from < 0 {
			err = fail("invalid", "Invalid startIndex %q", startIndex)
		}
	}
	if err != nil {
		return 0, 0, err
	}
	total := src.count()
	from = min(from, total)
	to = total
	if n, ok := integer(o, "maxResults"); ok {
		if n < 0 {
			return 0, 0, fail("invalid", "Invalid maxResults %d", n)
		}
		to = min(total, from+n)
	}
	return from, to, nil
}

// formatOf reads the formatOptions of a request.
func formatOf(useInt64, output string) (timestampFormat, *apiError) {
	switch output {
	case "", "TIMESTAMP_OUTPUT_FORMAT_UNSPECIFIED":
	case "FLOAT64":
		return timestampFloat, nil
	case "INT64":
		return timestampMicros, nil
	case "ISO8601_STRING":
		return timestampISO, nil
	default:
		return 0, fail("invalid", "Invalid timestampOutputFormat %q", output)
	}
	if useInt64 == "true" {
		return timestampMicros, nil
	}
	return timestampFloat, nil
}
