package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A private CA, for gateways that have no certificate from elsewhere: "init
// --tls" makes it, "tls renew" issues from it. It issues for this gateway and
// nobody else, so it has no list, no revocation and no intermediate.

// Names in the directory of the private CA.
const (
	tlsDirName    = "tls"
	caCertName    = "ca.pem"
	caKeyName     = "ca.key"
	leafCertName  = "cert.pem"
	leafKeyName   = "key.pem"
	caLifetime    = 3650 * 24 * time.Hour
	leafLifetime  = 397 * 24 * time.Hour // what Apple's clients take at most
	certBackdated = 5 * time.Minute      // for clients whose clock is behind
)

// serverNames are what a certificate is for.
type serverNames struct {
	dns []string
	ips []netip.Addr
}

// loopbackNames are in every certificate, so that the machine's own commands can
// use the listener that they are on.
func loopbackNames() serverNames {
	return serverNames{dns: []string{"localhost"}, ips: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}}
}

var hostLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// maxHosts bounds one certificate's names.
const maxHosts = 100

// readServerNames reads host names and addresses as a user gives them, and adds
// those of loopback.
func readServerNames(hosts []string) (serverNames, error) {
	names := loopbackNames()
	if len(hosts) > maxHosts {
		return names, fmt.Errorf("more than %d hosts", maxHosts)
	}
	for _, h := range hosts {
		if addr, err := netip.ParseAddr(strings.Trim(h, "[]")); err == nil {
			if addr = addr.Unmap(); addr.Zone() != "" || addr.IsUnspecified() {
				return names, fmt.Errorf("%q is no address that a client could use", h)
			}
			if !slices.Contains(names.ips, addr) {
				names.ips = append(names.ips, addr)
			}
			continue
		}
		name := strings.ToLower(strings.TrimSuffix(h, "."))
		labels := strings.Split(name, ".")
		if name == "" || len(name) > 253 || slices.ContainsFunc(labels, func(l string) bool { return !hostLabel.MatchString(l) }) || allDigits(labels[len(labels)-1]) {
			return names, fmt.Errorf("%q: want a host name such as gateway.example.com, or an address, without scheme or port", h)
		}
		if !slices.Contains(names.dns, name) {
			names.dns = append(names.dns, name)
		}
	}
	return names, nil
}

func allDigits(s string) bool { return strings.Trim(s, "0123456789") == "" }

// beyondLoopback is the first name that other machines can use; "" if there is none.
func (n serverNames) beyondLoopback() string {
	for _, name := range n.dns {
		if name != "localhost" {
			return name
		}
	}
	for _, ip := range n.ips {
		if !ip.IsLoopback() {
			return ip.String()
		}
	}
	return ""
}

func (n serverNames) String() string {
	all := slices.Clone(n.dns)
	for _, ip := range n.ips {
		all = append(all, ip.String())
	}
	return strings.Join(all, ", ")
}

// authority is a CA with its key.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority makes a CA for one gateway.
func newAuthority(gateway string, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a CA: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		// The number tells two CAs of one name apart: clients find a CA by its name.
		Subject:   pkix.Name{CommonName: shorten("Trailgate CA of "+gateway, 55) + " " + serial.Text(16)[:8]},
		NotBefore: now.Add(-certBackdated), NotAfter: now.Add(caLifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make a CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make a CA: %w", err)
	}
	return &authority{cert: cert, key: key}, nil
}

// issue makes a server's certificate, and its key in PEM.
func (a *authority) issue(names serverNames, now time.Time) (cert *x509.Certificate, keyPEM []byte, err error) {
	if now.Add(certBackdated).After(a.cert.NotAfter) {
		return nil, nil, fmt.Errorf("issue a certificate: the CA ended %s", a.cert.NotAfter.UTC().Format(time.DateOnly))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	end := now.Add(leafLifetime)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Trailgate gateway"},
		NotBefore: now.Add(-certBackdated), NotAfter: end,
		DNSNames: names.dns, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, ip := range names.ips {
		tmpl.IPAddresses = append(tmpl.IPAddresses, ip.AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate: %w", err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		return nil, nil, fmt.Errorf("issue a certificate: %w", err)
	}
	keyPEM, err = marshalKey(key)
	return cert, keyPEM, err
}

// newSerial makes a serial number of 127 random bits (RFC 5280 wants it positive
// and at most 20 bytes; the CA/Browser Forum 64 bits of chance or more).
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return n.SetBit(n, 126, 1), nil
}

func marshalKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("write a key: %w", err)
	}
	return pemBlock("PRIVATE KEY", der), nil
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// makeTLS writes a new CA and a certificate of it to a directory that must not
// be there.
func makeTLS(dir, gateway string, names serverNames, now time.Time) error {
	ca, err := newAuthority(gateway, now)
	if err != nil {
		return err
	}
	caKey, err := marshalKey(ca.key)
	if err != nil {
		return err
	}
	cert, key, err := ca.issue(names, now)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		text []byte
		mode os.FileMode
	}{
		{caCertName, pemBlock("CERTIFICATE", ca.cert.Raw), 0o644},
		{caKeyName, caKey, 0o600},
		{leafCertName, pemBlock("CERTIFICATE", cert.Raw), 0o644},
		{leafKeyName, key, 0o600},
	} {
		if err := writeNew(filepath.Join(dir, f.name), string(f.text), f.mode); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// errNoAuthority means that there is no CA to issue from.
var errNoAuthority = errors.New("no private CA")

// openAuthority reads a CA with its key, which lies beside it.
func openAuthority(certPath string) (*authority, error) {
	keyPath := filepath.Join(filepath.Dir(certPath), caKeyName)
	for _, path := range []string{certPath, keyPath} {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s is not there", errNoAuthority, path)
		}
	}
	if err := privateFile(keyPath); err != nil {
		return nil, fmt.Errorf("open the CA: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		return nil, fmt.Errorf("open the CA %s: %w", certPath, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("open the CA: %s is not one that trailgate made", certPath)
	}
	return &authority{cert: pair.Leaf, key: key}, nil
}

// issued reads the names of a certificate that this CA made. A file that is
// not there has none, and is no error.
func (a *authority) issued(path string) (names serverNames, there bool, err error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return serverNames{}, false, nil
	}
	if err != nil {
		return serverNames{}, false, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return serverNames{}, false, fmt.Errorf("%s holds no certificate in PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return serverNames{}, false, fmt.Errorf("read %s: %w", path, err)
	}
	if err := cert.CheckSignatureFrom(a.cert); err != nil {
		return serverNames{}, false, fmt.Errorf("%s is not of the private CA: it names %s", path, cert.Issuer)
	}
	names.dns = cert.DNSNames
	for _, ip := range cert.IPAddresses {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			names.ips = append(names.ips, addr.Unmap())
		}
	}
	return names, true, nil
}

// privateFile makes sure that nobody but its owner can read or write a file.
func privateFile(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return hinted(fmt.Errorf("%s can be read by others (mode %04o)", path, info.Mode().Perm()), "chmod 600 %s; if others may have read it, what it protects needs a new one", path)
	}
	return nil
}
