package trailgate

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

// algCosignatureV1 is the signature type of Ed25519 cosignatures, the byte
// before the key in a witness's keys (https://c2sp.org/tlog-cosignature).
const algCosignatureV1 = 4

const (
	timestampSize   = 8
	cosignatureSize = timestampSize + ed25519.SignatureSize
	// maxTimestamp is the end of the year 9999: later times cannot be written as RFC 3339.
	maxTimestamp = 253402300799
)

// CosignatureVerifier checks a witness's cosignatures on checkpoints: C2SP
// tlog-cosignature, "cosignature/v1", Ed25519. It is a [note.Verifier].
type CosignatureVerifier struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

var _ note.Verifier = (*CosignatureVerifier)(nil)

// NewCosignatureVerifier reads a witness's verifier key, NAME+HASH+BASE64 with
// signature type 0x04. A key of another type is an error, and so is a hash
// that is not the key's.
func NewCosignatureVerifier(vkey string) (*CosignatureVerifier, error) {
	name, hash, key, err := splitKey(vkey)
	if err != nil {
		return nil, fmt.Errorf("witness key: %w", err)
	}
	if len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("witness key: %d bytes, not %d", len(key), ed25519.PublicKeySize)
	}
	v := newCosignatureVerifier(name, key)
	if v.hash != hash {
		return nil, fmt.Errorf("witness key: its hash is %08x, it says %08x; was it copied whole?", v.hash, hash)
	}
	return v, nil
}

func newCosignatureVerifier(name string, key ed25519.PublicKey) *CosignatureVerifier {
	h := sha256.New()
	h.Write([]byte(name + "\n"))
	h.Write([]byte{algCosignatureV1})
	h.Write(key)
	return &CosignatureVerifier{name: name, hash: binary.BigEndian.Uint32(h.Sum(nil)), key: key}
}

// splitKey takes a verifier key apart, NAME+HASH+BASE64(type || key).
func splitKey(s string) (name string, hash uint32, key []byte, err error) {
	name, rest, _ := strings.Cut(s, "+")
	hash16, key64, ok := strings.Cut(rest, "+")
	if !ok || !validKeyName(name) || len(hash16) != 8 {
		return "", 0, nil, errors.New("it is not NAME+HASH+KEY")
	}
	h, err := strconv.ParseUint(hash16, 16, 32)
	if err != nil {
		return "", 0, nil, errors.New("its hash is not eight hexadecimal digits")
	}
	key, err = base64.StdEncoding.Strict().DecodeString(key64)
	if err != nil || len(key) == 0 {
		return "", 0, nil, errors.New("the key is not base64")
	}
	switch key[0] {
	case algCosignatureV1:
		return name, uint32(h), key[1:], nil
	case 1:
		return "", 0, nil, errors.New("it is an ordinary signing key (type 0x01), such as a log has; a witness's is of type 0x04")
	case 6:
		return "", 0, nil, errors.New("it is an ML-DSA-44 key (type 0x06), which is not supported; a witness's is Ed25519, type 0x04")
	default:
		return "", 0, nil, fmt.Errorf("its type is 0x%02x; a witness's is 0x04", key[0])
	}
}

// validKeyName is the rule of C2SP signed-note for names of keys.
func validKeyName(name string) bool {
	return name != "" && len(name) <= 255 && utf8.ValidString(name) && !strings.Contains(name, "+") &&
		strings.IndexFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) < 0
}

// Name is the key's name, as it stands on signature lines.
func (v *CosignatureVerifier) Name() string { return v.name }

// KeyHash is the key's short id, as it stands in signatures.
func (v *CosignatureVerifier) KeyHash() uint32 { return v.hash }

// String is the verifier key in the form that [NewCosignatureVerifier] reads.
func (v *CosignatureVerifier) String() string {
	return fmt.Sprintf("%s+%08x+%s", v.name, v.hash,
		base64.StdEncoding.EncodeToString(append([]byte{algCosignatureV1}, v.key...)))
}

// Verify reports whether sig, a time and a signature, is this witness's over
// the checkpoint that text is the body of.
func (v *CosignatureVerifier) Verify(text, sig []byte) bool {
	if len(sig) != cosignatureSize {
		return false
	}
	t := binary.BigEndian.Uint64(sig)
	if t > maxTimestamp {
		return false
	}
	msg, err := cosignatureMessage(t, text)
	return err == nil && ed25519.Verify(v.key, msg, sig[timestampSize:])
}

// cosignatureMessage is what a witness signs. Nothing but a checkpoint can be
// cosigned: a witness's signature means that it saw a tree grow.
func cosignatureMessage(t uint64, text []byte) ([]byte, error) {
	if _, err := parseCheckpoint(string(text)); err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", t, text), nil
}

// Cosigner makes cosignatures; it is a [note.Signer]. Who uses it MUST have
// checked, and durably remembered, that the checkpoint extends all that this
// key ever cosigned for its origin.
type Cosigner struct {
	key ed25519.PrivateKey
	v   *CosignatureVerifier
}

var _ note.Signer = (*Cosigner)(nil)

const privatePrefix = "PRIVATE+KEY+"

// GenerateCosigner makes a new witness key. Save its PrivateKey where nobody
// else reads it, and hand out its Verifier.
func GenerateCosigner(name string) (*Cosigner, error) {
	if !validKeyName(name) {
		return nil, fmt.Errorf("witness key: the name %q is empty, or has spaces, controls or a plus in it", name)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return newCosigner(name, key), nil
}

func newCosigner(name string, key ed25519.PrivateKey) *Cosigner {
	return &Cosigner{key: key, v: newCosignatureVerifier(name, key.Public().(ed25519.PublicKey))}
}

// NewCosigner reads a witness's private key, as [Cosigner.PrivateKey] writes
// it: PRIVATE+KEY+NAME+HASH+BASE64(0x04 || seed).
func NewCosigner(skey string) (*Cosigner, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(skey), privatePrefix)
	if !ok {
		return nil, errors.New("witness key: it is not a private key (PRIVATE+KEY+...)")
	}
	name, hash, seed, err := splitKey(rest)
	if err != nil {
		return nil, fmt.Errorf("witness key: %w", err)
	}
	if len(seed) != ed25519.SeedSize {
		return nil, errors.New("witness key: the private key is of the wrong length")
	}
	c := newCosigner(name, ed25519.NewKeyFromSeed(seed))
	if c.v.hash != hash {
		return nil, errors.New("witness key: the private key is damaged: it does not make the hash that it says")
	}
	return c, nil
}

// PrivateKey is the secret, in the form that [NewCosigner] reads.
func (c *Cosigner) PrivateKey() string {
	return fmt.Sprintf("%s%s+%08x+%s", privatePrefix, c.v.name, c.v.hash,
		base64.StdEncoding.EncodeToString(append([]byte{algCosignatureV1}, c.key.Seed()...)))
}

// Verifier is the key's public half.
func (c *Cosigner) Verifier() *CosignatureVerifier { return c.v }

// Name is the key's name.
func (c *Cosigner) Name() string { return c.v.name }

// KeyHash is the key's short id.
func (c *Cosigner) KeyHash() uint32 { return c.v.hash }

// Sign cosigns the checkpoint that text is the body of, now.
func (c *Cosigner) Sign(text []byte) ([]byte, error) { return c.SignAt(text, time.Now()) }

// SignAt is Sign with the time, of which whole seconds count, given.
func (c *Cosigner) SignAt(text []byte, at time.Time) ([]byte, error) {
	t := at.Unix()
	if t < 0 || t > maxTimestamp {
		return nil, fmt.Errorf("cosign: the time %v cannot be written in a cosignature", at)
	}
	msg, err := cosignatureMessage(uint64(t), text)
	if err != nil {
		return nil, fmt.Errorf("cosign: %w", err)
	}
	return append(binary.BigEndian.AppendUint64(nil, uint64(t)), ed25519.Sign(c.key, msg)...), nil
}

// String hides the secret from logs.
func (c *Cosigner) String() string { return "cosigner " + c.v.name }

// CosignatureTime reads the witness's time out of a cosignature that was verified.
func CosignatureTime(s note.Signature) (time.Time, error) {
	raw, err := base64.StdEncoding.DecodeString(s.Base64)
	if err != nil || len(raw) != 4+cosignatureSize {
		return time.Time{}, errors.New("not a cosignature")
	}
	return time.Unix(int64(binary.BigEndian.Uint64(raw[4:])), 0).UTC(), nil
}
