// Goclient goes through BigQuery's official Go library step by step and prints
// what each step gave, one JSON object a line. It is told where BigQuery is by
// the environment that "trailgate run" sets. Package e2e runs it with and
// without a gateway; it is a module of its own so that the library stays out of
// Trailgate's.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"cloud.google.com/go/bigquery"
	"golang.org/x/oauth2"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "goclient:", err)
		os.Exit(1)
	}
}

// step is one thing that a program does with the library.
type step struct {
	name string
	do   func(context.Context, *bigquery.Client) (any, error)
}

var steps = []step{
	{"query", query},
	{"parameters", parameters},
	{"types", types},
	{"datasets", datasets},
	{"result pages", resultPages},
	{"dml", dml},
	{"destination", destination},
	{"load multipart", loadMultipart},
	{"load resumable", loadResumable},
	{"insert all", insertAll},
	{"tables", tables},
	{"pages", pages},
	{"dry run", dryRun},
	{"error", failing},
	{"no such table", missing},
	{"bad token", badToken},
	{"denied", denied},
}

func run(ctx context.Context) error {
	token := oauth2.StaticTokenSource(&oauth2.Token{AccessToken: os.Getenv("TRAILGATE_TOKEN")})
	client, err := bigquery.NewClient(ctx, os.Getenv("GOOGLE_CLOUD_PROJECT"), option.WithEndpoint(os.Getenv("TRAILGATE_GATEWAY")+"/bigquery/v2/"), option.WithTokenSource(token))
	if err != nil {
		return err
	}
	defer client.Close()
	out := json.NewEncoder(os.Stdout)
	if sql := os.Getenv("TRAILGATE_STATEMENT"); sql != "" {
		steps = []step{{"statement", func(ctx context.Context, c *bigquery.Client) (any, error) { return change(ctx, c, sql) }}}
	}
	for _, s := range steps {
		line := map[string]any{"step": s.name}
		if line["value"], err = s.do(ctx, client); err != nil {
			delete(line, "value")
			line["error"] = told(err)
		}
		if err := out.Encode(line); err != nil {
			return err
		}
	}
	return nil
}

// told is an error as a program sees it.
func told(err error) map[string]any {
	var api *googleapi.Error
	if errors.As(err, &api) && len(api.Errors) > 0 {
		return map[string]any{"code": api.Code, "reason": api.Errors[0].Reason, "message": api.Message}
	}
	return map[string]any{"message": err.Error()}
}

// rows reads a result to its end, values as text.
func rows(it *bigquery.RowIterator) ([][]string, error) {
	var out [][]string
	for {
		var values []bigquery.Value
		err := it.Next(&values)
		if errors.Is(err, iterator.Done) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		var row []string
		for _, v := range values {
			row = append(row, fmt.Sprint(v))
		}
		out = append(out, row)
	}
}

func query(ctx context.Context, c *bigquery.Client) (any, error) {
	it, err := c.Query("SELECT batch_id, COUNT(*) AS n FROM staging.imports GROUP BY batch_id ORDER BY batch_id").Read(ctx)
	if err != nil {
		return nil, err
	}
	return rows(it)
}

func parameters(ctx context.Context, c *bigquery.Client) (any, error) {
	q := c.Query("SELECT name FROM analytics.customers WHERE customer_id = @id")
	q.Parameters = []bigquery.QueryParameter{{Name: "id", Value: 7}}
	it, err := q.Read(ctx)
	if err != nil {
		return nil, err
	}
	return rows(it)
}

// everyType has a value of each type that the sandbox can make up.
const everyType = `SELECT 7 AS i, 1.5 AS f, NUMERIC '1.25' AS n, TRUE AS b, 'grün "quoted"' AS s, b'\x00\xff' AS y, DATE '2026-11-23' AS d,
 TIME '12:34:56.789' AS t, DATETIME '2026-11-23 12:34:56' AS dt, TIMESTAMP '2026-11-23 12:34:56.789+00' AS ts, [1, 2, 3] AS a,
 CAST(NULL AS STRING) AS nothing`

func types(ctx context.Context, c *bigquery.Client) (any, error) {
	it, err := c.Query(everyType).Read(ctx)
	if err != nil {
		return nil, err
	}
	return rows(it)
}

func datasets(ctx context.Context, c *bigquery.Client) (any, error) {
	var names []string
	for it := c.Datasets(ctx); ; {
		d, err := it.Next()
		if errors.Is(err, iterator.Done) {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		names = append(names, d.DatasetID)
	}
}

// resultPages reads a query's result of 1,000 rows, 150 at a time.
func resultPages(ctx context.Context, c *bigquery.Client) (any, error) {
	job, err := c.Query("SELECT customer_id, name FROM analytics.customers ORDER BY customer_id").Run(ctx)
	if err != nil {
		return nil, err
	}
	it, err := job.Read(ctx)
	if err != nil {
		return nil, err
	}
	it.PageInfo().MaxSize = 150
	got, err := rows(it)
	return len(got), err
}

// badToken asks with a token that nobody issued.
func badToken(ctx context.Context, _ *bigquery.Client) (any, error) {
	token := oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "tgt_" + strings.Repeat("0", 49)})
	c, err := bigquery.NewClient(ctx, os.Getenv("GOOGLE_CLOUD_PROJECT"), option.WithEndpoint(os.Getenv("TRAILGATE_GATEWAY")+"/bigquery/v2/"), option.WithTokenSource(token))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Dataset("staging").Metadata(ctx)
}

func dml(ctx context.Context, c *bigquery.Client) (any, error) {
	return change(ctx, c, "DELETE FROM staging.imports WHERE batch_id = 42")
}

// change runs a statement as a job, waits for it, and tells how many rows it changed.
func change(ctx context.Context, c *bigquery.Client, sql string) (any, error) {
	job, err := c.Query(sql).Run(ctx)
	if err != nil {
		return nil, err
	}
	status, err := job.Wait(ctx)
	if err != nil {
		return nil, err
	}
	if err := status.Err(); err != nil {
		return nil, err
	}
	return status.Statistics.Details.(*bigquery.QueryStatistics).NumDMLAffectedRows, nil
}

func destination(ctx context.Context, c *bigquery.Client) (any, error) {
	q := c.Query("SELECT id, amount FROM staging.imports WHERE batch_id = 43")
	q.Dst = c.Dataset("staging").Table("copy1")
	it, err := q.Read(ctx)
	if err != nil {
		return nil, err
	}
	got, err := rows(it)
	return len(got), err
}

func load(ctx context.Context, table *bigquery.Table, csv string, media ...googleapi.MediaOption) (any, error) {
	src := bigquery.NewReaderSource(strings.NewReader(csv))
	src.SkipLeadingRows = 1
	src.Schema = bigquery.Schema{{Name: "a", Type: bigquery.IntegerFieldType}, {Name: "b", Type: bigquery.StringFieldType}}
	loader := table.LoaderFrom(src)
	loader.MediaOptions = media
	job, err := loader.Run(ctx)
	if err != nil {
		return nil, err
	}
	status, err := job.Wait(ctx)
	if err != nil {
		return nil, err
	}
	if err := status.Err(); err != nil {
		return nil, err
	}
	return status.Statistics.Details.(*bigquery.LoadStatistics).OutputRows, nil
}

// loadMultipart sends little: metadata and data go in one request.
func loadMultipart(ctx context.Context, c *bigquery.Client) (any, error) {
	return load(ctx, c.Dataset("staging").Table("small"), "a,b\n1,one\n2,two\n")
}

// loadResumable sends more than a chunk: the library begins an upload and sends
// the data in three pieces.
func loadResumable(ctx context.Context, c *bigquery.Client) (any, error) {
	var b strings.Builder
	b.WriteString("a,b\n")
	for i := range 6000 {
		fmt.Fprintf(&b, "%d,%s\n", i, strings.Repeat("x", 100))
	}
	return load(ctx, c.Dataset("staging").Table("large"), b.String(), googleapi.ChunkSize(googleapi.MinUploadChunkSize))
}

func insertAll(ctx context.Context, c *bigquery.Client) (any, error) {
	type row struct {
		A int
		B string
	}
	if err := c.Dataset("staging").Table("small").Inserter().Put(ctx, []*row{{3, "three"}, {4, "four"}}); err != nil {
		return nil, err
	}
	return 2, nil
}

func tables(ctx context.Context, c *bigquery.Client) (any, error) {
	var names []string
	for it := c.Dataset("staging").Tables(ctx); ; {
		t, err := it.Next()
		if errors.Is(err, iterator.Done) {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		names = append(names, t.TableID)
	}
}

// pages reads a table of 1,000 rows, 300 at a time.
func pages(ctx context.Context, c *bigquery.Client) (any, error) {
	it := c.Dataset("analytics").Table("customers").Read(ctx)
	it.PageInfo().MaxSize = 300
	got, err := rows(it)
	return len(got), err
}

func dryRun(ctx context.Context, c *bigquery.Client) (any, error) {
	q := c.Query("SELECT * FROM analytics.orders")
	q.DryRun = true
	job, err := q.Run(ctx)
	if err != nil {
		return nil, err
	}
	return job.LastStatus().Statistics.TotalBytesProcessed > 0, nil
}

func failing(ctx context.Context, c *bigquery.Client) (any, error) {
	return c.Query("SELECT nonsense FROM staging.imports").Read(ctx)
}

func missing(ctx context.Context, c *bigquery.Client) (any, error) {
	return c.Dataset("staging").Table("no_such_table").Metadata(ctx)
}

// denied asks in a project that the gateway has no connection for.
func denied(ctx context.Context, c *bigquery.Client) (any, error) {
	return c.DatasetInProject("other-project", "staging").Table("imports").Metadata(ctx)
}
