//go:build !unix

package main

import (
	"io"
	"os"
)

// terminalWidth is the number of columns of the terminal that w is, 0 where w
// is none.
func terminalWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return 0
	}
	return 80
}
