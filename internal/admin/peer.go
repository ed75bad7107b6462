package admin

import (
	"context"
	"net"
)

// peerKey is the key of a connection's peer in its context.
type peerKey struct{}

// ConnContext notes who is at the other end of a Unix socket, for
// http.Server.ConnContext of the server behind [API.Socket]. The kernel vouches
// for the user id that connected. Other connections are left as they are, and
// so is every one on systems that cannot tell.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	unix, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	uid, err := peerUID(unix)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, uid)
}

func peerOf(ctx context.Context) (uid uint32, ok bool) {
	uid, ok = ctx.Value(peerKey{}).(uint32)
	return uid, ok
}
