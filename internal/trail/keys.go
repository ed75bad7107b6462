package trail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/trailgate/trailgate"
)

// rotationsFile, in the log's directory, proves each change of the log's key.
const rotationsFile = "rotations"

// readKeys reads the keys that the log had.
func (v *verifier) readKeys(ctx context.Context) error {
	raw, err := v.src.read(ctx, rotationsFile)
	var rotations []trailgate.Proof
	switch {
	case errors.Is(err, fs.ErrNotExist): // the log has its first key
	case err != nil:
		return err
	default:
		if rotations, err = trailgate.ParseRotations(raw); err != nil {
			return &Bad{Place: v.src.place(rotationsFile), Reason: err.Error()}
		}
	}
	v.chain, err = trailgate.NewKeychain(v.vkey, rotations)
	if err != nil {
		return &Bad{Place: v.src.place(rotationsFile), Reason: fmt.Sprintf("the changes of the log's key do not follow from each other: %v", err)}
	}
	return nil
}

// readKeychain reads the keys of the log in a data directory of which vkey is one.
func readKeychain(dir, vkey string) (*trailgate.Keychain, error) {
	var rotations []trailgate.Proof
	path := filepath.Join(dir, logDir, rotationsFile)
	raw, err := os.ReadFile(path)
	if err == nil {
		rotations, err = trailgate.ParseRotations(raw)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	chain, err := trailgate.NewKeychain(vkey, rotations)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w (put back the log and the keys that belong together)", ErrForeign, path, err)
	}
	return chain, nil
}
