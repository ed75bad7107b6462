package config

import (
	"fmt"
	"path"
	"time"
)

// The recording levels; each holds what the one before does, and more. Writes are
// never recorded below [RecordingRequest].
const (
	RecordingMetadata = "metadata" // who, what, when, which tables, how much
	RecordingRequest  = "request"  // the statement and its parameters
	RecordingResults  = "results"  // the rows that went back
)

// What is done with a column's values before rows are stored.
const (
	RedactDrop = "drop" // nothing is left but that there was something
	RedactHash = "hash" // the same values have the same HMAC, under a key of the connection
	RedactKeep = "keep"
)

// ConnectionRecording is how much of a connection's calls is recorded, where the rule
// that lets a call go does not say.
type ConnectionRecording struct {
	// Level is one of the Recording constants. Default "request".
	Level string `yaml:"level"`
	// MaxBytes is how much of one answer's rows is stored. Default 32MiB. Beyond it
	// rows are counted and hashed, and the entry says that it is truncated.
	MaxBytes Bytes `yaml:"max_bytes"`
}

// Recording is how rows are kept, and for how long.
type Recording struct {
	// KeyDir holds the keys that rows are encrypted under, a file for each connection
	// and month. Deleting one erases its rows. Default: recording-keys in DataDir; on
	// another volume, a backup of the data does not bring back what was erased.
	KeyDir Path `yaml:"key_dir"`
	// Redact is tried from the top; the first that fits a column decides.
	Redact    []Redact  `yaml:"redact"`
	Retention Retention `yaml:"retention"`
}

// Redact says what is done with values before rows are stored.
type Redact struct {
	// Connections, Tables and Columns are globs, in any case of letters; a rule needs
	// all that it names to fit. A column in a RECORD is "record.column". Tables are
	// those that the statement reads; a result's columns have the names that the
	// statement gives them.
	Connections []string `yaml:"connections"`
	Tables      []string `yaml:"tables"`
	Columns     []string `yaml:"columns"`
	Action      string   `yaml:"action"` // one of the Redact constants; required
}

// Retention says how long what is recorded at a level is kept, from the end of the month
// that it was stored in. Entries, with what the levels metadata and request put into
// them, are the log: they cannot be erased, and have no period.
type Retention struct {
	// Results is for recorded rows. Default 0: for ever.
	Results time.Duration `yaml:"results"`
}

func defaultConnectionRecording() ConnectionRecording {
	return ConnectionRecording{Level: RecordingRequest, MaxBytes: 32 << 20}
}

// Bounds of recordings.
const (
	maxRedact    = 1_000
	maxRecorded  = 1 << 30
	maxRetention = 100 * 365 * 24 * time.Hour
)

func (d *decoder) recording(c *Config) {
	for i, conn := range c.Connections {
		key := fmt.Sprintf("connections[%d].recording", i)
		d.oneOf(key+".level", conn.Recording.Level, RecordingMetadata, RecordingRequest, RecordingResults)
		d.size(key+".max_bytes", conn.Recording.MaxBytes, 1<<10, maxRecorded)
	}
	if len(c.Recording.Redact) > maxRedact {
		d.invalid("recording.redact", "%d rules; at most %d", len(c.Recording.Redact), maxRedact)
	}
	for i, r := range c.Recording.Redact {
		key := fmt.Sprintf("recording.redact[%d]", i)
		d.oneOf(key+".action", r.Action, RedactDrop, RedactHash, RedactKeep)
		if len(r.Columns) == 0 {
			d.invalid(key+".columns", `missing; name the columns, or "*" for all`)
		}
		for name, patterns := range map[string][]string{"connections": r.Connections, "tables": r.Tables, "columns": r.Columns} {
			for j, p := range patterns {
				if _, err := path.Match(p, "x"); err != nil || p == "" {
					d.invalid(fmt.Sprintf("%s.%s[%d]", key, name, j), "%q: want a name, with * for any characters", p)
				}
			}
		}
	}
	d.between("recording.retention.results", c.Recording.Retention.Results, 0, maxRetention)
}
