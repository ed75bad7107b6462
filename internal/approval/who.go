package approval

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/trailgate/trailgate"
)

// The roles that can be asked, and the doors that humans come through.
const (
	roleAdmin    = "role:admin"
	roleApprover = "role:approver"
)

// Demo is the door of those whom "trailgate demo" makes up.
const Demo = "demo"

var humanDoors = []string{"login", "cli", "api", Demo}

// fold makes names comparable: people write their addresses as they like.
func fold(s string) string { return strings.ToLower(strings.TrimSpace(s)) }

// local reports whether a voter is whoever holds the gateway's own token or
// machine, and not a human whom an identity provider named.
func local(human string) bool {
	h := fold(human)
	return h == "local" || h == "admin-token" || strings.HasPrefix(h, "local:") || strings.HasPrefix(h, "uid:")
}

// voter is who a vote counts for. The gateway's token and its machine's users
// are one: nothing tells that two of them are different people.
func voter(human string) string {
	if local(human) {
		return "local"
	}
	return fold(human)
}

// May reports whether a vote would be taken as far as its human goes: [ErrDoor],
// [ErrOwn], [ErrNotAsked], or nil. It looks at neither the request's state nor
// the deadline.
//
// "human:" is matched with the voter's name, whatever the case. "role:approver"
// and "role:admin" each need that very role: an admin who logged in is no
// approver unless they have that role too, so that a policy can keep the two
// apart. Whoever has the gateway's own token or machine counts as both, and
// never as a named human.
//
// On whose behalf the agent asks may not approve, nor may a party in the chain
// between. They may deny: a no needs no second pair of eyes.
func (r *Request) May(v Vote) error {
	if fold(v.Human) == "" || !slices.Contains(humanDoors, v.Via) {
		return ErrDoor
	}
	if v.Verdict != Deny && own(v.Human, r.Principal) {
		return ErrOwn
	}
	if !asked(v, r.From) {
		return ErrNotAsked
	}
	return nil
}

// own reports whether the human is one on whose behalf the principal acts.
func own(human string, p trailgate.Principal) bool {
	h := fold(human)
	chain := append([]string{p.Human, p.Subject, p.Agent}, p.Actors...)
	// Who vouches is a kind of party today. Should it be a name one day, they are not independent.
	if p.HumanBy != trailgate.HumanByAdmin && p.HumanBy != trailgate.HumanByIssuer {
		chain = append(chain, p.HumanBy)
	}
	for _, c := range chain {
		_, subject, cut := strings.Cut(c, "|") // "issuer|subject"
		if fold(c) == h || (cut && fold(subject) == h) {
			return true
		}
	}
	return false
}

func asked(v Vote, from []string) bool {
	admin := slices.Contains(v.Roles, "admin")
	for _, f := range from {
		switch {
		case local(v.Human):
			if admin && (f == roleAdmin || f == roleApprover) {
				return true
			}
		case strings.HasPrefix(f, "human:"):
			if fold(strings.TrimPrefix(f, "human:")) == fold(v.Human) {
				return true
			}
		case f == roleAdmin:
			if admin {
				return true
			}
		case f == roleApprover:
			if slices.Contains(v.Roles, "approver") {
				return true
			}
		}
	}
	return false
}

// checkVote looks at a vote, new or from a file.
func (r *Request) checkVote(v Vote) error {
	switch {
	case v.Verdict != Approve && v.Verdict != Deny:
		return fmt.Errorf("%w: the verdict is %q, want %q or %q", ErrInvalid, v.Verdict, Approve, Deny)
	case len(v.Reason) > MaxReasonBytes || !utf8.ValidString(v.Reason):
		return fmt.Errorf("%w: a reason is at most %d bytes of UTF-8", ErrInvalid, MaxReasonBytes)
	case len(v.Human) > MaxReasonBytes || len(v.Entry) > MaxReasonBytes || len(v.Roles) > maxFrom || !utf8.ValidString(v.Human):
		return fmt.Errorf("%w: the voter's name or roles are too long", ErrInvalid)
	case v.Void && v.Verdict == Deny:
		return fmt.Errorf("%w: a denial is not void", ErrInvalid)
	}
	return r.May(v)
}

// approvals counts the different humans whose approval stands.
func (r *Request) approvals() int {
	seen := map[string]bool{}
	for _, v := range r.Votes {
		if v.Verdict == Approve && !v.Void && r.May(v) == nil {
			seen[voter(v.Human)] = true
		}
	}
	return len(seen)
}

// add puts a vote in the place of the same human's earlier one. It reports
// whether anything is new: the same answer twice is one answer.
func (r *Request) add(v Vote) (bool, error) {
	i := slices.IndexFunc(r.Votes, func(w Vote) bool { return voter(w.Human) == voter(v.Human) })
	switch {
	case i >= 0 && r.Votes[i].Verdict == v.Verdict && !r.Votes[i].Void:
		return false, nil
	case i >= 0:
		r.Votes[i] = v
	case len(r.Votes) >= maxVotes:
		return false, ErrFull
	default:
		r.Votes = append(r.Votes, v)
	}
	return true, nil
}

// decide gives the state that the votes make.
func (r *Request) decide(now time.Time, window time.Duration) {
	switch {
	case r.Denial() != nil:
		r.State, r.Decided = StateDenied, now
		r.end(now)
	case r.approvals() >= r.Need:
		r.State, r.Decided, r.ReleaseBy = StateApproved, now, now.Add(window)
	}
}

// end makes a final state complete. What only a release needed is forgotten.
func (r *Request) end(now time.Time) {
	r.Ended = now
	r.Call.Header = nil
	if r.State == StateReleased {
		r.Released = now
	}
}
