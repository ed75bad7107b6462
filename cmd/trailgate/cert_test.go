package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdMkcert is "mkcert DIR": cert.pem, key.pem and ca.pem for 127.0.0.1. Called
// again it makes a new certificate from the same CA, if DIR has its key.
func cmdMkcert(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: mkcert DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	write := func(name, kind string, der []byte) {
		ts.Check(os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var caKey *ecdsa.PrivateKey
	if raw, err := os.ReadFile(filepath.Join(dir, "ca.key")); err == nil {
		block, _ := pem.Decode(raw)
		caKey, err = x509.ParseECPrivateKey(block.Bytes)
		ts.Check(err)
	} else {
		caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		ts.Check(err)
		der, err := x509.MarshalECPrivateKey(caKey)
		ts.Check(err)
		write("ca.key", "EC PRIVATE KEY", der)
		der, err = x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
		ts.Check(err)
		write("ca.pem", "CERTIFICATE", der)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "gateway"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	ts.Check(err)
	write("cert.pem", "CERTIFICATE", der)
	der, err = x509.MarshalECPrivateKey(key)
	ts.Check(err)
	write("key.pem", "EC PRIVATE KEY", der)
}

// cmdPeer is "peer NAME URL CA": $NAME becomes the serial number of the server's
// certificate.
func cmdPeer(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: peer NAME URL CA")
	}
	u, err := url.Parse(args[1])
	ts.Check(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(ts.ReadFile(args[2])))
	conn, err := tls.Dial("tcp", u.Host, &tls.Config{RootCAs: pool})
	ts.Check(err)
	ts.Setenv(args[0], conn.ConnectionState().PeerCertificates[0].SerialNumber.String())
	ts.Check(conn.Close())
}
