package journal

import "encoding/binary"

// ScanBytes reads a segment with a good header and these records as the newest
// of a journal, for fuzzing. With fix, checksums are made right first, so that
// what lies behind them is reached.
func ScanBytes(id [32]byte, records []byte, fix bool, fn func(Record) error) (next uint64, err error) {
	h := header{number: 1, prev: id, id: id}
	b := append(h.encode(), records...)
	if _, err := parseHeader(b); err != nil {
		return 0, err
	}
	for off := headerBytes; fix && off+recordHead <= len(b); {
		n := int(binary.LittleEndian.Uint32(b[off:]))
		if n == 0 || n > len(b)-off-recordHead {
			break
		}
		binary.LittleEndian.PutUint32(b[off+4:], checksum(b[off:off+recordHead+n], h.number))
		off += int(RecordBytes(n))
	}
	s := segmentEnd{header: h}
	end := &End{First: h.first, Next: h.first, Chain: h.prev}
	stop, err := s.scan(b, end, true, 0, fn)
	if err != nil {
		return 0, err
	}
	acknowledgedBeyond(b, stop, h.number, end.Next)
	return end.Next, nil
}
