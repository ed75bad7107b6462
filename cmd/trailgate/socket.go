package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// socketName is the admin socket in the data directory.
const socketName = "admin.sock"

// sunPathMax is what every kernel allows for the path of a socket, with room
// for the NUL byte (Linux 108, others 104).
const sunPathMax = 103

// withSocketPath calls use with a path of the socket that the kernel takes. A
// path that is too long is reached through the open directory, where the
// system has names for that.
func withSocketPath(path string, use func(string) error) error {
	if len(path) <= sunPathMax {
		return use(path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	short := fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	if _, err := os.Stat(short); err != nil {
		return fmt.Errorf("the path of %s is longer than %d bytes, which is more than a socket's may be; choose a shorter data_dir", path, sunPathMax)
	}
	return use(filepath.Join(short, filepath.Base(path)))
}

// listenSocket makes the admin socket, for this user alone. The caller holds
// the trail's lock, so that a socket which is there already is a dead one.
func listenSocket(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("listen on %s: something that is no socket is there; move it away", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s: remove the old socket: %w", path, err)
		}
	}
	var l net.Listener
	err := withSocketPath(path, func(short string) error {
		// The data directory is 0700, so nobody else gets at the socket before its
		// mode is set.
		unix, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		if err != nil {
			return err
		}
		unix.SetUnlinkOnClose(false) // short may not name it any more by then
		l = unix
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		if l != nil {
			err = errors.Join(err, l.Close())
		}
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// dialSocket reaches the gateway that runs on a data directory.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	var conn net.Conn
	err := withSocketPath(path, func(short string) error {
		var d net.Dialer
		var err error
		conn, err = d.DialContext(ctx, "unix", short)
		return err
	})
	return conn, err
}
