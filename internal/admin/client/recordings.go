package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Column is one of a result's columns, as BigQuery's TableFieldSchema has it.
type Column struct {
	Name   string   `json:"name"`
	Type   string   `json:"type"`
	Mode   string   `json:"mode,omitempty"`
	Fields []Column `json:"fields,omitempty"`
}

// Gap says that rows are not there; To is exclusive.
type Gap struct {
	From int64  `json:"from"`
	To   int64  `json:"to"`
	Why  string `json:"why"`
}

// ResultPage is one answer that a result was read in.
type ResultPage struct {
	Entry        string `json:"entry"`
	StartRow     int64  `json:"start_row"`
	PlaceUnknown bool   `json:"place_unknown"`
	Rows         int64  `json:"rows"`
	StoredRows   int64  `json:"stored_rows"`
	Truncated    bool   `json:"truncated"`
	Redacted     int64  `json:"redacted"`
	Error        string `json:"error"`
}

// Results are recorded rows; one that is null is not there, and Gaps say why.
type Results struct {
	Entry    string            `json:"entry"`
	Job      string            `json:"job"`
	Schema   []Column          `json:"schema"`
	From     int64             `json:"from"`
	Rows     []json.RawMessage `json:"rows"` // as BigQuery sent them: {"f":[{"v":…},…]}
	More     bool              `json:"more"`
	Total    int64             `json:"total_rows"`
	Stored   int64             `json:"stored_rows"`
	Gaps     []Gap             `json:"gaps"`
	Pages    []ResultPage      `json:"pages"`
	Redacted int64             `json:"redacted"`
	Erased   bool              `json:"erased"`
}

// Results reads recorded rows of a call, with those of the other pages of its result.
func (c *Client) Results(ctx context.Context, id string, from, count int64) (*Results, error) {
	v := url.Values{"from": {strconv.FormatInt(from, 10)}, "count": {strconv.FormatInt(count, 10)}}
	out := &Results{}
	return out, c.do(ctx, http.MethodGet, "entries/"+url.PathEscape(id)+"/results", v, nil, out)
}

// DataKey is what the recorded rows of one connection and month are encrypted under.
type DataKey struct {
	Key        string `json:"key"`
	Connection string `json:"connection"`
	Month      string `json:"month"`
	Bodies     int64  `json:"bodies"`
	Bytes      int64  `json:"bytes"`
	Erased     bool   `json:"erased"`
	Held       bool   `json:"held"`
	Due        bool   `json:"due"`
}

// Recordings lists the data keys; retention is how long rows are kept, "" for ever.
func (c *Client) Recordings(ctx context.Context) (keys []DataKey, retention string, err error) {
	var out struct {
		Keys      []DataKey `json:"keys"`
		Retention string    `json:"retention"`
	}
	err = c.do(ctx, http.MethodGet, "recordings", nil, nil, &out)
	return out.Keys, out.Retention, err
}

// Erasure is what became of one key.
type Erasure struct {
	Key    string `json:"key"`
	Bodies int64  `json:"bodies"`
	Bytes  int64  `json:"bytes"`
	Error  string `json:"error,omitempty"`
}

// EraseRecordings erases the rows under keys; with none named, those that are due.
func (c *Client) EraseRecordings(ctx context.Context, keys []string, reason string) ([]Erasure, error) {
	in := struct {
		Keys   []string `json:"keys,omitempty"`
		Due    bool     `json:"due,omitempty"`
		Reason string   `json:"reason,omitempty"`
	}{keys, len(keys) == 0, reason}
	var out struct {
		Erased []Erasure `json:"erased"`
	}
	err := c.do(ctx, http.MethodPost, "recordings:erase", nil, in, &out)
	return out.Erased, err
}

// Hold keeps recorded rows from being erased.
type Hold struct {
	ID         string     `json:"id"`
	Connection string     `json:"connection,omitempty"` // "": all
	From       *time.Time `json:"from,omitempty"`
	Until      *time.Time `json:"until,omitempty"`
	Reason     string     `json:"reason"`
	By         string     `json:"by,omitempty"`
	At         *time.Time `json:"at,omitempty"`
}

// Holds lists the legal holds.
func (c *Client) Holds(ctx context.Context) ([]Hold, error) {
	var out struct {
		Holds []Hold `json:"holds"`
	}
	err := c.do(ctx, http.MethodGet, "holds", nil, nil, &out)
	return out.Holds, err
}

// AddHold makes a hold.
func (c *Client) AddHold(ctx context.Context, h Hold) (*Hold, error) {
	h.By, h.At = "", nil
	var out Hold
	if err := c.do(ctx, http.MethodPost, "holds", nil, h, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// ReleaseHold ends a hold.
func (c *Client) ReleaseHold(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, "holds/"+url.PathEscape(id)+":release", nil, struct{}{}, nil)
}
