package sandbox

import (
	"net/http"
	"slices"
	"sync"
	"time"
)

// maxCalls bounds the log of requests; the oldest go first.
const maxCalls = 20_000

// loggedHeaders are kept of each request.
var loggedHeaders = []string{
	"Accept-Encoding", "Content-Type", "Content-Encoding", "If-Match", "User-Agent", "X-Goog-Api-Client", "X-Goog-Request-Reason", "X-Goog-User-Project",
	"X-Http-Method-Override", "X-Upload-Content-Type", "X-Upload-Content-Length", "Content-Range",
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "Proxy-Authorization", "Cookie",
}

// CallRecord is one HTTP request that arrived, whatever became of it.
type CallRecord struct {
	Time          time.Time
	Verb          string
	Path          string // as sent, with the query
	Host          string
	Proto         string
	Principal     string      // whom the bearer token stands for; "" where unknown
	Authorization bool        // there was such a header; its value is not kept
	Header        http.Header // selected ones
}

// callLog is a ring of the newest requests.
type callLog struct {
	mu    sync.Mutex // guards what follows
	calls []CallRecord
	next  int // where the ring goes on once it is full
}

func (l *callLog) add(r *http.Request, principal string, now time.Time) {
	c := CallRecord{
		Time: now, Verb: r.Method, Path: r.URL.RequestURI(), Host: r.Host, Proto: r.Proto, Principal: principal,
		Authorization: r.Header.Get("Authorization") != "", Header: http.Header{},
	}
	for _, name := range loggedHeaders {
		if v := r.Header.Values(name); len(v) > 0 {
			c.Header[name] = slices.Clone(v)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.calls) < maxCalls {
		l.calls = append(l.calls, c)
		return
	}
	l.calls[l.next] = c
	l.next = (l.next + 1) % maxCalls
}

// Calls returns the newest requests, 20,000 at most, the oldest first.
func (s *Sandbox) Calls() []CallRecord {
	s.calls.mu.Lock()
	defer s.calls.mu.Unlock()
	return slices.Concat(s.calls.calls[s.calls.next:], s.calls.calls[:s.calls.next])
}
