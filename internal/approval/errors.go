package approval

import (
	"errors"
	"fmt"
)

// Why a request is not what was asked for. Match with [errors.Is]; most come in
// a [*Refusal], which has the request with it.
var (
	ErrNone      = errors.New("nobody was asked yet")                       // ask with Hold
	ErrPending   = errors.New("waiting for a human")                        // not enough have approved
	ErrDenied    = errors.New("denied by a human")                          // and stays so for the window
	ErrChanged   = errors.New("what was asked about has changed")           // ask again with Hold
	ErrReleasing = errors.New("being released by another call just now")    // ask again in a moment
	ErrDecided   = errors.New("not open for votes")                         // decided, expired or withdrawn
	ErrOwn       = errors.New("asked for on your own behalf")               // somebody else must approve
	ErrNotAsked  = errors.New("you are not among those who were asked")     // another human or role was
	ErrDoor      = errors.New("votes are taken from humans only")           // an agent's credential, or nobody's
	ErrNotFound  = errors.New("no such approval")                           // or it is forgotten by now
	ErrFull      = errors.New("too many approvals are open")                // decide or cancel some
	ErrJobTaken  = errors.New("another held call has this job id")          // as BigQuery's 409
	ErrInvalid   = errors.New("not a request or vote that could be kept")   // the caller's mistake
	ErrFinished  = errors.New("this claim was finished the other way")      // Done after Abort, or Abort after Done
	errDamaged   = errors.New("holds what this program would not write")    // in a file
	errBodyGone  = errors.New("the held call's body is missing or differs") // in a file
)

// Refusal is a no, with the request that it is about.
type Refusal struct {
	// Err is one of the errors above.
	Err error
	// Request is as it stands, without the body of its call. It is zero where
	// there is none, or where it is another agent's.
	Request Request
}

// Error says why, and what can be done about it.
func (e *Refusal) Error() string {
	r := e.Request
	if r.ID == "" {
		return e.Err.Error()
	}
	text := fmt.Sprintf("approval %s is %s: %v", r.ID, r.State, e.Err)
	switch {
	case errors.Is(e.Err, ErrDenied):
		if v := r.Denial(); v != nil {
			text += fmt.Sprintf(" (%s: %q)", v.Human, v.Reason)
		}
	case errors.Is(e.Err, ErrDecided) && r.State == StateExpired:
		text += "; the agent must ask again"
	case errors.Is(e.Err, ErrOwn):
		text += "; somebody else must approve it"
	}
	return text
}

// Unwrap gives Err.
func (e *Refusal) Unwrap() error { return e.Err }

func refuse(err error, r *Request) error { return &Refusal{Err: err, Request: r.clone()} }
