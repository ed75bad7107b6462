package sandbox

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// media is the data that came with an upload.
type media struct {
	contentType string
	data        []byte
}

// Bounds of a load job.
const (
	maxLoadCells = 40_000_000
	maxLoadBytes = 1 << 30 // of one file, unpacked
)

// loader is a load job on its way.
type loader struct {
	s       *Sandbox
	j       *job
	cfg     object
	land    *landing
	media   *media
	columns []googlesql.Column // those given; nil for none
	rows    [][]any
	bad     []*apiError
	files   int
	bytes   int64
}

// prepareLoad checks a load's configuration and gives the work of its job.
func (s *Sandbox) prepareLoad(j *job, cfg object, m *media) (func(context.Context) error, error) {
	if j.dryRun {
		return nil, unsupported("dry runs of load jobs")
	}
	l := &loader{s: s, j: j, cfg: cfg, media: m}
	var err *apiError
	if l.land, err = landingOf(cfg, j.project, "WRITE_APPEND"); err != nil {
		return nil, err
	}
	if schema := sub(cfg, "schema"); len(list(schema, "fields")) > 0 {
		if l.columns, err = columnsOf(schema); err != nil {
			return nil, err
		}
	}
	switch f := strings.ToUpper(str(cfg, "sourceFormat")); f {
	case "", "CSV", "NEWLINE_DELIMITED_JSON":
	default:
		return nil, unsupported("load jobs from %s", f)
	}
	switch e := strings.ToUpper(str(cfg, "encoding")); e {
	case "", "UTF-8":
	default:
		return nil, unsupported("load jobs with the encoding %s", e)
	}
	uris := texts(cfg, "sourceUris")
	switch {
	case m == nil && len(uris) == 0:
		return nil, fail("required", "Required parameter is missing: sourceUris")
	case m != nil && len(uris) > 0:
		return nil, fail("invalid", "A load job reads an upload or sourceUris, not both")
	}
	return l.run, nil
}

func (l *loader) run(ctx context.Context) error {
	sources, err := l.sources()
	if err != nil {
		return err
	}
	old, _ := l.s.catalog.tableLocked(l.land.table) // not there: nil
	if l.columns == nil && !boolean(l.cfg, false, "autodetect") {
		if old == nil || len(old.columns) == 0 {
			return fail("invalid", "No schema specified on job or table.")
		}
		l.columns = old.columns
	} else if l.columns == nil && old != nil && len(old.columns) > 0 && l.land.write != "WRITE_TRUNCATE" {
		l.columns = old.columns
	}
	for _, data := range sources {
		if err := ctx.Err(); err != nil {
			return fail("stopped", "Job execution was cancelled: User requested cancellation")
		}
		l.files++
		l.bytes += int64(len(data))
		data, err := unpack(data)
		if err != nil {
			return err
		}
		if strings.EqualFold(str(l.cfg, "sourceFormat"), "NEWLINE_DELIMITED_JSON") {
			err = l.readJSON(data)
		} else {
			err = l.readCSV(data)
		}
		if err != nil {
			return err
		}
	}
	return l.finish(ctx)
}

// sources gives the files to load.
func (l *loader) sources() ([][]byte, error) {
	if l.media != nil {
		return [][]byte{l.media.data}, nil
	}
	var all [][]byte
	for _, uri := range texts(l.cfg, "sourceUris") {
		_, data, err := l.s.objects.match(uri)
		if err != nil {
			return nil, err
		}
		all = append(all, data...)
	}
	return all, nil
}

// unpack undoes gzip, which is known by its first bytes.
func unpack(data []byte) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		return data, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fail("invalid", "Error while reading data: %s", err)
	}
	out, err := io.ReadAll(io.LimitReader(z, maxLoadBytes+1))
	if err != nil {
		return nil, fail("invalid", "Error while reading data: %s", err)
	}
	if len(out) > maxLoadBytes {
		return nil, fail("invalid", "Error while reading data: the file unpacks to more than %d bytes", maxLoadBytes)
	}
	return out, nil
}

// reject notes a bad record, and ends the job where there are too many.
func (l *loader) reject(format string, row int, err *apiError) *apiError {
	e := *err
	e.message = "Error while reading data, error message: " + format + " table encountered a bad row " + strconv.Itoa(row) + ": " + err.message
	l.bad = append(l.bad, &e)
	allowed, _ := integer(l.cfg, "maxBadRecords")
	if int64(len(l.bad)) <= allowed {
		return nil
	}
	l.s.jobs.mu.Lock()
	l.j.warnings = l.bad
	l.s.jobs.mu.Unlock()
	return fail("invalid", "Error while reading data, error message: %s processing encountered too many errors, giving up. Rows: %d; errors: %d; max bad: %d; error percent: 0. Last: %s",
		format, row, len(l.bad), allowed, err.message)
}

func (l *loader) keep(row []any) *apiError {
	l.rows = append(l.rows, row)
	if len(l.rows)*len(row) > maxLoadCells {
		return fail("quotaExceeded", "The sandbox loads %d cells at most in one job", maxLoadCells)
	}
	return nil
}

// readCSV reads one file of comma-separated values (RFC 4180).
func (l *loader) readCSV(data []byte) error {
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))))
	r.FieldsPerRecord, r.ReuseRecord = -1, false
	if d := str(l.cfg, "fieldDelimiter"); d != "" {
		if strings.EqualFold(d, "tab") || d == `\t` {
			d = "\t"
		}
		if len([]rune(d)) != 1 {
			return fail("invalid", "Invalid fieldDelimiter %q", d)
		}
		r.Comma = []rune(d)[0]
	}
	switch q, given := l.cfg["quote"]; {
	case !given, q == `"`, q == nil:
	default:
		return unsupported("the quote character %v", q)
	}
	skip, skipGiven := integer(l.cfg, "skipLeadingRows")
	var records [][]string
	for {
		rec, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fail("invalid", "Error while reading data, error message: %s", err)
		}
		records = append(records, rec)
	}
	var header []string
	switch {
	case skip > 0 && int64(len(records)) >= skip:
		header, records = records[skip-1], records[skip:]
	case skip > 0:
		records = nil
	}
	if l.columns == nil {
		if header == nil && !skipGiven && looksLikeHeader(records) {
			header, records = records[0], records[1:]
		}
		l.columns = detectCSV(header, records)
	} else if header == nil && !skipGiven && boolean(l.cfg, false, "autodetect") && looksLikeHeader(records) {
		records = records[1:]
	}
	null, hasNull := l.cfg["nullMarker"].(string)
	for i, rec := range records {
		row, err := l.csvRow(rec, null, hasNull)
		if err != nil {
			if err := l.reject("CSV", i+1, err); err != nil {
				return err
			}
			continue
		}
		if err := l.keep(row); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) csvRow(rec []string, null string, hasNull bool) ([]any, *apiError) {
	switch {
	case len(rec) > len(l.columns) && !boolean(l.cfg, false, "ignoreUnknownValues"):
		return nil, fail("invalid", "Too many values in row. Found %d column(s) while expecting %d.", len(rec), len(l.columns))
	case len(rec) < len(l.columns) && !boolean(l.cfg, false, "allowJaggedRows"):
		return nil, fail("invalid", "Too few values in row. Found %d column(s) while expecting %d.", len(rec), len(l.columns))
	}
	row := make([]any, len(l.columns))
	for i, c := range l.columns {
		if c.Mode == "REPEATED" || c.Type == "RECORD" {
			return nil, fail("invalid", "CSV cannot hold the nested field %s", c.Name)
		}
		if i >= len(rec) || hasNull && rec[i] == null || rec[i] == "" && (c.Type != "STRING" || hasNull && null == "") {
			if c.Mode == "REQUIRED" {
				return nil, fail("invalid", "Required column value for column %s is missing", c.Name)
			}
			continue
		}
		v, err := fromText(c.Type, rec[i])
		if err != nil {
			return nil, fail("invalid", "Could not parse '%s' as %s for field %s (position %d)", rec[i], sqlType(c.Type), c.Name, i)
		}
		row[i] = v
	}
	return row, nil
}

// looksLikeHeader: the first row is all text, and some other isn't.
func looksLikeHeader(records [][]string) bool {
	if len(records) == 0 {
		return false
	}
	for _, v := range records[0] {
		if detect(v) != "STRING" {
			return false
		}
	}
	for _, rec := range records[1:min(len(records), 100)] {
		for _, v := range rec {
			if v != "" && detect(v) != "STRING" {
				return true
			}
		}
	}
	return false
}

// detect guesses the type of a text.
func detect(v string) string {
	for _, typ := range []string{"INTEGER", "FLOAT", "DATE", "TIMESTAMP"} {
		if typ == "DATE" && len(v) > 10 || typ == "TIMESTAMP" && len(v) < 8 {
			continue
		}
		if _, err := fromText(typ, v); err == nil {
			return typ
		}
	}
	if strings.EqualFold(v, "true") || strings.EqualFold(v, "false") {
		return "BOOLEAN"
	}
	return "STRING"
}

// widen gives a type for values of two.
func widen(a, b string) string {
	switch {
	case a == "" || a == b:
		return b
	case a == "INTEGER" && b == "FLOAT", a == "FLOAT" && b == "INTEGER":
		return "FLOAT"
	case a == "DATE" && b == "TIMESTAMP", a == "TIMESTAMP" && b == "DATE":
		return "TIMESTAMP"
	}
	return "STRING"
}

func detectCSV(header []string, records [][]string) []googlesql.Column {
	width := len(header)
	for _, rec := range records {
		width = max(width, len(rec))
	}
	cols := make([]googlesql.Column, width)
	for i := range cols {
		cols[i].Name = ""
		if i < len(header) {
			cols[i].Name = columnName(header[i])
		}
		if cols[i].Name == "" {
			letter := "string"
			cols[i].Name = letter + "_field_" + strconv.Itoa(i)
		}
		for _, rec := range records {
			if i < len(rec) && rec[i] != "" {
				cols[i].Type = widen(cols[i].Type, detect(rec[i]))
			}
		}
		if cols[i].Type == "" {
			cols[i].Type = "STRING"
		}
	}
	return cols
}

// columnName makes a legal name of a CSV header.
func columnName(s string) string {
	var b strings.Builder
	for _, r := range strings.TrimSpace(s) {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			b.WriteRune(r)
		} else {
			b.WriteByte('_')
		}
	}
	name := b.String()
	if name != "" && name[0] >= '0' && name[0] <= '9' {
		name = "_" + name
	}
	return name
}

// readJSON reads one file of JSON objects, one a line.
func (l *loader) readJSON(data []byte) error {
	var records []object
	var order []string
	known := map[string]bool{}
	n := 0
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		n++
		o, err := decodeObject(line)
		if err != nil {
			if err := l.reject("JSON", n, err); err != nil {
				return err
			}
			continue
		}
		records = append(records, o)
		if l.columns == nil {
			for _, name := range memberNames(line) {
				if !known[name] {
					known[name] = true
					order = append(order, name)
				}
			}
		}
	}
	if l.columns == nil {
		cols, err := detectJSON(order, records)
		if err != nil {
			return err
		}
		l.columns = cols
	}
	for i, o := range records {
		row, err := recordRow(l.columns, o, boolean(l.cfg, false, "ignoreUnknownValues"))
		if err != nil {
			if err := l.reject("JSON", i+1, err); err != nil {
				return err
			}
			continue
		}
		if err := l.keep(row); err != nil {
			return err
		}
	}
	return nil
}

// memberNames lists an object's names in their order, which a map loses.
func memberNames(line []byte) []string {
	var names []string
	d := json.NewDecoder(bytes.NewReader(line))
	if _, err := d.Token(); err != nil {
		return nil
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return names
		}
		name, _ := t.(string)
		names = append(names, name)
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			return names
		}
	}
	return names
}

func detectJSON(order []string, records []object) ([]googlesql.Column, *apiError) {
	cols := make([]googlesql.Column, 0, len(order))
	for _, name := range order {
		c := googlesql.Column{Name: name}
		for _, o := range records {
			v := o[name]
			if l, ok := v.([]any); ok {
				c.Mode = "REPEATED"
				for _, e := range l {
					c.Type = widen(c.Type, detectValue(e))
				}
			} else if v != nil {
				c.Type = widen(c.Type, detectValue(v))
			}
		}
		if c.Type == "RECORD" {
			return nil, unsupported("autodetection of nested records (%s); give a schema", name)
		}
		if c.Type == "" {
			c.Type = "STRING"
		}
		cols = append(cols, c)
	}
	return cols, nil
}

func detectValue(v any) string {
	switch v := v.(type) {
	case bool:
		return "BOOLEAN"
	case json.Number:
		return detect(v.String())
	case string:
		if t := detect(v); t == "DATE" || t == "TIMESTAMP" {
			return t
		}
		return "STRING"
	}
	return "RECORD"
}

// finish stores the rows and notes the statistics.
func (l *loader) finish(ctx context.Context) error {
	t, err := l.s.storeRows(ctx, l.land, l.columns, l.rows)
	if err != nil {
		return err
	}
	var size int64
	for _, r := range l.rows {
		for _, v := range r {
			size += sizeOf(v)
		}
	}
	l.s.jobs.mu.Lock()
	defer l.s.jobs.mu.Unlock()
	l.j.destination, l.j.warnings = t.name, l.bad
	l.j.statistics = object{
		"inputFiles": decimal(l.files), "inputFileBytes": decimal(l.bytes), "outputRows": decimal(len(l.rows)), "outputBytes": decimal(size), "badRecords": decimal(len(l.bad)),
	}
	return nil
}
