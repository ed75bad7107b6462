package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

var (
	// ErrMalformed means that there is no credential, more than one, or one that
	// cannot be a gateway token (wrong prefix, length, alphabet or checksum).
	ErrMalformed = errors.New("malformed credential")
	// ErrUnknown means a well-formed token that this gateway did not issue, or
	// has forgotten long after its end.
	ErrUnknown = errors.New("unknown token")
	// ErrExpired means a token past its time.
	ErrExpired = errors.New("expired token")
	// ErrRevoked means a token, or an agent, that was revoked.
	ErrRevoked = errors.New("revoked")
)

const (
	tokenPrefix  = "tgt_"
	secretBytes  = 32
	secretChars  = 43 // of base62 for 32 bytes
	checkChars   = 6  // of base62 for a CRC-32
	tokenLength  = len(tokenPrefix) + secretChars + checkChars
	base62       = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	maxAuthBytes = 8 << 10 // of an Authorization header
)

// tokenID is the form of a token's public name.
var tokenID = regexp.MustCompile(`^tok_[0-9a-z]{26}$`)

// NewTokenID makes a name for a token that is still to be issued, so that the
// trail can tell of it before it exists (see [TokenOptions]). It tells the
// time and nothing about the secret.
func NewTokenID() (string, error) {
	id, err := ulid.New(ulid.Timestamp(time.Now()), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make a token id: %w", err)
	}
	return "tok_" + strings.ToLower(id.String()), nil
}

// newSecret makes a token.
func newSecret() (string, error) {
	var raw [secretBytes]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	return format(raw), nil
}

func format(raw [secretBytes]byte) string {
	body := tokenPrefix + encode62(new(big.Int).SetBytes(raw[:]), secretChars)
	sum := checksum(body)
	return body + string(sum[:])
}

func encode62(n *big.Int, width int) string {
	out := make([]byte, width)
	base, digit := big.NewInt(62), new(big.Int)
	for i := width - 1; i >= 0; i-- {
		n.DivMod(n, base, digit)
		out[i] = base62[digit.Int64()]
	}
	return string(out)
}

// checksum covers the prefix too, so that no other kind of token passes for one.
func checksum(body string) (out [checkChars]byte) {
	n := crc32.ChecksumIEEE([]byte(body))
	for i := checkChars - 1; i >= 0; i-- {
		out[i] = base62[n%62]
		n /= 62
	}
	return out
}

// wellFormed tells whether a string can be a token at all: what a secret
// scanner would do, without asking the store.
func wellFormed(s string) bool {
	if len(s) != tokenLength || s[:len(tokenPrefix)] != tokenPrefix {
		return false
	}
	for i := len(tokenPrefix); i < len(s); i++ {
		switch c := s[i]; {
		case '0' <= c && c <= '9', 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z':
		default:
			return false
		}
	}
	sum := checksum(s[:tokenLength-checkChars])
	return string(sum[:]) == s[tokenLength-checkChars:]
}

// digest is what the store keeps of a token, and looks it up by. 256 bits of
// randomness need no slow hash.
//
// No secret is ever compared with another: a look-up compares digests, in a
// table whose order is seeded at random. How long it takes may tell something
// of a hash, which nobody can steer without the secret, and so nothing of a
// token: no prefix of one is closer to being right than any other string.
type digest [sha256.Size]byte

func digestOf(secret string) digest { return sha256.Sum256([]byte(secret)) }

// BearerFrom takes the token from a request's headers (RFC 6750, section 2.1):
// exactly one Authorization header, of the scheme Bearer (in any case), one
// space, one token. All else is [ErrMalformed]. A token in the query or in a
// form does not count.
func BearerFrom(h http.Header) (string, error) {
	values := h["Authorization"]
	if len(values) != 1 || len(values[0]) > maxAuthBytes {
		return "", ErrMalformed
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", ErrMalformed
	}
	for i := range len(token) {
		if c := token[i]; c <= ' ' || c >= 0x7f || c == ',' {
			return "", ErrMalformed
		}
	}
	return token, nil
}
