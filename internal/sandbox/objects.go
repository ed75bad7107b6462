package sandbox

import (
	"bytes"
	"slices"
	"strings"
	"sync"
)

// maxObjectBytes bounds all objects together.
const maxObjectBytes = 1 << 30

// objectStore stands for Cloud Storage: what gs:// addresses in load and
// extract jobs mean. There is no HTTP way to it.
type objectStore struct {
	mu      sync.Mutex // guards what follows
	objects map[string][]byte
	size    int64
}

func newObjectStore() *objectStore { return &objectStore{objects: map[string][]byte{}} }

func (o *objectStore) put(uri string, data []byte) *apiError {
	if !validURI(uri) {
		return fail("invalid", "Invalid URI %q: gs://bucket/object is wanted", uri)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	size := o.size - int64(len(o.objects[uri])) + int64(len(data))
	if size > maxObjectBytes {
		return fail("quotaExceeded", "The sandbox keeps %d bytes of objects at most", maxObjectBytes)
	}
	o.objects[uri], o.size = data, size
	return nil
}

func validURI(uri string) bool {
	bucket, name, ok := strings.Cut(strings.TrimPrefix(uri, "gs://"), "/")
	return strings.HasPrefix(uri, "gs://") && ok && bucket != "" && name != ""
}

// match gives the objects that an address means, which may have one "*".
func (o *objectStore) match(uri string) (uris []string, data [][]byte, err *apiError) {
	if !validURI(uri) {
		return nil, nil, fail("invalid", "Invalid URI %q: the sandbox reads gs://bucket/object alone", uri)
	}
	before, after, wild := strings.Cut(uri, "*")
	if strings.Contains(after, "*") {
		return nil, nil, fail("invalid", "Invalid URI %q: one * is allowed", uri)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for name := range o.objects {
		if name == uri || wild && len(name) >= len(before)+len(after) && strings.HasPrefix(name, before) && strings.HasSuffix(name, after) {
			uris = append(uris, name)
		}
	}
	if len(uris) == 0 {
		return nil, nil, notFound("URI", uri)
	}
	slices.Sort(uris)
	for _, name := range uris {
		data = append(data, o.objects[name])
	}
	return uris, data, nil
}

// PutObject makes an object that load jobs can read, at an address such as
// "gs://bucket/file.csv".
func (s *Sandbox) PutObject(uri string, data []byte) error {
	if err := s.objects.put(uri, bytes.Clone(data)); err != nil {
		return err
	}
	return nil
}

// Object gives the object at an address: one put there, or written by an
// extract job.
func (s *Sandbox) Object(uri string) (data []byte, ok bool) {
	s.objects.mu.Lock()
	defer s.objects.mu.Unlock()
	data, ok = s.objects.objects[uri]
	return bytes.Clone(data), ok
}

// Objects lists the addresses of all objects, sorted.
func (s *Sandbox) Objects() []string {
	s.objects.mu.Lock()
	defer s.objects.mu.Unlock()
	out := make([]string, 0, len(s.objects.objects))
	for uri := range s.objects.objects {
		out = append(out, uri)
	}
	slices.Sort(out)
	return out
}
