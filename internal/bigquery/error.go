package bigquery

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// Error is an error as BigQuery answers it. Clients show Message and act on
// Status and Reason
// (https://cloud.google.com/bigquery/docs/error-messages).
type Error struct {
	Status   int    // HTTP
	Reason   string // such as "accessDenied"
	Message  string
	Location string // the parameter concerned. Optional.
}

func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Reason, e.Message) }

// JSON is the response body.
func (e *Error) JSON() []byte {
	type item struct {
		Message  string `json:"message"`
		Domain   string `json:"domain"`
		Reason   string `json:"reason"`
		Location string `json:"location,omitempty"`
	}
	var body struct {
		Error struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
			Errors  []item `json:"errors"`
			Status  string `json:"status"`
		} `json:"error"`
	}
	body.Error.Code, body.Error.Message, body.Error.Status = e.Status, e.Message, rpcStatus(e.Status)
	body.Error.Errors = []item{{e.Message, "global", e.Reason, e.Location}}
	raw, err := json.Marshal(body)
	if err != nil {
		return []byte(`{"error":{"code":500,"message":"error","errors":[{"message":"error","domain":"global","reason":"internalError"}]}}`) // strings and ints always encode
	}
	return append(raw, '\n')
}

// rpcStatus is the google.rpc.Code name that goes with an HTTP status.
func rpcStatus(code int) string {
	switch code {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType:
		return "INVALID_ARGUMENT"
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusNotFound:
		return "NOT_FOUND"
	case http.StatusConflict:
		return "ALREADY_EXISTS"
	case http.StatusTooManyRequests:
		return "RESOURCE_EXHAUSTED"
	case http.StatusNotImplemented, http.StatusMethodNotAllowed:
		return "UNIMPLEMENTED"
	case http.StatusServiceUnavailable, http.StatusBadGateway:
		return "UNAVAILABLE"
	case http.StatusGatewayTimeout:
		return "DEADLINE_EXCEEDED"
	default:
		return "INTERNAL"
	}
}

func invalid(format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Reason: "invalid", Message: "Trailgate: " + fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) *Error {
	return &Error{Status: http.StatusNotFound, Reason: "notFound", Message: "Trailgate: " + fmt.Sprintf(format, args...)}
}
