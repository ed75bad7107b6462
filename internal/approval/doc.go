// Package approval asks humans: may this agent make exactly this call?
//
// A [Request] is a question, and a state machine:
//
//	pending ──▶ approved ──▶ releasing ──▶ released
//	   │  ◀──      │  ◀──        (a call has claimed it)
//	   │           │
//	   └───────────┴──▶ denied, expired, cancelled, changed
//
// It is pending until one human denies it, enough different humans approve it,
// or its deadline passes. An approval has a deadline of its own, by which the
// agent must make the call again. It is used once.
//
// # What an approval is of
//
// Of the exact canonical call, by SHA-256; of what the dry run said about it, by
// SHA-256; of the connection; and of everything in the principal that the
// upstream credential depends on: agent, issuer, subject, on whose behalf, and
// who is between. What differs in the call or the principal is another question.
// Where only the facts differ, the request becomes changed, and the new one says
// which it replaces.
//
// # Who decides
//
// [Request.May] has the rules: nobody approves what an agent asks on their own
// behalf; an agent's credential never votes; whoever holds the gateway's machine
// or token counts as one human. At the release each vote is looked at again:
// one of a human who lost the role no longer counts.
//
// # Exactly once or not at all
//
// [Store.Claim] makes the intent's id durable with the request, before the
// caller commits that intent to the trail. Between the two the state is
// releasing. Killed there, the next [Open] asks the trail: it has the intent,
// then the approval is used up; it does not, then no call was made, for nothing
// goes upstream without one, and the approval can still be used. The trail, not
// this package, is where "was it used" is decided.
//
// The trail is written before the store: a vote that only the trail has did not
// happen, and whoever voted was told so. The other way round, a call could be
// made on an approval that no trail knows of.
//
// # Clocks
//
// A deadline has passed when the wall clock or the monotonic clock says so. A
// clock that is set forward ends requests early. One that is set back brings
// none to life that was seen after its deadline, and does not lengthen one in a
// running process; a restart in between can lengthen it by its own span at most.
//
// # On disk
//
// One JSON file for each request, replaced whole at each change, and beside it
// the body of the held call, which stays on the disk, is compared by SHA-256
// when it is used, and is removed when the state is final. A file that cannot be
// understood stops [Open]: a question that was asked does not vanish quietly.
// Ended requests are kept for seven days, and at most 10,000; what happened is
// in the trail for good.
//
// The package forwards nothing, judges no policy and writes no entry.
//
// docs/adr/0009-asking-a-human.md says why it is built this way.
package approval
