package config

import (
	_ "embed"
	"strings"
)

//go:embed template.yaml
var template string

// Template is the commented file that "trailgate init" writes: every key with
// its default, and a connection to copy. With no more than the comment signs
// taken off the example it is a whole configuration.
func Template(id string) string {
	return strings.ReplaceAll(template, "@ID@", id)
}
