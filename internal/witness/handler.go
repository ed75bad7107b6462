package witness

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Limits bound what strangers can make a witness do. The zero value is good.
type Limits struct {
	// PerSecond and Burst are how many requests one address may make. Default 20 and 100.
	PerSecond float64
	Burst     int
	// AtOnce is how many requests are worked on together. Default 64.
	AtOnce int
}

// maxAddresses is how many addresses are counted; with more, counting begins anew.
const maxAddresses = 10_000

// Handler is the witness's HTTP interface below a prefix such as "" or "/w1":
// add-checkpoint as C2SP has it, and checkpoint/ID, which shows what was cosigned last.
func (w *Witness) Handler(prefix string, limits Limits) http.Handler {
	if limits.PerSecond <= 0 {
		limits.PerSecond = 20
	}
	if limits.Burst <= 0 {
		limits.Burst = 100
	}
	if limits.AtOnce <= 0 {
		limits.AtOnce = 64
	}
	prefix = "/" + strings.Trim(prefix, "/")
	if prefix != "/" {
		prefix += "/"
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+prefix+addPath, w.serveAdd)
	mux.HandleFunc("GET "+prefix+checkpointPath+"/{id}", w.serveLast)
	mux.HandleFunc("GET "+prefix+"healthz", func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "ok\n") })
	slots := make(chan struct{}, limits.AtOnce)
	rates := &rates{limits: limits, now: time.Now, by: map[string]*bucket{}}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("X-Content-Type-Options", "nosniff")
		rw.Header().Set("Cache-Control", "no-store")
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		if !rates.allow(host) {
			rw.Header().Set("Retry-After", "1")
			http.Error(rw, "too many requests from this address", http.StatusTooManyRequests)
			return
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			rw.Header().Set("Retry-After", "1")
			http.Error(rw, "busy", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(rw, r)
	})
}

func (w *Witness) serveAdd(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxRequestBytes))
	if err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			http.Error(rw, "the request is too large", http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(rw, "the request could not be read", http.StatusBadRequest)
		return
	}
	req, err := parseRequest(body)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	line, err := w.add(r.Context(), req)
	refused, isRefusal := errors.AsType[*refusal](err)
	switch {
	case err == nil:
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = rw.Write(line)
	case isRefusal && refused.wrongOld:
		rw.Header().Set("Content-Type", sizeType)
		rw.WriteHeader(http.StatusConflict)
		_, _ = fmt.Fprintf(rw, "%d\n", refused.size)
	case isRefusal:
		http.Error(rw, refused.why, refused.status)
	default:
		w.log.LogAttrs(r.Context(), slog.LevelError, "nothing can be cosigned", slog.Any("err", err))
		http.Error(rw, "the witness cannot remember checkpoints now, so it cosigns none", http.StatusServiceUnavailable)
	}
}

func (w *Witness) serveLast(rw http.ResponseWriter, r *http.Request) {
	raw := w.Last(r.PathValue("id"))
	if raw == nil {
		http.Error(rw, "nothing was cosigned of that log", http.StatusNotFound)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = rw.Write(raw)
}

// rates is a token bucket for each address.
type rates struct {
	limits Limits
	now    func() time.Time

	mu sync.Mutex // guards by
	by map[string]*bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

func (r *rates) allow(addr string) bool {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.by[addr]
	if b == nil {
		if len(r.by) >= maxAddresses {
			clear(r.by)
		}
		b = &bucket{tokens: float64(r.limits.Burst), at: now}
		r.by[addr] = b
	}
	b.tokens = min(float64(r.limits.Burst), b.tokens+max(now.Sub(b.at).Seconds(), 0)*r.limits.PerSecond)
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
