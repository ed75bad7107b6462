package trailgate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// lines reads a member line by line. Each ends with a newline, the last one too.
type lines struct {
	r      *bufio.Reader
	member string
	n      uint64
}

func newLines(r io.Reader, member string, longest int) *lines {
	return &lines{r: bufio.NewReaderSize(r, longest+1), member: member}
}

// next is the next line without its end, which is good until the one after; io.EOF
// behind the last.
func (l *lines) next() ([]byte, error) {
	raw, err := l.r.ReadSlice('\n')
	switch {
	case err == nil:
		l.n++
		return raw[:len(raw)-1], nil
	case errors.Is(err, io.EOF) && len(raw) == 0:
		return nil, io.EOF
	case errors.Is(err, io.EOF):
		return nil, &BundleError{l.member, l.n + 1, "the line has no end"}
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, &BundleError{l.member, l.n + 1, "longer than any such line"}
	}
	return nil, fmt.Errorf("read the bundle: %w", err)
}

// bad is about the line that was read last.
func (l *lines) bad(format string, args ...any) error {
	return &BundleError{l.member, l.n, fmt.Sprintf(format, args...)}
}
