package connector_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"testing"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/connector"
)

// TestOtherIdentities: a connector that others vouch for is admitted for what they say
// and no more; the key that it proved signs its receipts, and is in the trail.
func TestOtherIdentities(t *testing.T) {
	peer := connector.Peer{Name: "lake-mesh", Connections: []string{"lake"}, By: "spiffe://example.org/connector/lake"}
	r := newRig(t, func(c *connector.HubConfig) {
		c.Certificate = func(chain []*x509.Certificate) (connector.Peer, error) {
			if chain[0].Subject.CommonName != "mesh" {
				return connector.Peer{}, errors.New("of another authority")
			}
			return peer, nil
		}
		c.Token = func(_ context.Context, token string) (connector.Peer, error) {
			if token != "good" {
				return connector.Peer{}, errors.New("expired")
			}
			return connector.Peer{Name: "lake-gce", Connections: []string{"lake"}, By: "https://accounts.google.com|1"}, nil
		}
	})
	base := r.enroll("pond-1", "pond") // for the gateway's authority
	own := func(name string) (connector.Config, []byte) {
		cert, key := newCA(t, name)
		cfg := r.config(base, "lake")
		cfg.Certificate = func() (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
		}
		der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return cfg, der
	}
	check := func(name string, cfg connector.Config, der []byte) {
		t.Helper()
		c := r.start(cfg)
		_, a := r.call("lake", "GET", "/x", "")
		if a.err != nil || a.used.Connector.Name != name || a.used.Connector.Verdict != trailgate.ReceiptGood {
			t.Errorf("%v %+v", a.err, a.used)
		}
		if _, err := trailgate.VerifyReceipt(a.used.Connector.Receipt, a.used.Connector.Signature, der); err != nil {
			t.Error(err)
		}
		if e := r.events.of(connector.ActionConnect, name); len(e) != 1 || e[0].Detail["public_key"] != base64.StdEncoding.EncodeToString(der) || e[0].Detail["by"] == "" {
			t.Errorf("entry %+v", e)
		}
		c.kill()
		waitFor(t, "it is gone", func() bool { return r.hub.Serving("lake") == 0 })
	}
	cfg, der := own("mesh")
	check("lake-mesh", cfg, der)
	cfg, der = own("whatever")
	cfg.Token = func(context.Context) (string, error) { return "good", nil }
	check("lake-gce", cfg, der)

	cfg, _ = own("stranger")
	r.refusedWith(connector.CodeCertificate, "", cfg)
	cfg.Token = func(context.Context) (string, error) { return "bad", nil }
	r.refusedWith(connector.CodeToken, "", cfg)
	cfg, _ = own("mesh")
	cfg.Connections["pond"] = connector.Served{Mint: func(context.Context, connector.Call) (string, connector.Minted, func(), error) {
		return "", connector.Minted{}, nil, nil
	}}
	r.refusedWith(connector.CodeConnection, "lake-mesh", cfg)
}
