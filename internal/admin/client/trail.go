package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
)

// Row is a call, or an event that stands alone.
type Row struct {
	// Entry is the one that opened the call, with what the closing entry added.
	Entry trailgate.Entry
	State string
	// ClosingSeq, ClosingID and ClosingTime are the closing entry's; ClosingID is
	// empty where there is none yet.
	ClosingSeq  uint64
	ClosingID   string
	ClosingTime time.Time

	Raw json.RawMessage // the row as it came
}

// UnmarshalJSON reads a row as the API writes it. Members that this version
// does not know are left in Raw.
func (r *Row) UnmarshalJSON(raw []byte) error {
	type body trailgate.Entry // without its methods
	var in struct {
		Seq  uint64    `json:"seq"`
		Time time.Time `json:"time"`
		body
		State       string    `json:"state"`
		ClosingSeq  uint64    `json:"closing_seq"`
		ClosingID   string    `json:"closing_id"`
		ClosingTime time.Time `json:"closing_time"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return err
	}
	e := trailgate.Entry(in.body)
	e.Seq, e.Time = in.Seq, in.Time
	*r = Row{Entry: e, State: in.State, ClosingSeq: in.ClosingSeq, ClosingID: in.ClosingID, ClosingTime: in.ClosingTime, Raw: bytes.Clone(raw)}
	return nil
}

// Query says what to find.
type Query struct {
	Filter    string // "" finds everything
	Ascending bool   // the oldest first
	PageSize  int    // Optional; default: the gateway's.
	PageToken string // Optional: where to go on.
}

func (q Query) values() url.Values {
	v := url.Values{}
	set(v, "filter", q.Filter)
	set(v, "page_token", q.PageToken)
	if q.PageSize > 0 {
		v.Set("page_size", strconv.Itoa(q.PageSize))
	}
	if q.Ascending {
		v.Set("order", "asc")
	}
	return v
}

func set(v url.Values, name, value string) {
	if value != "" {
		v.Set(name, value)
	}
}

// Page returns one page of rows, and the token of the next, "" after the last.
func (c *Client) Page(ctx context.Context, q Query) (rows []Row, next string, err error) {
	var out struct {
		Entries []Row  `json:"entries"`
		Next    string `json:"next_page_token"`
	}
	err = c.do(ctx, http.MethodGet, "entries", q.values(), nil, &out)
	return out.Entries, out.Next, err
}

// Entries goes through all rows, page by page. It ends after the first error.
func (c *Client) Entries(ctx context.Context, q Query) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for {
			rows, next, err := c.Page(ctx, q)
			if err != nil {
				yield(Row{}, err)
				return
			}
			for _, r := range rows {
				if !yield(r, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			q.PageToken = next
		}
	}
}

// maxRowBytes bounds a line of a stream: two entries and what joins them.
const maxRowBytes = 1 << 20

// Follow goes through rows as they are committed, beginning behind the place
// after in the log, or where that is nil with what comes. It ends after the
// first error, or without one when the gateway ends the stream, as it does when
// it stops. It must be ranged over once.
func (c *Client) Follow(ctx context.Context, filter string, after *uint64) iter.Seq2[Row, error] {
	v := url.Values{}
	set(v, "filter", filter)
	if after != nil {
		v.Set("after_seq", strconv.FormatUint(*after, 10))
	}
	return func(yield func(Row, error) bool) {
		resp, err := c.send(ctx, http.MethodGet, "entries:follow", v, nil)
		if err != nil {
			yield(Row{}, err)
			return
		}
		defer resp.Body.Close() //nolint:errcheck // it was only read
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, maxRowBytes)
		for lines.Scan() {
			line := bytes.TrimSpace(lines.Bytes())
			if len(line) == 0 {
				continue // a sign of life
			}
			var r Row
			err := endsInError(line)
			if err == nil {
				err = json.Unmarshal(line, &r)
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
		if err := lines.Err(); err != nil && !errors.Is(err, io.EOF) {
			yield(Row{}, fmt.Errorf("follow: %w", err))
		}
	}
}

// Call is one call with all its stages.
type Call struct {
	ID         string             `json:"id"`
	State      string             `json:"state"`
	Stages     []*trailgate.Entry `json:"stages"`
	Statements []Statement        `json:"statements"`
}

// Statement is a statement of a call, with its text.
type Statement struct {
	Where      string `json:"where"`
	SHA256     string `json:"sha256"`
	Length     int64  `json:"length"`
	Dialect    string `json:"dialect"`
	Text       string `json:"text"`
	Parameters string `json:"parameters"`
	Missing    string `json:"missing"` // why text or parameters are not there
}

// Show returns the call that an entry belongs to, by its id or the beginning of
// one.
func (c *Client) Show(ctx context.Context, id string) (*Call, error) {
	out := &Call{}
	return out, c.do(ctx, http.MethodGet, "entries/"+url.PathEscape(id), nil, nil, out)
}

// Proofs returns the proofs of a call's stages, unchecked, and the log's key by
// the gateway's own word. Check them with [trailgate.Proof.Verify] and a key from
// elsewhere.
func (c *Client) Proofs(ctx context.Context, id string) (proofs []*trailgate.Proof, publicKey string, err error) {
	var out struct {
		Proofs    []*trailgate.Proof `json:"proofs"`
		PublicKey string             `json:"public_key"`
	}
	err = c.do(ctx, http.MethodGet, "entries/"+url.PathEscape(id)+"/proof", nil, nil, &out)
	return out.Proofs, out.PublicKey, err
}

// Group is a sum over calls that have keys in common.
type Group struct {
	Keys           map[string]string `json:"keys"`
	Calls          int64             `json:"calls"`
	Errors         int64             `json:"errors"`
	BytesBilled    int64             `json:"bytes_billed"`
	BytesProcessed int64             `json:"bytes_processed"`
	Rows           int64             `json:"rows"`
	ResponseBytes  int64             `json:"response_bytes"`
}

// Stats sums up the calls that a filter matches.
func (c *Client) Stats(ctx context.Context, by []string, filter string) ([]Group, error) {
	v := url.Values{}
	set(v, "by", strings.Join(by, ","))
	set(v, "filter", filter)
	var out struct {
		Groups []Group `json:"groups"`
	}
	err := c.doInto(ctx, "stats", v, &out)
	return out.Groups, err
}

// doInto is do for plain reads.
func (c *Client) doInto(ctx context.Context, path string, v url.Values, out any) error {
	return c.do(ctx, http.MethodGet, path, v, nil, out)
}

// Blob returns a stored statement.
func (c *Client) Blob(ctx context.Context, sha256 string) ([]byte, error) {
	return c.read(ctx, http.MethodGet, "blobs/"+url.PathEscape(sha256), nil, nil)
}

// RebuildIndex makes the search index anew and returns how many entries it has.
// It may take minutes.
func (c *Client) RebuildIndex(ctx context.Context) (entries uint64, err error) {
	var out struct {
		Entries uint64 `json:"entries"`
	}
	err = c.do(ctx, http.MethodPost, "index:rebuild", nil, struct{}{}, &out)
	return out.Entries, err
}

// Connection is one of the gateway's ways to BigQuery.
type Connection struct {
	Name     string   `json:"name"`
	Projects []string `json:"projects"`
	// Connectors: its calls go through connectors.
	Connectors bool `json:"connectors,omitempty"`
}

// Gateway is what a gateway says of itself.
type Gateway struct {
	ID           string       `json:"id"`
	Version      string       `json:"version"`
	ConfigDigest string       `json:"config_digest"` // of the file that it started with
	PublicURL    string       `json:"public_url"`    // for agents; "" where none runs
	AdminURL     string       `json:"admin_url"`
	Connections  []Connection `json:"connections"`
	PublicKey    string       `json:"public_key"` // of the log
	Origin       string       `json:"origin"`     // of the log
	Entries      uint64       `json:"entries"`
	Published    uint64       `json:"published"`
	Indexed      uint64       `json:"indexed"`
	Ready        bool         `json:"ready"`
	NotReady     string       `json:"not_ready"`
	Witnesses    *Witnesses   `json:"witnesses"` // nil where there are none
}

// Witnesses is who cosigns the log's checkpoints, and how that goes.
type Witnesses struct {
	Needed    string    `json:"needed"`
	Quorum    bool      `json:"quorum"`
	Require   bool      `json:"require"`
	Size      uint64    `json:"size"`
	At        time.Time `json:"at"` // zero: never, as far as is known
	Witnesses []Witness `json:"witnesses"`
}

// Witness is one of them.
type Witness struct {
	Name     string    `json:"name"`
	Key      string    `json:"key"`
	URL      string    `json:"url"`
	Cosigned time.Time `json:"cosigned"` // the published checkpoint; zero: it has not
	Size     uint64    `json:"size"`
	Error    string    `json:"error"`
	Disputes bool      `json:"disputes"`
}

// Gateway asks a gateway about itself.
func (c *Client) Gateway(ctx context.Context) (*Gateway, error) {
	out := &Gateway{}
	return out, c.doInto(ctx, "gateway", nil, out)
}
