package bundle

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/export"
)

// list says what is in the bundle behind its fixed members, in the order of names.
func (m *Maker) list(ctx context.Context) error {
	add := func(name string, write func(ctx context.Context, w io.Writer) error) {
		m.contents = append(m.contents, content{name: name, write: write})
	}
	text := func(s string) func(ctx context.Context, w io.Writer) error {
		return func(_ context.Context, w io.Writer) error {
			_, err := io.WriteString(w, s)
			return err
		}
	}
	add(trailgate.BundleEntries, m.writeEntries)
	for _, sha := range m.blobs {
		add(trailgate.BundleBlobs+sha, m.writeBlob(sha))
	}
	for _, sha := range m.evidence {
		add(trailgate.BundleIdentity+sha+".json", m.writeBlob(sha))
	}
	for _, b := range m.bodies {
		opening, _, err := m.rows.Opening(ctx, b.key, b.address)
		if err != nil {
			why := m.q.Absent(err)
			if why == "" {
				return fmt.Errorf("bundle: %w", err)
			}
			m.absent = append(m.absent, b.address+" "+why+"\n")
			continue
		}
		add(trailgate.BundleRows+b.address+".body", func(ctx context.Context, w io.Writer) error { return m.writeBody(ctx, b, w) })
		add(trailgate.BundleRows+b.address+".opening", text(opening+"\n"))
	}
	if len(m.absent) > 0 {
		add(trailgate.BundleAbsentRows, text(strings.Join(m.absent, "")))
	}
	add(trailgate.BundleOCSF, m.writeOCSF)
	add(trailgate.BundleHTML, func(ctx context.Context, w io.Writer) error { return m.writeReport(ctx, w, (*export.Report).HTML) })
	add(trailgate.BundleMarkdown, func(ctx context.Context, w io.Writer) error { return m.writeReport(ctx, w, (*export.Report).Markdown) })
	slices.SortFunc(m.contents, func(a, b content) int { return cmp.Compare(a.name, b.name) })
	return nil
}

func (m *Maker) writeEntries(ctx context.Context, w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	for _, seq := range m.q.Seqs {
		raw, err := m.t.Get(ctx, seq)
		if err != nil {
			return err
		}
		_, _ = out.Write(raw) // the writer keeps its error
		if err := out.WriteByte('\n'); err != nil {
			return err
		}
	}
	return out.Flush()
}

func (m *Maker) writeBlob(sha string) func(ctx context.Context, w io.Writer) error {
	return func(ctx context.Context, w io.Writer) error {
		raw, err := m.t.GetBlob(ctx, sha)
		if err == nil {
			_, err = w.Write(raw)
		}
		return err
	}
}

func (m *Maker) writeBody(ctx context.Context, b recorded, w io.Writer) error {
	r, err := m.rows.Open(ctx, b.key, b.address)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}

func (m *Maker) writeOCSF(ctx context.Context, w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	err := m.eachCall(ctx, func(c export.Call) error {
		line, err := export.OCSF(c, m.q.Origin)
		if err != nil {
			return err
		}
		_, _ = out.Write(line) // the writer keeps its error
		return out.WriteByte('\n')
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

func (m *Maker) writeReport(ctx context.Context, w io.Writer, form func(*export.Report, io.Writer) error) error {
	r := &export.Report{Origin: m.q.Origin, Title: m.title()}
	if m.q.Statements {
		r.Text = func(sha string) (string, error) {
			raw, err := m.t.GetBlob(ctx, sha)
			return string(raw), err
		}
	}
	if err := m.eachCall(ctx, func(c export.Call) error { r.Add(c); return nil }); err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, 64<<10)
	if err := form(r, out); err != nil {
		return err
	}
	return out.Flush()
}

func (m *Maker) title() string {
	switch {
	case m.q.Range != nil:
		return fmt.Sprintf("every entry from %d to %d", m.q.Range[0], m.q.Range[1])
	case m.q.Filter == "":
		return "all calls and events"
	}
	return "the calls and events that match: " + m.q.Filter
}
