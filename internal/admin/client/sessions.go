package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
)

// Session is an agent's calls that belong together.
type Session struct {
	ID          string            `json:"id"`
	Agent       string            `json:"agent"`
	Human       string            `json:"human,omitempty"`
	TokenID     string            `json:"token_id,omitempty"`
	AuthMode    string            `json:"auth_mode,omitempty"`
	How         string            `json:"how,omitempty"` // "run", "token_exchange", "idle_gap"
	Began       time.Time         `json:"began"`
	Last        time.Time         `json:"last"`
	Ended       *time.Time        `json:"ended,omitempty"`
	Why         string            `json:"end_reason,omitempty"`
	Claims      *trailgate.Claims `json:"claims,omitempty"` // the client's words
	Calls       int64             `json:"calls"`
	Errors      int64             `json:"errors"`
	Denied      int64             `json:"denied"`
	Held        int64             `json:"held"`
	BytesBilled int64             `json:"bytes_billed"`
	Rows        int64             `json:"rows"`
	Tables      []string          `json:"tables,omitempty"`
}

// Sessions lists those that a filter finds by how they began, the newest first.
func (c *Client) Sessions(ctx context.Context, q Query) (list []Session, next string, err error) {
	var out struct {
		Sessions []Session `json:"sessions"`
		Next     string    `json:"next_page_token"`
	}
	q.Ascending = false
	err = c.do(ctx, http.MethodGet, "sessions", q.values(), nil, &out)
	return out.Sessions, out.Next, err
}

// Session is one of them, by its id.
func (c *Client) Session(ctx context.Context, id string) (*Session, error) {
	out := &Session{}
	return out, c.do(ctx, http.MethodGet, "sessions/"+url.PathEscape(id), nil, nil, out)
}

// FacetValue is one value of a facet.
type FacetValue struct {
	Value  string `json:"value"`
	Calls  int64  `json:"calls"`
	Errors int64  `json:"errors"`
}

// Facet is how calls spread over a field's values.
type Facet struct {
	Field    string       `json:"field"`
	Values   []FacetValue `json:"values"`
	More     bool         `json:"more"`
	Complete bool         `json:"complete"`
	Since    *time.Time   `json:"since"`
}

// Facets counts the calls that a filter matches by fields; none: the usual ones.
func (c *Client) Facets(ctx context.Context, filter string, fields []string, limit int) ([]Facet, error) {
	v := url.Values{}
	set(v, "filter", filter)
	set(v, "fields", strings.Join(fields, ","))
	if limit > 0 {
		v.Set("limit", strconv.Itoa(limit))
	}
	var out struct {
		Facets []Facet `json:"facets"`
	}
	err := c.do(ctx, http.MethodGet, "facets", v, nil, &out)
	return out.Facets, err
}

// Bucket is the calls of a span of time.
type Bucket struct {
	Time   time.Time `json:"time"`
	Calls  int64     `json:"calls"`
	Errors int64     `json:"errors"`
}

// Histogram is how calls spread over time.
type Histogram struct {
	Since       time.Time  `json:"since"`
	Until       time.Time  `json:"until"`
	StepSeconds float64    `json:"step_seconds"`
	Buckets     []Bucket   `json:"buckets"`
	Complete    bool       `json:"complete"`
	Counted     *time.Time `json:"counted_since"`
}

// Histogram counts calls over time; zero times: from the first entry on, until now.
func (c *Client) Histogram(ctx context.Context, filter string, since, until time.Time, buckets int) (*Histogram, error) {
	v := url.Values{}
	set(v, "filter", filter)
	if !since.IsZero() {
		v.Set("since", since.UTC().Format(time.RFC3339Nano))
	}
	if !until.IsZero() {
		v.Set("until", until.UTC().Format(time.RFC3339Nano))
	}
	if buckets > 0 {
		v.Set("buckets", strconv.Itoa(buckets))
	}
	out := &Histogram{}
	return out, c.do(ctx, http.MethodGet, "histogram", v, nil, out)
}

// SavedSearch is a filter that somebody wants to find again.
type SavedSearch struct {
	ID     string    `json:"id"`
	Name   string    `json:"name"`
	Filter string    `json:"filter"`
	Owner  string    `json:"owner"`
	Shared bool      `json:"shared"`
	At     time.Time `json:"at"`
}

// SavedSearches are the caller's own, and those that are shared.
func (c *Client) SavedSearches(ctx context.Context) ([]SavedSearch, error) {
	var out struct {
		Searches []SavedSearch `json:"searches"`
	}
	err := c.do(ctx, http.MethodGet, "searches", nil, nil, &out)
	return out.Searches, err
}

// SaveSearch keeps a filter under a name.
func (c *Client) SaveSearch(ctx context.Context, name, filter string, shared bool) (*SavedSearch, error) {
	in := struct {
		Name   string `json:"name"`
		Filter string `json:"filter"`
		Shared bool   `json:"shared"`
	}{name, filter, shared}
	out := &SavedSearch{}
	return out, c.do(ctx, http.MethodPost, "searches", nil, in, out)
}

// RemoveSearch forgets a saved search.
func (c *Client) RemoveSearch(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, "searches/"+url.PathEscape(id)+":remove", nil, struct{}{}, nil)
}
