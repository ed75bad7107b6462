package sandbox

import (
	"strconv"
	"strings"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// benchDataset is there in every project, unlisted: its tables rows_1 to
// rows_100000000000 have as many rows as their names say, computed when asked for.
// They make big answers cheap: tabledata.list, and queries that are just
// SELECT * FROM bench.rows_N, write them without SQLite, which runs all others.
const benchDataset = "bench"

const maxBenchRows = 100_000_000_000

var benchColumns = []googlesql.Column{
	{Name: "id", Type: "INTEGER"}, {Name: "name", Type: "STRING"}, {Name: "amount", Type: "FLOAT"}, {Name: "note", Type: "STRING"},
}

// benchRows computes the rows of a table of that many.
type benchRows int64

func (n benchRows) columns() []googlesql.Column { return benchColumns }
func (n benchRows) count() int64                { return int64(n) }
func (n benchRows) appendRow(dst []byte, i int64, _ timestampFormat) []byte {
	dst = append(dst, `{"f":[{"v":"`...)
	dst = strconv.AppendInt(dst, i, 10)
	dst = append(dst, `"},{"v":"customer `...)
	dst = strconv.AppendInt(dst, i%9973, 10)
	dst = append(dst, ` of the north"},{"v":"`...)
	dst = strconv.AppendInt(dst, i%1000, 10)
	return append(dst, `.25"},{"v":"paid in full, delivered on time"}]}`...)
}

// benchSQL is the same, for SQLite.
func benchSQL(n int64) string {
	limit := strconv.FormatInt(n, 10)
	return "(WITH RECURSIVE bench(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM bench LIMIT " + limit + ") " +
		"SELECT i AS id, 'customer ' || (i % 9973) || ' of the north' AS name, i % 1000 + 0.25 AS amount, 'paid in full, delivered on time' AS note FROM bench)"
}

// benchTable gives the computed table of a name; nil for all others.
func benchTable(n googlesql.Name) *table {
	digits, ok := strings.CutPrefix(n.Table, "rows_")
	if n.Dataset != benchDataset || !ok {
		return nil
	}
	rows, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || rows < 1 || rows > maxBenchRows || strconv.FormatInt(rows, 10) != digits {
		return nil
	}
	return &table{name: n, columns: benchColumns, rows: rows, bytes: rows * 75, generated: rows, resource: object{"description": "computed rows for benchmarks"}}
}
