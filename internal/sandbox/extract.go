package sandbox

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/csv"
	"encoding/json"
	"strings"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// exportFormat is how rows become a file.
type exportFormat struct {
	json      bool
	gzip      bool
	header    bool
	delimiter rune
}

// prepareExtract checks an extract's configuration and gives the work of its
// job.
func (s *Sandbox) prepareExtract(j *job, cfg object) (func(context.Context) error, error) {
	if j.dryRun {
		return nil, unsupported("dry runs of extract jobs")
	}
	name := nameFrom(sub(cfg, "sourceTable"), j.project)
	if name.Table == "" {
		return nil, fail("required", "Required parameter is missing: sourceTable")
	}
	uris := texts(cfg, "destinationUris")
	if u := str(cfg, "destinationUri"); u != "" && len(uris) == 0 {
		uris = []string{u}
	}
	if len(uris) != 1 {
		return nil, unsupported("extract jobs to %d URIs; give one", len(uris))
	}
	f := exportFormat{header: boolean(cfg, true, "printHeader"), delimiter: ','}
	switch v := strings.ToUpper(str(cfg, "destinationFormat")); v {
	case "", "CSV":
	case "NEWLINE_DELIMITED_JSON":
		f.json = true
	default:
		return nil, unsupported("extract jobs to %s", v)
	}
	switch v := strings.ToUpper(str(cfg, "compression")); v {
	case "", "NONE":
	case "GZIP":
		f.gzip = true
	default:
		return nil, unsupported("extract jobs with the compression %s", v)
	}
	if d := str(cfg, "fieldDelimiter"); d != "" {
		f.delimiter = delimiterOf(d)
	}
	return func(ctx context.Context) error {
		t, err := s.catalog.tableLocked(name)
		if err != nil {
			return err
		}
		if t.storage == "" {
			return fail("invalid", "Cannot extract %s: it is a %s", tableID(name), strings.ToLower(t.kind()))
		}
		rows, rerr := s.engine.read(ctx, t, t.columns, 0, t.rows, maxObjectBytes)
		if rerr != nil {
			return rerr
		}
		if err := s.export(uris[0], f, t.columns, rows); err != nil {
			return err
		}
		s.jobs.mu.Lock()
		defer s.jobs.mu.Unlock()
		j.statistics = object{"destinationUriFileCounts": []any{"1"}, "inputBytes": decimal(t.bytes)}
		return nil
	}, nil
}

func delimiterOf(d string) rune {
	if strings.EqualFold(d, "tab") || d == `\t` {
		return '\t'
	}
	return []rune(d)[0]
}

// export writes rows to an object. A "*" in the address becomes the number of
// the file, of which there is one.
func (s *Sandbox) export(uri string, f exportFormat, cols []googlesql.Column, rows [][]any) *apiError {
	var b bytes.Buffer
	if f.json {
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		for _, row := range rows {
			if err := enc.Encode(jsonRow(cols, row)); err != nil {
				return fail("internalError", "encode a row: %s", err)
			}
		}
	} else if err := writeCSV(&b, f, cols, rows); err != nil {
		return err
	}
	data := b.Bytes()
	if f.gzip {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		z.Write(data) // into memory: does not fail
		z.Close()
		data = packed.Bytes()
	}
	return s.objects.put(strings.Replace(uri, "*", "000000000000", 1), data)
}

func writeCSV(b *bytes.Buffer, f exportFormat, cols []googlesql.Column, rows [][]any) *apiError {
	w := csv.NewWriter(b)
	w.Comma = f.delimiter
	rec := make([]string, len(cols))
	for i, c := range cols {
		if c.Mode == "REPEATED" || c.Type == "RECORD" {
			return fail("invalid", "Operation cannot be performed on a nested schema. Field: %s", c.Name)
		}
		rec[i] = c.Name
	}
	if f.header {
		w.Write(rec) // the writer keeps its first error
	}
	for _, row := range rows {
		for i, c := range cols {
			rec[i] = plainText(c, row[i])
		}
		w.Write(rec)
	}
	w.Flush()
	if err := w.Error(); err != nil {
		return fail("invalid", "write CSV: %s", err)
	}
	return nil
}

// exportData runs EXPORT DATA.
func (x *execution) exportData(ctx context.Context, o *outcome) error {
	f := exportFormat{delimiter: ','}
	uri, overwrite := "", false
	for name, v := range o.plan.Options {
		text, _ := v.(string)
		switch name {
		case "uri":
			uri = text
		case "format":
			switch strings.ToUpper(text) {
			case "CSV":
			case "JSON":
				f.json = true
			default:
				return unsupported("EXPORT DATA in the format %s", text)
			}
		case "overwrite":
			overwrite, _ = v.(bool)
		case "header":
			f.header, _ = v.(bool)
		case "field_delimiter":
			if text != "" {
				f.delimiter = delimiterOf(text)
			}
		case "compression":
			if f.gzip = strings.EqualFold(text, "GZIP"); !f.gzip {
				return unsupported("EXPORT DATA with the compression %s", text)
			}
		default:
			return unsupported("the option %s of EXPORT DATA", name)
		}
	}
	if !validURI(uri) || strings.Count(uri, "*") != 1 {
		return fail("invalid", "EXPORT DATA needs the option uri, of the form gs://bucket/name-*.csv")
	}
	if _, _, err := x.s.objects.match(uri); err == nil && !overwrite {
		return fail("invalid", "Invalid EXPORT DATA option: there are files at %s already; set overwrite = true", uri)
	}
	r, err := x.fetch(ctx, o.plan.Query, o.plan.Query.SQL)
	if err != nil {
		return err
	}
	if err := x.s.export(uri, f, r.cols, r.rows); err != nil {
		return err
	}
	o.exported = []int64{1, int64(len(r.rows))}
	return nil
}

// prepareCopy checks a copy's configuration and gives the work of its job.
func (s *Sandbox) prepareCopy(j *job, cfg object) (func(context.Context) error, error) {
	if j.dryRun {
		return nil, unsupported("dry runs of copy jobs")
	}
	l, err := landingOf(cfg, j.project, "WRITE_EMPTY")
	if err != nil {
		return nil, err
	}
	var names []googlesql.Name
	if one := sub(cfg, "sourceTable"); one != nil {
		names = append(names, nameFrom(one, j.project))
	}
	for _, e := range list(cfg, "sourceTables") {
		o, _ := e.(object)
		names = append(names, nameFrom(o, j.project))
	}
	if len(names) == 0 {
		return nil, fail("required", "Required parameter is missing: sourceTable")
	}
	return func(ctx context.Context) error {
		var cols []googlesql.Column
		var rows [][]any
		var size int64
		for i, n := range names {
			t, err := s.catalog.tableLocked(n)
			if err != nil {
				return err
			}
			if t.storage == "" {
				return fail("invalid", "%s is not a table that can be copied", tableID(n))
			}
			if i == 0 {
				cols = t.columns
			}
			for _, c := range cols {
				if other, ok := column(t.columns, c.Name); !ok || other.Type != c.Type || len(t.columns) != len(cols) {
					return fail("invalid", "Cannot copy tables with different schemas: %s", tableID(n))
				}
			}
			more, rerr := s.engine.read(ctx, t, cols, 0, t.rows, maxObjectBytes)
			if rerr != nil {
				return rerr
			}
			rows = append(rows, more...)
			size += t.bytes
		}
		t, err := s.storeRows(ctx, l, cols, rows)
		if err != nil {
			return err
		}
		s.jobs.mu.Lock()
		defer s.jobs.mu.Unlock()
		j.destination = t.name
		j.statistics = object{"copiedRows": decimal(len(rows)), "copiedLogicalBytes": decimal(size)}
		return nil
	}, nil
}
