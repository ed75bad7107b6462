package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
)

// BundleRequest says what an evidence bundle is to hold: what a filter finds, or every
// entry from First to Last where these are set.
type BundleRequest struct {
	Filter         string  `json:"filter,omitempty"`
	First          *uint64 `json:"first,omitempty"`
	Last           *uint64 `json:"last,omitempty"`
	Statements     bool    `json:"statements,omitempty"`
	Rows           bool    `json:"rows,omitempty"`
	FromCheckpoint string  `json:"from_checkpoint,omitempty"` // Optional; a signed note.
}

// Bundle writes an evidence bundle, and returns the id of the entry of its creation. The
// gateway may break off: whether it is whole, its verification tells.
func (c *Client) Bundle(ctx context.Context, q BundleRequest, w io.Writer) (entry string, err error) {
	resp, err := c.send(ctx, http.MethodPost, "bundles", nil, q)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	if _, err := io.Copy(w, resp.Body); err != nil {
		return "", fmt.Errorf("read the bundle: %w", err)
	}
	return resp.Header.Get("Trailgate-Entry"), nil
}

// Export writes all rows that a filter finds, the newest first, as "jsonl", "csv" or "ocsf".
// A file that is not whole says so in its last line.
func (c *Client) Export(ctx context.Context, filter, format string, w io.Writer) error {
	v := Query{Filter: filter}.values()
	v.Set("format", format)
	resp, err := c.send(ctx, http.MethodGet, "entries:export", v, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	last := &lastLine{}
	if _, err := io.Copy(io.MultiWriter(w, last), resp.Body); err != nil {
		return fmt.Errorf("read the export: %w", err)
	}
	if bytes.HasPrefix(last.line, []byte("ERROR: ")) {
		return fmt.Errorf("%s", bytes.TrimSpace(last.line))
	}
	return endsInError(last.line)
}

// lastLine keeps the last line of what is written, up to a length that no error exceeds.
type lastLine struct {
	line  []byte
	ended bool
}

func (l *lastLine) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		if l.ended {
			l.line = l.line[:0]
		}
		l.ended = bytes.HasSuffix(line, []byte("\n"))
		l.line = append(l.line, line[:min(len(line), max(0, maxErrorBytes-len(l.line)))]...)
	}
	return len(p), nil
}
