package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/config"
)

func newTLS(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "tls",
		Short:   "Renew the certificate of a private CA",
		Example: `  trailgate tls renew`,
		Args:    cobra.ArbitraryArgs,
		RunE:    parentOnly,
	}
	cmd.AddCommand(newTLSRenew(c))
	return cmd
}

func newTLSRenew(c *cli) *cobra.Command {
	var hosts []string
	cmd := &cobra.Command{
		Use:   "renew",
		Short: "Issue the gateway's certificate anew",
		Long: `Renew makes a new key and certificate from the private CA that "init --tls" made,
in the place of gateway.tls.cert_file and key_file. It is for the same hosts as the
old one, or for those that --host names, and for loopback in any case. Clients
notice nothing: they trust the CA, and that stays.

A certificate holds for 397 days, the CA for ten years; "trailgate doctor" tells
in time. A running gateway takes the new one in on SIGHUP. A certificate that
the CA did not make is left alone.`,
		Example: `  trailgate tls renew
  trailgate tls renew --host gateway.example.com --host 10.1.2.3`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if c.server != "" {
				return usagef("tls renew works on the gateway's own machine, without --server")
			}
			cfg, err := c.config()
			if err != nil {
				return err
			}
			names, end, err := renewCertificate(cfg, hosts, time.Now())
			if err != nil {
				return err
			}
			fmt.Fprintf(c.err, "%s holds until %s, for %s\na running gateway takes it in on SIGHUP: kill -HUP its process\n",
				cfg.Gateway.TLS.CertFile, end.UTC().Format(time.DateOnly), names)
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "`HOST` name or address that clients use; repeat it (default: as before)")
	must(cmd.RegisterFlagCompletionFunc("host", cobra.NoFileCompletions))
	return cmd
}

// renewCertificate issues the certificate of gateway.tls anew. The files are
// replaced one after the other: a crash in between leaves a key that does not
// fit, which a running gateway refuses to take in and another renewal mends.
func renewCertificate(cfg *config.Config, hosts []string, now time.Time) (names serverNames, end time.Time, err error) {
	files := cfg.Gateway.TLS
	if !files.On() {
		return names, end, hinted(errors.New("renew: gateway.tls is not set, so there is no certificate"), `"trailgate init --tls" makes a gateway with one`)
	}
	const elsewhere = `"tls renew" renews what "init --tls" made; a certificate from elsewhere is renewed there`
	caPath := files.CAFile.String()
	if caPath == "" {
		caPath = filepath.Join(filepath.Dir(files.CertFile.String()), caCertName)
	}
	ca, err := openAuthority(caPath)
	if errors.Is(err, errNoAuthority) {
		return names, end, hinted(fmt.Errorf("renew: %w", err), elsewhere)
	}
	if err != nil {
		return names, end, fmt.Errorf("renew: %w", err)
	}
	old, there, err := ca.issued(files.CertFile.String())
	if err != nil {
		return names, end, hinted(fmt.Errorf("renew: %w", err), elsewhere)
	}
	switch names = old; {
	case len(hosts) > 0:
		if names, err = readServerNames(hosts); err != nil {
			return names, end, usagef("--host: %w", err)
		}
	case !there:
		return names, end, usagef("renew: there is no certificate whose hosts could be kept; name them with --host")
	}
	cert, key, err := ca.issue(names, now)
	if err != nil {
		return names, end, hinted(fmt.Errorf("renew: %w", err), `make a new CA: move %s away, run "trailgate init --tls" in an empty directory, move its tls directory here, and hand clients the new ca.pem`, filepath.Dir(caPath))
	}
	if err := replaceFile(files.KeyFile.String(), string(key), 0o600); err != nil {
		return names, end, fmt.Errorf("renew: %w", err)
	}
	if err := replaceFile(files.CertFile.String(), string(pemBlock("CERTIFICATE", cert.Raw)), 0o644); err != nil {
		return names, end, fmt.Errorf("renew: %w", err)
	}
	return names, cert.NotAfter, nil
}
