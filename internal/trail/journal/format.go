// Package journal is the write-ahead journal in front of the tiled log: the
// place where an entry first becomes durable.
//
// It is a row of preallocated files, the segments. A batch of records is one
// write and one datasync inside the newest of them. Records are chained by
// hash, bound to their segment's number, and say which batch they were written
// in, so that a reader can tell the torn end of an interrupted write (legal,
// and cut off) from damage to what was once acknowledged (never legal, and an
// error).
//
// After a write or sync that failed nothing in that segment's end is believed
// again: the journal turns to a new segment whose header says from which
// sequence number on it replaces what came before.
//
// The format is specified in docs/spec/journal.md.
package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

const (
	// headerBytes is what a segment begins with: one block, so that writing
	// records never touches the sectors of the header.
	headerBytes = 4096
	headerUsed  = 8 + 8 + 8 + 32 + 32 // what the header's own hash covers
	recordHead  = 4 + 4 + 8 + 8 + 32
	align       = 8

	// MinSegmentBytes is the smallest segment that holds a batch of any entry.
	MinSegmentBytes = 1 << 18
)

var (
	magic      = [8]byte{'T', 'G', 'J', 'S', 'E', 'G', '1', '\n'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// header is what a segment says of itself.
type header struct {
	number uint64
	first  uint64    // sequence number of the first record; replaces what earlier segments hold from there on
	prev   tlog.Hash // the chain before that record
	id     tlog.Hash // the log that the journal belongs to
}

func (h header) encode() []byte {
	b := make([]byte, headerBytes)
	copy(b, magic[:])
	binary.LittleEndian.PutUint64(b[8:], h.number)
	binary.LittleEndian.PutUint64(b[16:], h.first)
	copy(b[24:], h.prev[:])
	copy(b[56:], h.id[:])
	sum := sha256.Sum256(b[:headerUsed])
	copy(b[headerUsed:], sum[:])
	return b
}

func parseHeader(b []byte) (header, error) {
	if len(b) < headerBytes {
		return header{}, errors.New("shorter than its header")
	}
	if !bytes.Equal(b[:8], magic[:]) {
		return header{}, errors.New("not a journal segment of this version")
	}
	sum := sha256.Sum256(b[:headerUsed])
	if !bytes.Equal(sum[:], b[headerUsed:headerUsed+32]) {
		return header{}, errors.New("header does not match its hash")
	}
	h := header{
		number: binary.LittleEndian.Uint64(b[8:]),
		first:  binary.LittleEndian.Uint64(b[16:]),
	}
	copy(h.prev[:], b[24:])
	copy(h.id[:], b[56:])
	return h, nil
}

// Record is one entry as the journal holds it.
type Record struct {
	Seq   uint64
	Batch uint64 // Seq of the first record that was synced together with this one
	Entry []byte
	Leaf  tlog.Hash // RFC 6962 leaf hash of Entry
	Chain tlog.Hash // hash over all records up to this one
}

// chainHash links a record to the one before it. The prefix keeps it apart
// from RFC 6962's leaf (0) and node (1) hashes.
func chainHash(prev, leaf tlog.Hash) tlog.Hash {
	var b [1 + 2*tlog.HashSize]byte
	b[0] = 2
	copy(b[1:], prev[:])
	copy(b[1+tlog.HashSize:], leaf[:])
	return sha256.Sum256(b[:])
}

// RecordBytes is what an entry of n bytes takes in a segment.
func RecordBytes(n int) int64 {
	return int64(recordHead+n+align-1) &^ (align - 1)
}

// appendRecord appends r, as it stands in segment number, to b.
func appendRecord(b []byte, number uint64, r *Record) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.Entry)))
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, r.Seq)
	b = binary.LittleEndian.AppendUint64(b, r.Batch)
	b = append(b, r.Chain[:]...)
	b = append(b, r.Entry...)
	binary.LittleEndian.PutUint32(b[start+4:], checksum(b[start:], number))
	for len(b)%align != start%align {
		b = append(b, 0)
	}
	return b
}

// checksum is the CRC-32C of the segment's number, the entry's length and all
// that follows the checksum. The number keeps what an earlier use of the same
// file left behind from passing for a record.
func checksum(rec []byte, number uint64) uint32 {
	var seed [12]byte
	binary.LittleEndian.PutUint64(seed[:], number)
	copy(seed[8:], rec[:4])
	return crc32.Update(crc32.Checksum(seed[:], castagnoli), castagnoli, rec[8:])
}

// parseRecord reads the record at the beginning of b. It checks the checksum,
// not the chain; Leaf is left zero and Entry aliases b.
func parseRecord(b []byte, number uint64) (Record, bool) {
	if len(b) < recordHead {
		return Record{}, false
	}
	n := binary.LittleEndian.Uint32(b)
	if n == 0 || n > trailgate.MaxEntryBytes || len(b) < recordHead+int(n) {
		return Record{}, false
	}
	b = b[:recordHead+int(n)]
	if binary.LittleEndian.Uint32(b[4:]) != checksum(b, number) {
		return Record{}, false
	}
	r := Record{
		Seq:   binary.LittleEndian.Uint64(b[8:]),
		Batch: binary.LittleEndian.Uint64(b[16:]),
		Entry: b[recordHead:],
	}
	copy(r.Chain[:], b[24:])
	return r, true
}

// ErrForeign means that a segment belongs to another log's journal.
var ErrForeign = errors.New("the journal belongs to another log")

// ErrMissing means that there is no journal.
var ErrMissing = errors.New("there is no journal")

// DamageError means that records which were once durable are not there, or not
// as they were written.
type DamageError struct {
	Path   string
	Offset int64
	Seq    uint64 // of the first record that is not there
	Reason string
}

// Error names the place.
func (e *DamageError) Error() string {
	return fmt.Sprintf("journal segment %s, byte %d, entry %d: %s", e.Path, e.Offset, e.Seq, e.Reason)
}
