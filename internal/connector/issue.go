package connector

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// The gateway as the authority of its connectors: certificates, for tokens and for older certificates.

// enroll gives a certificate for a token.
func (h *Hub) enroll(ctx context.Context, t *tunnel, hello *Hello) (Welcome, error) {
	csr, err := readCSR(hello.CSR)
	if err != nil {
		return Welcome{}, refuse(CodeMalformed, "%v", err)
	}
	var der []byte
	c, err := h.cfg.Registry.enroll(hello.Token, func(token Token) (string, time.Time, error) {
		t.name = token.Name
		cert, err := h.issue(token.Name, csr)
		if err != nil {
			return "", time.Time{}, err
		}
		der = cert.Raw
		return serialOf(cert), cert.NotAfter, h.cfg.Record(ctx, h.issued(ActionEnroll, t, cert, token.Connections, token.ID))
	})
	t.name = c.Name
	return Welcome{Name: c.Name, Connections: c.Connections, Certificate: der}, err
}

// renew gives a certificate for one that is still good.
func (h *Hub) renew(ctx context.Context, t *tunnel, hello *Hello) (Welcome, error) {
	chain := t.conn.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return Welcome{}, refuse(CodeCertificate, "no client certificate came")
	}
	name, err := h.own(chain[0])
	if t.name = name; err != nil {
		return Welcome{}, err
	}
	csr, err := readCSR(hello.CSR)
	if err != nil {
		return Welcome{}, refuse(CodeMalformed, "%v", err)
	}
	var der []byte
	err = h.cfg.Registry.renew(name, serialOf(chain[0]), func(c Enrolled) (string, time.Time, error) {
		cert, err := h.issue(name, csr)
		if err != nil {
			return "", time.Time{}, err
		}
		der = cert.Raw
		return serialOf(cert), cert.NotAfter, h.cfg.Record(ctx, h.issued(ActionRenew, t, cert, c.Connections, ""))
	})
	return Welcome{Name: name, Certificate: der}, err
}

// issued is what the trail has of a certificate: the key that receipts are checked with.
func (h *Hub) issued(action string, t *tunnel, cert *x509.Certificate, connections []string, token string) Event {
	key, _ := x509.MarshalPKIXPublicKey(cert.PublicKey) // it was parsed from a request
	detail := map[string]string{
		"connections": strings.Join(connections, ","), "serial": serialOf(cert), "expires": cert.NotAfter.UTC().Format(time.RFC3339),
		"public_key": base64.StdEncoding.EncodeToString(key), "key_sha256": hexSum(key), "build": t.build,
	}
	if token != "" {
		detail["token_id"] = token
	}
	return Event{Action: action, Name: t.name, Client: t.address, Detail: detail}
}

func readCSR(der []byte) (*x509.CertificateRequest, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("the certificate request cannot be read: %w", err)
	}
	// The kind of key before its signature: strangers ask, and an RSA key that fills the
	// frame takes minutes to check.
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the certificate request is for a key that is not ECDSA P-256")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the certificate request is not signed by its key: %w", err)
	}
	return csr, nil
}

// issue makes a connector's certificate. Of the request only the key counts.
func (h *Hub) issue(name string, csr *x509.CertificateRequest) (*x509.Certificate, error) {
	return h.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, csr.PublicKey, h.cfg.CertificateTTL)
}

func (h *Hub) sign(tmpl *x509.Certificate, key any, ttl time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	now := h.cfg.Now()
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = serial.SetBit(serial, 126, 1), now.Add(-backdated), now.Add(ttl)
	tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, x509.KeyUsageDigitalSignature
	if tmpl.NotAfter.After(h.cfg.CA.NotAfter) {
		tmpl.NotAfter = h.cfg.CA.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, h.cfg.CA, key, h.cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// serverCertificate is what the gateway shows connectors: made here, in memory alone,
// and made anew in good time. The chain has the authority, for whoever knows it by its
// hash alone.
func (h *Hub) serverCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cert != nil && h.cfg.Now().Before(h.cert.Leaf.NotAfter.Add(-serverTTL/2)) {
		return h.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the certificate for connectors: %w", err)
	}
	leaf, err := h.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Trailgate gateway"}, DNSNames: []string{ServerName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &key.PublicKey, serverTTL)
	if err != nil {
		return nil, err
	}
	h.cert = &tls.Certificate{Certificate: [][]byte{leaf.Raw, h.cfg.CA.Raw}, PrivateKey: key, Leaf: leaf}
	return h.cert, nil
}

func serialOf(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

func hexSum(raw []byte) string {
	s := sha256.Sum256(raw)
	return hex.EncodeToString(s[:])
}
