package mailout_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/mailout"
)

// checkpoints makes checkpoints of one log.
func checkpoints(t *testing.T) func(size uint64) *trailgate.Checkpoint {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, "trail.example")
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return func(size uint64) *trailgate.Checkpoint {
		raw, err := note.Sign(&note.Note{Text: fmt.Sprintf("trail.example\n%d\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n", size)}, s)
		if err != nil {
			t.Fatal(err)
		}
		cp, err := trailgate.OpenCheckpoint(raw, v)
		if err != nil {
			t.Fatal(err)
		}
		return cp
	}
}

// TestSender: the newest checkpoint, once in a while; failures are told once, and
// tried again; a restart goes on.
func TestSender(t *testing.T) {
	make := checkpoints(t)
	state := filepath.Join(t.TempDir(), "sent.json")
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards all below
		size, away := uint64(0), false
		var got []uint64
		var told []string
		run := func(d time.Duration) []mailout.Status {
			s, err := mailout.New(mailout.Config{
				Places: []mailout.Place{
					{Name: "a", Send: func(_ context.Context, cp *trailgate.Checkpoint) error {
						mu.Lock()
						defer mu.Unlock()
						if away {
							return errors.New("away")
						}
						got = append(got, cp.Size)
						return nil
					}},
					{Name: "hangs", Send: func(ctx context.Context, _ *trailgate.Checkpoint) error { <-ctx.Done(); return ctx.Err() }},
				},
				Every: 10 * time.Minute, State: state,
				Newest: func() (*trailgate.Checkpoint, error) {
					mu.Lock()
					defer mu.Unlock()
					size++ // the log grows each time that somebody looks
					return make(size), nil
				},
				Changed: func(_ context.Context, place string, _ *trailgate.Checkpoint, err error) {
					mu.Lock()
					defer mu.Unlock()
					if place == "a" {
						told = append(told, fmt.Sprint(err))
					}
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			s.Run(ctx)
			return s.Status()
		}
		run(59 * time.Minute)
		if len(got) != 6 {
			t.Errorf("%d checkpoints in 59 minutes: %v", len(got), got)
		}
		run(time.Second * 30) // a restart, nine minutes after the last one
		if len(got) != 6 {
			t.Errorf("the restart sends at once: %v", got)
		}
		away = true
		st := run(time.Hour)
		if len(got) != 6 || len(told) != 1 || st[0].Error != "away" || st[0].Failures < 5 || st[0].Failures > 20 {
			t.Errorf("while it is away: %v, told %v, %+v", got, told, st[0])
		}
		run(time.Hour) // a restart tells nothing new
		away = false
		st = run(15 * time.Minute)
		if len(got) != 8 || len(told) != 2 || told[1] != "<nil>" || st[0].Error != "" {
			t.Errorf("after it came back: %v, told %v, %+v", got, told, st[0])
		}
		for i := 1; i < len(got); i++ {
			if got[i] <= got[i-1] {
				t.Errorf("out of order: %v", got)
			}
		}
	})
}

// TestFile: a file is appended to, and what a crash cut off is marked, not cut away.
func TestFile(t *testing.T) {
	cp := checkpoints(t)
	path := filepath.Join(t.TempDir(), "checkpoints")
	send := mailout.File(path)
	for _, size := range []uint64{1, 2} {
		if err := send(t.Context(), cp(size)); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(whole, []byte(string(cp(1).Raw)+"\n"+string(cp(2).Raw)+"\n")) {
		t.Fatalf("%v\n%s", err, whole)
	}
	if err := os.Truncate(path, int64(len(whole))-40); err != nil {
		t.Fatal(err)
	}
	if err := send(t.Context(), cp(3)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != string(whole[:len(whole)-40])+"\n# torn\n\n"+string(cp(3).Raw)+"\n" {
		t.Errorf("%v\n%s", err, got)
	}
	if err := mailout.File(filepath.Join(t.TempDir(), "none", "x"))(t.Context(), cp(4)); err == nil {
		t.Error("a directory that is not there")
	}
}

// TestHTTP: an object for each checkpoint; a signed webhook; redirects are failures,
// and errors repeat no secret.
func TestHTTP(t *testing.T) {
	cp := checkpoints(t)(42)
	type seen struct {
		method, path, auth, id, body string
	}
	var last seen
	status := 200
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		last = seen{r.Method, r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Webhook-Id"), string(raw)}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	}))
	defer srv.Close()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	headers := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(headers, []byte("# for the bucket\nAuthorization: Bearer s3cret\n\nX-Other: y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	put := mailout.Put(client, srv.URL+"/bucket/cp-{size}?sig=s3cret", headers)
	if err := put(t.Context(), cp); err != nil || last != (seen{"PUT", "/bucket/cp-42", "Bearer s3cret", "", string(cp.Raw)}) {
		t.Errorf("%v %+v", err, last)
	}
	hook := mailout.Webhook(client, srv.URL+"/s3cret", "gw-1", time.Now, func(id string, _ time.Time, body []byte) string { return fmt.Sprint(id, len(body)) })
	if err := hook(t.Context(), cp); err != nil {
		t.Error(err)
	}
	var told struct {
		Type string
		Data struct {
			Gateway, Origin, Root, Checkpoint string
			Size                              uint64
		}
	}
	if err := json.Unmarshal([]byte(last.body), &told); err != nil || told.Type != "checkpoint" || told.Data.Size != 42 || told.Data.Checkpoint != string(cp.Raw) || last.id != "checkpoint.42.e3b0c44298fc1c14" {
		t.Errorf("%v %+v", err, last)
	}
	for _, status = range []int{307, 403, 500} {
		for _, send := range []func(context.Context, *trailgate.Checkpoint) error{put, hook} {
			if err := send(t.Context(), cp); err == nil || !strings.Contains(err.Error(), fmt.Sprint(status)) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%d: %v", status, err)
			}
		}
	}
	srv.Close()
	if err := put(t.Context(), cp); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("away: %v", err)
	}
	if err := os.WriteFile(headers, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := put(t.Context(), cp); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a bad file of headers: %v", err)
	}
}
