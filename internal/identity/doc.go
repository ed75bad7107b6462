// Package identity says who is calling: it knows the agents, issues and checks
// their gateway tokens, and groups calls into sessions.
//
// A token is opaque: 256 random bits under a recognisable prefix, with a
// checksum so that secret scanners can tell a leaked token from noise. The
// store keeps a SHA-256 of it and nothing else. A bearer string that is not a
// well-formed, known, live token is an error; there is no partial trust.
//
// The package verifies; it decides nothing about what an agent may do, and it
// records nothing: who changes agents or tokens writes the entry first.
//
// docs/adr/0006-gateway-tokens.md says why it is built this way.
package identity
