package mailout

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

// torn marks, in a file of checkpoints, that what stands before it was cut off by a
// crash or a full disk. It cannot be taken away where a file can only be appended to.
const torn = "\n# torn\n\n"

// File appends checkpoints to a file, each with an empty line after it. The file is
// opened for each, so it may be moved away; it is never cut or rewritten.
func File(path string) func(context.Context, *trailgate.Checkpoint) error {
	return func(_ context.Context, cp *trailgate.Checkpoint) (err error) {
		_, serr := os.Lstat(path)
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		whole, err := endsWhole(path)
		if err != nil {
			return err
		}
		record := append(bytes.Clone(cp.Raw), '\n')
		if !whole {
			record = append([]byte(torn), record...)
		}
		if _, err := f.Write(record); err != nil {
			return err
		}
		// On disk from here on: the checkpoint. A crash before leaves a part of it, which
		// the next one marks.
		if err := f.Sync(); err != nil {
			return err
		}
		if errors.Is(serr, os.ErrNotExist) {
			return (&durable.FS{}).SyncDir(filepath.Dir(path))
		}
		return nil
	}
}

// endsWhole reports whether a file is empty, or ends with an empty line. One that
// may be appended to, but not be read, counts as whole.
func endsWhole(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrPermission) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return err == nil, err
	}
	end := make([]byte, min(2, st.Size()))
	if _, err := f.ReadAt(end, st.Size()-int64(len(end))); err != nil {
		return false, err
	}
	return string(end) == "\n\n", nil
}

// Put stores each checkpoint as an object: HTTP PUT to a URL, in which "{size}"
// stands for the checkpoint's size, with the headers in a file, which is read each time.
// A store that wants its requests signed is reached by presigned URLs or by a bearer token in that file.
func Put(client *http.Client, address, headersFile string) func(context.Context, *trailgate.Checkpoint) error {
	return func(ctx context.Context, cp *trailgate.Checkpoint) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut,
			strings.ReplaceAll(address, "{size}", strconv.FormatUint(cp.Size, 10)), bytes.NewReader(cp.Raw))
		if err != nil {
			return errors.New("its URL cannot be read") // which may hold a secret
		}
		req.Header.Set("Content-Type", "text/plain; charset=utf-8")
		if headersFile != "" {
			if err := readHeaders(headersFile, req.Header); err != nil {
				return fmt.Errorf("headers_file: %w", err)
			}
		}
		return do(client, req)
	}
}

// maxHeaders bounds a file of headers, bytes.
const maxHeaders = 64 << 10

func readHeaders(path string, into http.Header) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxHeaders))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return fmt.Errorf("line %d is not \"Name: value\"", n) // it may be a secret
		}
		into.Set(name, strings.TrimSpace(value))
	}
	return lines.Err()
}

// Webhook posts each checkpoint as JSON (docs/spec/webhooks.md). Sign makes the
// signature of Standard Webhooks over an id, a time and a body.
func Webhook(client *http.Client, address, gateway string, now func() time.Time, sign func(id string, at time.Time, body []byte) string) func(context.Context, *trailgate.Checkpoint) error {
	return func(ctx context.Context, cp *trailgate.Checkpoint) error {
		at := now().UTC()
		body, err := json.Marshal(message{
			Type: "checkpoint", Timestamp: at,
			Data: data{Gateway: gateway, Origin: cp.Origin, Size: cp.Size, Root: base64.StdEncoding.EncodeToString(cp.Root[:]), Checkpoint: string(cp.Raw)},
		})
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
		if err != nil {
			return errors.New("its URL cannot be read")
		}
		// The same for each try, by which receivers tell.
		id := fmt.Sprintf("checkpoint.%d.%x", cp.Size, cp.Root[:8])
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Webhook-Id", id)
		req.Header.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
		req.Header.Set("Webhook-Signature", sign(id, at, body))
		return do(client, req)
	}
}

type message struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      data      `json:"data"`
}

type data struct {
	Gateway    string `json:"gateway"`
	Origin     string `json:"origin"`
	Size       uint64 `json:"size"`
	Root       string `json:"root"`
	Checkpoint string `json:"checkpoint"`
}

// do makes a request. Its errors repeat nothing of the URL.
func do(client *http.Client, req *http.Request) error {
	req.Header.Set("User-Agent", "trailgate")
	resp, err := client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return errors.New("no answer in time")
		}
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return errStatus(resp.StatusCode)
	}
	return nil
}
