package admin

// OpenAPI is the document that is served.
func OpenAPI() []byte { return openAPI }

// Route is an operation that is served.
type Route struct {
	Method, Path string
	Query        []string
	Open         bool
}

// Routes are all of them.
func (a *API) Routes() []Route {
	var list []Route
	for _, r := range a.routes {
		list = append(list, Route{r.method, r.path, r.query, r.open})
	}
	return list
}

// TilePath tells what is served as a tile.
func TilePath(path string) bool { return tilePath(path) }

// MatchPath is the router's comparison.
func MatchPath(template, path string) (map[string]string, bool) { return matchPath(template, path) }

// Clip cuts texts for entries.
func Clip(s string, n int) string { return clip(s, n) }

// Bounds, for tests.
const (
	MaxFollowers = maxFollowers
	MaxBodyBytes = maxBodyBytes
)

// Theirs are an agent's own calls among rows.
var Theirs = theirs
