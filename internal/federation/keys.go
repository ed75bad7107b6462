package federation

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/go-jose/go-jose/v4"
)

const maxKeyBytes = 64 << 10

// GenerateKey makes a signing key (EC P-256) in a new file, mode 0600. A file that
// is there is an error and stays as it is.
func GenerateKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	if err := createFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	return nil
}

// createFile makes a file that only its owner can read, durably.
func createFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// private refuses a file of secrets that everybody on the machine can read. The
// group may, since that is how orchestrators mount secrets.
func private(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return fmt.Errorf("%s can be read or written by everybody (mode %04o): chmod 600 it, and if others may have read it, make another", path, mode)
	}
	return nil
}

// readSigningKey reads a private key. Errors never quote the file.
func readSigningKey(path string) (crypto.Signer, error) {
	if err := private(path); err != nil {
		return nil, err
	}
	key, err := readAnyKey(path)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s holds no private key", path)
	}
	return signer, nil
}

// readAnyKey reads the first key of a PEM file, private or public.
func readAnyKey(path string) (any, error) {
	raw, err := readBounded(path, maxKeyBytes)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "PUBLIC KEY":
			key, err = x509.ParsePKIXPublicKey(block.Bytes)
		default:
			continue // such as EC PARAMETERS, which openssl puts before a key
		}
		if err != nil {
			return nil, fmt.Errorf("%s holds a %s that cannot be read", path, block.Type)
		}
		return key, nil
	}
	return nil, fmt.Errorf("%s holds no key in PEM (\"PRIVATE KEY\", \"EC PRIVATE KEY\" or \"RSA PRIVATE KEY\", not encrypted)", path)
}

// publicJWK is the public half as it is published. Google takes RS256 and ES256
// alone from an issuer
// (https://cloud.google.com/iam/docs/workload-identity-federation-with-other-providers).
func publicJWK(key any) (jose.JSONWebKey, error) {
	if signer, ok := key.(crypto.Signer); ok {
		key = signer.Public()
	}
	jwk := jose.JSONWebKey{Key: key, Use: "sig"}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return jwk, fmt.Errorf("an RSA key of %d bits is too short; want 2048 or more", k.N.BitLen())
		}
		jwk.Algorithm = string(jose.RS256)
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return jwk, errors.New("the EC key is not on curve P-256")
		}
		jwk.Algorithm = string(jose.ES256)
	default:
		return jwk, errors.New("the key is neither RSA nor EC P-256")
	}
	sum, err := jwk.Thumbprint(crypto.SHA256) // RFC 7638
	if err != nil {
		return jwk, errors.New("the key has no thumbprint")
	}
	jwk.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	return jwk, nil
}
