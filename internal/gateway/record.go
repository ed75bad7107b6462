package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
)

// How much of a call stands in the entry itself. Entries are at most 64 KiB,
// and JSON may make a byte six; what is longer goes to blobs.
const (
	maxInline      = 8 << 10 // one statement or parameter list, bytes
	maxInlineTotal = 16 << 10
	maxNames       = 200     // tables or destinations in a list
	maxNameBytes   = 8 << 10 // all names of a list together
	maxStatements  = 32
	maxLabels      = 64
)

// describe fills in what the classification told.
func describe(e *trailgate.Entry, c *bigquery.Call) {
	e.Method, e.Class, e.Project, e.Location = c.Method, c.Class, clip(c.Project, 256), clip(c.Location, 64)
	if len(c.Classes) > 1 {
		e.Classes = c.Classes
	}
	e.Request.Verb, e.Request.DryRun, e.Request.RequestID = c.Verb, c.DryRun, clip(c.RequestID, 64)
	if c.Path != "" {
		e.Request.Path = clip(c.Path, 2048) // cleaned: what may be secret was refused or taken out
	}
	if c.Job != nil {
		job := *c.Job
		e.Job = &job
	}
	if c.StatementType != "" {
		e.StatementType = &trailgate.StatementType{Local: c.StatementType}
	}
	e.Tables = tables(c.Read, c.Written)
	dest, more := bounded(c.Destinations)
	e.Destinations = dest
	if more > 0 {
		e.Flags = append(e.Flags, "destinations_omitted")
	}
	if len(c.Labels)+len(c.DroppedLabels) > 0 {
		if e.Claims == nil {
			e.Claims = &trailgate.Claims{}
		}
		e.Claims.Labels, e.Claims.DroppedLabels = boundedLabels(c.Labels), boundedLabels(c.DroppedLabels)
	}
	for _, f := range c.Flags {
		if !slices.Contains(e.Flags, f) {
			e.Flags = append(e.Flags, f)
		}
	}
}

func tables(read, written []string) *trailgate.Tables {
	r, more1 := bounded(read)
	w, more2 := bounded(written)
	if len(r)+len(w) == 0 {
		return nil
	}
	return &trailgate.Tables{Read: r, Written: w, Omitted: int64(more1 + more2)}
}

// bounded keeps as many names as an entry has room for and counts the rest.
func bounded(names []string) (kept []string, more int) {
	total := 0
	for i, n := range names {
		n = clip(n, 1200)
		total += len(n)
		if i >= maxNames || total > maxNameBytes {
			return kept, len(names) - i
		}
		kept = append(kept, n)
	}
	return kept, 0
}

func boundedLabels(in map[string]string) map[string]string {
	if len(in) == 0 {
		return nil
	}
	out := map[string]string{}
	for k, v := range in {
		if len(out) < maxLabels {
			out[clip(k, 64)] = clip(v, 64)
		}
	}
	return out
}

// fit puts the call's statements into the entry: the short ones as they are,
// the long ones as durable blobs that the entry names by hash. Blobs are on
// disk before the entry that names them; a crash between the two leaves a blob
// that nothing names, which harms nothing.
func (g *Gateway) fit(ctx context.Context, e *trailgate.Entry, c *bigquery.Call) error {
	if c != nil {
		if err := g.statements(ctx, e, c); err != nil {
			return err
		}
	}
	if surelyFits(e) {
		return nil
	}
	_, err := e.Prepare()
	if !errors.Is(err, trailgate.ErrTooLarge) {
		return err
	}
	// Escapes made it too long after all: everything of any length moves out.
	for i := range e.Statements {
		if err := g.moveOut(ctx, &e.Statements[i]); err != nil {
			return err
		}
	}
	if e.Tables != nil {
		e.Tables.Omitted += int64(len(e.Tables.Read) + len(e.Tables.Written))
		e.Tables.Read, e.Tables.Written = nil, nil
	}
	e.Destinations = nil
	e.Flags = append(e.Flags, "names_omitted")
	_, err = e.Prepare()
	return err
}

// surelyFits spares most entries an encoding for the sake of their size: what a
// client can make long is short enough even if every byte of it became six.
func surelyFits(e *trailgate.Entry) bool {
	const rest = 16 << 10 // all else, each part of which is clipped
	n := 0
	for _, s := range e.Statements {
		n += len(s.Where) + len(s.Text) + len(s.Parameters) + 256
	}
	if e.Tables != nil {
		for _, names := range [][]string{e.Tables.Read, e.Tables.Written} {
			for _, name := range names {
				n += len(name) + 3
			}
		}
	}
	for _, d := range e.Destinations {
		n += len(d) + 3
	}
	if e.Claims != nil {
		for _, labels := range []map[string]string{e.Claims.Labels, e.Claims.DroppedLabels} {
			for k, v := range labels {
				n += len(k) + len(v) + 6
			}
		}
	}
	return rest+6*n <= trailgate.MaxEntryBytes
}

func (g *Gateway) statements(ctx context.Context, e *trailgate.Entry, c *bigquery.Call) error {
	if textless(e) {
		for _, s := range c.Statements[:min(len(c.Statements), maxStatements)] {
			st := statement(s.Where, s.Text)
			st.Text, st.Dialect = "", s.Dialect
			e.Statements = append(e.Statements, st)
		}
		return nil
	}
	if len(c.Statements) > maxStatements {
		// A call may carry hundreds of bodies; they are kept whole, as one blob.
		raw, err := json.Marshal(c.Statements)
		if err != nil {
			return fmt.Errorf("encode statements: %w", err)
		}
		st := statement("*", string(raw))
		e.Statements = []trailgate.Statement{st}
		return g.moveOut(ctx, &e.Statements[0])
	}
	total := 0
	for _, s := range c.Statements {
		st := statement(s.Where, s.Text)
		st.Dialect, st.Parameters = s.Dialect, s.Parameters
		total += len(s.Text) + len(s.Parameters)
		if len(s.Text) > maxInline || len(s.Parameters) > maxInline || total > maxInlineTotal {
			if err := g.moveOut(ctx, &st); err != nil {
				return err
			}
		}
		e.Statements = append(e.Statements, st)
	}
	return nil
}

func statement(where, text string) trailgate.Statement {
	sum := sha256.Sum256([]byte(text))
	return trailgate.Statement{Where: where, Text: text, SHA256: hex.EncodeToString(sum[:]), Length: int64(len(text))}
}

// moveOut stores a statement's text and parameters as blobs.
func (g *Gateway) moveOut(ctx context.Context, s *trailgate.Statement) error {
	if s.Text != "" {
		sum, err := g.cfg.Trail.PutBlob(ctx, []byte(s.Text))
		if err != nil {
			return fmt.Errorf("store statement: %w", err)
		}
		s.Text, s.Blob = "", sum
	}
	if s.Parameters != "" {
		sum, err := g.cfg.Trail.PutBlob(ctx, []byte(s.Parameters))
		if err != nil {
			return fmt.Errorf("store parameters: %w", err)
		}
		s.Parameters, s.ParametersBlob = "", sum
	}
	return nil
}
