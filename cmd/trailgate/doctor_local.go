package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/trailgate/trailgate/internal/config"
)

// Checks of what lies on this machine.

func (d *doctor) dataDirectory() {
	const name = "data directory"
	dir := d.cfg.DataDir.String()
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		d.bad(name, fmt.Errorf("%s is not there", dir), "if this gateway is new: trailgate init; if not: restore it from a backup and run trailgate verify"+d.at())
		return
	case err != nil:
		d.bad(name, err, "run this as the user that the gateway runs as")
		return
	case !info.IsDir():
		d.bad(name, fmt.Errorf("%s is no directory", dir), "correct data_dir in "+d.cfg.Path)
		return
	case info.Mode().Perm()&0o077 != 0:
		d.bad(name, fmt.Errorf("%s is open to others (mode %04o); it holds the key that signs the log", dir, info.Mode().Perm()), "chmod 700 "+posixQuote(dir))
		return
	}
	d.good(name, "%s", dir)
}

// secrets checks the files that hold something that nobody else may read. Those
// that the gateway makes itself may be missing.
func (d *doctor) secrets() {
	const name = "secrets"
	before := d.failed()
	if _, err := readAdminToken(d.cfg); err != nil {
		d.bad(name, err, "write 32 random bytes in base64 there, mode 0600")
	}
	check := func(key string, path config.Path, made bool) {
		if path == "" {
			return
		}
		info, err := os.Stat(path.String())
		switch {
		case errors.Is(err, os.ErrNotExist) && made:
		case err != nil:
			d.bad(name, fmt.Errorf("%s: %w", key, err), "put it there, readable by the gateway's user alone, or correct the path in "+d.cfg.Path)
		case info.Mode().Perm()&0o007 != 0:
			d.bad(name, fmt.Errorf("%s: %s can be used by everybody (mode %04o)", key, path, info.Mode().Perm()), "chmod 600 "+posixQuote(path.String())+"; if others may have read it, get a new one")
		case info.Size() == 0:
			d.bad(name, fmt.Errorf("%s: %s is empty", key, path), "put the secret into it")
		}
	}
	for _, c := range d.cfg.Connections {
		key := "connection " + c.Name + ": "
		check(key+"token_file", c.Credential.TokenFile, false)
		check(key+"credential_file", c.Credential.CredentialFile, false)
		check(key+"client_secret_file", c.Credential.ClientSecretFile, false)
	}
	check("admin.login.client_secret_file", d.cfg.Admin.Login.ClientSecretFile, false)
	check("federation.consent_key_file", d.cfg.Federation.ConsentKeyFile, true)
	check("federation.issuer.key_file", d.cfg.Federation.Issuer.KeyFile, true)
	for _, w := range d.cfg.Approval.Webhooks {
		check("approval.webhooks "+w.Name+": secret_file", w.SecretFile, false)
	}
	for _, to := range d.cfg.Trail.Checkpoints.SendTo {
		check("trail.checkpoints.send_to "+to.Name+": secret_file", to.SecretFile, false)
		check("trail.checkpoints.send_to "+to.Name+": headers_file", to.HeadersFile, false)
	}
	for i, path := range d.cfg.Federation.Issuer.MoreKeyFiles {
		check(fmt.Sprintf("federation.issuer.more_key_files[%d]", i), path, false)
	}
	for _, secret := range []string{"log.key", agentsName, sessionKeyName} {
		check(secret, config.Path(filepath.Join(d.cfg.DataDir.String(), secret)), true)
	}
	if d.failed() == before {
		d.good(name, "files with secrets are there, and closed to others")
	}
}

// policy compiles the rules, and points out what is probably not meant.
func (d *doctor) policy() {
	const name = "policy"
	rules, err := loadPolicy(d.cfg)
	switch {
	case err != nil:
		d.bad(name, err, "trailgate policy check"+d.at()+" names every mistake with its line")
	case rules.set == nil:
		d.advise(name, "every call of a known method is allowed (policy.record_only)", "take record_only out, and the starter policy holds; trailgate policy replay tells beforehand what it would have decided")
	case len(rules.set.Lint()) > 0:
		d.advise(name, fmt.Sprintf("%s; %d findings", rules.describe(), len(rules.set.Lint())), "trailgate policy check"+d.at()+" lists what is probably not meant")
	default:
		d.good(name, "%s", rules.describe())
	}
}

// certificates checks what the listeners show.
func (d *doctor) certificates() {
	d.certificate("agents' certificate", d.cfg.Gateway.TLS, hostOf(d.cfg.Gateway.PublicURL, d.cfg.Gateway.Listen))
	if !d.cfg.Admin.Off() {
		d.certificate("humans' certificate", d.cfg.Admin.TLS, hostOf(d.cfg.Admin.PublicURL, d.cfg.Admin.Listen))
	}
}

// hostOf is the host that clients use: of the public URL, or else of the listener.
func hostOf(publicURL, listen string) string {
	if u, err := url.Parse(publicURL); err == nil && u.Hostname() != "" {
		return u.Hostname()
	}
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return ""
	}
	return host
}

func (d *doctor) certificate(name string, files config.TLS, host string) {
	if !files.On() {
		return
	}
	renew := "put a renewed certificate into " + files.CertFile.String() + " and its key into " + files.KeyFile.String()
	if ours(files) {
		renew = "trailgate tls renew" + d.at()
	}
	reload := "\nkill -HUP the gateway: it takes the new one in"
	problem, err := inspectCertificate(files, host, d.now())
	switch {
	case err == nil && problem.ends.Sub(d.now()) < certSoon:
		d.bad(name, fmt.Errorf("%s ends on %s", files.CertFile, problem.ends.UTC().Format(time.DateOnly)), renew+reload)
	case err == nil:
		d.good(name, "for %s until %s", strings.Join(problem.names, ", "), problem.ends.UTC().Format(time.DateOnly))
	case errors.Is(err, errCertHost) && ours(files):
		for _, n := range append(problem.names, host) {
			if n != "localhost" && n != "127.0.0.1" && n != "::1" {
				renew += " --host " + posixQuote(n)
			}
		}
		d.bad(name, err, renew+reload)
	case errors.Is(err, errCertCA):
		d.bad(name, err, "name the CA that issued it in tls.ca_file of "+d.cfg.Path)
	default:
		d.bad(name, err, renew+reload)
	}
}

// ours reports whether a certificate is one that "tls renew" can renew.
func ours(files config.TLS) bool {
	if files.CAFile == "" {
		return false
	}
	ca, err := openAuthority(files.CAFile.String())
	if err != nil {
		return false
	}
	_, _, err = ca.issued(files.CertFile.String())
	return err == nil
}

// certSoon is how long before its end a certificate is found fault with.
const certSoon = 14 * 24 * time.Hour

var (
	errCertHost = errors.New("is not for the host that clients use")
	errCertCA   = errors.New("does not come from the CA that clients are given")
)

type inspected struct {
	ends  time.Time
	names []string
}

// inspectCertificate makes the checks that a client would make.
func inspectCertificate(files config.TLS, host string, now time.Time) (inspected, error) {
	if err := openToOthers(files.KeyFile.String()); err != nil {
		return inspected{}, err
	}
	pair, err := tls.LoadX509KeyPair(files.CertFile.String(), files.KeyFile.String())
	if err != nil {
		return inspected{}, fmt.Errorf("load %s: %w", files.CertFile, err)
	}
	leaf := pair.Leaf
	got := inspected{ends: leaf.NotAfter, names: append([]string{}, leaf.DNSNames...)}
	for _, ip := range leaf.IPAddresses {
		got.names = append(got.names, ip.String())
	}
	switch {
	case now.After(leaf.NotAfter):
		return got, fmt.Errorf("%s ended on %s", files.CertFile, leaf.NotAfter.UTC().Format(time.DateOnly))
	case now.Before(leaf.NotBefore):
		return got, fmt.Errorf("%s holds from %s on, which is in the future", files.CertFile, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if host != "" && leaf.VerifyHostname(host) != nil {
		return got, fmt.Errorf("%s %w: %s", files.CertFile, errCertHost, host)
	}
	if files.CAFile == "" {
		return got, nil // the system's authorities are asked by the listener's check
	}
	raw, err := os.ReadFile(files.CAFile.String())
	if err != nil {
		return got, err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(raw) {
		return got, fmt.Errorf("%s holds no certificate in PEM", files.CAFile)
	}
	for _, der := range pair.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(cert)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now}); err != nil {
		return got, fmt.Errorf("%s %w (%s): %w", files.CertFile, errCertCA, files.CAFile, err)
	}
	return got, nil
}

// openToOthers finds fault with a key that everybody on the machine can read.
func openToOthers(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return hinted(fmt.Errorf("%s can be read by everybody (mode %04o)", path, info.Mode().Perm()), "chmod 600 %s; if others may have read it, replace key and certificate", path)
	}
	return nil
}
