package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

func newConnectorCA(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "ca",
		Short: "Print the authority by which connectors know this gateway",
		Long: `Ca prints the certificate of the gateway's authority of connectors, PEM. It is what
identity.gateway_ca_file of a connector names that comes with an identity of its own;
one that enrols gets it with its certificate. There is nothing secret in it.`,
		Example:           `  trailgate connector ca > gateway-ca.pem`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			if c.server != "" {
				return usagef("connector ca: it reads a file of the gateway's; run it there, without --server")
			}
			cfg, err := c.config()
			if err != nil {
				return err
			}
			raw, err := os.ReadFile(filepath.Join(cfg.DataDir.String(), connectorsDirName, caCertName))
			if errors.Is(err, os.ErrNotExist) {
				return hinted(fmt.Errorf("connector ca: %w", err), "the gateway makes it when it starts with connectors.listen set")
			}
			if err != nil {
				return fmt.Errorf("connector ca: %w", err)
			}
			_, err = c.out.Write(raw)
			return err
		},
	}
}
