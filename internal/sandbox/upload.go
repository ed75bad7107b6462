package sandbox

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Bounds of uploads.
const (
	maxUploadBytes = 256 << 20 // of one
	maxUploads     = 64        // resumable ones that are not finished
)

// upload is a resumable upload: a job that waits for its data.
// https://cloud.google.com/bigquery/docs/reference/api-uploads
type upload struct {
	id          string
	call        *call // that began it
	body        object
	contentType string
	total       int64 // announced size; -1 where unknown

	mu   sync.Mutex // guards what follows, over a whole chunk
	data []byte
	job  *job // once all is there
}

type uploadStore struct {
	mu    sync.Mutex // guards what follows
	byID  map[string]*upload
	order []string
}

func newUploadStore() *uploadStore { return &uploadStore{byID: map[string]*upload{}} }

// add takes an upload in; the oldest is given up where there are too many.
func (st *uploadStore) add(u *upload) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.byID[u.id] = u
	st.order = append(st.order, u.id)
	if len(st.order) > maxUploads {
		delete(st.byID, st.order[0])
		st.order = st.order[1:]
	}
}

func (st *uploadStore) find(id string) *upload {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.byID[id]
}

func (st *uploadStore) drop(id string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.byID, id)
}

// serveUpload handles the upload doors, which lead to jobs.insert alone. prefix
// is the door's, rest the path below it.
func (s *Sandbox) serveUpload(w http.ResponseWriter, c *call, prefix, rest string) error {
	verb := http.MethodPost
	m, params, err := match(s.methods, verb, rest)
	if err != nil {
		return err
	}
	if m.id != "bigquery.jobs.insert" {
		return fail("invalid", "%s takes no uploads", m.id)
	}
	c.method, c.params = m, params
	q := c.r.URL.Query()
	if err := m.checkQuery(q); err != nil {
		return err
	}
	if id := q.Get("upload_id"); id != "" {
		return s.uploadChunk(w, c, id)
	}
	if c.r.Method != http.MethodPost {
		return &apiError{status: http.StatusMethodNotAllowed, reason: "httpMethodNotAllowed", message: "An upload begins with POST"}
	}
	if !s.catalog.hasProject(params["projectId"]) {
		return notFound("Project", params["projectId"])
	}
	switch kind := q.Get("uploadType"); {
	case kind == "multipart":
		return s.uploadMultipart(w, c)
	case kind == "resumable" || kind == "" && strings.HasPrefix(prefix, "/resumable/"):
		return s.uploadStart(w, c, prefix)
	default:
		return unsupported("uploadType=%s; use multipart or resumable", kind)
	}
}

// uploadMultipart reads a job and its data from one multipart/related body.
func (s *Sandbox) uploadMultipart(w http.ResponseWriter, c *call) error {
	mt, params, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || mt != "multipart/related" || params["boundary"] == "" {
		return fail("invalid", "A multipart upload needs the Content-Type multipart/related with a boundary")
	}
	r := multipart.NewReader(http.MaxBytesReader(w, c.r.Body, maxUploadBytes+maxRequestBytes), params["boundary"])
	head, err := r.NextRawPart()
	if err != nil {
		return fail("invalid", "Malformed multipart body: %s", err)
	}
	raw, err := io.ReadAll(io.LimitReader(head, maxRequestBytes))
	if err != nil {
		return fail("invalid", "Malformed multipart body: %s", err)
	}
	if err := s.parseBody(c, raw); err != nil {
		return err
	}
	part, err := r.NextRawPart()
	if err != nil {
		return fail("invalid", "Malformed multipart body: the data is missing: %s", err)
	}
	if enc := part.Header.Get("Content-Transfer-Encoding"); enc != "" && !strings.EqualFold(enc, "binary") && !strings.EqualFold(enc, "8bit") && !strings.EqualFold(enc, "7bit") {
		return unsupported("the Content-Transfer-Encoding %s", enc)
	}
	data, err := io.ReadAll(part)
	if err != nil {
		return fail("invalid", "Malformed multipart body: %s", err)
	}
	if _, err := r.NextRawPart(); !errors.Is(err, io.EOF) {
		return fail("invalid", "Malformed multipart body: it must have two parts")
	}
	j, err := s.insertJob(c, c.body, &media{contentType: part.Header.Get("Content-Type"), data: data})
	if err != nil {
		return err
	}
	return s.write(w, c, jsonAnswer{s.jobs.object(j, c.host)})
}

// uploadStart begins a resumable upload and says where its data goes.
func (s *Sandbox) uploadStart(w http.ResponseWriter, c *call, prefix string) error {
	raw, err := readAll(c.r)
	if err != nil {
		return err
	}
	if err := s.parseBody(c, raw); err != nil {
		return err
	}
	u := &upload{id: newJobID("upload_"), call: c, body: c.body, contentType: c.r.Header.Get("X-Upload-Content-Type"), total: -1}
	if v := c.r.Header.Get("X-Upload-Content-Length"); v != "" {
		if u.total, err = strconv.ParseInt(v, 10, 64); err != nil || u.total < 0 {
			return fail("invalid", "Invalid X-Upload-Content-Length %q", v)
		}
		if u.total > maxUploadBytes {
			return fail("invalid", "The sandbox takes uploads of %d bytes at most", maxUploadBytes)
		}
	}
	s.uploads.add(u)
	location := url.URL{Path: prefix + "projects/" + c.params["projectId"] + "/jobs", RawQuery: "uploadType=resumable&upload_id=" + u.id}
	w.Header().Set("Location", c.host+location.String())
	w.Header().Set("X-Guploader-Uploadid", u.id)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
	return nil
}

var contentRange = regexp.MustCompile(`^bytes (?:\*|(\d+)-(\d+))/(?:\*|(\d+))$`)

// uploadChunk takes data of a resumable upload, tells how much is there, or
// gives the upload up.
func (s *Sandbox) uploadChunk(w http.ResponseWriter, c *call, id string) error {
	u := s.uploads.find(id)
	if u == nil || u.call.params["projectId"] != c.params["projectId"] {
		return &apiError{status: http.StatusNotFound, reason: "notFound", message: "Upload ID not found: " + id}
	}
	if u.call.principal != c.principal {
		return fail("accessDenied", "Access Denied: the upload was begun by another principal")
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.job != nil {
		return s.write(w, c, jsonAnswer{s.jobs.object(u.job, c.host)})
	}
	switch c.r.Method {
	case http.MethodDelete:
		s.uploads.drop(id)
		w.WriteHeader(499) // Google's answer to a cancelled upload
		return nil
	case http.MethodPut, http.MethodPost:
	default:
		return &apiError{status: http.StatusMethodNotAllowed, reason: "httpMethodNotAllowed", message: "Data is sent with PUT"}
	}
	last, err := u.take(w, c.r)
	if err != nil {
		return err
	}
	if !last {
		if len(u.data) > 0 {
			w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", len(u.data)-1))
		}
		w.Header().Set("X-Guploader-Uploadid", u.id)
		w.Header().Set("Content-Length", "0")
		if c.r.Header.Get("X-Guploader-No-308") == "yes" {
			w.Header().Set("X-Http-Status-Code-Override", "308")
			w.WriteHeader(http.StatusOK)
		} else {
			w.WriteHeader(http.StatusPermanentRedirect) // 308, "Resume Incomplete" here
		}
		return nil
	}
	j, ierr := s.insertJob(u.call, u.body, &media{contentType: u.contentType, data: u.data})
	if ierr != nil {
		s.uploads.drop(id)
		return ierr
	}
	u.job, u.data = j, nil
	return s.write(w, c, jsonAnswer{s.jobs.object(j, c.host)})
}

// take reads a chunk. Bytes that are there already are skipped, as a client
// sends them again that did not hear of their arrival.
func (u *upload) take(w http.ResponseWriter, r *http.Request) (last bool, err error) {
	from, end, total := int64(0), int64(-1), u.total
	if v := r.Header.Get("Content-Range"); v != "" {
		m := contentRange.FindStringSubmatch(v)
		if m == nil {
			return false, fail("invalid", "Invalid Content-Range %q", v)
		}
		if m[3] != "" {
			if total, err = strconv.ParseInt(m[3], 10, 64); err != nil || u.total >= 0 && total != u.total {
				return false, fail("invalid", "Content-Range %q disagrees with what was announced", v)
			}
		}
		if m[1] == "" {
			// "bytes */N": how much is there? Or, of an empty file, all of it.
			return total == int64(len(u.data)), nil
		}
		from, err = strconv.ParseInt(m[1], 10, 64)
		if err == nil {
			end, err = strconv.ParseInt(m[2], 10, 64)
		}
		if err != nil || end < from || total >= 0 && end >= total {
			return false, fail("invalid", "Invalid Content-Range %q", v)
		}
	}
	if total > maxUploadBytes {
		return false, fail("invalid", "The sandbox takes uploads of %d bytes at most", maxUploadBytes)
	}
	if from > int64(len(u.data)) {
		return false, fail("invalid", "The chunk begins at byte %d, but only %d are there", from, len(u.data))
	}
	have := int64(len(u.data))
	body := http.MaxBytesReader(w, r.Body, maxUploadBytes+1)
	if _, err := io.CopyN(io.Discard, body, have-from); err != nil {
		return false, fail("invalid", "The chunk broke off: %s", err)
	}
	more, rerr := io.ReadAll(io.LimitReader(body, maxUploadBytes+1-have))
	u.data = append(u.data, more...) // what came before a break is kept
	if rerr != nil {
		return false, fail("invalid", "The chunk broke off: %s", rerr)
	}
	if int64(len(u.data)) > maxUploadBytes || total >= 0 && int64(len(u.data)) > total {
		return false, fail("invalid", "More data was sent than announced or allowed")
	}
	if end >= 0 && int64(len(u.data)) != end+1 {
		return false, fail("invalid", "The chunk has not as many bytes as its Content-Range says")
	}
	u.total = total
	if r.Header.Get("Content-Range") == "" {
		return total < 0 || int64(len(u.data)) == total, nil
	}
	return total >= 0 && int64(len(u.data)) == total, nil
}
