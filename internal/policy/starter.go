package policy

import _ "embed"

//go:embed starter.yaml
var starter []byte

// Starter is the policy that a new gateway begins with: a file with comments, for
// its owner to change.
func Starter() []byte { return append([]byte(nil), starter...) }
