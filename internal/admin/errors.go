package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/trailgate/trailgate/internal/approval"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/recording"
	"github.com/trailgate/trailgate/internal/suspend"
	"github.com/trailgate/trailgate/internal/trail"
)

// Error is what a caller is told when there is no answer.
type Error struct {
	Code    int    // HTTP status
	Message string // for people; says what to do
	// Column is where in a filter the mistake is, in characters from 1; 0: nowhere.
	Column int

	cause error // for the operational log
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause, which callers are not told.
func (e *Error) Unwrap() error { return e.cause }

// statusOf is the google.rpc.Code that goes with an HTTP status. Where several
// do, it is the one that this API means.
func statusOf(code int) string {
	switch code {
	case http.StatusBadRequest, http.StatusUnsupportedMediaType, http.StatusRequestEntityTooLarge:
		return "INVALID_ARGUMENT"
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusNotFound:
		return "NOT_FOUND"
	case http.StatusMethodNotAllowed:
		return "UNIMPLEMENTED"
	case http.StatusConflict:
		return "FAILED_PRECONDITION"
	case http.StatusTooManyRequests:
		return "RESOURCE_EXHAUSTED"
	case http.StatusServiceUnavailable:
		return "UNAVAILABLE"
	case http.StatusGatewayTimeout:
		return "DEADLINE_EXCEEDED"
	default:
		return "INTERNAL"
	}
}

// MarshalJSON gives the object under "error".
func (e *Error) MarshalJSON() ([]byte, error) {
	type details struct {
		Column int `json:"column"`
	}
	out := struct {
		Code    int      `json:"code"`
		Status  string   `json:"status"`
		Message string   `json:"message"`
		Details *details `json:"details,omitempty"`
	}{Code: e.Code, Status: statusOf(e.Code), Message: e.Message}
	if e.Column > 0 {
		out.Details = &details{e.Column}
	}
	return json.Marshal(out)
}

func invalid(message string) *Error {
	return &Error{Code: http.StatusBadRequest, Message: message}
}

func busy() *Error {
	return &Error{Code: http.StatusTooManyRequests, Message: "too many requests at a time; try again in a moment"}
}

// codes says which HTTP status the errors of the parts are. The first that fits counts.
var codes = []struct {
	err  error
	code int
}{
	{identity.ErrInvalid, http.StatusBadRequest},
	{identity.ErrNoAgent, http.StatusNotFound},
	{ErrNotFound, http.StatusNotFound},
	{federation.ErrNoConsent, http.StatusNotFound},
	{federation.ErrConsent, http.StatusForbidden},
	{federation.ErrFull, http.StatusTooManyRequests},
	{identity.ErrNoToken, http.StatusNotFound},
	{identity.ErrExists, http.StatusConflict},
	{identity.ErrRevoked, http.StatusConflict},
	{identity.ErrFull, http.StatusTooManyRequests},
	{approval.ErrNotFound, http.StatusNotFound},
	{approval.ErrInvalid, http.StatusBadRequest},
	{approval.ErrFull, http.StatusTooManyRequests},
	{suspend.ErrInvalid, http.StatusBadRequest},
	{suspend.ErrSuspended, http.StatusConflict},
	{suspend.ErrNot, http.StatusNotFound},
	{suspend.ErrTooMany, http.StatusTooManyRequests},
	{recording.ErrInvalid, http.StatusBadRequest},
	{recording.ErrNotFound, http.StatusNotFound},
	{recording.ErrNoHold, http.StatusNotFound},
	{recording.ErrErased, http.StatusConflict},
	{recording.ErrHeld, http.StatusConflict},
	{recording.ErrExists, http.StatusConflict},
	{index.ErrNotFound, http.StatusNotFound},
	{index.ErrAmbiguous, http.StatusBadRequest},
	{index.ErrTooSlow, http.StatusGatewayTimeout},
	{index.ErrDamaged, http.StatusServiceUnavailable},
	{index.ErrClosed, http.StatusServiceUnavailable},
	{trail.ErrNotFound, http.StatusNotFound},
	{trail.ErrUnavailable, http.StatusServiceUnavailable},
	{context.DeadlineExceeded, http.StatusGatewayTimeout},
	{context.Canceled, http.StatusServiceUnavailable},
}

// explain turns any error into what a caller is told. The API's callers
// administer the gateway: they may read what the disk said.
func explain(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*index.FilterError](err); ok {
		return &Error{Code: http.StatusBadRequest, Message: e.Message, Column: e.Column, cause: err}
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return &Error{Code: c.code, Message: err.Error(), cause: err}
		}
	}
	return &Error{Code: http.StatusInternalServerError, Message: err.Error(), cause: err}
}
