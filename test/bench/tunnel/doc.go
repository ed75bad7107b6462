// Package tunnel compares ways to carry HTTP requests over a connection that the other
// end dialled, which is what a connector needs (docs/adr/0017-connector.md). It is a module
// of its own: of the libraries that it compares, Trailgate uses one.
package tunnel
