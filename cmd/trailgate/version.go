package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate"
)

// build is what the program knows of its own making. Nothing is stamped in: the
// go command records it.
type build struct {
	Version     string `json:"version"`
	Revision    string `json:"revision,omitempty"`
	Modified    bool   `json:"modified,omitempty"`
	Time        string `json:"time,omitempty"`
	Go          string `json:"go"`
	Platform    string `json:"platform"`
	EntryFormat int    `json:"entry_format"`
}

func thisBuild() build {
	b := build{
		Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		EntryFormat: trailgate.Version,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		case "vcs.time":
			b.Time = s.Value
		}
	}
	return b
}

func newVersion(c *cli) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Example: `  trailgate version
  trailgate version -o json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := thisBuild()
			if form == "json" {
				return printJSON(c.out, b, form)
			}
			text := "trailgate " + b.Version
			if b.Revision != "" {
				text += " " + b.Revision[:min(12, len(b.Revision))]
				if b.Modified {
					text += "+modified"
				}
			}
			_, err := fmt.Fprintf(c.out, "%s (%s, %s, entry format %d)\n", text, b.Go, b.Platform, b.EntryFormat)
			return err
		},
	}
	outputFlag(cmd, &form, "table", "json")
	return cmd
}
