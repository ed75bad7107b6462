package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/sandbox"
)

// prepared is a rig that was initialised in dir, and not started.
func prepared(t *testing.T, dir string, box *upstream) *rig {
	t.Helper()
	endToEnd(t)
	r := &rig{t: t, dir: dir, addr: freeAddr(t), box: box, out: &output{}}
	r.must("init", "--dir", r.dir)
	r.configure()
	return r
}

// begin starts a prepared rig and makes an agent.
func (r *rig) begin() {
	r.t.Helper()
	r.start()
	for _, agent := range agents {
		r.must("agent", "add", agent)
		write(r.t, r.tokenFile(agent), r.must("agent", "token", agent))
	}
}

// edit replaces a part of the configuration.
func (r *rig) edit(old, by string) {
	r.t.Helper()
	text := read(r.t, r.config())
	if !strings.Contains(text, old) {
		r.t.Fatalf("the configuration has no %q", old)
	}
	write(r.t, r.config(), strings.Replace(text, old, by, 1))
}

// TestBadStart: what is wrong at the start is told in words that say what and
// where, with the right exit code, and nothing is written.
func TestBadStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct {
		name   string
		change func(r *rig)
		code   int
		say    []string
	}{
		{"unknown key", func(r *rig) { r.edit("data_dir: data\n", "data_dir: data\ndata_dri: x\n") }, 2, []string{"trailgate.yaml:3: ", "data_dri"}},
		{"key twice", func(r *rig) { r.edit("data_dir: data\n", "data_dir: data\nid: other\n") }, 2, []string{"trailgate.yaml:3: ", "id"}},
		{"wrong kind", func(r *rig) { r.edit("data_dir: data\n", "data_dir: data\ntrail: {min_free_bytes: lots}\n") }, 2, []string{"trailgate.yaml:3: ", "min_free_bytes"}},
		{"no YAML", func(r *rig) { r.edit("data_dir: data\n", "data_dir: [data\n") }, 2, []string{"trailgate.yaml:"}},
		{"every mistake", func(r *rig) { r.edit("data_dir: data\n", "a: 1\nb: 2\ndata_dir: data\n") }, 2, []string{"trailgate.yaml:2: a", "trailgate.yaml:3: b"}},
		{"no connection", func(r *rig) {
			text, _, _ := strings.Cut(read(r.t, r.config()), "connections:")
			write(r.t, r.config(), text)
		}, 2, []string{"connections"}},
		{"no config", func(r *rig) { discard(r.t, r.config()) }, 2, []string{"trailgate.yaml", "trailgate init"}},
		{"no token file", func(r *rig) { discard(r.t, filepath.Join(r.dir, "upstream.token")) }, 1, []string{"connection main", "upstream.token"}},
		{"empty token file", func(r *rig) { write(r.t, filepath.Join(r.dir, "upstream.token"), "\n") }, 1, []string{"connection main", "upstream.token"}},
		{"no certificate", func(r *rig) { r.edit("gateway: {", "gateway: {tls: {cert_file: no.crt, key_file: no.key}, ") }, 1, []string{"no.crt"}},
		{"port taken", func(r *rig) { r.edit(r.addr, taken.Addr().String()) }, 1, []string{taken.Addr().String(), "in use", "set another address"}},
		{"admin port taken", func(r *rig) { r.edit(`admin: {listen: "off"}`, fmt.Sprintf("admin: {listen: %q}", taken.Addr())) }, 1, []string{taken.Addr().String(), "in use"}},
		{"no log key", func(r *rig) { discard(r.t, r.data("log.key")) }, 1, []string{"log.key"}},
		{"a file in place of data", func(r *rig) { discard(r.t, r.data()); write(r.t, r.data(), "") }, 1, []string{"data", "not a directory"}},
		{"no data", func(r *rig) { discard(r.t, r.data()) }, 1, []string{"trailgate init"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := prepared(t, t.TempDir(), &upstream{url: "http://" + freeAddr(t)})
			tt.change(r)
			before := snapshot(t, r.dir)
			errs := r.serveFails(tt.code)
			for _, s := range tt.say {
				if !strings.Contains(errs, s) {
					t.Errorf("the message lacks %q:\n%s", s, errs)
				}
			}
			if strings.Contains(errs, "goroutine") || strings.Contains(errs, "panic") {
				t.Errorf("that is no message: %s", errs)
			}
			checkSame(t, r.dir, before)
		})
	}
}

// TestUnwritableData: a gateway that may read its data and not write it.
func TestUnwritableData(t *testing.T) {
	r := prepared(t, t.TempDir(), &upstream{url: "http://" + freeAddr(t)})
	exe := filepath.Join(r.dir, "trailgate")
	raw, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, raw, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("timeout", "-s", "KILL", "60", exe, "serve", "--config", r.config())
	if os.Geteuid() == 0 {
		// Root writes everywhere, so the gateway is somebody who may only read.
		err := errors.Join(os.Chmod(filepath.Dir(r.dir), 0o755), os.Chmod(r.dir, 0o755))
		err = errors.Join(err, filepath.WalkDir(r.dir, func(path string, _ os.DirEntry, err error) error {
			return errors.Join(err, os.Chmod(path, 0o755))
		}))
		if err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	} else {
		t.Log("not root: the data directory is made read-only for this user")
		chmod := func(mode os.FileMode) {
			err := filepath.WalkDir(r.data(), func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					err = os.Chmod(path, mode|0o500)
				} else if err == nil {
					err = os.Chmod(path, mode|0o400)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		chmod(0)
		t.Cleanup(func() { chmod(0o200) })
	}
	before := snapshot(t, r.dir)
	var errs bytes.Buffer
	cmd.Stderr, cmd.Stdout, cmd.Dir = &errs, &errs, "/"
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("serve ends with %v (%d):\n%s", err, cmd.ProcessState.ExitCode(), &errs)
	}
	if !strings.Contains(errs.String(), "permission denied") || !strings.Contains(errs.String(), r.data()) {
		t.Errorf("the message does not say what may not be written: %s", &errs)
	}
	checkSame(t, r.dir, before)
}

// TestSecondGateway: the first one goes on as if nothing had been.
func TestSecondGateway(t *testing.T) {
	r := newRig(t)
	first := read(t, r.config())
	r.edit(r.addr, freeAddr(t))
	if errs := r.serveFails(1); !strings.Contains(errs, "two must not share it") || !strings.Contains(errs, r.data()) {
		t.Errorf("the message does not say why: %s", errs)
	}
	write(t, r.config(), first)
	if errs := r.serveFails(1); !strings.Contains(errs, r.addr) {
		t.Errorf("the message does not name the port: %s", errs)
	}
	if got := r.exchange(message(r.token("etl-bot"), "GET", datasets, "")); len(got) != 1 || got[0].status != 200 {
		t.Errorf("the first gateway answers %+v", got)
	}
	r.checkArrivals(r.calls())
	if starts := r.search(`action = "serve.start"`); len(starts) != 1 {
		t.Errorf("%d starts are on record", len(starts))
	}
	r.must("verify")
}

// smallDisk is a directory whose disk fill makes full, to the brim where it is
// a small one of its own, and empty makes roomy again. minFree suits it as
// trail.min_free_bytes.
func smallDisk(t *testing.T) (dir, minFree string, fill func(), empty func()) {
	t.Helper()
	endToEnd(t)
	dir, minFree = t.TempDir(), "32MiB"
	size := int64(0) // of the filler; 0: to the brim
	mounted, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=160m,mode=0700", "tmpfs", dir).CombinedOutput()
	if err == nil {
		t.Cleanup(func() {
			if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
				t.Errorf("umount: %v %s", err, out)
			}
		})
	} else {
		// What counts is the figure. Recording goes on once an eighth more than the
		// minimum is free, so the minimum is 8/9 of what is, and a file without
		// content takes the rest. Others on this disk may write a little.
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		const slack = 256 << 20
		free := int64(st.Bavail) * int64(st.Bsize)
		least := (free - slack) / 9 * 8
		size, minFree = free-least+slack, fmt.Sprint(least)
		t.Logf("no file system can be mounted here (%s): min_free_bytes is %s of %d instead", bytes.TrimSpace(mounted), minFree, free)
	}
	path := filepath.Join(dir, "filler")
	fill = func() {
		if size > 0 {
			if out, err := exec.Command("fallocate", "-l", fmt.Sprint(size), path).CombinedOutput(); err != nil {
				t.Fatalf("fallocate: %v %s", err, out)
			}
			return
		}
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for block := bytes.Repeat([]byte("x"), 1<<20); err == nil; {
			_, err = f.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return dir, minFree, fill, func() { discard(t, path) }
}

// TestDiskFull: while there is no room to record, nothing is let through; when
// there is again, it goes on by itself, and tells of it.
func TestDiskFull(t *testing.T) {
	dir, minFree, fill, empty := smallDisk(t)
	r := prepared(t, dir, newUpstream(t))
	admin := freeAddr(t)
	r.edit(`admin: {listen: "off"}`, fmt.Sprintf("admin: {listen: %q}\ntrail: {segment_bytes: 1MiB, min_free_bytes: %s}", admin, minFree))
	r.begin()
	token := r.token("etl-bot")
	query := message(token, "POST", jobs, selectOK, jsonType)
	call := func() answered {
		t.Helper()
		got := r.exchange(query)
		if len(got) != 1 {
			t.Fatalf("%d answers", len(got))
		}
		return got[0]
	}
	why := ""
	ready := func() int {
		resp, err := http.Get("http://" + admin + "/api/v1/readyz")
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0
		}
		why = string(body)
		return resp.StatusCode
	}
	if got := call(); got.status != 200 || ready() != 200 {
		t.Fatalf("with room: %+v, ready %d", got, ready())
	}
	for round := range 2 {
		fill()
		waitFor(t, readyTimeout, func() bool { return ready() == 503 }, func() string { return "readyz stays good on a full disk\n" + r.out.String() })
		if !strings.Contains(why, "disk") || !strings.Contains(r.out.String(), "MiB free on the disk of "+r.data()) {
			t.Errorf("neither readyz nor the log may leave it at that: %s\n%s", why, r.out)
		}
		before := len(r.box.arrivals())
		for range 5 {
			got := call()
			checkShape(t, got)
			if got.status != 503 || !strings.Contains(got.body, "backendError") || !strings.Contains(got.body, "audit trail cannot be written") || got.header.Get("Retry-After") == "" {
				t.Errorf("round %d: a call on a full disk: %+v", round, got)
			}
			if strings.Contains(got.body, dir) {
				t.Errorf("the agent is told where the data are: %s", got.body)
			}
		}
		if n := len(r.box.arrivals()) - before; n != 0 {
			t.Errorf("round %d: %d requests went upstream unrecorded", round, n)
		}
		if resp, err := http.Get("http://" + admin + "/api/v1/healthz"); err != nil || resp.StatusCode != 200 {
			t.Errorf("healthz on a full disk: %v %v", resp, err)
		}
		empty()
		waitFor(t, readyTimeout, func() bool { return ready() == 200 }, func() string { return "readyz stays bad with room\n" + r.out.String() })
		if got := call(); got.status != 200 {
			t.Errorf("round %d: with room again: %+v", round, got)
		}
	}
	rows := r.calls()
	r.checkArrivals(rows)
	if n := len(forwarded(rows)); n != 3 {
		t.Errorf("%d calls on record, 3 were let through", n)
	}
	told := r.search(`action = "trail.recovered"`)
	if len(told) != 2 {
		t.Fatalf("%d entries tell of the full disk, it was full twice: %+v", len(told), told)
	}
	for _, w := range told {
		if d := w.Entry.Event.Detail; d["refused"] == "" || d["refused"] == "0" {
			t.Errorf("how many calls were refused is not on record: %v", d)
		}
	}
	r.must("verify")
}

// TestUpstreamDown: BigQuery cannot be reached, or hangs up.
func TestUpstreamDown(t *testing.T) {
	t.Run("dead port", func(t *testing.T) {
		r := prepared(t, t.TempDir(), &upstream{url: "http://" + freeAddr(t)})
		r.begin()
		for verb, body := range map[string]string{"GET": "", "POST": selectOK} {
			got := r.exchange(message(r.token("etl-bot"), verb, jobs, body, jsonType))
			if len(got) != 1 || got[0].status != 502 {
				t.Fatalf("answered %+v", got)
			}
			checkShape(t, got[0])
		}
		checkDown(t, r, 2)
	})
	t.Run("hangs up", func(t *testing.T) {
		r := newRig(t)
		r.box.box.SetFault(func(*http.Request) *sandbox.Fault { return &sandbox.Fault{DropAnswer: true} })
		got := r.exchange(message(r.token("etl-bot"), "POST", jobs, selectOK, jsonType))
		if len(got) != 1 || got[0].status != 502 {
			t.Fatalf("answered %+v", got)
		}
		checkShape(t, got[0])
		checkDown(t, r, 1)
		if n := len(r.box.arrivals()); n != 1 {
			t.Errorf("the call was sent %d times", n)
		}
	})
	t.Run("goes away and comes back", func(t *testing.T) {
		r := newRig(t)
		var down atomic.Bool
		r.box.box.SetFault(func(*http.Request) *sandbox.Fault {
			if down.Load() {
				return &sandbox.Fault{Status: 503, Message: "try again"}
			}
			return nil
		})
		for _, want := range []int{200, 503, 200} {
			down.Store(want == 503)
			got := r.exchange(message(r.token("etl-bot"), "GET", datasets, ""))
			if len(got) != 1 || got[0].status != want {
				t.Errorf("answered %+v, want %d", got, want)
			}
		}
		r.checkArrivals(r.calls())
	})
}

func checkDown(t *testing.T, r *rig, want int) {
	t.Helper()
	rows := forwarded(r.calls())
	if len(rows) != want {
		t.Fatalf("%d calls on record", len(rows))
	}
	for _, w := range rows {
		o := w.Entry.Outcome
		if o == nil || o.Status != 502 || o.End != trailgate.EndUpstreamDown || o.ErrorMessage == "" {
			t.Errorf("%s: the outcome on record is %+v", w.Entry.Method, o)
		}
		if unknown := slices.Contains(w.Entry.Flags, "effect_unknown"); unknown != (w.Entry.Method == "bigquery.jobs.insert") {
			t.Errorf("%s: flags %v", w.Entry.Method, w.Entry.Flags)
		}
	}
	r.must("verify")
}

// TestClientGone: an agent that goes away leaves an outcome all the same.
func TestClientGone(t *testing.T) {
	t.Run("before the answer", func(t *testing.T) {
		r := newRig(t)
		release := make(chan struct{})
		r.box.box.SetFault(func(*http.Request) *sandbox.Fault { <-release; return nil })
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, message(r.token("etl-bot"), "POST", jobs, selectOK, jsonType)); err != nil {
			t.Fatal(err)
		}
		waitFor(t, readyTimeout, func() bool { return len(r.box.arrivals()) == 1 }, func() string { return "the call does not arrive" })
		conn.Close()
		close(release)
		rows := r.calls()
		r.checkArrivals(rows)
		if len(rows) != 1 || rows[0].Entry.Outcome.JobState != "DONE" {
			t.Errorf("on record: %+v", rows)
		}
	})
	t.Run("in the middle of it", func(t *testing.T) {
		// More than all buffers on the way hold, so that the middle is the middle.
		gone := make(chan struct{})
		row := strings.Repeat(`{"f":[{"v":"`+strings.Repeat("x", 1000)+`"}]},`, 64)
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			defer close(gone)
			w.Header().Set("Content-Type", "application/json")
			_, err := io.WriteString(w, `{"rows":[`)
			for err == nil {
				_, err = io.WriteString(w, row)
			}
		}))
		t.Cleanup(srv.Close)
		r := prepared(t, t.TempDir(), &upstream{url: srv.URL})
		r.begin()
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, message(r.token("etl-bot"), "GET", base+"/queries/some-job", "")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, conn, 8<<20); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		<-gone
		rows := r.calls()
		if len(rows) != 1 || rows[0].Entry.Outcome == nil {
			t.Fatalf("on record: %+v", rows)
		}
		o := rows[0].Entry.Outcome
		if o.End != trailgate.EndClientGone || o.Bytes < 4<<20 || o.Rows < 4000 {
			t.Errorf("the outcome on record is %+v", o)
		}
		r.must("verify")
	})
}

// TestDrain: SIGTERM lets the call under way end, takes no other, and is on
// record as a clean stop.
func TestDrain(t *testing.T) {
	r := newRig(t)
	release := make(chan struct{})
	r.box.box.SetFault(func(req *http.Request) *sandbox.Fault {
		if req.Method == http.MethodPost {
			<-release
		}
		return nil
	})
	query := message(r.token("etl-bot"), "POST", jobs, selectOK, jsonType)
	got := make(chan []answered, 1)
	go func() { got <- r.exchange(query) }()
	waitFor(t, readyTimeout, func() bool { return len(r.box.arrivals()) == 1 }, func() string { return "the call does not arrive" })
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, readyTimeout, func() bool {
		conn, err := net.Dial("tcp", r.addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, func() string { return "the gateway still takes calls after SIGTERM" })
	select {
	case a := <-got:
		t.Fatalf("the call was answered before BigQuery did: %+v", a)
	default:
	}
	close(release)
	if a := <-got; len(a) != 1 || a[0].status != 200 || !strings.Contains(a[0].body, `"DONE"`) {
		t.Errorf("the call under way was answered with %+v", a)
	}
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("the gateway ended with %v\n%s", err, r.out)
	}
	r.cmd = nil
	r.must("verify")
	r.start()
	rows := r.calls()
	r.checkArrivals(rows)
	if len(rows) != 1 || rows[0].Entry.Outcome.End != trailgate.EndComplete {
		t.Errorf("on record: %+v", rows)
	}
	starts := r.search(`action = "serve.start"`)
	if n := len(starts); n != 2 || starts[1].Entry.Event.Detail["previous_stop"] != "clean" {
		t.Errorf("the starts on record: %+v", starts)
	}
}

// serveFails starts a gateway that must not come up, and returns what it says.
func (r *rig) serveFails(code int) string {
	r.t.Helper()
	out, errs, got := command(r.t, "timeout", "-s", "KILL", "60", binary, "serve", "--config", r.config())
	if got != code {
		r.t.Errorf("serve ends with %d, want %d:\n%s%s", got, code, out, errs)
	}
	if strings.Contains(out+errs, readyMark) {
		r.t.Errorf("the gateway said that it is ready:\n%s%s", out, errs)
	}
	return errs
}

// snapshot is every file below a directory, with the hash of its content.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Type().IsRegular():
			all[path] = sha256Hex([]byte(read(t, path)))
		default:
			all[path] = d.Type().String()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// checkSame fails where a directory has changed but for the lock, which holds
// nothing.
func checkSame(t *testing.T, dir string, before map[string]string) {
	t.Helper()
	after := snapshot(t, dir)
	for path, sum := range after {
		if was, ok := before[path]; (!ok || was != sum) && !strings.HasSuffix(path, "/journal/lock") {
			t.Errorf("%s was written (there before: %v)", path, ok)
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			t.Errorf("%s is gone", path)
		}
	}
}

// discard removes a file or a directory, which must be there.
func discard(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}
