// Package discovery holds Google's discovery document for the BigQuery API v2:
// what clients such as bq fetch before their first call, and the list of
// methods that Trailgate must know how to class.
//
// The document is an unchanged copy of the one in the Go module
// google.golang.org/api (bigquery/v2/bigquery-api.json), embedded in the
// binary. A test holds the copy to the module, so that a newer API cannot
// arrive unnoticed; `go generate` renews it.
package discovery

import (
	"bytes"
	_ "embed"
	"encoding/json"
)

//go:generate go run copy.go

//go:embed bigquery-v2.json
var document []byte

// Addresses that the document gives for the service; For puts another root in
// their place.
const (
	googleRoot     = `"rootUrl": "https://bigquery.googleapis.com/"`
	googleBase     = `"baseUrl": "https://bigquery.googleapis.com/bigquery/v2/"`
	googleMTLSRoot = `"mtlsRootUrl": "https://bigquery.mtls.googleapis.com/"`
	servicePath    = "bigquery/v2/"
)

// Document returns the document byte for byte as Google publishes it. The
// slice is the caller's own.
func Document() []byte { return bytes.Clone(document) }

// Revision returns the document's revision, a date such as "20261009".
func Revision() string {
	var d struct {
		Revision string `json:"revision"`
	}
	// The document is a compile-time constant that a test reads whole; where it
	// did not parse, there would be no revision to speak of.
	_ = json.Unmarshal(document, &d)
	return d.Revision
}

// For returns the document of a service that lives at root, such as
// "https://gateway.example:8470/": rootUrl, baseUrl and mtlsRootUrl name it,
// servicePath and everything else stay Google's. A slash is added to root
// where it lacks one. It copies some 600 kB a call; callers keep the result.
func For(root string) []byte {
	if len(root) == 0 || root[len(root)-1] != '/' {
		root += "/"
	}
	doc := bytes.Clone(document)
	for _, r := range []struct{ old, name, address string }{
		{googleRoot, "rootUrl", root},
		{googleBase, "baseUrl", root + servicePath},
		{googleMTLSRoot, "mtlsRootUrl", root},
	} {
		quoted, err := json.Marshal(r.address)
		if err != nil {
			// Marshalling a string cannot fail; invalid UTF-8 is replaced.
			continue
		}
		doc = bytes.Replace(doc, []byte(r.old), []byte(`"`+r.name+`": `+string(quoted)), 1)
	}
	return doc
}
