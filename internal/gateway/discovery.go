package gateway

import (
	"bytes"
	"io"
	"net/http"
	"sync"

	"github.com/trailgate/trailgate/internal/discovery"
)

// methodDiscovery is answered by the gateway itself: bq asks for it on every
// run, its token in hand, and Google's document is the same for everyone.
const methodDiscovery = "discovery.apis.getRest"

// maxRoots bounds how many renderings of the document are kept; a root is what
// clients call the gateway, and they may call it anything.
const maxRoots = 8

// localDiscovery answers with the document, its root being the gateway.
type localDiscovery struct {
	root string // Optional: the request's own

	mu     sync.Mutex // guards byRoot
	byRoot map[string][]byte
}

func (l *localDiscovery) RoundTrip(r *http.Request) (*http.Response, error) {
	root := l.root
	if root == "" {
		root = r.URL.Scheme + "://" + r.URL.Host + "/"
	}
	doc := l.rendering(root)
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json; charset=UTF-8"}},
		Body:   io.NopCloser(bytes.NewReader(doc)), ContentLength: int64(len(doc)), Request: r,
	}, nil
}

func (l *localDiscovery) rendering(root string) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	doc, ok := l.byRoot[root]
	if !ok {
		doc = discovery.For(root)
		if len(l.byRoot) < maxRoots {
			l.byRoot[root] = doc
		}
	}
	return doc
}
