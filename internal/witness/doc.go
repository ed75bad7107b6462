// Package witness is both ends of C2SP tlog-witness (https://c2sp.org/tlog-witness):
// a [Witness] that cosigns checkpoints of logs that only ever grew, and a
// [Client] with which a log asks the witnesses of its policy.
//
// A witness's one promise is that, for each origin, no two checkpoints that it
// ever cosigned contradict each other. So what it cosigns is on its disk before
// the cosignature leaves it; requests for one origin are taken one after the
// other; and a witness that finds its own memory gone or damaged does not start.
//
// What a witness does not do: it reads no entries, and keeps none. It vouches for
// a tree's growth, not for what grows.
package witness
