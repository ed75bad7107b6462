package bigquery

// Kinds are the statement types that the package may give.
var Kinds = kinds
