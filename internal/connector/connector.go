// Package connector is how a gateway reaches a BigQuery that it has neither a route to
// nor a credential for: a process near the Google Cloud project, the connector, dials out
// to the gateway and takes calls over that connection. Nothing listens on its side.
//
// The package has both ends. [Hub] is the gateway's: it admits connectors, keeps the
// list of them, and forwards calls. [Connector] is the other: it dials, and does what a
// call asks for, as far as its own configuration allows.
//
// Both ends speak TLS 1.3 with a certificate of the gateway's own authority, one exchange
// of JSON that settles version and identity ([Hello], [Welcome]), and from then on HTTP/2
// in which the gateway is the client (docs/spec/connector.md).
//
// Invariants, each held by a test:
//
//   - A call that may have left the gateway is sent once. Another connector is asked only
//     where the first certainly did not take it.
//   - A connector dials what its own configuration names and nothing else, whatever the
//     gateway asks.
//   - A connector serves the connections that it was admitted for and no other.
//   - An answer ends, for the gateway, with the connector's receipt or with an error.
//
// The package records nothing itself: [HubConfig.Record] does, before what it tells of.
package connector

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
)

// Versions of the protocol that this build speaks, the newest first.
var versions = []int{1}

const (
	alpn = "trailgate-connector"
	// ServerName is what the gateway's certificate for connectors is for, whatever
	// address it is reached at: the authority is pinned, names of hosts say nothing.
	ServerName = "connectors.trailgate.internal"

	maxFrame    = 64 << 10
	helloWait   = 15 * time.Second
	maxTrailing = 16 << 10
)

// What a connector wants, a Hello's Op.
const (
	opServe  = "serve"  // take calls
	opEnroll = "enroll" // a certificate, for an enrolment token
	opRenew  = "renew"  // a certificate, for one that is about to end
)

// Hello is what a connector says first.
type Hello struct {
	Versions []int  `json:"versions"`
	Build    string `json:"build"` // its version of Trailgate
	Op       string `json:"op"`
	// Instance tells a process from others, for one that connects again.
	Instance string `json:"instance,omitempty"`
	// Connections are those that it means to serve, and who mints the credential of each.
	Connections map[string]string `json:"connections,omitempty"`
	// Token is an enrolment token, or a JWT that says who this is.
	Token string `json:"token,omitempty"`
	// CSR asks for a certificate: PKCS #10, DER.
	CSR []byte `json:"csr,omitempty"`
	// Beside says that an older connection of this process is whole, and is to finish
	// what it has.
	Beside bool `json:"beside,omitempty"`
}

// Welcome is the gateway's answer.
type Welcome struct {
	Version     int      `json:"version,omitempty"`
	Gateway     string   `json:"gateway,omitempty"`
	Name        string   `json:"name,omitempty"`        // of the connector
	Connections []string `json:"connections,omitempty"` // that it is for
	Certificate []byte   `json:"certificate,omitempty"` // DER
	// BeatMillis is how often the connector is to give a sign of life.
	BeatMillis int64 `json:"beat_ms,omitempty"`
	// EndsMillis is when what the connector proved itself with ends, from now: it is to
	// connect again before that.
	EndsMillis int64 `json:"ends_ms,omitempty"`
	// Code and Error say why not.
	Code  string `json:"code,omitempty"`
	Error string `json:"error,omitempty"`
}

// Why a connector is not admitted, a [Refusal]'s Code.
const (
	CodeVersion     = "version"     // no common version of the protocol
	CodeToken       = "token"       // an enrolment token or JWT that is not good
	CodeCertificate = "certificate" // none, or one that is not good
	CodeRevoked     = "revoked"
	CodeConnection  = "connection" // not its own
	CodeInUse       = "in_use"     // the same connector is connected from elsewhere
	CodeBusy        = "busy"       // too many, or the gateway stops; try again
	CodeMalformed   = "malformed"
)

// Refusal says why the gateway does not admit a connector.
type Refusal struct{ Code, Message string }

func (r *Refusal) Error() string { return "the gateway refuses: " + r.Message }

// Temporary reports whether trying again may help without anybody's doing something.
func (r *Refusal) Temporary() bool { return r.Code == CodeBusy || r.Code == CodeInUse }

func refuse(code, format string, args ...any) *Refusal {
	return &Refusal{code, fmt.Sprintf(format, args...)}
}

// writeFrame sends a value as JSON behind its length, four bytes, big-endian.
func writeFrame(c net.Conn, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(raw) > maxFrame {
		return fmt.Errorf("frame of %d bytes", len(raw))
	}
	_, err = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(raw))), raw...))
	return err
}

// readFrame reads no byte more than the frame: HTTP/2 follows.
func readFrame(c net.Conn, into any) error {
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("frame of %d bytes; that is not this protocol", n)
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(c, raw); err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

// Headers of the tunnel. None of them goes to BigQuery, nor to an agent.
const (
	headerPrefix    = "Trailgate-"
	headerCall      = "Trailgate-Call"      // [Call], JSON
	headerTarget    = "Trailgate-Target"    // scheme and host
	headerLength    = "Trailgate-Length"    // of the answer, where BigQuery said it
	headerUpstream  = "Trailgate-Upstream"  // [Minted], JSON
	headerError     = "Trailgate-Error"     // [Failure], JSON; no answer came
	headerReceipt   = "Trailgate-Receipt"   // trailer: the text, quoted as JSON
	headerSignature = "Trailgate-Signature" // trailer, base64
	controlPath     = "/.trailgate/control"
)

// Call is what a connector is told of a call beside the request itself.
type Call struct {
	Entry      string               `json:"entry,omitempty"` // the intent's id
	Connection string               `json:"connection"`
	Project    string               `json:"project,omitempty"`
	Session    string               `json:"session,omitempty"`
	Principal  *trailgate.Principal `json:"principal,omitempty"`
	// Purpose is PurposeAudit for what the gateway asks for its own sake; empty for what an
	// agent is behind.
	Purpose string `json:"purpose,omitempty"`
}

// PurposeAudit, of a call, is to look at BigQuery's own records. There is no agent as whom
// it could go on.
const PurposeAudit = "audit"

// mintedModes are those in which a connector makes a credential.
var mintedModes = []string{"impersonation", "adc", "static", "none"}

// Minted is as whom a call went on whose credential the connector made.
type Minted struct {
	Mode      string `json:"mode"`
	Principal string `json:"principal,omitempty"`
	Shared    bool   `json:"shared,omitempty"`
}

// What went wrong with a call, a [Failure]'s Kind.
const (
	FailNotAllowed  = "not_allowed" // the connector's own configuration forbids it
	FailCredential  = "credential"  // no Google credential
	FailUnreachable = "unreachable" // BigQuery could not be reached; nothing was sent
	FailTimeout     = "timeout"     // no answer in time
	FailBroken      = "broken"      // the connection to BigQuery broke, before an answer
	FailNoConnector = "no_connector"
	FailLost        = "lost" // the tunnel broke; the call may have been sent
)

// Failure is why a call that a connector was to forward has no answer.
type Failure struct {
	Kind      string `json:"kind"`
	Message   string `json:"message"`
	Fix       string `json:"fix,omitempty"`
	Temporary bool   `json:"temporary,omitempty"`
	Connector string `json:"-"`
}

func (f *Failure) Error() string {
	if f.Fix != "" {
		return f.Message + "; to mend it: " + f.Fix
	}
	return f.Message
}

// Sent reports whether BigQuery may have got the call.
func (f *Failure) Sent() bool {
	return f.Kind == FailLost || f.Kind == FailBroken || f.Kind == FailTimeout
}

// Timeout is what net.Error has.
func (f *Failure) Timeout() bool { return f.Kind == FailTimeout }

// beat is a line of the control stream: from the connector a sign of life with its
// figures, from the gateway the same without.
type beat struct {
	Calls    int64 `json:"calls,omitempty"`
	Failed   int64 `json:"failed,omitempty"`
	InFlight int64 `json:"in_flight,omitempty"`
	Bytes    int64 `json:"bytes,omitempty"`
	Draining bool  `json:"draining,omitempty"`
}

// maxBeat bounds a line of the control stream: the other end may be anybody's by now.
const maxBeat = 4 << 10

// beats reads the control stream, a line at a time.
func beats(r io.Reader) func() (beat, error) {
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 0, 512), maxBeat)
	return func() (b beat, err error) {
		if !in.Scan() {
			return b, cmp.Or(in.Err(), io.EOF)
		}
		return b, json.Unmarshal(in.Bytes(), &b)
	}
}

// headerJSON encodes for a header, where JSON's only character that must not stand is DEL.
func headerJSON(v any) (string, error) {
	raw, err := json.Marshal(v)
	return strings.ReplaceAll(string(raw), "\x7f", `\u007f`), err
}

var (
	nameForm = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	errName  = errors.New("want a lower-case letter, then lower-case letters, digits, '_' and '-', at most 63")
)

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

// target is what a receipt's PathSHA256 is of.
func target(scheme, host, escapedPath, rawQuery string) string {
	s := strings.ToLower(scheme) + "://" + strings.ToLower(host) + escapedPath
	if rawQuery != "" {
		s += "?" + rawQuery
	}
	return s
}

func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "")
	}
	return s
}
