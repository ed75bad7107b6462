// Package admin is the API for humans: searching, proving and following the
// trail, agents and their tokens, the log's files, health and metrics. It is
// JSON over HTTP under /api/v1/, described by openapi.json (which it serves).
//
// # Auditors are audited
//
// What is read from the trail, and every change, is an entry of kind "admin"
// that is durable before the answer is given or the effect takes place. If it
// cannot be written, the answer is 503 and there is no effect. A change that
// was recorded and then failed is followed by a second entry of the same
// action, with "failed" in its detail. A change whose entry has no such
// companion took place, unless the gateway was killed between the two.
//
// Not recorded: what tells nothing of the trail's content (health, metrics,
// the gateway's own figures, checkpoint, key and hash tiles of the log). Entry
// bundles of the log are read by the thousand; each reader is recorded once a
// minute. Callers without a valid token are counted, and recorded in sum.
//
// # Doors
//
// One [API] has three doors, which differ in how the caller is known: [API.TCP]
// wants the admin token, [API.Socket] trusts whoever the file system lets in
// and notes the peer's user id, [API.InProcess] is for a command that opened
// the data directory itself. No door leads to BigQuery, and no agent's token
// opens one.
//
// Requests are read strictly: unknown or repeated parameters and members are
// errors, so that a misspelt filter cannot find everything.
package admin
