package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
)

// What becomes of a hostile request.
const (
	refused  = "refused"  // an entry of its own, and nothing upstream
	denied   = "denied"   // the same, for what could be read
	stranger = "stranger" // counted, since nobody knows whose it is
	plain    = "plain"    // no HTTP at all: the server itself says 400 and the like
	clean    = "clean"    // goes on, without what was odd about it
)

// attack is one request, byte for byte as it is sent.
type attack struct {
	name string
	raw  string
	fate string
	want int // status
}

// answered is what came back.
type answered struct {
	status int
	header http.Header
	body   string
}

const (
	base     = "/bigquery/v2/projects/demo-project"
	jobs     = base + "/jobs"
	datasets = base + "/datasets"
	selectOK = `{"configuration":{"query":{"query":"SELECT 1","useLegacySql":false}}}`
	jsonType = "Content-Type: application/json"
)

// message is a request with one credential. Headers are "Name: value" and come
// as they are.
func message(token, verb, target, body string, headers ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n", verb, target)
	if token != "" {
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", token)
	}
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	if body != "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	return b.String() + "\r\n" + body
}

// exchange sends bytes over a connection of their own and reads all answers,
// until the gateway hangs up.
func (r *rig) exchange(raw string) []answered {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(readyTimeout)); err != nil {
		r.t.Fatal(err)
	}
	// The gateway may answer, and hang up, before it has read it all; what it said is what counts.
	var sending sync.WaitGroup
	sending.Go(func() { _, _ = io.WriteString(conn, raw) })
	defer sending.Wait()
	defer conn.Close() // before the wait
	var all []answered
	for in := bufio.NewReader(conn); ; {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return all
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			r.t.Errorf("an answer broke off: %v", err)
		}
		all = append(all, answered{resp.StatusCode, resp.Header, string(body)})
		if resp.Close {
			return all
		}
	}
}

// checkShape holds an answer to BigQuery's form of errors.
func checkShape(t *testing.T, a answered) {
	t.Helper()
	var got struct {
		Error struct {
			Code    int
			Message string
			Status  string
			Errors  []struct{ Message, Domain, Reason string }
		}
	}
	dec := json.NewDecoder(strings.NewReader(a.body))
	err := dec.Decode(&got)
	e := got.Error
	if err != nil || dec.More() || e.Code != a.status || e.Message == "" || e.Status == "" || len(e.Errors) != 1 || e.Errors[0].Reason == "" || e.Errors[0].Message != e.Message {
		t.Errorf("this is no error as BigQuery has them: %d %v %q (%v)", a.status, a.header, a.body, err)
	}
	if !strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
		t.Errorf("the error is of type %q", a.header.Get("Content-Type"))
	}
}

func zipped(t *testing.T, parts ...string) string {
	t.Helper()
	var b bytes.Buffer
	for _, p := range parts { // a member each
		z := gzip.NewWriter(&b)
		if _, err := io.WriteString(z, p); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// chunks is a body in chunks, each with the same extension.
func chunks(ext string, parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&b, "%x%s\r\n%s\r\n", len(p), ext, p)
	}
	return b.String() + "0\r\n\r\n"
}

func attacks(t *testing.T, token string) []attack {
	t.Helper()
	var all []attack
	add := func(fate string, want int, name, raw string) { all = append(all, attack{name, raw, fate, want}) }
	get := func(fate string, want int, target string, headers ...string) {
		add(fate, want, strings.Join(append([]string{"GET " + target}, headers...), " "), message(token, "GET", target, "", headers...))
	}
	post := func(fate string, want int, name, body string, headers ...string) {
		add(fate, want, name, message(token, "POST", jobs, body, append(headers, jsonType)...))
	}

	// Doors and paths.
	for _, target := range []string{
		base + "/%2e%2e/demo-project/datasets", base + "/%2E%2e/demo-project/datasets", datasets + "/../jobs", datasets + "/./staging",
		base + "%2Fdatasets", datasets + "%2fstaging", datasets + "/staging%2Ftables%2Fimports", datasets + "/staging%5Ctables",
		"/bigquery/v2//projects/demo-project/datasets", base + "//datasets", datasets + "/", datasets + "//", datasets + "/%252e%252e",
		datasets + "/staging%00", datasets + "/staging%0d%0a", datasets + "/%c0%ae%c0%ae", datasets + "/staging;v=1", datasets + "/staging%3Fx", datasets + `/..\..\x`,
		datasets + "/%ff", "/bigquery/v2/",
	} {
		get(refused, 400, target)
	}
	for _, target := range []string{
		"/bigquery/v2", "/bigquery/v2.", "/bigquery/v2./projects/demo-project/datasets", "//bigquery/v2/projects/demo-project/datasets",
		"/BigQuery/v2/projects/demo-project/datasets", "/bigquery/V2/projects/demo-project/datasets", "/bigquery/v2/Projects/demo-project/datasets",
		base + "/Datasets", datasets + ".", "/x/../bigquery/v2/projects/demo-project/datasets", "/%62igquery/v2/projects/demo-project/datasets", "/bigquery/v1/projects/demo-project/datasets",
		"/bigquery/v2beta/projects", base + "/secrets", "/batch", "/batch/bigquery/v2", "/batch/bigquery/v2" + datasets, "/", "/projects/demo-project/datasets",
		"/google.cloud.bigquery.storage.v1.BigQueryRead/CreateReadSession", "/v1/projects/demo-project/locations/us/connections", "/v1/projects/demo-project/locations/us/transferConfigs", "/discovery/v1/apis", "/$discovery/rest?version=v1",
		"/discovery/v1/apis/bigquery/v2/rest/", "/upload" + datasets, "/resumable/upload" + datasets, "/storage/v1/b", "/oauth2/v4/token", "/computeMetadata/v1/instance",
	} {
		get(refused, 404, target)
	}
	add(refused, 404, "batch POST", message(token, "POST", "/batch/bigquery/v2", "--b\r\nContent-Type: application/http\r\n\r\nGET "+datasets+"\r\n--b--\r\n", "Content-Type: multipart/mixed; boundary=b"))
	get(refused, 404, datasets+"/staging./tables") // no dataset can have that name
	get(denied, 403, "/bigquery/v2/projects/DEMO-PROJECT/datasets")
	get(denied, 403, "/bigquery/v2/projects/demo-project./datasets")
	get(denied, 403, "/bigquery/v2/projects/somebody-elses/datasets")
	get(plain, 400, datasets+"/%zz")
	get(refused, 414, datasets+"/"+strings.Repeat("x", 5<<10))
	get(refused, 414, datasets+"?pageToken="+strings.Repeat("x", 20<<10))
	get(plain, 431, datasets, "X-Long: "+strings.Repeat("x", 80<<10))
	get(refused, 400, "http://bigquery.googleapis.com"+datasets)
	get(refused, 400, "https://bigquery.googleapis.com:443"+datasets)
	get(refused, 400, "http://gateway"+datasets)
	get(refused, 400, "mailto:x@example.com")
	get(refused, 404, "*")
	add(refused, 400, "CONNECT", message(token, "CONNECT", "bigquery.googleapis.com:443", ""))
	add(refused, 404, "OPTIONS *", message(token, "OPTIONS", "*", ""))
	for _, verb := range []string{"OPTIONS", "TRACE", "PROPFIND", "get", "PATCH", "M-SEARCH"} {
		add(refused, 405, verb+" datasets", message(token, verb, datasets, ""))
	}
	get(refused, 400, datasets, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
	get(refused, 400, datasets, "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")
	add(stranger, 401, "h2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	add(plain, 505, "HTTP/3.0", "GET "+datasets+" HTTP/3.0\r\nHost: x\r\n\r\n")

	// The verb that is not the verb.
	for _, verb := range []string{"DELETE", "PUT", "PATCH", "get", "POST", "GET, DELETE"} {
		add(refused, 400, "override "+verb, message(token, "POST", datasets+"/staging", "x=1", "X-HTTP-Method-Override: "+verb, "Content-Type: application/x-www-form-urlencoded"))
	}
	get(refused, 400, datasets+"/staging", "X-HTTP-Method-Override: DELETE")
	get(refused, 400, datasets+"/staging", "x-http-method-override: GET")
	post(refused, 400, "override of JSON", selectOK, "X-HTTP-Method-Override: GET")
	add(refused, 400, "two overrides", message(token, "POST", datasets, "x=1", "X-HTTP-Method-Override: GET", "X-HTTP-Method-Override: DELETE", "Content-Type: application/x-www-form-urlencoded"))
	add(refused, 400, "query twice", message(token, "POST", datasets+"?all=true", "all=false", "X-HTTP-Method-Override: GET", "Content-Type: application/x-www-form-urlencoded"))
	add(refused, 400, "form with a key", message(token, "POST", datasets, "key=AIza", "X-HTTP-Method-Override: GET", "Content-Type: application/x-www-form-urlencoded"))
	get(clean, 200, datasets+"/staging", "X-HTTP-Method: DELETE", "X-Method-Override: DELETE", "X-Original-URL: "+base+"/jobs", "X-Rewrite-URL: /admin")

	// The query.
	for _, q := range []string{
		"alt=media", "alt=csv", "alt=proto", "alt=JSON", "alt=json&alt=media", "alt=json&alt=json", "ALT=json", "callback=steal", "key=AIzaFORGED", "KEY=AIzaFORGED", "%6bey=AIzaFORGED",
		"access_token=ya29.FORGED", "Access_Token=ya29.FORGED", "oauth_token=ya29.FORGED", "bearer_token=ya29.FORGED", "access_token", "unknownThing=1", "_method=DELETE", "httpMethod=DELETE",
		"%zz=1", "%ff=1", "uploadType=media", "upload_id=x", "maxResults=1&maxResults=2",
		strings.Repeat("fields=x&", 70),
	} {
		get(refused, 400, datasets+"?"+q)
	}
	get(clean, 200, datasets+"?$.xgafv=1&alt=json&prettyPrint=false&quotaUser=x")
	get(clean, 200, datasets+"?maxResults=1;key=x") // one parameter with an odd value, and sent on as such
	add(refused, 400, "media upload", message(token, "POST", "/upload"+jobs+"?uploadType=media", "a,b\n"))

	// Who it is.
	other := strings.Replace(token, "tgt_", "tgx_", 1)
	for name, raw := range map[string]string{
		"no credential":       message("", "GET", datasets, ""),
		"two of them":         message(token, "GET", datasets, "", "Authorization: Bearer "+token),
		"two, one foreign":    message(token, "GET", datasets, "", "Authorization: Bearer ya29.FORGED"),
		"joined":              message("", "GET", datasets, "", "Authorization: Bearer "+token+", Bearer x"),
		"basic":               message("", "GET", datasets, "", "Authorization: Basic dXNlcjpwYXNz"),
		"no scheme":           message("", "GET", datasets, "", "Authorization: "+token),
		"tab":                 message("", "GET", datasets, "", "Authorization: Bearer\t"+token),
		"two spaces":          message("", "GET", datasets, "", "Authorization: Bearer  "+token),
		"flipped":             message(flip(token), "GET", datasets, ""),
		"other prefix":        message(other, "GET", datasets, ""),
		"cut":                 message(token[:len(token)-1], "GET", datasets, ""),
		"upper case":          message(strings.ToUpper(token), "GET", datasets, ""),
		"a Google token":      message("ya29.FORGED", "GET", datasets, ""),
		"a JWT of none":       message("eyJhbGciOiJub25lIn0.eyJzdWIiOiJib3NzIn0.", "GET", datasets, ""),
		"the upstream's":      message(upstreamToken, "GET", datasets, ""),
		"long":                message(strings.Repeat("x", 20<<10), "GET", datasets, ""),
		"in the query":        message("", "GET", datasets+"?access_token="+token, ""),
		"in a cookie":         message("", "GET", datasets, "", "Cookie: Authorization=Bearer "+token),
		"proxy authorization": message("", "GET", datasets, "", "Proxy-Authorization: Bearer "+token),
		"user info":           message("", "GET", "http://x:"+token+"@gateway"+datasets, ""),
		"admin path":          message("", "GET", "/api/v1/entries", ""),
	} {
		add(stranger, 401, "credential: "+name, raw)
	}
	get(clean, 200, datasets, forged...)
	get(clean, 200, datasets, "X-Goog-User-Project: a", "X-Goog-User-Project: b")
	get(plain, 400, datasets, "User-Agent: etl-bot\x1b[31m")
	get(refused, 400, datasets, "X-Goog-Request-Reason: a", "X-Goog-Request-Reason: b")
	add(clean, 200, "legacy host", strings.Replace(message(token, "GET", datasets, ""), "Host: gateway", "Host: www.googleapis.com", 1))
	add(clean, 200, "obs-fold", message("", "GET", datasets, "", "Authorization: Bearer", " "+token))

	// Where messages end.
	two := func(a, b string) string {
		return strings.Replace(message(token, "POST", jobs, "", jsonType, a, b), "Connection: close\r\n", "", 1)
	}
	add(plain, 400, "two lengths", two("Content-Length: 5", fmt.Sprint("Content-Length: ", len(selectOK)))+selectOK)
	add(plain, 400, "lengths in one", two("X-A: b", fmt.Sprintf("Content-Length: 5, %d", len(selectOK)))+selectOK)
	for _, n := range []string{"+5", "-1", "0x5", "5 5", "99999999999999999999", "1e3", "5,5"} {
		add(plain, 400, "length "+n, two("X-A: b", "Content-Length: "+n)+selectOK)
	}
	for _, te := range []string{"chunked, identity", "identity", "gzip, chunked", "xchunked", "chunked, chunked", "chunked;q=1"} {
		add(plain, 501, "transfer encoding "+te, two("X-A: b", "Transfer-Encoding: "+te)+chunks("", selectOK))
	}
	add(plain, 501, "two transfer encodings", two("Transfer-Encoding: chunked", "Transfer-Encoding: chunked")+chunks("", selectOK))
	add(plain, 400, "space before the colon", two("X-A: b", "Transfer-Encoding : chunked")+chunks("", selectOK))
	add(plain, 400, "no name", two("X-A: b", ": b"))
	add(plain, 400, "NUL in a value", two("X-A: b", "X-B: a\x00b"))
	add(plain, 400, "fold at once", "GET "+datasets+" HTTP/1.1\r\n Host: gateway\r\n\r\n")
	add(plain, 400, "no host", "GET "+datasets+" HTTP/1.1\r\nConnection: close\r\n\r\n")
	add(plain, 400, "two hosts", "GET "+datasets+" HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
	add(plain, 400, "no HTTP", "SSH-2.0-OpenSSH_9.9\r\n\r\n")
	add(plain, 400, "HTTP/0.9", "GET "+datasets+"\r\n\r\n")
	closing := "Connection: close\r\n"
	ending := strings.Replace(two("X-A: b", "Transfer-Encoding: chunked"), "X-A: b\r\n", closing, 1)
	add(clean, 200, "chunk extensions", ending+chunks(`;a=b;c="d"`, selectOK[:20], selectOK[20:]))
	add(clean, 200, "trailers", strings.TrimSuffix(ending+chunks("", selectOK), "\r\n")+"Authorization: Bearer "+flip(token)+"\r\nX-HTTP-Method-Override: DELETE\r\n\r\n")
	add(refused, 400, "many chunk extensions", ending+chunks(";"+strings.Repeat("x", 3000), strings.Split(selectOK, "")...))
	add(refused, 400, "chunk length of nonsense", ending+"zz\r\n"+selectOK+"\r\n0\r\n\r\n")
	add(refused, 400, "chunk length of 17 digits", ending+"11111111111111111\r\n"+selectOK+"\r\n0\r\n\r\n")
	add(refused, 400, "chunk longer than it says", ending+"5\r\n"+selectOK+"\r\n0\r\n\r\n")
	add(refused, 400, "bare LF in chunks", ending+strings.ReplaceAll(chunks(";x", selectOK), ";x\r\n", ";x\n"))
	get(clean, 200, datasets, "Content-Length: 0")
	add(refused, 400, "a GET with a body", message(token, "GET", datasets, selectOK, jsonType))
	add(refused, 400, "a DELETE with a body", message(token, "DELETE", datasets+"/nothing", selectOK, jsonType))

	// Bodies.
	q := func(inner string) string { return `{"configuration":{"query":{` + inner + `}}}` }
	drop := `"query":"DROP TABLE finance.payroll"`
	for name, body := range map[string]string{
		"duplicate key":          q(`"query":"SELECT 1",` + drop),
		"duplicate object":       `{"configuration":{"query":{"query":"SELECT 1"}},"configuration":{"query":{` + drop + `}}}`,
		"duplicate, escaped":     q(`"query":"SELECT 1","qu\u0065ry":"DROP TABLE finance.payroll"`),
		"duplicate, unknown":     q(`"query":"SELECT 1","zz":1,"zz":2`),
		"duplicate label":        `{"configuration":{"labels":{"a":"b","a":"c"},"query":{"query":"SELECT 1"}}}`,
		"case variant":           q(`"query":"SELECT 1","Query":"DROP TABLE finance.payroll"`),
		"case variant alone":     q(`"QUERY":"DROP TABLE finance.payroll"`),
		"case variant, Kelvin":   `{"configuration":{"query":{"query":"SELECT 1"}},"Configuration":{"query":{` + drop + `}}}`,
		"BOM":                    "\xef\xbb\xbf" + selectOK,
		"UTF-16":                 "\xff\xfe{\x00}\x00",
		"trailing object":        selectOK + `{"configuration":{"query":{` + drop + `}}}`,
		"trailing brace":         selectOK + "}",
		"trailing NUL":           selectOK + "\x00",
		"lone surrogate":         q(`"query":"SELECT '\ud800'"`),
		"lone surrogate in name": q(`"query":"SELECT 1","\udc00":1`),
		"surrogates reversed":    q(`"query":"SELECT '\udc00\ud800'"`),
		"invalid UTF-8":          q("\"query\":\"SELECT '\xff'\""),
		"overlong UTF-8":         q("\"query\":\"SELECT '\xc0\xaf'\""),
		"CESU-8":                 q("\"query\":\"SELECT '\xed\xa0\x80'\""),
		"depth 10,000":           `{"x":` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + `}`,
		"depth 10,000, objects":  strings.Repeat(`{"configuration":`, 10000) + "1" + strings.Repeat("}", 10000),
		"depth 10,000, no end":   strings.Repeat(`{"configuration":`, 10000),
		"deep schema":            `{"configuration":{"query":{"query":"SELECT 1","x":` + strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200) + `}}}`,
		"control character":      q("\"query\":\"SELECT\n1\""),
		"comment":                `{/* hello */"configuration":{"query":{"query":"SELECT 1"}}}`,
		"single quotes":          `{'configuration':{}}`,
		"trailing comma":         `{"configuration":{"query":{"query":"SELECT 1",}}}`,
		"NaN":                    q(`"query":"SELECT 1","maximumBytesBilled":NaN`),
		"leading zero":           q(`"query":"SELECT 1","maximumBytesBilled":012`),
		"an array":               "[" + selectOK + "]",
		"null":                   "null",
		"cut":                    selectOK[:len(selectOK)-1],
		"blanks":                 "   ",
		"two configurations":     `{"configuration":{"query":{"query":"SELECT 1"},"load":{"destinationTable":{"projectId":"demo-project","datasetId":"staging","tableId":"x"}}}}`,
		"no configuration":       `{}`,
		"job id with a path":     `{"jobReference":{"projectId":"demo-project","jobId":"../x"},"configuration":{"query":{"query":"SELECT 1"}}}`,
		"another project":        `{"jobReference":{"projectId":"somebody-elses"},"configuration":{"query":{"query":"SELECT 1"}}}`,
		"65 labels":              `{"configuration":{"labels":{` + manyLabels(65) + `},"query":{"query":"SELECT 1"}}}`,
	} {
		post(refused, 400, "body: "+name, body)
	}
	big := `{"configuration":{"query":{"query":"` + strings.Repeat("x", 11<<20) + `"}}}`
	post(refused, 413, "body of 11 MiB", big)
	add(refused, 413, "body of 11 MiB in chunks", ending+chunks("", big))

	// Encodings.
	gz := "Content-Encoding: gzip"
	post(clean, 200, "gzip", zipped(t, selectOK), gz)
	post(refused, 413, "gzip bomb", zipped(t, strings.Repeat("\x00", 64<<20)), gz)
	post(refused, 400, "gzip of gzip", zipped(t, zipped(t, selectOK)), gz)
	post(refused, 415, "gzip, gzip", zipped(t, zipped(t, selectOK)), "Content-Encoding: gzip, gzip")
	post(refused, 400, "gzip twice", zipped(t, zipped(t, selectOK)), gz, gz)
	post(refused, 400, "two members", zipped(t, selectOK[:20], selectOK[20:]), gz)
	post(refused, 400, "a member behind", zipped(t, selectOK, `{"x":1}`), gz)
	post(refused, 400, "gzip and more", zipped(t, selectOK)+"x", gz)
	post(refused, 400, "gzip cut", zipped(t, selectOK)[:30], gz)
	post(refused, 400, "no gzip", selectOK, gz)
	for _, enc := range []string{"deflate", "br", "zstd", "compress", "x-gzip", "identity, gzip"} {
		post(refused, 415, "encoding "+enc, selectOK, "Content-Encoding: "+enc)
	}

	// Multipart.
	upload := "/upload" + jobs + "?uploadType=multipart"
	load := `{"configuration":{"load":{"sourceFormat":"CSV","destinationTable":{"projectId":"demo-project","datasetId":"staging","tableId":"hostile"}}}}`
	multi := func(fate string, want int, name, body string, headers ...string) {
		headers = append(headers, `Content-Type: multipart/related; boundary="b"`)
		add(fate, want, "multipart: "+name, message(token, "POST", upload, body, headers...))
	}
	meta := "--b\r\nContent-Type: application/json\r\n\r\n" + load + "\r\n"
	media := "--b\r\nContent-Type: text/csv\r\n\r\na,b\r\n"
	multi(refused, 400, "no media", meta+"--b--\r\n")
	multi(refused, 400, "nothing", "--b--\r\n")
	multi(refused, 400, "empty", "x")
	multi(refused, 400, "media first", media+meta+"--b--\r\n")
	multi(refused, 400, "another boundary", strings.ReplaceAll(meta+media, "--b", "--c")+"--c--\r\n")
	multi(refused, 400, "encoded", zipped(t, meta+media+"--b--\r\n"), gz)
	multi(refused, 400, "part encoded", "--b\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n"+zipped(t, load)+"\r\n"+media+"--b--\r\n")
	multi(refused, 400, "part in base64", "--b\r\nContent-Type: application/json\r\nContent-Transfer-Encoding: base64\r\n\r\ne30=\r\n"+media+"--b--\r\n")
	multi(refused, 400, "part with an override", "--b\r\nContent-Type: application/json\r\nX-HTTP-Method-Override: DELETE\r\n\r\n"+load+"\r\n"+media+"--b--\r\n")
	multi(refused, 400, "part with two types", "--b\r\nContent-Type: application/json\r\nContent-Type: text/csv\r\n\r\n"+load+"\r\n"+media+"--b--\r\n")
	multi(refused, 400, "query in an upload", "--b\r\nContent-Type: application/json\r\n\r\n"+selectOK+"\r\n"+media+"--b--\r\n")
	multi(refused, 400, "duplicate key", strings.Replace(meta, `{"configuration"`, `{"configuration":{},"configuration"`, 1)+media+"--b--\r\n")
	for _, kind := range []string{"multipart/related", "multipart/mixed; boundary=b", "multipart/related; boundary=" + strings.Repeat("b", 71), `multipart/related; boundary=b; boundary=c`, "application/json"} {
		add(refused, 400, "multipart: of type "+kind, message(token, "POST", upload, meta+media+"--b--\r\n", "Content-Type: "+kind))
	}
	add(refused, 400, "multipart: two types", message(token, "POST", upload, meta+media+"--b--\r\n", "Content-Type: multipart/related; boundary=b", "Content-Type: multipart/related; boundary=c"))
	add(refused, 404, "chunk of no upload", message(token, "PUT", "/upload"+jobs+"?uploadType=resumable&upload_id=guess", "x", "Content-Range: bytes 0-0/1"))

	// The API for humans is not here, whatever it is called.
	for _, target := range []string{
		"/api/v1/entries", "/api/v1/agents", "/api/v1/healthz", "/api/v1/readyz", "/api/v1/metrics", "/api/v1/openapi.json", "/api/v1/log/checkpoint", "/api/v1/log/key",
		"/api/v1/log/tile/entries/000", "/api/v1/entries:follow", "/healthz", "/readyz", "/metrics", "/checkpoint", "/log/checkpoint", "/log/tile/entries/000", "/tile/entries/000.p/1", "/tile/0/000",
		"/debug/pprof/", "/debug/vars", "/admin", "/data/log.key", "/.well-known/trailgate", "/favicon.ico",
	} {
		get(refused, 404, target)
	}
	add(refused, 404, "make an agent", message(token, "POST", "/api/v1/agents", `{"name":"mallory"}`, jsonType))
	return all
}

// forged says of itself that it is somebody else.
var forged = []string{
	"X-Forwarded-For: 10.6.6.6", "X-Forwarded-Host: forged.example", "X-Forwarded-Proto: https", "X-Forwarded-User: boss", "X-Real-IP: 10.6.6.6", "Forwarded: for=10.6.6.6;host=forged.example",
	"X-Goog-User-Project: forged-project", "X-Goog-Authenticated-User-Email: accounts.google.com:forged@example.com", "X-Goog-Authenticated-User-Id: accounts.google.com:666",
	"X-Goog-Iap-Jwt-Assertion: forged", "X-Goog-Impersonate-Service-Account: forged@example.com", "X-Goog-Request-Reason: forged reason", "X-Trailgate-Entry: forged-entry", "X-Trailgate-Agent: analyst-bot",
	"Cookie: forged=1", "X-Remote-User: forged", "Proxy-Authorization: Basic Zm9yZ2Vk", "X-Goog-Api-Key: forged", "X-Original-Method: DELETE",
}

func manyLabels(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"l%d":"x"`, i))
	}
	return strings.Join(all, ",")
}

// flip changes one character in the middle of a token.
func flip(token string) string {
	at, by := len(token)/2, "a"
	if token[at] == 'a' {
		by = "b"
	}
	return token[:at] + by + token[at+1:]
}

// TestHostile sends what a hostile agent would. Nothing of it reaches BigQuery
// but what is clean, each is on record, and the answers tell nothing.
func TestHostile(t *testing.T) {
	r := newRig(t)
	token := r.token("etl-bot")
	var told []attack       // those that their answers name the entry of
	entries := []string{""} // of told
	fates := map[string]int{}
	all := attacks(t, token)
	for _, a := range all {
		before := len(r.box.arrivals())
		fates[a.fate]++
		t.Run(strings.ReplaceAll(clipName(a.name), "/", "|"), func(t *testing.T) {
			got := r.exchange(a.raw)
			if len(got) != 1 {
				t.Fatalf("%d answers instead of one: %.300v", len(got), got)
			}
			if got[0].status != a.want {
				t.Errorf("answered %d, want %d: %.500s", got[0].status, a.want, got[0].body)
			}
			switch {
			case a.fate == plain && strings.Contains(got[0].body, "{"):
				t.Errorf("answered in the form of the API: %s", got[0].body)
			case a.fate != plain && a.fate != clean:
				checkShape(t, got[0])
			}
			if n := len(r.box.arrivals()) - before; (a.fate == clean) != (n == 1) {
				t.Errorf("%d requests arrived at BigQuery", n)
			}
			for _, secret := range []string{token, upstreamToken, "trailgate/e2e", "log.key"} {
				if strings.Contains(got[0].body, secret) {
					t.Errorf("the answer has %q in it: %s", secret, got[0].body)
				}
			}
			entry := got[0].header.Get("X-Trailgate-Entry")
			if (entry != "") != (a.fate == refused || a.fate == denied || a.fate == clean) {
				t.Errorf("the entry is %q", entry)
			}
			if entry != "" {
				told, entries = append(told, a), append(entries, entry)
			}
		})
	}
	entries = entries[1:]
	r.strangers(fates[stranger])
	rows := r.calls()
	r.checkArrivals(rows)
	byID := map[string]index.Row{}
	for _, w := range rows {
		if w.Entry.Aggregate == nil {
			byID[w.Entry.ID] = w
		}
	}
	if len(byID) != fates[refused]+fates[denied]+fates[clean] {
		t.Errorf("%d calls have an entry, %d were refused, %d denied, %d clean", len(byID), fates[refused], fates[denied], fates[clean])
	}
	for i, a := range told {
		w, ok := byID[entries[i]]
		if !ok {
			t.Errorf("%s: there is no entry %s", clipName(a.name), entries[i])
			continue
		}
		e, kind := w.Entry, trailgate.Kind(a.fate)
		if a.fate == clean {
			kind = trailgate.KindIntent
		}
		if e.Kind != kind || e.Principal == nil || e.Principal.Agent != "etl-bot" || e.Session == "" || e.Request == nil || e.Outcome == nil || e.Outcome.Status != a.want {
			t.Errorf("%s: recorded as %s of %+v, outcome %+v, request %+v", clipName(a.name), e.Kind, e.Principal, e.Outcome, e.Request)
		}
		if kind != trailgate.KindIntent && (e.Decision == nil || e.Decision.Reason == "" || e.Outcome.ErrorReason == "" || e.Outcome.End != trailgate.EndRefused) {
			t.Errorf("%s: why it was refused is not on record: %+v %+v", clipName(a.name), e.Decision, e.Outcome)
		}
		if host, _, err := net.SplitHostPort(e.Client); err != nil || host != "127.0.0.1" {
			t.Errorf("%s: recorded as from %q", clipName(a.name), e.Client)
		}
	}
	for _, a := range r.box.arrivals() {
		for _, word := range []string{"forged", "10.6.6.6", "DELETE", "Override", "Cookie", "X-Original", "X-Rewrite", "Proxy-"} {
			if strings.Contains(a.raw, word) {
				t.Errorf("%q reached BigQuery:\n%s", word, a.raw)
			}
		}
	}
	checkSecrets(t, r)
	for _, word := range []string{"FORGED", "dXNlcjpwYXNz"} {
		if out := r.must("search", "-o", "jsonl", "--limit", "0"); strings.Contains(out, word) {
			t.Errorf("a credential from a query is in the trail: %q", word)
		}
	}
	for _, job := range r.box.box.Jobs() {
		if job.Labels["trailgate_agent"] != "etl-bot" {
			t.Errorf("job %s has the labels %v", job.ID, job.Labels)
		}
	}
	r.must("verify")
}

// strangers waits until so many calls of nobody are on record, and returns how
// many by reason.
func (r *rig) strangers(want int) map[string]int {
	r.t.Helper()
	var by map[string]int
	waitFor(r.t, readyTimeout, func() bool {
		by = map[string]int{}
		sum := 0
		for _, w := range r.search(`kind = "refused"`) {
			if a := w.Entry.Aggregate; a != nil {
				by[w.Entry.Decision.Reason] += int(a.Count)
				sum += int(a.Count)
				if !slices.Equal(a.Addresses, []string{"127.0.0.1"}) || w.Entry.Principal != nil && w.Entry.Principal.Agent != "" {
					r.t.Errorf("strangers are on record as %+v of %+v", a, w.Entry.Principal)
				}
			}
		}
		return sum >= want
	}, func() string { return fmt.Sprintf("%d calls without a credential are not counted: %v", want, by) })
	sum := 0
	for _, n := range by {
		sum += n
	}
	if sum != want {
		r.t.Errorf("%d calls of nobody are on record, there were %d: %v", sum, want, by)
	}
	return by
}

func clipName(s string) string {
	if len(s) > 90 {
		return s[:90] + "…"
	}
	return s
}

// TestSmuggling: where two parsers could disagree on where a request ends, what
// arrives at BigQuery is one for one what is on record, and the hidden request
// is either none or one like any other.
func TestSmuggling(t *testing.T) {
	r := newRig(t)
	token := r.token("etl-bot")
	keep := func(raw string) string { return strings.Replace(raw, "Connection: close\r\n", "", 1) }
	hidden := message("", "DELETE", datasets+"/finance?deleteContents=true", "")
	for name, raw := range map[string]string{
		"CL.TE":           keep(message(token, "POST", jobs, "", jsonType, "Content-Length: 400", "Transfer-Encoding: chunked")) + "0\r\n\r\n" + hidden,
		"CL.TE with body": keep(message(token, "POST", jobs, "", jsonType, "Content-Length: 5", "Transfer-Encoding: chunked")) + chunks("", selectOK) + hidden,
		"TE.CL":           keep(message(token, "POST", jobs, "", jsonType, "Transfer-Encoding: chunked", fmt.Sprint("Content-Length: ", len(selectOK)))) + selectOK + hidden,
		"CL.0":            keep(message(token, "GET", datasets, hidden)),
		"0.CL":            keep(message(token, "GET", datasets, "")) + hidden,
		"obs-fold":        keep(message(token, "POST", jobs, "", jsonType, "X-A: b", " Content-Length: 5")) + hidden,
		"bare CR":         keep(message(token, "POST", jobs, "", jsonType, "X-A: b\rContent-Length: 5")) + hidden,
		"in the target":   keep(message(token, "GET", datasets+" HTTP/1.1\r\nX-A: b", "")) + hidden,
		"in the query":    keep(message(token, "GET", datasets+"?pageToken=x%0d%0aX-HTTP-Method-Override:%20DELETE%0d%0a%0d%0a", "")) + hidden,
		"in a chunk":      keep(message(token, "POST", jobs, "", jsonType, "Transfer-Encoding: chunked")) + "5;x=\"\r\n" + hidden + "\"\r\n0\r\n\r\n",
		"in a trailer":    keep(message(token, "POST", jobs, "", jsonType, "Transfer-Encoding: chunked")) + "0\r\nContent-Length: 4\r\n\r\n" + hidden,
	} {
		// Another one that brings nothing has the gateway hang up at the end.
		got := r.exchange(raw + message("", "GET", datasets, ""))
		if len(got) == 0 || len(got) > 3 {
			t.Errorf("%s: %d answers", name, len(got))
		}
		for _, a := range got[min(1, len(got)):] {
			// The hidden request brought no credential, and the connection lends none.
			if a.status != 400 && a.status != 401 {
				t.Errorf("%s: the hidden request was answered: %d %s", name, a.status, a.body)
			}
		}
	}
	r.checkArrivals(r.calls())
	for _, a := range r.box.arrivals() {
		if a.verb == "DELETE" || strings.Contains(a.raw, "deleteContents") || strings.Contains(a.raw, "\nX-Http-Method-Override") {
			t.Errorf("a hidden request reached BigQuery:\n%s", a.raw)
		}
	}
	r.must("verify")
}

// TestThirdPart: what follows the two parts of an upload is only seen once the
// upload is under way. It is then broken off, has no effect, and is on record.
func TestThirdPart(t *testing.T) {
	r := newRig(t)
	load := `{"configuration":{"load":{"sourceFormat":"CSV","destinationTable":{"projectId":"demo-project","datasetId":"staging","tableId":"hostile"}}}}`
	two := "--b\r\nContent-Type: application/json\r\n\r\n" + load + "\r\n--b\r\nContent-Type: text/csv\r\n\r\na,b\r\n"
	before := len(r.box.box.Jobs())
	for name, rest := range map[string]string{
		"third part":            "--b\r\nContent-Type: text/csv\r\n\r\nc,d\r\n--b--\r\n",
		"second metadata":       "--b\r\nContent-Type: application/json\r\n\r\n" + selectOK + "\r\n--b--\r\n",
		"no end":                "",
		"third part, but empty": "--b\r\n\r\n\r\n--b--\r\n",
	} {
		got := r.exchange(message(r.token("etl-bot"), "POST", "/upload"+jobs+"?uploadType=multipart", two+rest, "Content-Type: multipart/related; boundary=b"))
		if len(got) != 1 || got[0].status != 400 {
			t.Errorf("%s: answered %+v", name, got)
			continue
		}
		checkShape(t, got[0])
		id := got[0].header.Get("X-Trailgate-Entry")
		r.calls()
		rows := r.search(fmt.Sprintf("id = %q", id))
		if len(rows) != 1 || rows[0].Entry.Outcome == nil || rows[0].Entry.Outcome.Status != 400 || rows[0].Entry.Principal.Agent != "etl-bot" || rows[0].State != index.StateFailed {
			t.Errorf("%s: on record as %+v", name, rows)
		}
	}
	if after := len(r.box.box.Jobs()); after != before {
		t.Errorf("%d broken uploads made jobs", after-before)
	}
	// A boundary of the client's inside the media is data, and the one that goes
	// upstream is not the client's.
	body := strings.ReplaceAll(two, "a,b\r\n", "a,b\r\n--bb\r\n-b,--b\r\n") + "--b--\r\n"
	if got := r.exchange(message(r.token("etl-bot"), "POST", "/upload"+jobs+"?uploadType=multipart", body, "Content-Type: multipart/related; boundary=b")); len(got) != 1 || got[0].status != 200 {
		t.Fatalf("clashing boundary: %+v", got)
	}
	all := r.box.arrivals()
	last := all[len(all)-1]
	if !strings.Contains(last.header.Get("Content-Type"), "boundary=trailgate_") || !strings.Contains(string(last.body), "a,b\r\n--bb\r\n-b,--b\r\n--trailgate_") {
		t.Errorf("the media arrived as %q of %s", last.body, last.header.Get("Content-Type"))
	}
}

// TestForgedLabels: a job is labelled with who made it, whatever labels came.
func TestForgedLabels(t *testing.T) {
	r := newRig(t)
	body := `{"configuration":{"labels":{"team":"ops","trailgate_agent":"analyst-bot","trailgate_entry":"x","trailgate_session":"y","trailgate_new":"z"},"query":{"query":"SELECT 1","useLegacySql":false}}}`
	got := r.exchange(message(r.token("etl-bot"), "POST", jobs, body, append(forged, jsonType)...))
	if len(got) != 1 || got[0].status != 200 {
		t.Fatalf("answered %+v", got)
	}
	rows := r.calls()
	r.checkArrivals(rows)
	r.checkLabels(rows)
	if len(rows) != 1 {
		t.Fatalf("%d calls on record", len(rows))
	}
	e := rows[0].Entry
	if e.Principal.Agent != "etl-bot" || e.Principal.Human != "" || e.Upstream.Host != strings.TrimPrefix(r.box.url, "http://") || !slices.Contains(e.Flags, "dropped_labels") {
		t.Errorf("on record as %+v with %v to %+v", e.Principal, e.Flags, e.Upstream)
	}
	if c := e.Claims; c.Reason != "forged reason" || c.QuotaProject != "forged-project" || len(c.DroppedLabels) != 4 || len(c.Labels) != 1 || c.Labels["team"] != "ops" {
		t.Errorf("what it says of itself is on record as %+v", c)
	}
	if raw := r.box.arrivals()[0].raw; strings.Contains(raw, "forged") || strings.Contains(raw, "trailgate_new") || strings.Contains(raw, "analyst-bot") {
		t.Errorf("forgery reached BigQuery:\n%s", raw)
	}
}

// TestTokens: a token that has expired, was revoked, or belongs elsewhere is
// nobody's from the next call on, also on a connection that was good before.
func TestTokens(t *testing.T) {
	r := newRig(t)
	status := func(token string) int {
		t.Helper()
		got := r.exchange(message(token, "GET", datasets, ""))
		if len(got) != 1 {
			t.Fatalf("%d answers", len(got))
		}
		if got[0].status != 200 {
			checkShape(t, got[0])
		}
		return got[0].status
	}
	issue := func(args ...string) string {
		return strings.TrimSpace(r.must(append([]string{"agent", "token"}, args...)...))
	}
	count := map[string]int{}

	short := issue("etl-bot", "--ttl", "1s")
	waitFor(t, readyTimeout, func() bool { return status(short) == 401 }, func() string { return "a token of one second does not expire" })
	count["expired credential"]++

	for range 3 {
		if got := status(flip(r.token("etl-bot"))); got != 401 {
			t.Errorf("a flipped token: %d", got)
		}
		count["unknown credential"]++
	}
	elsewhere := newRig(t)
	if got := status(elsewhere.token("etl-bot")); got != 401 {
		t.Errorf("another gateway's token: %d", got)
	}
	count["unknown credential"]++

	// One of two tokens is revoked; a connection that is kept open notices.
	first, second := issue("etl-bot"), issue("etl-bot")
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	kept := func() int {
		t.Helper()
		if _, err := io.WriteString(conn, strings.Replace(message(first, "GET", datasets, ""), "Connection: close\r\n", "", 1)); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	if got := kept(); got != 200 {
		t.Fatalf("before it is revoked: %d", got)
	}
	r.calls()
	rows := r.search(`agent = "etl-bot" AND kind = "intent"`)
	id := rows[len(rows)-1].Entry.Principal.TokenID
	r.must("agent", "revoke", "etl-bot", "--token", id)
	if got := kept(); got != 401 {
		t.Errorf("the call after its token was revoked, on the same connection: %d", got)
	}
	count["revoked credential"]++
	if got := status(first); got != 401 {
		t.Errorf("the call after its token was revoked: %d", got)
	}
	count["revoked credential"]++
	if got := status(second); got != 200 {
		t.Errorf("the other token ended too: %d", got)
	}

	r.must("agent", "revoke", "etl-bot")
	for _, token := range []string{second, r.token("etl-bot")} {
		if got := status(token); got != 401 {
			t.Errorf("a token of a revoked agent: %d", got)
		}
		count["revoked credential"]++
	}
	if got := status(r.token("analyst-bot")); got != 200 {
		t.Errorf("another agent: %d", got)
	}
	sum := 0
	for _, n := range count {
		sum += n
	}
	got := r.strangers(sum)
	if fmt.Sprint(got) != fmt.Sprint(count) {
		// A flipped token fails its checksum, which may count as malformed.
		got["unknown credential"] += got["malformed credential"]
		delete(got, "malformed credential")
		if fmt.Sprint(got) != fmt.Sprint(count) {
			t.Errorf("strangers on record: %v, there were %v", got, count)
		}
	}
	r.checkArrivals(r.calls())
	if n := len(r.search(`action = "token.revoke" OR action = "agent.revoke"`)); n != 2 {
		t.Errorf("%d revocations are on record, there were 2", n)
	}
}
