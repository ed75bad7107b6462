package gateway_test

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/identity"
)

func identityOptions() identity.TokenOptions { return identity.TokenOptions{} }

const (
	uploadPath = "/upload/bigquery/v2/projects/demo-project/jobs"
	loadBody   = `{"configuration":{"load":{"destinationTable":{"projectId":"demo-project","datasetId":"staging","tableId":"imports"},"sourceFormat":"CSV"}}}`
)

// TestResumable: the location leads back to the gateway, every chunk is a
// recorded call of the agent that began, and of nobody else.
func TestResumable(t *testing.T) {
	var r *rig
	r = newRig(t, func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.Method == "POST":
			w.Header().Set("Location", r.up.URL+uploadPath+"?uploadType=resumable&upload_id=U-1")
			io.WriteString(w, "{}")
		case strings.HasSuffix(req.Header.Get("Content-Range"), "/*"):
			w.Header().Set("Range", "bytes=0-4")
			w.WriteHeader(308)
		default:
			answerJob(w, req)
		}
	})
	req := r.request("etl-bot", "POST", uploadPath+"?uploadType=resumable&alt=json", loadBody)
	req.Header.Set("X-Upload-Content-Type", "application/octet-stream")
	resp, _, err := r.do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	location, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || "http://"+location.Host != r.front.URL {
		t.Fatalf("Location %q leads past the gateway", resp.Header.Get("Location"))
	}
	put := func(agent, data, rng string) (*http.Response, string) {
		t.Helper()
		req := r.request(agent, "PUT", location.RequestURI(), data)
		req.Header.Set("Content-Range", rng)
		resp, body, err := r.do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp, body
	}
	if resp, body := put("analyst-bot", "evil!", "bytes 0-4/*"); resp.StatusCode != 403 {
		t.Errorf("another agent's chunk: %d %s", resp.StatusCode, body)
	}
	if resp, _ := put("etl-bot", "hello", "bytes 0-4/*"); resp.StatusCode != 308 || resp.Header.Get("Range") != "bytes=0-4" {
		t.Errorf("first chunk: %d %v", resp.StatusCode, resp.Header)
	}
	if resp, body := put("etl-bot", "world", "bytes 5-9/10"); resp.StatusCode != 200 || body != jobAnswer {
		t.Errorf("last chunk: %d %s", resp.StatusCode, body)
	}
	if resp, _ := put("etl-bot", "again", "bytes 5-9/10"); resp.StatusCode != 404 {
		t.Errorf("a chunk after the end: %d", resp.StatusCode)
	}
	_, bodies := r.upstreamSaw()
	if fmt.Sprint(bodies[1:]) != "[hello world]" || !strings.Contains(bodies[0], "trailgate_entry") {
		t.Errorf("upstream got %q", bodies)
	}
	calls := r.trail.calls()
	start := calls[0]
	if start.Class != trailgate.ClassWrite || fmt.Sprint(start.Tables.Written) != "[demo-project.staging.imports]" || start.Job.ID == "" {
		t.Errorf("start: %s", dump(start))
	}
	for i, want := range []string{"hello", "world"} {
		intent, outcome := calls[3+2*i], calls[4+2*i]
		if intent.Kind != trailgate.KindIntent || intent.Job.OwnerEntry != start.ID || intent.Class != trailgate.ClassWrite ||
			outcome.Outcome.RequestBytes != 5 || outcome.Outcome.RequestSHA256 != sha256Hex([]byte(want)) {
			t.Errorf("chunk %d: %s %s", i, dump(intent), dump(outcome))
		}
	}
}

// TestResumableNo308: Go's library asks for 200 in place of 308 and is told in
// a header that the upload goes on; it does.
func TestResumableNo308(t *testing.T) {
	var r *rig
	r = newRig(t, func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.Method == "POST":
			w.Header().Set("Location", r.up.URL+uploadPath+"?uploadType=resumable&upload_id=U-1")
		case strings.HasSuffix(req.Header.Get("Content-Range"), "/*") && req.Header.Get("X-Guploader-No-308") == "yes":
			w.Header().Set("X-Http-Status-Code-Override", "308")
			w.Header().Set("Range", "bytes=0-4")
		default:
			answerJob(w, req)
		}
	})
	resp, _, err := r.do(r.request("etl-bot", "POST", uploadPath+"?uploadType=resumable", loadBody))
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	location, err := url.Parse(resp.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	for i, chunk := range []struct{ data, rng, override string }{{"hello", "bytes 0-4/*", "308"}, {"world", "bytes 5-9/10", ""}} {
		req := r.request("etl-bot", "PUT", location.RequestURI(), chunk.data)
		req.Header.Set("Content-Range", chunk.rng)
		req.Header.Set("X-Guploader-No-308", "yes")
		if resp, body, err := r.do(req); err != nil || resp.StatusCode != 200 || resp.Header.Get("X-Http-Status-Code-Override") != chunk.override {
			t.Errorf("chunk %d: %v %v %s", i, resp, err, body)
		}
	}
}

// TestLocationElsewhere: a location on another host is not followed and not
// handed on; the next chunk would carry a credential there.
func TestLocationElsewhere(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://127.0.0.1:9/upload?upload_id=x")
	})
	resp, body, err := r.do(r.request("etl-bot", "POST", uploadPath+"?uploadType=resumable", loadBody))
	if err != nil || resp.StatusCode != 502 || resp.Header.Get("Location") != "" {
		t.Errorf("%v %v %s", resp, err, body)
	}
}

// TestMultipart: the metadata part is judged and stamped, the media streams.
func TestMultipart(t *testing.T) {
	media := strings.Repeat("a,b,c\n", 100_000)
	r := newRig(t, answerJob)
	body := "--xyz\r\nContent-Type: application/json\r\n\r\n" + loadBody + "\r\n--xyz\r\nContent-Type: application/octet-stream\r\n\r\n" + media + "\r\n--xyz--\r\n"
	req := r.request("etl-bot", "POST", uploadPath+"?uploadType=multipart", body)
	req.Header.Set("Content-Type", "multipart/related; boundary=xyz")
	resp, text, err := r.do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err, text)
	}
	seen, bodies := r.upstreamSaw()
	_, params, err := mime.ParseMediaType(seen[0].Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	mr := multipart.NewReader(strings.NewReader(bodies[0]), params["boundary"])
	meta, err := mr.NextPart()
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(meta)
	part, err := mr.NextPart()
	if err != nil {
		t.Fatal(err)
	}
	data, _ := io.ReadAll(part)
	intent, outcome := r.one()
	if !strings.Contains(string(got), intent.ID) || string(data) != media {
		t.Errorf("upstream got %s and %d bytes", got, len(data))
	}
	if outcome.Outcome.RequestSHA256 != sha256Hex([]byte(bodies[0])) {
		t.Error("the outcome's digest is not of what was sent")
	}
	// A third part would be data that nobody judged.
	r = newRig(t, answerJob)
	req = r.request("etl-bot", "POST", uploadPath+"?uploadType=multipart", strings.TrimSuffix(body, "--\r\n")+"\r\n\r\nmore\r\n--xyz--\r\n")
	req.Header.Set("Content-Type", "multipart/related; boundary=xyz")
	if resp, text, err := r.do(req); err == nil && resp.StatusCode < 400 {
		t.Errorf("three parts: %d %s", resp.StatusCode, text)
	}
}
