package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"
	"net/http"
	"strings"
)

var (
	// ErrMalformed means that there is no credential, more than one, or one that
	// cannot be a gateway token (wrong prefix, length, alphabet or checksum).
	ErrMalformed = errors.New("malformed credential")
	// ErrUnknown means a well-formed token that this gateway did not issue.
	ErrUnknown = errors.New("unknown token")
	// ErrExpired means a token past its time.
	ErrExpired = errors.New("expired token")
	// ErrRevoked means a token, or an agent, that was revoked.
	ErrRevoked = errors.New("revoked token")
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
	return body + checksum(body)
}

// checksum covers the prefix too, so that no other kind of token passes for one.
func checksum(body string) string {
	return encode62(big.NewInt(int64(crc32.ChecksumIEEE([]byte(body)))), checkChars)
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

// wellFormed tells whether a string can be a token at all: what a secret
// scanner would do, without asking the store.
func wellFormed(s string) bool {
	if len(s) != tokenLength || !strings.HasPrefix(s, tokenPrefix) {
		return false
	}
	for i := len(tokenPrefix); i < len(s); i++ {
		if strings.IndexByte(base62, s[i]) < 0 {
			return false
		}
	}
	return checksum(s[:tokenLength-checkChars]) == s[tokenLength-checkChars:]
}

// digest is what the store keeps of a token, and looks it up by. The look-up
// compares digests and not secrets: how long it takes says something of a hash
// that nobody can steer, and nothing of a token. 256 bits of randomness need no
// slow hash.
type digest [sha256.Size]byte

func digestOf(secret string) digest { return sha256.Sum256([]byte(secret)) }

// BearerFrom takes the token from a request's headers (RFC 6750, section 2.1):
// exactly one Authorization header, of the scheme Bearer. All else is
// [ErrMalformed].
func BearerFrom(h http.Header) (string, error) {
	values := h["Authorization"]
	if len(values) != 1 || len(values[0]) > maxAuthBytes {
		return "", ErrMalformed
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" || strings.ContainsAny(token, " ,\t") {
		return "", ErrMalformed
	}
	return token, nil
}
