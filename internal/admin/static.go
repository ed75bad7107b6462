package admin

import (
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/trailgate/trailgate"
)

// tileForm is what the path of a tile or an entry bundle looks like below
// "tile/" (https://c2sp.org/tlog-tiles): level, index in groups of three digits,
// width of a partial one. Nothing else in the log's directory is served.
var tileForm = regexp.MustCompile(`^(entries|[0-9]|[1-5][0-9]|6[0-3])/(x[0-9]{3}/){0,6}[0-9]{3}(\.p/([1-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5]))?$`)

// tilePath tells whether a path may be a tile's. An index has one spelling: it
// does not begin with a group of zeroes.
func tilePath(path string) bool {
	if !tileForm.MatchString(path) {
		return false
	}
	_, index, _ := strings.Cut(path, "/")
	return !strings.HasPrefix(index, "x000/")
}

// logTile is GET log/tile/{tile}: a hash tile or an entry bundle, which never
// change.
func (a *API) logTile(w http.ResponseWriter, r *request) error {
	path := r.args["tile"]
	if !tilePath(path) {
		return &Error{Code: http.StatusNotFound, Message: "this is no path of a tile or an entry bundle (https://c2sp.org/tlog-tiles)"}
	}
	bundle := strings.HasPrefix(path, "entries/")
	if bundle {
		if err := a.recordReader(r, "tile/"+path); err != nil {
			return err
		}
	}
	f, size, err := a.openLog("tile/" + path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was only read
	pace(w)
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	if bundle {
		h.Set("Vary", "Accept-Encoding")
		if acceptsGzip(r.Header) {
			h.Set("Content-Encoding", "gzip")
			w.WriteHeader(http.StatusOK)
			if r.Method != http.MethodHead {
				compress(w, f)
			}
			return nil
		}
	}
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	w.WriteHeader(http.StatusOK)
	_, _ = io.CopyN(w, f, size) // the caller may be gone
	return nil
}

// acceptsGzip reads Accept-Encoding as plainly as clients of logs write it.
func acceptsGzip(h http.Header) bool {
	for part := range strings.SplitSeq(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		name, weight, _ := strings.Cut(strings.ReplaceAll(part, " ", ""), ";")
		if strings.EqualFold(name, "gzip") && strings.TrimRight(weight, ".0") != "q=" {
			return true
		}
	}
	return false
}

var zippers = sync.Pool{New: func() any {
	z, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
	if err != nil {
		return gzip.NewWriter(io.Discard)
	}
	return z
}}

// compress leaves an answer cut where anything fails: the caller's gzip then
// lacks its end, which it notices.
func compress(w io.Writer, f io.Reader) {
	z := zippers.Get().(*gzip.Writer)
	defer zippers.Put(z)
	z.Reset(w)
	if _, err := io.Copy(z, f); err == nil {
		_ = z.Close()
	}
}

// logCheckpoint is GET log/checkpoint.
func (a *API) logCheckpoint(w http.ResponseWriter, _ *request) error {
	f, _, err := a.openLog("checkpoint")
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was only read
	raw, err := io.ReadAll(io.LimitReader(f, 1<<16))
	if err != nil {
		return err
	}
	return send(w, http.StatusOK, "text/plain; charset=utf-8", raw)
}

// logRotations is GET log/rotations: a proof for each change of the log's key.
func (a *API) logRotations(w http.ResponseWriter, _ *request) error {
	f, _, err := a.openLog("rotations")
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was only read
	raw, err := io.ReadAll(io.LimitReader(f, trailgate.MaxRotationsBytes))
	if err != nil {
		return err
	}
	return send(w, http.StatusOK, "application/jsonl", raw)
}

// logKeys are all keys that the log had: who asks may have kept something from before
// its key was changed.
func (a *API) logKeys() (*trailgate.Keychain, error) {
	var rotations []trailgate.Proof
	f, _, err := a.openLog("rotations")
	if e, ok := errors.AsType[*Error](err); ok && e.Code == http.StatusNotFound {
		return trailgate.NewKeychain(a.cfg.Trail.PublicKey(), nil)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	raw, err := io.ReadAll(io.LimitReader(f, trailgate.MaxRotationsBytes))
	if err == nil {
		rotations, err = trailgate.ParseRotations(raw)
	}
	if err != nil {
		return nil, err
	}
	return trailgate.NewKeychain(a.cfg.Trail.PublicKey(), rotations)
}

// logKey is GET log/key.
func (a *API) logKey(w http.ResponseWriter, _ *request) error {
	return send(w, http.StatusOK, "text/plain; charset=utf-8", []byte(a.cfg.Trail.PublicKey()+"\n"))
}

// openLog opens a file of the log. No link leads out of its directory.
func (a *API) openLog(path string) (f *os.File, size int64, err error) {
	f, err = os.OpenInRoot(a.cfg.Trail.LogDir(), filepath.FromSlash(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, &Error{Code: http.StatusNotFound, Message: "the log has no " + path + "; a partial tile may have become a full one"}
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &Error{Code: http.StatusNotFound, Message: "the log has no " + path}
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

var shaForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// blob is GET blobs/{sha256}: a stored statement.
func (a *API) blob(w http.ResponseWriter, r *request) error {
	sha := r.args["sha256"]
	if !shaForm.MatchString(sha) {
		return invalid("a blob is named by its SHA-256, in 64 lower-case hex digits")
	}
	if !a.busy.enter() {
		return busy()
	}
	defer a.busy.leave()
	if _, err := a.record(r, actionBlob, sha, nil); err != nil {
		return err
	}
	raw, err := a.cfg.Trail.GetBlob(r.Context(), sha)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Disposition", `attachment; filename="`+sha+`"`)
	return send(w, http.StatusOK, "application/octet-stream", raw)
}

const (
	// readersEvery is how long one entry covers a caller's reading of bundles.
	readersEvery = time.Minute
	maxReaders   = 1024
)

// readers remembers whose reading of entry bundles was recorded of late.
type readers struct {
	mu   sync.Mutex // guards told; held while a reader is recorded
	told map[reader]time.Time
}

// reader is a caller without its port, which changes by the connection.
type reader struct{ actor, via, host string }

// recordReader records that a caller reads entry bundles, unless that was done
// in the minute before. Others who begin to read meanwhile wait: nobody reads
// on an entry that is not there yet.
func (a *API) recordReader(r *request, path string) error {
	who, now := readerOf(r.who), a.cfg.Now()
	s := &a.readers
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.told[who]; ok && now.Sub(t) < readersEvery {
		return nil
	}
	if _, err := a.record(r, actionLog, path, nil); err != nil {
		return err
	}
	if s.told == nil || len(s.told) >= maxReaders {
		s.told = map[reader]time.Time{} // all are recorded once more
	}
	s.told[who] = now
	return nil
}

func readerOf(who caller) reader {
	host := who.client
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	return reader{who.actor, who.via, host}
}
