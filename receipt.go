package trailgate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Receipt is what a connector saw of one call that it forwarded, signed with its own
// key: a second observer's word beside the gateway's. Its text form, which is what is
// signed, is specified in docs/spec/receipt.md.
type Receipt struct {
	Entry      string // the intent's id, as the gateway gave it
	Connector  string
	Connection string
	Verb       string // the HTTP method
	// PathSHA256 is of the target's scheme, host, escaped path and query, hex.
	PathSHA256 string
	// Request and response bodies, as they passed: lengths and SHA-256, hex.
	RequestBytes   int64
	RequestSHA256  string
	Status         int // 0: no answer came
	ResponseBytes  int64
	ResponseSHA256 string
	// Whole: the answer came to its end.
	Whole bool
	// Job is the job that the answer named, "project:location.id" or what is known of
	// that; empty where none was seen.
	Job string
	// Credential is CredentialGateway or CredentialConnector, Principal as whom Google
	// saw the call, where the connector knows it.
	Credential string
	Principal  string
	Time       time.Time // the connector's own clock, UTC, whole milliseconds
}

// Who made the Google credential of a call that went through a connector.
const (
	CredentialGateway   = "gateway"
	CredentialConnector = "connector"
)

// What came of a connector's receipt, a [ConnectorUse]'s Verdict.
const (
	ReceiptGood    = "good"    // signed by the connector, and as the gateway saw the call
	ReceiptMissing = "missing" // none came with the answer
	ReceiptBad     = "bad"     // not to be read, or not signed by the connector's key
	ReceiptDiffers = "differs" // signed, and not what the gateway saw
	ReceiptNone    = "none"    // none was due: the answer was not awaited, or the call not taken
)

// ConnectorUse is which connector a call went through, and what it said of it.
type ConnectorUse struct {
	Name string `json:"name"`
	// KeySHA256 is of its public key (SubjectPublicKeyInfo, DER), hex; the trail has the
	// key in the entry about its enrolment, renewal or connection.
	KeySHA256  string `json:"key_sha256,omitempty"`
	Credential string `json:"credential,omitempty"` // CredentialGateway or CredentialConnector
	// Receipt is the text that was signed, Signature its signature in base64.
	Receipt   string `json:"receipt,omitempty"`
	Signature string `json:"signature,omitempty"`
	Verdict   string `json:"verdict,omitempty"` // one of the Receipt constants
	// Differs names the first field that differs, or what is wrong with the receipt.
	Differs string `json:"differs,omitempty"`
}

// receiptHeader is a receipt's first line.
const receiptHeader = "trailgate-receipt/v1"

// MaxReceiptBytes bounds a receipt's text.
const MaxReceiptBytes = 4 << 10

// fields are a receipt's lines, in their one order.
func (r *Receipt) fields() []struct{ name, value string } {
	return []struct{ name, value string }{
		{"entry", r.Entry},
		{"connector", r.Connector},
		{"connection", r.Connection},
		{"verb", r.Verb},
		{"path_sha256", r.PathSHA256},
		{"request_bytes", strconv.FormatInt(r.RequestBytes, 10)},
		{"request_sha256", r.RequestSHA256},
		{"status", strconv.Itoa(r.Status)},
		{"response_bytes", strconv.FormatInt(r.ResponseBytes, 10)},
		{"response_sha256", r.ResponseSHA256},
		{"whole", strconv.FormatBool(r.Whole)},
		{"job", r.Job},
		{"credential", r.Credential},
		{"principal", r.Principal},
		{"time", r.Time.UTC().Format(receiptTime)},
	}
}

const receiptTime = "2006-01-02T15:04:05.000Z"

// Text is what a connector signs. A value that cannot stand on a line, or is longer
// than 512 bytes, is left empty.
func (r *Receipt) Text() string {
	var b strings.Builder
	b.WriteString(receiptHeader + "\n")
	for _, f := range r.fields() {
		value := f.value
		if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c == 0x7f }) || len(value) > 512 {
			value = ""
		}
		b.WriteString(f.name + " " + value + "\n")
	}
	return b.String()
}

// ErrReceipt means that a text is no receipt, or not signed by the key.
var ErrReceipt = errors.New("not a receipt of that key")

// ParseReceipt reads a receipt's text. Every spelling but the one that [Receipt.Text]
// gives is refused.
func ParseReceipt(text string) (*Receipt, error) {
	if len(text) > MaxReceiptBytes {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrReceipt, MaxReceiptBytes)
	}
	r := &Receipt{}
	lines := strings.Split(text, "\n")
	want := r.fields()
	if len(lines) != len(want)+2 || lines[0] != receiptHeader {
		return nil, fmt.Errorf("%w: not %q", ErrReceipt, receiptHeader)
	}
	values := map[string]string{}
	for i, f := range want {
		name, value, _ := strings.Cut(lines[i+1], " ")
		if name != f.name {
			return nil, fmt.Errorf("%w: line %d is not %q", ErrReceipt, i+2, f.name)
		}
		values[name] = value
	}
	r.Entry, r.Connector, r.Connection, r.Verb = values["entry"], values["connector"], values["connection"], values["verb"]
	r.PathSHA256, r.RequestSHA256, r.ResponseSHA256 = values["path_sha256"], values["request_sha256"], values["response_sha256"]
	r.Whole, r.Job, r.Credential, r.Principal = values["whole"] == "true", values["job"], values["credential"], values["principal"]
	var errs [4]error
	r.RequestBytes, errs[0] = strconv.ParseInt(values["request_bytes"], 10, 64)
	r.Status, errs[1] = strconv.Atoi(values["status"])
	r.ResponseBytes, errs[2] = strconv.ParseInt(values["response_bytes"], 10, 64)
	r.Time, errs[3] = time.Parse(receiptTime, values["time"])
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	if r.Text() != text {
		return nil, fmt.Errorf("%w: not in its one spelling", ErrReceipt)
	}
	return r, nil
}

// VerifyReceipt checks a receipt's signature with the connector's public key
// (SubjectPublicKeyInfo in DER, as the trail has it in base64 under
// event.detail.public_key) and reads it. Signatures are ECDSA over SHA-256 (ASN.1),
// Ed25519, or RSA PKCS #1 v1.5 over SHA-256, after the kind of key.
func VerifyReceipt(text, signature string, publicKey []byte) (*Receipt, error) {
	sig, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		return nil, fmt.Errorf("%w: signature: %w", ErrReceipt, err)
	}
	key, err := x509.ParsePKIXPublicKey(publicKey)
	if err != nil {
		return nil, fmt.Errorf("%w: public key: %w", ErrReceipt, err)
	}
	sum := sha256.Sum256([]byte(text))
	good := false
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(key, sum[:], sig)
	case ed25519.PublicKey:
		good = ed25519.Verify(key, []byte(text), sig)
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig) == nil
	default:
		return nil, fmt.Errorf("%w: a key of kind %T", ErrReceipt, key)
	}
	if !good {
		return nil, fmt.Errorf("%w: the signature does not match", ErrReceipt)
	}
	return ParseReceipt(text)
}

// CheckReceipt checks the receipt that an outcome entry holds: that it is signed by this
// key, that the entry names that very key, and that what it says is what the entry says
// of the call. A nil error without a receipt is possible only where none was due.
func CheckReceipt(outcome *Entry, publicKey []byte) error {
	if outcome.Upstream == nil || outcome.Upstream.Connector == nil {
		return errors.New("the call went through no connector")
	}
	use := outcome.Upstream.Connector
	if use.Receipt == "" {
		return fmt.Errorf("%w: the entry has none (%s)", ErrReceipt, use.Verdict)
	}
	if sum := sha256.Sum256(publicKey); hex.EncodeToString(sum[:]) != use.KeySHA256 {
		return fmt.Errorf("%w: the entry names another key", ErrReceipt)
	}
	r, err := VerifyReceipt(use.Receipt, use.Signature, publicKey)
	if err != nil {
		return err
	}
	switch {
	case r.Entry != outcome.IntentID:
		return fmt.Errorf("%w: it is of entry %s", ErrReceipt, r.Entry)
	case r.Connector != use.Name || r.Connection != outcome.Connection:
		return fmt.Errorf("%w: it is of connector %s, connection %s", ErrReceipt, r.Connector, r.Connection)
	case outcome.Outcome != nil && outcome.Outcome.End == EndComplete && (r.Status != outcome.Outcome.Status || r.ResponseBytes != outcome.Outcome.Bytes):
		return fmt.Errorf("%w: it tells of status %d and %d bytes, the entry of %d and %d", ErrReceipt, r.Status, r.ResponseBytes, outcome.Outcome.Status, outcome.Outcome.Bytes)
	case outcome.Job != nil && r.Job != "" && !strings.HasSuffix(r.Job, "."+outcome.Job.ID) && !strings.HasSuffix(r.Job, ":"+outcome.Job.ID):
		return fmt.Errorf("%w: it tells of job %s, the entry of %s", ErrReceipt, r.Job, outcome.Job.ID)
	}
	return nil
}
