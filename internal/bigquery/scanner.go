package bigquery

import (
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"strings"
)

// The scanner's states.
type state uint8

const (
	atValue  state = iota // a value, or white space, comes
	atElem                // the same, or an array's end
	atKey                 // a member's name comes
	atMember              // the same, or an object's end
	atColon
	afterValue
	inString // of a name or a wanted value
	inScalar
	inSkip // somewhere in a value that nobody wants
	inRaw  // somewhere in a value that the sink wants
	finished
	broken
)

type frame struct {
	w     *want // of the container
	array bool
	n     int64 // elements so far
}

// scanner walks JSON byte by byte, wherever it is cut into parts. It trusts
// BigQuery to send JSON and notices where it does not; it is no validator.
type scanner struct {
	facts   *facts
	state   state
	why     string // broken
	started bool
	next    *want // of the value that comes
	stack   []frame

	token   []byte // the name or value being read
	isKey   bool
	escaped bool // the last byte was a backslash
	slashes bool // the token has escapes
	over    bool // the token is longer than is kept

	depth int // in inSkip and inRaw: open containers
	inStr bool
	bare  bool // in inSkip and inRaw: a scalar that is no string

	sink   RowSink // nil: nobody wants rows
	kind   rawKind // in inRaw
	schema []byte  // in inRaw
}

// rawKind is what a value that goes to the sink is.
type rawKind uint8

const (
	rawRow rawKind = iota + 1
	rawSchema
)

// maxSchema bounds a schema that is kept whole, bytes; BigQuery allows 10,000 columns.
const maxSchema = 4 << 20

func (s *scanner) fail(why string) { s.state, s.why = broken, why }

func (s *scanner) feed(p []byte) {
	for i := 0; i < len(p); {
		switch s.state {
		case broken:
			return
		case inSkip:
			i = s.skip(p, i)
			continue
		case inRaw:
			i = s.raw(p, i)
			continue
		case inString:
			i = s.text(p, i)
			continue
		case inScalar:
			i = s.bareword(p, i)
			continue
		}
		c := p[i]
		if c == ' ' || c == '\n' || c == '\r' || c == '\t' {
			i++
			continue
		}
		s.started = true
		switch s.state {
		case atElem:
			if c == ']' {
				s.pop()
				i++
				continue
			}
			s.element()
			i = s.value(p, i)
		case atValue:
			i = s.value(p, i)
		case atMember:
			if c == '}' {
				s.pop()
				i++
				continue
			}
			fallthrough
		case atKey:
			if c != '"' {
				s.fail("the answer is not JSON: a name was expected")
				return
			}
			s.begin(true)
			i++
		case atColon:
			if c != ':' {
				s.fail("the answer is not JSON: a colon was expected")
				return
			}
			s.state = atValue
			i++
		case afterValue:
			i++
			top := &s.stack[len(s.stack)-1]
			switch {
			case c == ',' && top.array:
				s.element()
				s.state = atValue
			case c == ',':
				s.state = atKey
			case c == ']' && top.array, c == '}' && !top.array:
				s.pop()
			default:
				s.fail("the answer is not JSON: a comma or an end was expected")
				return
			}
		case finished:
			s.fail("something follows the answer's JSON")
			return
		}
	}
}

// element counts the array's next element and says what is wanted of it.
func (s *scanner) element() {
	top := &s.stack[len(s.stack)-1]
	top.n++
	s.next = nil
	if top.w != nil {
		s.next = top.w.elems
	}
}

// value begins a value at p[i].
func (s *scanner) value(p []byte, i int) int {
	c, w := p[i], s.next
	switch {
	case c == '{' && w != nil && w.members != nil:
		if w.object != nil {
			w.object(s.facts)
		}
		s.push(frame{w: w}, atMember)
		return i + 1
	case c == '[' && w != nil && (w.elems != nil || w.count != nil):
		s.push(frame{w: w, array: true}, atElem)
		return i + 1
	case w != nil && w.scalar != nil && c == '"':
		s.begin(false)
		return i + 1
	case w != nil && w.scalar != nil && c != '{' && c != '[':
		s.begin(false)
		s.state = inScalar
		return i
	}
	next := inSkip
	if w != nil && w.raw != 0 && s.sink != nil {
		next, s.kind, s.schema = inRaw, w.raw, s.schema[:0]
	}
	switch c {
	case '{', '[':
		s.depth, s.inStr, s.bare = 1, false, false
	case '"':
		s.depth, s.inStr, s.bare = 0, true, false
	case '}', ']', ',', ':':
		s.fail("the answer is not JSON: a value was expected")
		return i
	default:
		s.depth, s.inStr, s.bare = 0, false, true
	}
	s.escaped = false
	s.state = next
	if next == inRaw {
		s.emit(p[i : i+1])
	}
	return i + 1
}

func (s *scanner) push(f frame, st state) {
	if len(s.stack) >= maxNesting {
		s.fail("the answer's JSON is nested too deep")
		return
	}
	s.stack = append(s.stack, f)
	s.state = st
}

func (s *scanner) pop() {
	top := s.stack[len(s.stack)-1]
	s.stack = s.stack[:len(s.stack)-1]
	if top.w != nil {
		if top.array && top.w.count != nil {
			top.w.count(s.facts, top.n)
		}
		if !top.array && top.w.end != nil {
			top.w.end(s.facts)
		}
	}
	s.done()
}

// done is behind a value.
func (s *scanner) done() {
	s.state = afterValue
	if len(s.stack) == 0 {
		s.state = finished
	}
}

func (s *scanner) begin(key bool) {
	s.state, s.isKey = inString, key
	s.token, s.escaped, s.slashes, s.over = s.token[:0], false, false, false
}

func (s *scanner) keep(b []byte) {
	if room := maxCaptured - len(s.token); len(b) > room {
		b, s.over = b[:room], true
	}
	s.token = append(s.token, b...)
}

// text reads on in a string that is kept.
func (s *scanner) text(p []byte, i int) int {
	start := i
	for ; i < len(p); i++ {
		switch c := p[i]; {
		case s.escaped:
			s.escaped = false
		case c == '\\':
			s.escaped, s.slashes = true, true
		case c == '"':
			s.keep(p[start:i])
			s.ended()
			return i + 1
		}
	}
	s.keep(p[start:])
	return i
}

func (s *scanner) ended() {
	value := s.token
	if s.slashes {
		var dec string
		if !s.over && json.Unmarshal(append(append([]byte{'"'}, s.token...), '"'), &dec) == nil {
			value = []byte(dec)
		}
	}
	if s.isKey {
		top := s.stack[len(s.stack)-1]
		s.next = nil
		if !s.over && top.w != nil {
			s.next = top.w.members[string(value)]
		}
		s.state = atColon
		return
	}
	s.next.scalar(s.facts, strings.ToValidUTF8(string(value), "�"))
	s.done()
}

// bareword reads on in a number or literal that is kept.
func (s *scanner) bareword(p []byte, i int) int {
	start := i
	for ; i < len(p); i++ {
		switch p[i] {
		case ',', '}', ']', ' ', '\n', '\r', '\t':
			s.keep(p[start:i])
			if v := string(s.token); v != "null" {
				s.next.scalar(s.facts, v)
			}
			s.done()
			return i
		}
	}
	s.keep(p[start:])
	return i
}

// structure marks the bytes at which passing over a value must look twice.
var structure = func() (t [256]uint8) {
	t['"'], t['{'], t['['], t['}'], t[']'] = 1, 2, 2, 3, 3
	return t
}()

// skip passes over a value that nobody wants: this is where result pages spend
// their bytes, so it looks at as little as it can.
func (s *scanner) skip(p []byte, i int) int {
	if s.bare {
		for ; i < len(p); i++ {
			switch p[i] {
			case ',', '}', ']', ' ', '\n', '\r', '\t':
				s.done()
				return i
			}
		}
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
				s.done()
				return i
			}
			// From one cell of a row to the next is most of the way.
			if i+8 <= len(p) && binary.LittleEndian.Uint64(p[i:]) == nextCell {
				i += 8
				inStr = true
			}
			continue
		}
		for i+8 <= len(p) && binary.LittleEndian.Uint64(p[i:]) == blanks { // pretty-printed
			i += 8
		}
		for i < len(p) && structure[p[i]] == 0 {
			i++
		}
		if i == len(p) {
			break
		}
		switch structure[p[i]] {
		case 1:
			inStr = true
		case 2:
			depth++
		case 3:
			depth--
			if depth == 0 {
				s.done()
				return i + 1
			}
		}
		i++
	}
	s.depth, s.inStr = depth, inStr
	return i
}

var (
	nextCell = binary.LittleEndian.Uint64([]byte(`},{"v":"`))
	blanks   = binary.LittleEndian.Uint64([]byte("        "))
)

// stringEnd is the index of the next quote or backslash from i on, the length of
// p where there is none. It looks at eight bytes at a time: x-ones & ^x & tops
// has the top bit set of the first byte of x that is zero
// (https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord).
func stringEnd(p []byte, i int) int {
	const (
		ones        = 0x0101010101010101
		tops        = 0x8080808080808080
		quotes      = ones * '"'
		backslashes = ones * '\\'
	)
	for ; i+8 <= len(p); i += 8 {
		v := binary.LittleEndian.Uint64(p[i:])
		q, b := v^quotes, v^backslashes
		if hit := ((q - ones) & ^q & tops) | ((b - ones) & ^b & tops); hit != 0 {
			return i + bits.TrailingZeros64(hit)>>3
		}
	}
	for i < len(p) && p[i] != '"' && p[i] != '\\' {
		i++
	}
	return i
}
