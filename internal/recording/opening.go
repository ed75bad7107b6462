package recording

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
)

// Opening is what shows, without the data key, that a body is the one that a commitment
// is to: the HMAC in it, hex. It tells nothing of other bodies under the key
// (docs/spec/recording.md). The body is read to its end and checked; its length is the
// other result. Errors are those of [Store.Open].
func (s *Store) Opening(ctx context.Context, key, address string) (opening string, size int64, err error) {
	r, err := s.Open(ctx, key, address)
	if err != nil {
		return "", 0, err
	}
	defer r.Close()
	sum := sha256.New()
	if size, err = io.Copy(sum, r); err != nil {
		return "", 0, err
	}
	k, err := s.keys.get(key)
	if err != nil {
		return "", 0, err
	}
	mac := hmac.New(sha256.New, k.salt)
	mac.Write(sum.Sum(nil))
	return hex.EncodeToString(mac.Sum(nil)), size, nil
}
