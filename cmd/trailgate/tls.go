package main

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"

	"github.com/trailgate/trailgate/internal/config"
)

// certificate is a listener's certificate; reload takes in a renewed one
// without a restart. Safe for concurrent use.
type certificate struct {
	files   config.TLS
	current atomic.Pointer[tls.Certificate]
}

func loadCertificate(files config.TLS) (*certificate, error) {
	c := &certificate{files: files}
	return c, c.reload()
}

// reload reads the files again. On an error the certificate in use stays.
func (c *certificate) reload() error {
	cert, err := tls.LoadX509KeyPair(c.files.CertFile.String(), c.files.KeyFile.String())
	if err != nil {
		return fmt.Errorf("load TLS certificate %s: %w", c.files.CertFile, err)
	}
	c.current.Store(&cert)
	return nil
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}
