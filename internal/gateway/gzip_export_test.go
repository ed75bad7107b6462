package gateway

import (
	"bufio"
	"bytes"
)

// ReadGzip is how a compressed body is read.
func ReadGzip(packed []byte, maxBytes int64) (body []byte, ok bool) {
	g := &Gateway{cfg: Config{MaxBodyBytes: maxBytes}}
	body, refused := g.readGzip(bufio.NewReader(bytes.NewReader(packed)))
	return body, refused == nil
}
