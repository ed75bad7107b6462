package chaos

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"testing"
)

// harm is what a proxy does to a connection.
type harm string

const (
	harmless  harm = "none"
	refused   harm = "refused"             // reset at once
	reset     harm = "reset"               // within the answer, or before it
	cut       harm = "cut"                 // closed within the answer, or before it
	asksCut   harm = "request cut"         // closed within the request
	asksReset harm = "request reset"       // reset within the request
	stalled   harm = "stalled"             // nothing more comes, and nothing is closed
	dripped   harm = "dripped"             // byte by byte
	halfEnd   harm = "half-closed"         // whoever asks says that it will say no more
	garbage   harm = "garbage"             // in place of the answer
	tooLong   harm = "content length + 7"  // of the answer
	tooShort  harm = "content length / 2"  // of the answer
	storm     harm = "503 at once"         // and nothing is passed on
	lateStorm harm = "503 after the fact"  // what was asked for is done, and the answer thrown away
	hints     harm = "100 and 103 at once" // informational answers before the answer
)

var harms = []harm{refused, reset, cut, asksCut, asksReset, stalled, dripped, halfEnd, garbage, tooLong, tooShort, storm, lateStorm, hints}

// proxy passes bytes between clients and a server, and does harm to
// connections, by a seed.
type proxy struct {
	target   string
	listener net.Listener
	share    int // of a hundred connections are harmed
	reach    int // within so many bytes, where that matters
	wg       sync.WaitGroup

	mu       sync.Mutex // guards all below
	rnd      *rand.Rand
	calm     bool
	done     map[harm]int
	open     map[net.Conn]bool
	released chan struct{}
}

func newProxy(t *testing.T, target string, share, reach int, seed uint64) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{
		target: target, listener: l, share: share, reach: reach, rnd: rand.New(rand.NewPCG(seed, 3)), done: map[harm]int{},
		open: map[net.Conn]bool{}, released: make(chan struct{}),
	}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.settle()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// settle ends all harm, and the connections that it was done to.
func (p *proxy) settle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.calm {
		p.calm = true
		close(p.released)
	}
	for c := range p.open {
		c.Close()
	}
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

// draw chooses what happens to a connection, and after how many bytes.
func (p *proxy) draw() (harm, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := harmless
	if !p.calm && p.rnd.IntN(100) < p.share {
		h = harms[p.rnd.IntN(len(harms))]
	}
	p.done[h]++
	after := 0
	if p.rnd.IntN(4) > 0 { // else before the first byte
		after = p.rnd.IntN(p.reach) // within a head of some 400 bytes, or within a body, or in a later answer
	}
	return h, after
}

func (p *proxy) track(c net.Conn) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[c] = true
	return func() {
		c.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, c)
	}
}

func drop(conns ...net.Conn) {
	for _, c := range conns {
		_ = c.(*net.TCPConn).SetLinger(0) // reset rather than close
		c.Close()
	}
}

func (p *proxy) serve(client net.Conn) {
	defer p.track(client)()
	h, after := p.draw()
	switch h {
	case refused:
		drop(client)
		return
	case storm:
		p.storm(client, nil)
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		drop(client)
		return
	}
	defer p.track(server)()
	if h == lateStorm {
		p.storm(client, server)
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.ask(server, client, h, after) })
	both.Go(func() { p.answer(client, server, h, after) })
	both.Wait()
}

// storm answers one request with 503, after it was done where there is a server.
func (p *proxy) storm(client, server net.Conn) {
	req, err := http.ReadRequest(bufio.NewReader(client))
	if err != nil {
		return
	}
	if server == nil {
		_, _ = io.Copy(io.Discard, req.Body)
	} else {
		if req.Write(server) != nil {
			return
		}
		resp, err := http.ReadResponse(bufio.NewReader(server), req)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	body := "<html>The service is temporarily unavailable</html>"
	_, _ = fmt.Fprintf(client, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
}

// ask passes on what a client says.
func (p *proxy) ask(server, client net.Conn, h harm, after int) {
	limit := int64(1) << 62
	if h == asksCut || h == asksReset {
		limit = int64(after)
	}
	_, err := io.CopyN(server, client, limit)
	switch {
	case err == nil && h == asksReset:
		drop(server, client)
	case err == nil && h == asksCut:
		server.Close()
		client.Close()
	default:
		_ = server.(*net.TCPConn).CloseWrite()
	}
}

var contentLength = regexp.MustCompile(`(?i)(\r\nContent-Length: )(\d+)`)

// answer passes on what a server says.
func (p *proxy) answer(client, server net.Conn, h harm, after int) {
	defer client.Close()
	var err error
	switch h {
	case reset:
		if _, err = io.CopyN(client, server, int64(after)); err == nil {
			drop(client, server)
			return
		}
	case cut:
		_, err = io.CopyN(client, server, int64(after))
		if err == nil {
			server.Close()
			return
		}
	case stalled:
		if _, err = io.CopyN(client, server, int64(after)); err == nil {
			<-p.released
			return
		}
	case dripped:
		one := make([]byte, 1)
		for range 4096 {
			if _, err = server.Read(one); err != nil {
				break
			}
			if _, err = client.Write(one); err != nil {
				break
			}
		}
		if err == nil {
			server.Close()
			return
		}
	case halfEnd:
		_ = server.(*net.TCPConn).CloseWrite()
	case garbage:
		_, err = server.Read(make([]byte, 64<<10))
		if err == nil {
			_, _ = client.Write(bytes.Repeat([]byte("\x00\xffHTTP/9.9 banana\r\n"), 40))
			return
		}
	case hints:
		first := make([]byte, 64<<10)
		var n int
		if n, err = server.Read(first); err == nil {
			_, err = client.Write(append([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"), first[:n]...))
		}
		if err == nil {
			_, _ = io.CopyN(client, server, int64(p.reach))
			server.Close()
			return
		}
	case tooLong, tooShort:
		first := make([]byte, 64<<10)
		var n int
		if n, err = server.Read(first); err == nil {
			_, err = client.Write(contentLength.ReplaceAllFunc(first[:n], func(m []byte) []byte {
				parts := contentLength.FindSubmatch(m)
				size, _ := strconv.Atoi(string(parts[2]))
				if h == tooLong {
					size += 7
				} else {
					size /= 2
				}
				return append(parts[1][:len(parts[1]):len(parts[1])], strconv.Itoa(size)...)
			}))
			if err == nil && h == tooLong {
				// The bytes that were promised do not come: what is there, and then the end.
				_ = server.(*net.TCPConn).CloseWrite()
			}
		}
	}
	if err == nil || errors.Is(err, io.EOF) {
		_, _ = io.Copy(client, server)
	}
}

// report says what was done.
func (p *proxy) report() (total int, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for h, n := range p.done {
		if h != harmless {
			total += n
		}
	}
	return total, fmt.Sprint(p.done)
}
