package recording

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

const (
	flushBytes = 128 << 10 // rows are hashed and compressed in pieces of about that
	smallBytes = 64 << 10  // a sealed body up to that stays in memory until it is named
	maxSchema  = 4 << 20
)

// Writer keeps the rows of one answer. It is for one goroutine. Its methods but Finish
// never wait for a disk beyond a write to the page cache, and none fails: what goes
// wrong is in what Finish returns.
type Writer struct {
	s         *Store
	key       *dataKey
	conn      string
	redaction *redacting // nil: rows stay as they are
	most      int64

	buf   []byte // whole rows that are not hashed yet, and behind them the row at hand
	start int    // of the row at hand
	large bool   // it is longer than is looked at

	all         hash.Hash
	rows, bytes int64
	body        *sealer // nil: nothing is stored
	stored      []byte  // SHA-256 of what is stored, where that is not all
	storedRows  int64
	storedBytes int64
	storing     bool
	truncated   bool
	schema      []byte
	problem     string
}

// Begin begins to keep the rows of an answer. maxBytes bounds what is stored of them;
// 0: as the store has it.
func (s *Store) Begin(connection string, r *Redaction, maxBytes int64) *Writer {
	w := &Writer{s: s, conn: connection, most: s.o.MaxBytes, all: sha256.New(), storing: true}
	if maxBytes > 0 {
		w.most = maxBytes
	}
	var err error
	if w.key, err = s.keys.current(connection, s.o.Now()); err != nil {
		w.fail(err)
	}
	if r != nil {
		w.redaction = &redacting{Redaction: *r}
		if r.hashes() {
			if w.redaction.key, err = s.keys.hashKey(connection); err != nil {
				w.fail(err)
			}
		}
	}
	return w
}

// fail ends the storing; hashing goes on where there is a key.
func (w *Writer) fail(err error) {
	if w.problem == "" {
		w.problem = err.Error()
	}
	w.storing = false
}

// Schema takes the answer's schema, JSON.
func (w *Writer) Schema(raw []byte) {
	if len(raw) > maxSchema || w.rows > 0 && w.redaction != nil {
		return // too late for the rows that went by without one: they were left out
	}
	w.schema = bytes.Clone(raw)
	if w.redaction != nil {
		w.redaction.learn(raw)
	}
}

// KnowSchema takes a schema that the answer does not bring itself.
func (w *Writer) KnowSchema(raw []byte) { w.Schema(raw) }

// RowPart takes the next part of a row's JSON.
func (w *Writer) RowPart(p []byte) {
	if w.large {
		if w.redaction == nil {
			w.all.Write(p)
			w.bytes += int64(len(p))
		}
		return
	}
	w.buf = append(w.buf, p...)
	if int64(len(w.buf)-w.start) > w.s.o.MaxRow {
		w.overflow()
	}
}

// overflow is at a row that is too long to be kept in memory: it is hashed, and ends
// what is stored; a redaction, which must see it whole, leaves it out.
func (w *Writer) overflow() {
	w.large = true
	w.flush(w.start)
	w.stop()
	if w.redaction == nil {
		w.all.Write(w.buf[w.start:])
		w.bytes += int64(len(w.buf) - w.start)
	}
	w.buf, w.start = w.buf[:0], 0
}

// EndRow says that the row is whole.
func (w *Writer) EndRow() {
	w.rows++
	if w.large {
		w.large = false
		if w.redaction != nil {
			w.all.Write([]byte("null"))
			w.bytes += 4
			w.redaction.cells++
			w.redaction.fault("a row was too long to be redacted, and was left out")
		}
		w.all.Write([]byte{'\n'})
		w.bytes++
		return
	}
	if w.redaction != nil {
		w.buf = w.redaction.row(w.buf, w.start)
	}
	w.buf = append(w.buf, '\n')
	size := int64(len(w.buf) - w.start)
	w.bytes += size
	if w.storing && w.storedBytes+size > w.most {
		w.flush(w.start)
		w.stop()
	}
	if w.storing {
		w.storedRows++
		w.storedBytes += size
	}
	w.start = len(w.buf)
	if len(w.buf) >= flushBytes {
		w.flush(len(w.buf))
	}
}

// stop ends the storing at a whole row; what is behind it is hashed alone.
func (w *Writer) stop() {
	if w.storing {
		w.stored = w.all.Sum(nil)
		w.storing, w.truncated = false, true
	}
}

// flush hashes the rows before n, and stores them.
func (w *Writer) flush(n int) {
	if n == 0 {
		return
	}
	w.all.Write(w.buf[:n])
	if w.storing {
		if w.body == nil {
			w.body = &sealer{s: w.s}
			if err := w.body.begin(w.key); err != nil {
				w.fail(err)
			}
		}
		if w.storing {
			if _, err := w.body.Write(w.buf[:n]); err != nil {
				w.fail(err)
			}
		}
	}
	rest := copy(w.buf, w.buf[n:])
	w.buf = w.buf[:rest]
	w.start = max(w.start-n, 0)
}

// Abort forgets what was kept so far.
func (w *Writer) Abort() {
	if w.body != nil {
		w.body.abort()
		w.body = nil
	}
	w.buf, w.storing = nil, false
}

// Finish names what was kept. What it names is durable on return: the key, the bodies,
// and the names of both. A crash before leaves a body that no entry names, which is
// cleared away when the store is next opened or harms nobody.
func (w *Writer) Finish(ctx context.Context) trailgate.Recording {
	if w.start < len(w.buf) || w.large { // a row broke off
		w.buf, w.large = w.buf[:w.start], false
	}
	if err := ctx.Err(); err != nil {
		w.fail(err)
	}
	w.flush(len(w.buf))
	rec := trailgate.Recording{Rows: w.rows, Bytes: w.bytes, Truncated: w.truncated}
	if w.redaction != nil {
		rec.Redacted = w.redaction.cells
		if w.problem == "" {
			w.problem = w.redaction.problem
		}
	}
	if w.rows == 0 || w.key == nil {
		w.Abort()
		rec.Error, rec.Truncated = w.problem, w.problem != "" && w.rows > 0
		return rec
	}
	rec.Key = w.key.name
	sum := w.all.Sum(nil)
	rec.SHA256 = w.key.commit(sum)
	if w.body != nil && (w.storing || w.truncated) && w.storedRows > 0 {
		if w.stored == nil {
			w.stored = sum
		}
		address := w.key.commit(w.stored)
		if err := w.body.name(w.key, address); err != nil {
			w.fail(fmt.Errorf("store rows: %w", err))
		} else {
			rec.Body, rec.StoredRows, rec.StoredBytes = address, w.storedRows, w.storedBytes
			w.body = nil
		}
	}
	if rec.Body != "" && len(w.schema) > 0 {
		address, err := w.s.put(w.key, w.schema)
		if err != nil {
			w.fail(fmt.Errorf("store schema: %w", err))
		} else {
			rec.Schema = address
		}
	}
	w.Abort() // what is left of it
	rec.Truncated = rec.StoredRows < rec.Rows
	rec.Error = w.problem
	return rec
}

// put stores a small body and returns its address.
func (s *Store) put(k *dataKey, body []byte) (string, error) {
	sum := sha256.Sum256(body)
	address := k.commit(sum[:])
	if s.durable(k.name, address) {
		return address, nil
	}
	x := &sealer{s: s}
	err := x.begin(k)
	if err == nil {
		_, err = x.Write(body)
	}
	if err == nil {
		err = x.name(k, address)
	}
	if err != nil {
		x.abort()
		return "", err
	}
	return address, nil
}

var encoders = sync.Pool{}

// sealer compresses and encrypts a body on its way to a file.
type sealer struct {
	s    *Store
	enc  *zstd.Encoder
	seal io.WriteCloser
	out  spool
}

func (x *sealer) begin(k *dataKey) error {
	x.out.s = x.s
	var err error
	if x.seal, err = age.Encrypt(&x.out, k.identity.Recipient()); err != nil {
		return err
	}
	if e, ok := encoders.Get().(*zstd.Encoder); ok {
		e.Reset(x.seal)
		x.enc = e
		return nil
	}
	x.enc, err = zstd.NewWriter(x.seal, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(512<<10))
	return err
}

func (x *sealer) Write(p []byte) (int, error) { return x.enc.Write(p) }

// name ends the body and gives it its address.
func (x *sealer) name(k *dataKey, address string) error {
	err := x.enc.Close()
	x.giveBack()
	if err == nil {
		err = x.seal.Close()
	}
	if err != nil {
		return err
	}
	return x.out.name(k.name, address)
}

func (x *sealer) giveBack() {
	if x.enc != nil {
		x.enc.Reset(nil)
		encoders.Put(x.enc)
		x.enc = nil
	}
}

func (x *sealer) abort() {
	x.giveBack()
	x.out.drop()
}

// spool holds a body until it has a name: in memory while it is small, in a file of the
// store's own directory for such then.
type spool struct {
	s    *Store
	mem  bytes.Buffer
	file *durable.File
	size int64
}

func (o *spool) Write(p []byte) (int, error) {
	if o.file == nil && o.mem.Len()+len(p) <= smallBytes {
		return o.mem.Write(p)
	}
	if o.file == nil {
		var err error
		if o.file, err = o.s.temp(); err != nil {
			return 0, err
		}
	}
	if o.mem.Len() > 0 {
		if err := o.file.WriteAt(o.mem.Bytes(), o.size); err != nil {
			return 0, err
		}
		o.size += int64(o.mem.Len())
		o.mem.Reset()
	}
	if err := o.file.WriteAt(p, o.size); err != nil {
		return 0, err
	}
	o.size += int64(len(p))
	return len(p), nil
}

func (o *spool) drop() {
	o.mem = bytes.Buffer{}
	if o.file != nil {
		path := o.file.Path()
		_ = errors.Join(o.file.Close(), o.s.fs.Remove(path)) // else the next start removes it
		o.file = nil
	}
}
