// Package idptest has the identity systems of others that tests need, on
// loopback: an OpenID Connect provider, and those of Google's endpoints that give
// out access tokens (Security Token Service, IAM Credentials, OAuth 2.0).
//
// They speak the real wire protocols and answer with the real error shapes, as
// documented or seen in public bug reports; none of it was compared with Google
// itself. They are strict: what the real ones refuse is refused here, so that a
// client that gets a token deserved it. What they give out can be looked up, so
// that a stand-in for BigQuery can tell whose a token is.
//
// JWTs are made by hand from the standard library, so that any wrong one can be
// made; they are verified by go-jose.
//
// The package imports nothing of this module. Its types may be used concurrently.
package idptest
