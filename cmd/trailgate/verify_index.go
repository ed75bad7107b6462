package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/trail"
)

// indexCheck compares the search index of a data directory with its log.
func indexCheck(dir, key string, progress func(done, total uint64)) func(context.Context) (*trail.IndexReport, error) {
	return func(ctx context.Context) (*trail.IndexReport, error) {
		at := filepath.Join(dir, indexName)
		if _, err := os.Stat(at); os.IsNotExist(err) {
			return &trail.IndexReport{Absent: true}, nil
		}
		found, err := index.Check(ctx, at, func(ctx context.Context) (index.Source, error) {
			return trail.OpenReader(ctx, dir, key)
		}, index.CheckOptions{Progress: progress})
		if err != nil {
			return nil, err
		}
		r := &trail.IndexReport{
			Absent: found.Absent, Entries: found.Entries, Behind: found.Behind,
			Files: found.Files, Rows: found.Rows, Terms: found.Terms,
		}
		if d := found.Bad; d != nil {
			where := ""
			if d.Table != "" {
				where = fmt.Sprintf("table %s, %s: ", d.Table, d.Row)
			}
			r.Bad = &trail.Bad{Seq: d.Seq, Place: d.File, Reason: fmt.Sprintf(
				"the search index does not say what the log says: %s%s", where, d.Reason)}
		}
		return r, nil
	}
}
