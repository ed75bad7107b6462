package connector

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// Letting connectors in: who it is, what for, and what is said and recorded where not.

// admit takes one connection from its handshake to its end.
func (h *Hub) admit(raw net.Conn) {
	waiting := true
	known := func() {
		if waiting {
			waiting = false
			<-h.admitting
		}
	}
	defer known()
	conn := tls.Server(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, GetCertificate: h.serverCertificate,
		// Whose certificate it is, and whether it counts, is told in words after the handshake.
		ClientAuth: tls.RequestClientCert,
	})
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(helloWait))
	ctx, cancel := context.WithTimeout(h.life, helloWait)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		h.cfg.Log.DebugContext(ctx, "connector handshake", "address", raw.RemoteAddr().String(), "err", err)
		return
	}
	var hello Hello
	if conn.ConnectionState().NegotiatedProtocol != alpn {
		return
	}
	if err := readFrame(conn, &hello); err != nil {
		_ = writeFrame(conn, Welcome{Code: CodeMalformed, Error: "this is the gateway's door for connectors, and that is not their protocol"})
		return
	}
	t, welcome, err := h.consider(ctx, conn, &hello)
	if err != nil {
		h.deny(ctx, conn, t, err)
		return
	}
	welcome.Version, welcome.Gateway, welcome.BeatMillis = versions[0], h.cfg.Gateway, h.cfg.Beat.Milliseconds()
	if err := writeFrame(conn, welcome); err != nil || hello.Op != opServe {
		if hello.Op == opServe {
			h.forget(t, err)
		}
		return
	}
	_ = conn.SetDeadline(time.Time{})
	known()
	t.run(h)
}

// consider decides about what a connector asks. The tunnel names who asked, as far as
// that is known; with opServe and no error it is registered.
func (h *Hub) consider(ctx context.Context, conn *tls.Conn, hello *Hello) (*tunnel, Welcome, error) {
	t := &tunnel{conn: conn, address: conn.RemoteAddr().String(), build: clip(hello.Build, 64), instance: clip(hello.Instance, 128), closed: make(chan struct{})}
	if !slices.Contains(hello.Versions, versions[0]) {
		return t, Welcome{}, refuse(CodeVersion, "this connector (Trailgate %s) speaks version %s of the tunnel's protocol, this gateway (Trailgate %s) version %s; install the gateway's version of trailgate beside the project",
			cmp.Or(t.build, "unknown"), join(hello.Versions), h.cfg.Build, join(versions))
	}
	switch hello.Op {
	case opEnroll:
		welcome, err := h.enroll(ctx, t, hello)
		return t, welcome, err
	case opRenew:
		welcome, err := h.renew(ctx, t, hello)
		return t, welcome, err
	case opServe:
		if err := h.identify(ctx, t, hello); err != nil {
			return t, Welcome{}, err
		}
		if err := h.register(ctx, t, hello); err != nil {
			return t, Welcome{}, err
		}
		return t, Welcome{Name: t.name, Connections: t.connections, EndsMillis: t.until.Sub(h.cfg.Now()).Milliseconds()}, nil
	}
	return t, Welcome{}, refuse(CodeMalformed, "%.40q is nothing that a gateway does for connectors", hello.Op)
}

func join(v []int) string {
	return clip(strings.Trim(strings.ReplaceAll(fmt.Sprint(v), " ", ", "), "[]"), 40)
}

// identify finds out who this is: by a certificate of the gateway's own authority, by
// one of another, or by a token. The key that TLS proved signs its receipts.
func (h *Hub) identify(ctx context.Context, t *tunnel, hello *Hello) error {
	chain := t.conn.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return refuse(CodeCertificate, "no client certificate came; enrol first: trailgate connector enroll")
	}
	leaf := chain[0]
	der, err := x509.MarshalPKIXPublicKey(leaf.PublicKey)
	if err != nil {
		return refuse(CodeCertificate, "the certificate's key cannot be read")
	}
	t.key, t.keySum, t.certEnds, t.until = der, hexSum(der), leaf.NotAfter, leaf.NotAfter
	if hello.Token != "" {
		if h.cfg.Token == nil {
			return refuse(CodeToken, "this gateway takes no tokens of connectors; configure connectors.identities there, or enrol")
		}
		peer, err := h.cfg.Token(ctx, hello.Token)
		if err != nil {
			return refuse(CodeToken, "the token is not accepted: %v", err)
		}
		return h.vouched(t, peer)
	}
	if bytesEqual(leaf.RawIssuer, h.cfg.CA.RawSubject) {
		name, err := h.own(leaf)
		t.name = name
		if err != nil {
			return err
		}
		c, err := h.cfg.Registry.use(name, serialOf(leaf))
		if err != nil {
			return err
		}
		t.connections, t.enrolled = c.Connections, true
		return nil
	}
	if h.cfg.Certificate == nil {
		return refuse(CodeCertificate, "the certificate is not of this gateway's authority (%s)", h.cfg.CA.Subject)
	}
	peer, err := h.cfg.Certificate(chain)
	if err != nil {
		return refuse(CodeCertificate, "the certificate is not accepted: %v", err)
	}
	return h.vouched(t, peer)
}

// vouched takes a connector for whom somebody else says it is. A name of the registry's
// means one connector for ever, also one that was revoked, and nobody else is let in by it.
func (h *Hub) vouched(t *tunnel, p Peer) error {
	if _, taken := h.cfg.Registry.get(p.Name); taken {
		return refuse(CodeConnection, "%.80q is the name of a connector that was enrolled; map the identity to another", p.Name)
	}
	t.name, t.connections, t.by = p.Name, p.Connections, p.By
	if !p.Until.IsZero() {
		t.until = p.Until
	}
	return nil
}

func bytesEqual(a, b []byte) bool { return string(a) == string(b) }

// own checks a certificate of the gateway's authority, and tells whose it says it is.
func (h *Hub) own(leaf *x509.Certificate) (name string, err error) {
	// Whose it is comes first: Verify looks at the time before it looks at the signature,
	// and a name that anybody can write is none to put into the trail.
	if err := leaf.CheckSignatureFrom(h.cfg.CA); err != nil {
		return "", refuse(CodeCertificate, "the certificate is not of this gateway's authority: %v", err)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: h.pool, CurrentTime: h.cfg.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return leaf.Subject.CommonName, refuse(CodeCertificate, "the certificate ended on %s; enrol again, under another name", leaf.NotAfter.UTC().Format(time.RFC3339))
	case err != nil:
		return "", refuse(CodeCertificate, "the certificate is not of this gateway's authority: %v", err)
	}
	return leaf.Subject.CommonName, nil
}

// register admits a tunnel to the connections that it asks for.
func (h *Hub) register(ctx context.Context, t *tunnel, hello *Hello) error {
	if len(hello.Connections) == 0 {
		return refuse(CodeConnection, "the connector's configuration names no connection")
	}
	serves := make([]string, 0, len(hello.Connections))
	for name, credential := range hello.Connections {
		if !slices.Contains(t.connections, name) {
			return refuse(CodeConnection, "connector %s is not for connection %.80q; it was enrolled for %s", t.name, name, strings.Join(t.connections, ", "))
		}
		want, configured := h.cfg.Connections[name]
		switch {
		case !configured:
			return refuse(CodeConnection, "connection %s of this gateway does not go through connectors; set connectors: true there", name)
		case credential != want:
			return refuse(CodeConnection, "the credential of connection %s is minted by the %s as this gateway has it, by the %s as connector %s has it; correct one of the two", name, want, credential, t.name)
		}
		serves = append(serves, name)
	}
	slices.Sort(serves)
	t.serves, t.since, t.lastBeat = serves, h.cfg.Now().UTC(), time.Now()

	h.mu.Lock()
	var replaced []*tunnel
	refusal := func() *Refusal {
		if h.life.Err() != nil || len(h.tunnels) >= maxTunnels {
			return refuse(CodeBusy, "the gateway stops, or has too many connectors")
		}
		for other := range h.tunnels {
			switch {
			case other.name != t.name:
			case other.instance == t.instance && t.instance != "":
				replaced = append(replaced, other) // the same process; its old connection is dead, or it would not come again
			case !other.draining:
				return refuse(CodeInUse, "connector %s is connected already, from %s; each needs an enrolment of its own", t.name, other.address)
			}
		}
		return nil
	}()
	if refusal == nil {
		t.pending = true // taken, and not to be chosen before the trail has it
		h.tunnels[t] = true
	}
	h.mu.Unlock()
	if refusal != nil {
		return refusal
	}
	if hello.Beside { // than this: the older ones finish what they have
		t.follows = replaced
	} else {
		for _, other := range replaced {
			other.fail(errors.New("the connector connected again"))
		}
	}
	detail := map[string]string{
		"connections": strings.Join(serves, ","), "build": t.build, "instance": t.instance, "key_sha256": t.keySum,
	}
	if t.by != "" { // no entry about an enrolment has the key
		detail["by"], detail["public_key"] = t.by, base64.StdEncoding.EncodeToString(t.key)
	}
	if err := h.cfg.Record(ctx, Event{Action: ActionConnect, Name: t.name, Client: t.address, Detail: detail}); err != nil {
		h.forget(t, nil)
		return refuse(CodeBusy, "the trail cannot be written; try again")
	}
	// Revoked meanwhile? From here on Revoked finds the tunnel.
	if t.enrolled {
		if c, ok := h.cfg.Registry.get(t.name); !ok || c.Revoked != nil {
			h.forget(t, errors.New("revoked"))
			return refuse(CodeRevoked, "connector %s was revoked", t.name)
		}
	}
	return nil
}

// forget takes a tunnel out of those that calls may take. A tunnel that was connected as
// the trail has it ends with an entry, too.
func (h *Hub) forget(t *tunnel, why error) {
	h.mu.Lock()
	there := h.tunnels[t]
	delete(h.tunnels, t)
	h.mu.Unlock()
	if there && why != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(h.life), helloWait)
		defer cancel()
		err := h.cfg.Record(ctx, Event{Action: ActionDisconnect, Name: t.name, Client: t.address, Detail: map[string]string{"reason": clip(why.Error(), 300)}})
		if err != nil {
			h.cfg.Log.ErrorContext(ctx, "record that a connector went", "connector", t.name, "err", err)
		}
	}
}

// deny tells a connector why not, and the trail.
func (h *Hub) deny(ctx context.Context, conn *tls.Conn, t *tunnel, err error) {
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok {
		h.cfg.Log.ErrorContext(ctx, "admit a connector", "address", t.address, "err", err)
		refusal = refuse(CodeBusy, "the gateway cannot do it now; its log says why")
	}
	h.counters.refused.Add(1)
	h.cfg.Log.WarnContext(ctx, "connector refused", "connector", t.name, "address", t.address, "code", refusal.Code, "why", refusal.Message)
	h.recordRefusal(ctx, t, refusal)
	_ = writeFrame(conn, Welcome{Code: refusal.Code, Error: refusal.Message, Version: versions[0]})
}

// refusals of one kind are one entry a minute: a flood must not fill the log.
type refusals struct {
	until time.Time
	more  int
}

const (
	refusalEvery = time.Minute
	maxRefusals  = 1000
)

func (h *Hub) recordRefusal(ctx context.Context, t *tunnel, r *Refusal) {
	key, now := r.Code+" "+t.name, time.Now()
	h.mu.Lock()
	x := h.refused[key]
	if x == nil && len(h.refused) >= maxRefusals {
		clear(h.refused)
	}
	if x != nil && now.Before(x.until) {
		x.more++
		h.mu.Unlock()
		return
	}
	detail := map[string]string{"code": r.Code, "why": clip(r.Message, 500), "build": t.build}
	if x != nil && x.more > 0 {
		detail["more_before"] = fmt.Sprint(x.more)
	}
	h.refused[key] = &refusals{until: now.Add(refusalEvery)}
	h.mu.Unlock()
	if err := h.cfg.Record(ctx, Event{Action: ActionRefused, Name: t.name, Client: t.address, Detail: detail}); err != nil {
		h.cfg.Log.ErrorContext(ctx, "record that a connector was refused", "err", err)
	}
}
