package assertion

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// maxChain bounds what a client may present.
const maxChain = 10

// authority is a configured authority of client certificates.
type authority struct {
	conf   Certificates
	domain spiffeid.TrustDomain // zero where it is not SPIFFE's
	rules  *rules
	log    *slog.Logger
	now    func() time.Time

	mu         sync.Mutex // guards what follows
	roots      []*x509.Certificate
	generation uint64 // changes with the roots
	mtime      time.Time
	size       int64
	looked     time.Time
}

func newAuthority(conf Certificates, c Config) (*authority, error) {
	a := &authority{conf: conf, log: c.Log, now: c.Now}
	var err error
	if conf.TrustDomain != "" {
		if a.domain, err = spiffeid.TrustDomainFromString(conf.TrustDomain); err != nil {
			return nil, fmt.Errorf("trust_domain: %w", err)
		}
	}
	if conf.Map.Agent == "" {
		return nil, errors.New("map.agent: missing")
	}
	if a.rules, err = newRules("cert", conf.Map); err != nil {
		return nil, err
	}
	return a, a.load()
}

// load reads the bundle: PEM, or for SPIFFE its own JSON
// (https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md).
func (a *authority) load() error {
	raw, info, err := readBounded(a.conf.BundleFile)
	if err != nil {
		return fmt.Errorf("read bundle_file: %w", err)
	}
	domain := a.domain
	if domain.IsZero() {
		domain = spiffeid.RequireTrustDomainFromString("unused.invalid") // the parser wants one
	}
	var roots []*x509.Certificate
	if bundle, err := spiffebundle.Parse(domain, raw); err == nil {
		roots = bundle.X509Authorities()
	} else if bundle, err := x509bundle.Parse(domain, raw); err == nil {
		roots = bundle.X509Authorities()
	} else {
		return fmt.Errorf("read bundle_file %s: neither certificates in PEM nor a SPIFFE bundle: %w", a.conf.BundleFile, err)
	}
	if len(roots) == 0 {
		return fmt.Errorf("read bundle_file %s: it holds no authority", a.conf.BundleFile)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.roots, a.mtime, a.size, a.looked = roots, info.ModTime(), info.Size(), a.now()
	a.generation++
	return nil
}

// version tells whether the authorities have changed.
func (a *authority) version() uint64 {
	_, generation := a.authorities()
	return generation
}

// authorities are the certificates that are trusted now. The file is looked at
// once a second; one that cannot be read leaves those in use.
func (a *authority) authorities() (roots []*x509.Certificate, generation uint64) {
	a.mu.Lock()
	now := a.now()
	due := now.Sub(a.looked) >= time.Second || now.Before(a.looked)
	if due {
		a.looked = now
	}
	mtime, size := a.mtime, a.size
	a.mu.Unlock()
	if due {
		info, err := os.Stat(a.conf.BundleFile)
		if err == nil && (!info.ModTime().Equal(mtime) || info.Size() != size) {
			err = a.load()
		}
		if err != nil {
			a.log.WarnContext(context.Background(), "a bundle of authorities cannot be read; those in use stay", "certificates", a.conf.Name, "err", err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.roots, a.generation
}

// Certificate verifies a client's chain, leaf first, as TLS presented it: TLS
// proved that the client has the leaf's key, and nothing else. Errors are
// [ErrCertificate] and [ErrMapping].
func (v *Verifier) Certificate(chain []*x509.Certificate) (Assertion, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return Assertion{}, fmt.Errorf("%w: a chain of %d", ErrCertificate, len(chain))
	}
	now := v.now()
	whole := sha256.New()
	for _, c := range chain {
		if c == nil {
			return Assertion{}, fmt.Errorf("%w: an empty place in the chain", ErrCertificate)
		}
		whole.Write(c.Raw) // DER says where it ends
	}
	sum := [sha256.Size]byte(whole.Sum(nil))
	if a, ok := v.seen.get(sum, now); ok {
		return a, nil
	}
	last := fmt.Errorf("%w: no authority for client certificates is configured", ErrCertificate)
	for _, a := range v.certificates {
		roots, generation := a.authorities()
		out, until, err := a.verify(chain, roots, now)
		if err == nil {
			if out.Evidence, err = v.keepChain(&out, chain, roots); err != nil {
				return Assertion{}, err
			}
			v.seen.put(sum, out, a, generation, earliest(until, now.Add(rememberFor)))
			return out, nil
		}
		last = err
	}
	return Assertion{}, last
}

// verify checks a chain. until is when the first of the certificates that vouch for
// the leaf ends.
func (a *authority) verify(chain, roots []*x509.Certificate, now time.Time) (out Assertion, until time.Time, err error) {
	leaf := chain[0]
	fail := func(err error) (Assertion, time.Time, error) { return Assertion{}, time.Time{}, err }
	out = Assertion{
		Mode: ModeCertificate, Source: a.conf.Name, Issuer: "x509:" + a.conf.Name, Provision: a.conf.Provision,
		ID: leaf.SerialNumber.Text(16), Issued: leaf.NotBefore, Expires: leaf.NotAfter,
	}
	sum := sha256.Sum256(leaf.Raw)
	out.SHA256 = hex.EncodeToString(sum[:])
	names := map[string]any{
		"dns_names": texts(leaf.DNSNames), "emails": texts(leaf.EmailAddresses), "common_name": leaf.Subject.CommonName,
		"organization": texts(leaf.Subject.Organization), "serial": out.ID, "sha256": out.SHA256,
		"spiffe_id": "", "trust_domain": "", "path": "",
	}
	var uris []string
	for _, u := range leaf.URIs {
		uris = append(uris, u.String())
	}
	names["uris"] = texts(uris)

	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	paths, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		// Its words name the certificate, which is not for the log of every stranger.
		return fail(fmt.Errorf("%w: it does not lead to an authority of %s, is not for clients, or not for now", ErrCertificate, a.conf.Name))
	}
	for _, path := range paths { // any of them will do; the longest-lived is not looked for
		until = leaf.NotAfter
		for _, c := range path {
			until = earliest(until, c.NotAfter)
		}
	}
	if a.domain.IsZero() {
		out.Subject = first(uris, leaf.DNSNames, leaf.EmailAddresses, []string{leaf.Subject.CommonName})
	} else {
		id, _, err := x509svid.Verify(chain, x509bundle.FromX509Authorities(a.domain, roots), x509svid.WithTime(now))
		if err != nil || id.TrustDomain() != a.domain {
			return fail(fmt.Errorf("%w: not an X.509-SVID of %s", ErrCertificate, a.domain.Name()))
		}
		out.Issuer, out.Subject = a.domain.IDString(), id.String()
		names["spiffe_id"], names["trust_domain"], names["path"] = id.String(), a.domain.Name(), id.Path()
	}
	if out.Subject == "" || !plain(out.Subject) {
		return fail(fmt.Errorf("%w: it names nobody that can be recorded", ErrCertificate))
	}
	return out, until, a.rules.apply(&out, names)
}

// texts makes a list for CEL, which is never nil.
func texts(in []string) []any {
	out := make([]any, 0, len(in))
	for _, s := range in {
		out = append(out, s)
	}
	return out
}

func first(lists ...[]string) string {
	for _, l := range lists {
		if len(l) > 0 && l[0] != "" {
			return l[0]
		}
	}
	return ""
}
