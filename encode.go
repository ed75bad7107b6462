package trailgate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"
)

// timeLayout writes nine fractional digits always, so that a time has one
// spelling only (RFC 3339, UTC).
const timeLayout = "2006-01-02T15:04:05.000000000Z"

var (
	// ErrTooLarge means that an entry would exceed [MaxEntryBytes]. What is long
	// (statements, parameters) belongs in blobs.
	ErrTooLarge = errors.New("entry exceeds 65535 bytes")
	// ErrNotCanonical means that bytes parse as an entry, but are not the one
	// encoding that the entry has.
	ErrNotCanonical = errors.New("entry is not in canonical form")
)

// body has Entry's fields without its methods.
type body Entry

// Draft is an entry encoded but for its place in the log. Encoding is the
// costly part; a log can do it before it takes the lock that orders entries.
// A Draft is immutable.
type Draft struct {
	rest []byte // the canonical encoding after the header, from the comma on
}

// Prepare encodes all of the entry but Seq and Time.
//
// It fails with [ErrTooLarge], or where a string is not valid UTF-8: the
// encoder would replace such bytes silently, and a trail must not.
func (e *Entry) Prepare() (Draft, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	b := (*body)(e)
	if e.Aggregate != nil {
		c := *b
		a := *e.Aggregate
		a.Since = a.Since.UTC()
		c.Aggregate = &a
		b = &c
	}
	if err := enc.Encode(b); err != nil {
		return Draft{}, fmt.Errorf("encode entry: %w", err)
	}
	raw := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if hasReplacement(raw) {
		return Draft{}, errors.New("encode entry: a string is not valid UTF-8")
	}
	raw[0] = ','
	d := Draft{rest: raw}
	if d.maxLen() > MaxEntryBytes {
		return Draft{}, ErrTooLarge
	}
	return d, nil
}

// hasReplacement reports whether the JSON holds the escape \ufffd, which
// encoding/json writes for bytes that are not UTF-8 and for nothing else: a
// true U+FFFD is written as itself.
func hasReplacement(raw []byte) bool {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 || i+1 >= len(raw) {
			return false
		}
		if bytes.HasPrefix(raw[i+1:], []byte("ufffd")) {
			return true
		}
		raw = raw[i+2:]
	}
}

// headerMax is the longest header: {"v":1,"seq":<20 digits>,"time":"<30>".
const headerMax = len(`{"v":1,"seq":`) + 20 + len(`,"time":"`) + len(timeLayout) + 1

func (d Draft) maxLen() int { return headerMax + len(d.rest) }

// Len is an upper bound of the sealed entry's length, in bytes.
func (d Draft) Len() int { return d.maxLen() }

// Seal appends the canonical encoding of the entry at that place in the log
// to dst and returns the extended slice.
func (d Draft) Seal(dst []byte, seq uint64, t time.Time) []byte {
	dst = append(dst, `{"v":1,"seq":`...)
	dst = strconv.AppendUint(dst, seq, 10)
	dst = append(dst, `,"time":"`...)
	dst = t.UTC().AppendFormat(dst, timeLayout)
	dst = append(dst, '"')
	return append(dst, d.rest...)
}

// Encode returns the canonical encoding of e.
func (e *Entry) Encode() ([]byte, error) {
	d, err := e.Prepare()
	if err != nil {
		return nil, err
	}
	return d.Seal(make([]byte, 0, d.maxLen()), e.Seq, e.Time), nil
}

// MarshalJSON gives the canonical encoding, so that an entry looks the same in
// an API's answer as in the log. (encoding/json may escape <, > and & on top.)
func (e Entry) MarshalJSON() ([]byte, error) { return e.Encode() }

// UnmarshalJSON reads an entry without asking that it be canonical; what comes
// from a log goes through [Decode] instead.
func (e *Entry) UnmarshalJSON(raw []byte) error {
	v, err := parse(raw)
	if err != nil {
		return err
	}
	*e = *v
	return nil
}

// Decode parses one entry as it stands in a log. Unknown fields, trailing
// data, another version and any spelling but the canonical one are errors, so
// that no two different byte strings decode to the same entry.
func Decode(raw []byte) (*Entry, error) {
	if len(raw) > MaxEntryBytes {
		return nil, ErrTooLarge
	}
	if !utf8.Valid(raw) {
		return nil, errors.New("decode entry: not valid UTF-8")
	}
	e, err := parse(raw)
	if err != nil {
		return nil, err
	}
	again, err := e.Encode()
	if err != nil {
		return nil, fmt.Errorf("decode entry: %w", err)
	}
	if !bytes.Equal(raw, again) {
		return nil, ErrNotCanonical
	}
	return e, nil
}

func parse(raw []byte) (*Entry, error) {
	var wire struct {
		V    int    `json:"v"`
		Seq  uint64 `json:"seq"`
		Time string `json:"time"`
		body
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&wire); err != nil {
		return nil, fmt.Errorf("decode entry: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("decode entry: trailing data")
	}
	if wire.V != Version {
		return nil, fmt.Errorf("decode entry: version %d, this program reads version %d", wire.V, Version)
	}
	t, err := time.Parse(timeLayout, wire.Time)
	if err != nil {
		return nil, fmt.Errorf("decode entry: time: %w", err)
	}
	e := Entry(wire.body)
	e.Seq, e.Time = wire.Seq, t
	return &e, nil
}
