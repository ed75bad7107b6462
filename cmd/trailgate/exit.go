package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/trail"
)

// Exit codes; docs/cli.md is their contract with scripts.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2 // wrong arguments, a bad filter, a bad configuration
	exitEvidence = 3 // evidence of tampering, loss or bypass
	exitDenied   = 4 // denied, or awaiting approval
)

// exitError is an error that knows its exit code, and may have more to show.
type exitError struct {
	code   int
	err    error
	detail string // shown below the message as it is
	hint   string // what to do next
	silent bool   // all was said
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// hinted adds the next step to an error.
func hinted(err error, format string, args ...any) error {
	return &exitError{code: exitCode(err), err: err, hint: fmt.Sprintf(format, args...)}
}

// exitCode is the one table from errors to exit codes.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[config.Errors](err); ok {
		return exitUsage
	}
	_, tampered := errors.AsType[*trail.TamperError](err)
	if tampered || errors.Is(err, trail.ErrForeign) || errors.Is(err, trail.ErrTruncated) {
		return exitEvidence
	}
	return exitFailed
}

// report tells the user what went wrong. Messages may quote what others wrote,
// so they are made safe to show.
func report(w io.Writer, err error) {
	e, ok := errors.AsType[*exitError](err)
	if ok && e.silent {
		return
	}
	if errors.Is(err, context.Canceled) && !ok {
		fmt.Fprintln(w, "trailgate: interrupted")
		return
	}
	fmt.Fprintf(w, "trailgate: %s\n", visibleLines(strings.TrimRight(err.Error(), "\n")))
	if !ok {
		return
	}
	if e.detail != "" {
		fmt.Fprintln(w, visibleLines(e.detail))
	}
	if e.hint != "" {
		fmt.Fprintf(w, "  %s\n", strings.ReplaceAll(visibleLines(e.hint), "\n", "\n  "))
	}
}
