package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
)

// Exit codes of shells and env(1) for commands that could not be started.
const (
	exitNotRunnable = 126
	exitNotFound    = 127
)

// findCommand resolves a command before anything is set up for it.
func findCommand(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	code := exitNotRunnable
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		code = exitNotFound
	}
	return "", &exitError{code: code, err: fmt.Errorf("run %s: %w", name, err)}
}

// runChild runs a command to its end and returns its exit code; 128 and the
// signal's number where a signal ended it. Signals that reach this process go
// on to the command. Those that a terminal sends (^C, ^\) the command gets from
// the terminal itself, being in the same process group.
func runChild(c *cli, path string, args, environ []string) (int, error) {
	cmd := exec.Command(path)
	cmd.Args = args
	cmd.Env = environ
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.in, c.out, c.err

	// From here on no signal ends this process before the command: the token
	// has to be revoked behind it.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)
	c.release()

	if err := cmd.Start(); err != nil {
		return 0, &exitError{code: exitNotRunnable, err: fmt.Errorf("run %s: %w", args[0], err)}
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	terminal := terminalWidth(c.err) > 0 || terminalWidth(c.out) > 0
	for {
		select {
		case s := <-signals:
			if terminal && slices.Contains(fromTerminal, s) {
				continue
			}
			// It may have ended already; then there is nobody to tell.
			_ = cmd.Process.Signal(s)
		case err := <-done:
			return childCode(cmd, err)
		}
	}
}

func childCode(cmd *exec.Cmd, err error) (int, error) {
	if cmd.ProcessState == nil {
		return 0, fmt.Errorf("run %s: %w", cmd.Path, err)
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return 0, fmt.Errorf("run %s: %w", cmd.Path, err)
	}
	return cmd.ProcessState.ExitCode(), nil
}
