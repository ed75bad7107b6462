//go:build !unix

package main

import (
	"os"
	"syscall"
)

// forwarded are the signals that "run" hands on to its command.
var forwarded = []os.Signal{syscall.SIGINT, syscall.SIGTERM}

// fromTerminal are those among them that a terminal sends to all its processes.
var fromTerminal = []os.Signal{syscall.SIGINT}
