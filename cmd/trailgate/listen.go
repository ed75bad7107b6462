package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/trailgate/trailgate/internal/config"
)

// Bounds on what a client may do to a listener before a handler sees it, and
// between calls. Bodies have bounds of their own in the handlers.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
)

// door is one listener and who answers on it.
type door struct {
	name     string // "agents", "humans", "socket"
	listener net.Listener
	cert     *certificate // nil: plain
	// clientCertificates: a client is asked for one, and need not have it. Who it
	// is, and whether it counts, is for the handler to say.
	clientCertificates bool
	server             *http.Server
}

// listenTCP binds an address. Nothing is accepted until serve: a port that is
// taken is found out before anything else happens.
func listenTCP(name, address string, files config.TLS) (*door, error) {
	d := &door{name: name}
	if files.On() {
		cert, err := loadCertificate(files)
		if err != nil {
			return nil, err
		}
		d.cert = cert
	}
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, hinted(fmt.Errorf("listen for %s: %w", name, err), "another gateway may be running; stop what uses the port, or set another address")
	case errors.Is(err, syscall.EACCES):
		return nil, hinted(fmt.Errorf("listen for %s: %w", name, err), "ports below 1024 need a privilege; set a higher one")
	case err != nil:
		return nil, fmt.Errorf("listen for %s: %w", name, err)
	}
	d.listener = l
	return d, nil
}

// url is the root under which the listener can be reached from this machine.
func (d *door) url() string {
	scheme := "http"
	if d.cert != nil {
		scheme = "https"
	}
	address := d.listener.Addr().String()
	if a, ok := d.listener.Addr().(*net.TCPAddr); ok && a.IP.IsUnspecified() {
		address = net.JoinHostPort("localhost", strconv.Itoa(a.Port))
	}
	return scheme + "://" + address
}

// handle says who answers. It must be called before serve.
func (d *door) handle(ctx context.Context, handler http.Handler, log *slog.Logger) {
	d.server = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// "OPTIONS *" is a request like any other: refused in words, and recorded.
		DisableGeneralOptionsHandler: true,

		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(quiet{log.With("listener", d.name).Handler()}, slog.LevelDebug),
	}
	if d.cert != nil {
		d.server.TLSConfig = d.cert.config()
		if d.clientCertificates {
			d.server.TLSConfig.ClientAuth = tls.RequestClientCert
		}
		d.listener = tls.NewListener(d.listener, d.server.TLSConfig)
	}
}

// serve answers until the server is shut down; what ends it otherwise is an error.
func (d *door) serve() error {
	if err := d.server.Serve(d.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", d.name, err)
	}
	return nil
}

// quiet keeps net/http's own messages to one line each; they quote addresses
// and header names, never bodies.
type quiet struct{ slog.Handler }

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Message = strings.TrimSpace(visible(r.Message))
	return q.Handler.Handle(ctx, r)
}
