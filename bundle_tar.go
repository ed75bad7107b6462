package trailgate

import (
	"errors"
	"fmt"
	"io"
	"regexp"
)

const (
	tarBlock = 512
	// maxMemberBytes is what the size in a tar header can hold: 11 octal digits.
	maxMemberBytes = 1<<33 - 1
	// maxMembers bounds the table of members that is kept in memory.
	maxMembers = 1 << 20
)

// memberForm is a member's name; nothing in one can lead out of a directory.
var memberForm = regexp.MustCompile(`^([a-z]{1,16}/)?[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$`)

// BundleHeader is the one tar header (POSIX ustar) that a member of that name and size
// has in a bundle. A bundle has no times, owners or modes of its own, so that what it
// holds decides its bytes.
func BundleHeader(name string, size int64) ([]byte, error) {
	if !memberForm.MatchString(name) || size < 0 || size > maxMemberBytes {
		return nil, fmt.Errorf("bundle: %q of %d bytes cannot be a member", name, size)
	}
	h := make([]byte, tarBlock)
	copy(h, name)
	copy(h[100:], "0000644\x00"+"0000000\x00"+"0000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", size))
	copy(h[136:], "00000000000\x00"+"        "+"0")
	copy(h[257:], "ustar\x00"+"00")
	copy(h[329:], "0000000\x00"+"0000000\x00")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h, nil
}

// BundlePadding is how many zero bytes follow a member of that size.
func BundlePadding(size int64) int64 { return (tarBlock - size%tarBlock) % tarBlock }

// BundleEnd is what stands behind the last member: two blocks of zeros.
const BundleEnd = 2 * tarBlock

// member is where one stands in the file.
type member struct {
	name         string
	offset, size int64
}

// readHeader reads a header strictly: it must be what BundleHeader makes of the name and
// the size that it says. nil without an error is the end's first block.
func readHeader(h []byte) (*member, error) {
	end := true
	for _, b := range h {
		end = end && b == 0
	}
	if end {
		return nil, nil
	}
	n := 0
	for n < 100 && h[n] != 0 {
		n++
	}
	m := &member{name: string(h[:n])}
	for _, c := range h[124:135] {
		if c < '0' || c > '7' {
			return nil, errors.New("the header's size is not 11 octal digits")
		}
		m.size = m.size<<3 | int64(c-'0')
	}
	want, err := BundleHeader(m.name, m.size)
	if err != nil {
		return nil, errors.New("the header names no member of a bundle")
	}
	if string(want) != string(h) {
		return nil, fmt.Errorf("the header of %s is not the one that such a member has", m.name)
	}
	return m, nil
}

// members reads the table of a bundle's members, and checks that nothing stands between
// and behind them.
func members(r io.ReaderAt, size int64) ([]member, error) {
	if size%tarBlock != 0 {
		return nil, &BundleError{"", 0, "the file ends inside a block; it was cut, or is no bundle"}
	}
	var list []member
	block := make([]byte, tarBlock)
	for at := int64(0); ; {
		place := "the beginning"
		if len(list) > 0 {
			place = list[len(list)-1].name
		}
		if at+tarBlock > size {
			return nil, &BundleError{"", 0, "the file ends behind " + place + "; it was cut"}
		}
		if err := readFull(r, block, at); err != nil {
			return nil, err
		}
		m, err := readHeader(block)
		if err != nil {
			return nil, &BundleError{"", 0, fmt.Sprintf("behind %s: %v", place, err)}
		}
		at += tarBlock
		if m == nil {
			return list, atEnd(r, at, size)
		}
		if len(list) == maxMembers {
			return nil, &BundleError{"", 0, "more members than a bundle may have"}
		}
		m.offset = at
		pad := BundlePadding(m.size)
		if m.size > size-at || at+m.size+pad > size {
			return nil, &BundleError{m.name, 0, "the file ends inside it; it was cut"}
		}
		at += m.size
		if pad > 0 {
			if err := readFull(r, block[:pad], at); err != nil {
				return nil, err
			}
			for _, b := range block[:pad] {
				if b != 0 {
					return nil, &BundleError{m.name, 0, "something stands in the padding behind it"}
				}
			}
		}
		at += pad
		list = append(list, *m)
	}
}

// atEnd checks the end's second block, and that it is the last.
func atEnd(r io.ReaderAt, at, size int64) error {
	if size-at != tarBlock {
		return &BundleError{"", 0, "the file does not end with two blocks of zeros"}
	}
	block := make([]byte, tarBlock)
	if err := readFull(r, block, at); err != nil {
		return err
	}
	for _, b := range block {
		if b != 0 {
			return &BundleError{"", 0, "the file does not end with two blocks of zeros"}
		}
	}
	return nil
}

func readFull(r io.ReaderAt, buf []byte, at int64) error {
	n, err := r.ReadAt(buf, at)
	if n == len(buf) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read the bundle: %w", err)
}
