package sandbox

import (
	"strconv"
	"strings"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// informationSchema gives INFORMATION_SCHEMA.SCHEMATA of a project, or TABLES
// and COLUMNS of a dataset, as a query of constants, and JOBS_BY_PROJECT (also
// as JOBS) of a region.
func (x *execution) informationSchema(n googlesql.Name, view string) (string, error) {
	p, ok := x.s.catalog.projects[n.Project]
	if !ok {
		return "", notFound("Project", n.Project)
	}
	var head []string
	var rows [][]string
	x.changing = true
	switch view {
	case "JOBS", "JOBS_BY_PROJECT":
		return x.jobsView(x.s.ctx, n)
	case "SCHEMATA":
		head = []string{"catalog_name", "schema_name", "schema_owner", "location"}
		for _, d := range sortedDatasets(p) {
			rows = append(rows, []string{quoteText(p.id), quoteText(d.id), "NULL", quoteText(str(d.resource, "location"))})
		}
	case "TABLES", "COLUMNS":
		if n.Dataset == "" {
			return "", fail("invalid", "INFORMATION_SCHEMA.%s must be qualified with a dataset", view)
		}
		d, err := x.s.catalog.datasetLocked(n.Project, n.Dataset)
		if err != nil {
			return "", err
		}
		head = []string{"table_catalog", "table_schema", "table_name", "table_type"}
		if view == "COLUMNS" {
			head = []string{"table_catalog", "table_schema", "table_name", "column_name", "ordinal_position", "is_nullable", "data_type"}
		}
		for _, t := range sortedTables(d) {
			id := []string{quoteText(p.id), quoteText(d.id), quoteText(t.name.Table)}
			if view == "TABLES" {
				kind := "BASE TABLE"
				if t.view != "" {
					kind = "VIEW"
				}
				rows = append(rows, append(id, quoteText(kind)))
				continue
			}
			for i, c := range t.columns {
				nullable := "YES"
				if c.Mode == "REQUIRED" {
					nullable = "NO"
				}
				typ := sqlType(c.Type)
				if c.Mode == "REPEATED" {
					typ = "ARRAY<" + typ + ">"
				}
				rows = append(rows, append(id[:3:3], quoteText(c.Name), strconv.Itoa(i+1), quoteText(nullable), quoteText(typ)))
			}
		}
	default:
		return "", unsupported("INFORMATION_SCHEMA.%s", view)
	}
	var b strings.Builder
	b.WriteString("(WITH info(" + strings.Join(head, ", ") + ") AS (")
	for _, r := range rows {
		b.WriteString("SELECT " + strings.Join(r, ", ") + " UNION ALL ")
	}
	// A last row that is never there, so that an empty list is a query too.
	b.WriteString("SELECT " + strings.TrimSuffix(strings.Repeat("NULL, ", len(head)), ", ") + " WHERE 0) SELECT * FROM info)")
	return b.String(), nil
}
