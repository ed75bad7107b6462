package connector

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/trailgate/trailgate/internal/trail/durable"
)

// Identity is a connector's key and certificate, in a directory of its own. They are all
// that a connector keeps on disk.
type Identity struct {
	dir string
	now func() time.Time

	mu   sync.Mutex // guards what follows; held while it is renewed
	cert *tls.Certificate
	ca   *x509.Certificate
}

// Names in the directory. Key and certificates are one file: it is replaced whole, so
// that no crash parts them.
const identityName = "connector.pem"

// ErrNotEnrolled means that there is no key yet.
var ErrNotEnrolled = errors.New("this connector is not enrolled")

// Enroll gets a certificate for an enrolment token and keeps it in dir, with a new key and
// the gateway's authority, which the token names.
func Enroll(ctx context.Context, r Remote, token, dir string) (name string, connections []string, err error) {
	if _, err := os.Stat(filepath.Join(dir, identityName)); err == nil {
		return "", nil, fmt.Errorf("%s holds a connector's key already; use another directory, or remove it if that connector is to be no more", dir)
	}
	if _, _, r.Pin, err = splitToken(token); err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	// A token is good once: that the key can be written is tried before it is used up.
	probe, err := os.CreateTemp(dir, ".try-*")
	if err != nil {
		return "", nil, err
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return "", nil, err
	}
	key, csr, err := newRequest()
	if err != nil {
		return "", nil, err
	}
	conn, welcome, ca, err := r.dial(ctx, nil, Hello{Op: opEnroll, Token: token, CSR: csr})
	if err != nil {
		return "", nil, err
	}
	_ = conn.Close()
	return welcome.Name, welcome.Connections, writeIdentity(dir, key, welcome.Certificate, ca)
}

func newRequest() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return key, csr, nil
}

func writeIdentity(dir string, key *ecdsa.PrivateKey, certificate []byte, ca *x509.Certificate) error {
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return fmt.Errorf("the gateway's certificate for this connector: %w", err)
	}
	if public, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(&key.PublicKey) {
		return errors.New("the gateway's certificate is for another key")
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	var b bytes.Buffer
	for _, block := range []*pem.Block{{Type: "PRIVATE KEY", Bytes: der}, {Type: "CERTIFICATE", Bytes: cert.Raw}, {Type: "CERTIFICATE", Bytes: ca.Raw}} {
		if err := pem.Encode(&b, block); err != nil {
			return err
		}
	}
	var disk durable.FS
	return disk.WriteFile(filepath.Join(dir, identityName), b.Bytes(), 0o600)
}

// OpenIdentity reads what [Enroll] wrote.
func OpenIdentity(dir string) (*Identity, error) {
	i := &Identity{dir: dir, now: time.Now}
	return i, i.read()
}

func (i *Identity) read() error {
	path := filepath.Join(i.dir, identityName)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %s is not there", ErrNotEnrolled, path)
	}
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it; if others may have read it, revoke this connector and enrol another", path, info.Mode().Perm())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(raw, raw)
	if err != nil || len(cert.Certificate) != 2 {
		return fmt.Errorf("%s is damaged: %w", path, errors.Join(err, fmt.Errorf("%d certificates, want 2", len(cert.Certificate))))
	}
	ca, err := x509.ParseCertificate(cert.Certificate[1])
	if err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	cert.Certificate = cert.Certificate[:1]
	i.cert, i.ca = &cert, ca
	return nil
}

// Certificate is the one in force.
func (i *Identity) Certificate() (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.cert, nil
}

// Roots are the gateway's authority.
func (i *Identity) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(i.ca)
	return pool
}

// Renew gets a new certificate, for a new key, once two thirds of the old one's time are
// over. The new one is used from the next connection on.
func (i *Identity) Renew(ctx context.Context, r Remote) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	leaf := i.cert.Leaf
	if leaf.NotAfter.Sub(i.now()) > leaf.NotAfter.Sub(leaf.NotBefore)/3 {
		return nil
	}
	return i.renewLocked(ctx, r)
}

func (i *Identity) renewLocked(ctx context.Context, r Remote) error {
	key, csr, err := newRequest()
	if err != nil {
		return err
	}
	r.Roots = i.Roots()
	conn, welcome, _, err := r.dial(ctx, i.cert, Hello{Op: opRenew, CSR: csr})
	if err != nil {
		return err
	}
	_ = conn.Close()
	// A crash before this is on disk leaves the old certificate, which is good until the
	// new one was used.
	if err := writeIdentity(i.dir, key, welcome.Certificate, i.ca); err != nil {
		return err
	}
	return i.read()
}
