package bigquery

import "encoding/binary"

// emit hands on a part of a value that the sink wants.
func (s *scanner) emit(p []byte) {
	switch {
	case len(p) == 0:
	case s.kind == rawRow:
		s.sink.RowPart(p)
	case len(s.schema)+len(p) <= maxSchema:
		s.schema = append(s.schema, p...)
	default:
		s.schema = append(s.schema[:0], make([]byte, maxSchema)...) // too long: it stays so, and is not handed on
	}
}

// emitted is behind a value that the sink wants.
func (s *scanner) emitted() {
	if s.kind == rawRow {
		s.sink.EndRow()
	} else if len(s.schema) < maxSchema {
		s.sink.Schema(s.schema)
	}
	s.done()
}

// raw reads on in a value that goes to the sink, leaving out the white space between
// its tokens. Within strings, which is where results spend their bytes, nothing is
// looked at but for the end.
func (s *scanner) raw(p []byte, i int) int {
	from := i
	if s.bare {
		for ; i < len(p); i++ {
			switch p[i] {
			case ',', '}', ']', ' ', '\n', '\r', '\t':
				s.emit(p[from:i])
				s.emitted()
				return i
			}
		}
		s.emit(p[from:])
		return i
	}
	depth, inStr := s.depth, s.inStr
	for i < len(p) {
		if inStr {
			if s.escaped {
				s.escaped = false
				i++
				continue
			}
			i = stringEnd(p, i)
			if i == len(p) {
				break
			}
			s.escaped = p[i] == '\\'
			inStr = s.escaped
			i++
			if inStr {
				continue
			}
			if depth == 0 {
				s.emit(p[from:i])
				s.emitted()
				return i
			}
			if i+8 <= len(p) && binary.LittleEndian.Uint64(p[i:]) == nextCell {
				i += 8
				inStr = true
			}
			continue
		}
		switch c := p[i]; c {
		case ' ', '\n', '\r', '\t':
			s.emit(p[from:i])
			for i++; i < len(p) && (p[i] == ' ' || p[i] == '\n' || p[i] == '\r' || p[i] == '\t'); i++ {
			}
			from = i
			continue
		case '"':
			inStr = true
		case '{', '[':
			depth++
		case '}', ']':
			depth--
			if depth == 0 {
				s.emit(p[from : i+1])
				s.emitted()
				return i + 1
			}
		}
		i++
	}
	s.emit(p[from:i])
	s.depth, s.inStr = depth, inStr
	return i
}
