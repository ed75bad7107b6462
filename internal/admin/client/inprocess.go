package client

import (
	"errors"
	"io"
	"net/http"
	"strconv"
)

// InProcess answers requests with a handler in this process, such as the admin API where
// no gateway runs. An answer comes as it is written; the handler has ended when its body was
// read to the end or closed.
func InProcess(handler http.Handler) http.RoundTripper { return inProcess{handler} }

type inProcess struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (t inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	in := req.Clone(req.Context())
	in.RequestURI = req.URL.RequestURI()
	in.RemoteAddr = "local"
	in.Host = req.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	}
	r, pipe := io.Pipe()
	w := &answer{header: http.Header{}, pipe: pipe, begun: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		t.handler.ServeHTTP(w, in)
		w.WriteHeader(http.StatusOK)
		err := in.Body.Close()
		if err == nil {
			err = req.Context().Err()
		}
		_ = pipe.CloseWithError(err) // it returns nil always
	}()
	<-w.begun
	body := &answerBody{PipeReader: r, done: w.done}
	if err := req.Context().Err(); err != nil {
		return nil, errors.Join(err, body.Close())
	}
	return &http.Response{
		Status: strconv.Itoa(w.status) + " " + http.StatusText(w.status), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: body, ContentLength: -1, Request: req,
	}, nil
}

// answer hands on what a handler writes.
type answer struct {
	header      http.Header
	pipe        *io.PipeWriter
	begun, done chan struct{} // closed when status and sent are set; when the handler has ended

	sent   http.Header
	status int
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status, a.sent = status, a.header.Clone()
		close(a.begun)
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.pipe.Write(p)
}

// answerBody ends with the handler.
type answerBody struct {
	*io.PipeReader
	done chan struct{}
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.PipeReader.Read(p)
	if err != nil {
		<-b.done
	}
	return n, err
}

func (b *answerBody) Close() error {
	err := b.PipeReader.Close() // what the handler still writes fails
	<-b.done
	return err
}
