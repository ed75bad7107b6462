//go:build !linux && !darwin && !freebsd

package admin

import "net"

func peerUID(*net.UnixConn) (uint32, error) { return 0, errNoPeer }
