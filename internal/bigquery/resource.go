package bigquery

import (
	"fmt"
	"slices"
	"strings"

	"github.com/trailgate/trailgate"
)

// same holds a reference in the body to the names in the path: a body that
// speaks of another resource could be judged as one and done as the other.
func (c *Call) same(reference string) *Error {
	ref := c.tree.get(reference)
	if !ref.present() {
		return nil
	}
	for _, m := range ref.members {
		if want := c.vars["{"+m.name+"}"]; want != "" && m.value.str() != "" && m.value.str() != want {
			return invalid("%s.%s %q is not the one in the path", reference, clip(m.name, 64), clip(m.value.str(), 64))
		}
	}
	return nil
}

func (c *Call) readTable() *Error {
	t := c.tree
	if err := c.same("tableReference"); err != nil {
		return err
	}
	if c.Table == "" {
		c.Table = t.get("tableReference", "tableId").str()
		if c.Table != "" {
			c.Written = union(c.Written, []string{tableName(c.Project, c.Dataset, c.Table)})
		}
	}
	for _, view := range []string{"view", "materializedView"} {
		v := t.get(view)
		if sql := v.get("query"); sql.present() {
			// Of views, legacy SQL is the API's default.
			legacy, err := v.truth("useLegacySql", view == "view")
			if err != nil {
				return err
			}
			c.definition(view+".query", sql.str(), legacy && view == "view", scope{project: c.Project})
		}
		c.functions(view+".", v)
	}
	if ext := t.get("externalDataConfiguration"); ext.present() {
		c.classed(classExport)
		c.flag("external_tables")
		c.strings(ext.get("sourceUris"))
		c.to(ext.get("hivePartitioningOptions", "sourceUriPrefix"))
	}
	if lake := t.get("biglakeConfiguration"); lake.present() {
		c.classed(classExport)
		c.flag("external_tables")
		c.to(lake.get("storageUri"))
	}
	if src := c.ref(t.get("tableReplicationInfo", "sourceTable")); src != "" {
		c.Read = union(c.Read, []string{src})
	}
	return nil
}

// functions notes the code of user-defined functions beside a query.
func (c *Call) functions(where string, n *node) {
	for i, f := range list(n.get("userDefinedFunctionResources")) {
		if code := f.get("inlineCode").str(); code != "" {
			c.Statements = append(c.Statements, Statement{Where: fmt.Sprintf("%suserDefinedFunctionResources[%d].inlineCode", where, i), Text: code, Dialect: "javascript"})
		}
		if uri := f.get("resourceUri").str(); uri != "" {
			c.Destinations = union(c.Destinations, []string{uri})
			c.flag("code_from_uri")
		}
	}
}

// to notes a string as a place that data or code comes from or goes to.
func (c *Call) to(n *node) { c.Destinations = union(c.Destinations, refs(n.str())) }

// definition keeps SQL that a call stores rather than runs: what it names is
// noted as read, but of what it does only that counts which outlives the call.
func (c *Call) definition(where, sql string, legacy bool, sc scope) {
	keep, kind, written := c.Classes, c.StatementType, c.Written
	c.Classes, c.Written = nil, nil
	c.statement(where, sql, legacy, "", sc)
	stored := c.Classes
	c.Read = union(c.Read, c.Written)
	c.Classes, c.StatementType, c.Written = keep, kind, written
	c.classed()
	for _, k := range stored {
		if outlives(k) {
			c.classed(k)
		}
	}
}

// expression keeps SQL that is no statement.
func (c *Call) expression(where, sql string) {
	c.Statements = append(c.Statements, Statement{Where: where, Text: sql, Dialect: "googlesql"})
	s := readExpression(sql, scope{project: c.Project})
	c.found(s)
	c.classed(slices.DeleteFunc(s.classes, func(k trailgate.Class) bool { return !outlives(k) })...)
	if strings.ContainsFunc(sql, bidi) {
		c.flag("bidi_in_statement")
	}
}

func (c *Call) readDataset() *Error {
	t := c.tree
	if err := c.same("datasetReference"); err != nil {
		return err
	}
	if c.Dataset == "" {
		c.Dataset = t.get("datasetReference", "datasetId").str()
	}
	// A PUT without the list sets it to none.
	if access := t.get("access"); access != nil || c.Method == "bigquery.datasets.update" {
		c.classed(classAccess)
		for _, a := range list(access) {
			for _, kind := range []string{"userByEmail", "groupByEmail", "domain", "specialGroup", "iamMember"} {
				c.to(a.get(kind))
			}
			c.Read = union(c.Read, refs(c.ref(a.get("view"))))
		}
	}
	if link := t.get("linkedDatasetSource"); link.present() {
		c.classed(classExport)
		src := link.get("sourceDataset")
		c.Destinations = union(c.Destinations, refs(tableName(src.get("projectId").str(), src.get("datasetId").str())))
	}
	if ext := t.get("externalDatasetReference"); ext.present() {
		c.classed(classExport)
		c.to(ext.get("externalSource"))
	}
	return nil
}

func (c *Call) readRoutine() *Error {
	t := c.tree
	if err := c.same("routineReference"); err != nil {
		return err
	}
	if c.Routine == "" {
		c.Routine = t.get("routineReference", "routineId").str()
	}
	language := strings.ToLower(orElse(t.get("language").str(), "SQL"))
	function := strings.HasSuffix(t.get("routineType").str(), "_FUNCTION")
	if code := t.get("definitionBody").str(); code != "" {
		switch {
		case language != "sql":
			c.Statements = append(c.Statements, Statement{Where: "definitionBody", Text: code, Dialect: language})
		case function:
			c.expression("definitionBody", code)
		default: // a procedure, or what may be one
			c.definition("definitionBody", code, false, scope{project: c.Project})
		}
	}
	if remote := t.get("remoteFunctionOptions"); remote.present() {
		c.classed(classExport)
		c.flag("remote_function")
		c.to(remote.get("endpoint"))
	}
	if spark := t.get("sparkOptions"); spark.present() {
		c.classed(classExport)
		c.flag("spark")
		c.to(spark.get("mainFileUri"))
		c.to(spark.get("containerImage"))
		for _, uris := range []string{"archiveUris", "fileUris", "jarUris", "pyFileUris"} {
			c.strings(spark.get(uris))
		}
	}
	if outside := t.get("externalRuntimeOptions", "runtimeConnection"); outside.present() {
		c.classed(classExport)
		c.flag("remote_function")
		c.to(outside)
	}
	c.strings(t.get("importedLibraries"))
	return nil
}

func (c *Call) readPolicy() *Error {
	if err := c.same("rowAccessPolicyReference"); err != nil {
		return err
	}
	if p := c.tree.get("filterPredicate").str(); p != "" {
		c.expression("filterPredicate", p)
	}
	c.strings(c.tree.get("grantees"))
	return nil
}

// readBindings notes whom an IAM policy names.
func (c *Call) readBindings() {
	for _, b := range list(c.tree.get("policy", "bindings")) {
		c.strings(b.get("members"))
	}
}
