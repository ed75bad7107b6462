package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// apiError is a failure as BigQuery tells it.
type apiError struct {
	status       int
	reason       string
	message      string
	location     string // Optional
	locationType string
}

func (e *apiError) Error() string { return e.message }

// statusOf maps BigQuery's reasons to HTTP, as its documentation of errors
// does (https://cloud.google.com/bigquery/docs/error-messages).
var statusOf = map[string]int{
	"accessDenied": http.StatusForbidden, "responseTooLarge": http.StatusForbidden, "quotaExceeded": http.StatusForbidden, "rateLimitExceeded": http.StatusForbidden,
	"invalid": http.StatusBadRequest, "invalidQuery": http.StatusBadRequest, "required": http.StatusBadRequest, "stopped": http.StatusBadRequest, "resourceInUse": http.StatusBadRequest, "bytesBilledLimitExceeded": http.StatusBadRequest,
	"notFound": http.StatusNotFound, "duplicate": http.StatusConflict, "conditionNotMet": http.StatusPreconditionFailed,
	"authError": http.StatusUnauthorized, "notImplemented": http.StatusNotImplemented, "backendError": http.StatusServiceUnavailable, "internalError": http.StatusInternalServerError,
}

// statusWords are the names of google.rpc.Code that go with HTTP statuses.
var statusWords = map[int]string{
	400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS", 412: "FAILED_PRECONDITION",
	429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}

func fail(reason, format string, args ...any) *apiError {
	return &apiError{status: statusOf[reason], reason: reason, message: fmt.Sprintf(format, args...)}
}

func notFound(kind, name string) *apiError { return fail("notFound", "Not found: %s %s", kind, name) }

func alreadyExists(kind, name string) *apiError {
	return fail("duplicate", "Already Exists: %s %s", kind, name)
}

func unsupported(format string, args ...any) *apiError {
	return fail("notImplemented", "The sandbox does not implement %s", fmt.Sprintf(format, args...))
}

// asAPIError gives any error BigQuery's shape.
func asAPIError(err error) *apiError {
	var ae *apiError
	if errors.As(err, &ae) {
		return ae
	}
	var se *googlesql.Error
	if errors.As(err, &se) {
		out := fail(se.Reason, "%s", se.Message)
		if se.Reason == googlesql.ReasonInvalidQuery {
			out.location, out.locationType = "q", "parameter"
		}
		return out
	}
	return fail("internalError", "%s", err.Error())
}

// proto is the error as it stands in a job's status.
func (e *apiError) proto() object {
	o := object{"reason": e.reason, "message": e.message}
	if e.location != "" {
		o["location"] = e.location
	}
	return o
}

// body is the error as it stands in an HTTP answer.
func (e *apiError) body() object {
	first := object{"message": e.message, "domain": "global", "reason": e.reason}
	if e.location != "" {
		first["location"], first["locationType"] = e.location, e.locationType
	}
	o := object{"code": e.status, "message": e.message, "errors": []any{first}}
	if w := statusWords[e.status]; w != "" {
		o["status"] = w
	}
	return object{"error": o}
}

func writeError(w http.ResponseWriter, e *apiError) {
	raw, err := json.MarshalIndent(e.body(), "", "  ")
	if err != nil {
		raw = []byte(`{"error":{"code":500,"message":"internal error"}}`)
	}
	if e.status == http.StatusUnauthorized {
		w.Header().Set("Www-Authenticate", `Bearer realm="https://accounts.google.com/", error="invalid_token"`)
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(e.status)
	w.Write(append(raw, '\n')) // an error here is the client's going away
}
