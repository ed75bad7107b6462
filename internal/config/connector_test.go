package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/config"
)

// TestConnectorDocs: the configurations of connectors in the documents can be copied.
func TestConnectorDocs(t *testing.T) {
	blocks := fenced(readDocument(t, "connector.md"), "yml")
	if len(blocks) < 2 {
		t.Fatalf("%d configurations", len(blocks))
	}
	for _, block := range blocks {
		if _, err := config.ParseConnector("connector.yaml", []byte(block)); err != nil {
			t.Errorf("%v\n%s", err, block)
		}
		if _, err := config.ParseConnector("connector.yaml", []byte(strings.ReplaceAll(block, "\n#", "\n"))); err != nil {
			t.Errorf("uncommented: %v\n%s", err, block)
		}
	}
}

func TestConnectorFile(t *testing.T) {
	c, err := config.ParseConnector("/x/connector.yaml", []byte("gateway: gw:8472\nconnections: [{name: lake}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.StateDir != "/x/connector" || c.Connections[0].Credential.Mode != config.CredentialGateway || c.Health != "off" || len(c.Allow) != 1 || c.Shutdown.DrainTimeout != 30*time.Second {
		t.Errorf("%+v", c)
	}
	for text, want := range map[string]string{
		"connections: [{name: lake}]\n":                                                         "gateway",
		"gateway: gw:8472\n":                                                                    "connections: missing",
		"gateway: gw:8472\nconnections: [{name: lake}]\nlisten: x\n":                            "unknown key",
		"gateway: gw:8472\nconnections: [{name: lake}, {name: lake}]\n":                         "stands twice",
		"gateway: gw:8472\nconnections: [{name: lake, credential: {mode: oauth}}]\n":            "want one of gateway",
		"gateway: gw:8472\nconnections: [{name: lake}]\nidentity: {mode: gcp}\n":                "gateway_ca_file",
		"gateway: gw:8472\nconnections: [{name: lake}]\nidentity: {token_file: x}\n":            "only mode token",
		"gateway: gw:8472\nconnections: [{name: lake}]\nhealth: nowhere\n":                      "health",
		"gateway: gw:8472\nconnections: [{name: lake}]\nallow: []\n":                            "allow",
		"gateway: gw\nconnections: [{name: lake}]\n":                                            "host:port",
		"gateway: gw:8472\nconnections: [{name: lake}]\nendpoints: {sts: \"http://elsewhere\"}": "https",
	} {
		_, err := config.ParseConnector("c.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestAuditor: who looks at BigQuery's records for the gateway is said where the other
// credentials are made, and on both ends.
func TestAuditor(t *testing.T) {
	served := func(rest string) error {
		_, err := config.ParseConnector("c.yaml", []byte("gateway: gw:8472\nconnections: [{name: lake, "+rest+"}]\n"))
		return err
	}
	own := func(mode, auditor string) error {
		_, err := config.Parse("t.yaml", []byte("id: x\nconnectors: {listen: \"127.0.0.1:0\"}\nconnections:\n  - {name: lake, projects: [lake-project], connectors: true, credential: {mode: "+mode+
			"}, reconcile: {credential: {"+auditor+"}}}\n"))
		return err
	}
	for _, x := range []struct {
		name string
		err  error
		want string // "": good
	}{
		{"made there", served("credential: {mode: adc}, auditor: {mode: adc}"), ""},
		{"one account", served("credential: {mode: adc}, auditor: {mode: impersonation, service_account: a@p.iam.gserviceaccount.com}"), ""},
		{"gateway's", served("auditor: {mode: adc}"), "auditor"},
		{"no account", served("credential: {mode: adc}, auditor: {mode: impersonation}"), "service_account"},
		{"no mode", served("credential: {mode: adc}, auditor: {token_file: x}"), "auditor"},
		{"its own", served("credential: {mode: adc}, auditor: {mode: connector}"), "want one of"},
		{"both ends", own("connector", "mode: connector"), ""},
		{"gateway's own over theirs", own("connector", "mode: adc"), "auditor in their configuration"},
		{"theirs over the gateway's own", own("adc", "mode: connector"), "whose own credential"},
		{"with a key", own("connector", "mode: connector, token_file: x"), "reads no other key"},
	} {
		switch {
		case x.want == "" && x.err != nil:
			t.Errorf("%s: %v", x.name, x.err)
		case x.want != "" && (x.err == nil || !strings.Contains(x.err.Error(), x.want)):
			t.Errorf("%s: %v, want %q", x.name, x.err, x.want)
		}
	}
}
