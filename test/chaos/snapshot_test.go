package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// code runs a command that may fail, and says how it ended and what it said.
func (r *rig) code(args ...string) (int, string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(args, "--config", filepath.Join(r.dir, "trailgate.yaml"))...)
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), string(out)
	}
	must(r.t, err)
	return 0, string(out)
}

func (r *rig) stop() {
	r.t.Helper()
	must(r.t, r.cmd.Process.Signal(os.Interrupt))
	if err := r.cmd.Wait(); err != nil {
		r.t.Fatalf("graceful stop: %v\n%s", err, r.output)
	}
}

func (r *rig) copyTree(from, to string) {
	r.t.Helper()
	must(r.t, os.RemoveAll(to))
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		r.t.Fatalf("cp: %v %s", err, out)
	}
}

// TestStaleSnapshot restores an older copy of the disk, in part and in whole. In
// part, it is refused at start and found by verify, in words. In whole, it is
// what an honest gateway once was: only a checkpoint that somebody kept
// elsewhere tells, and then both the missing entries and their number are named.
func TestStaleSnapshot(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the gateway several times")
	}
	r := newRig(t)
	r.start()
	r.query("CREATE TABLE staging.kills (n INT64)")
	r.stop()
	old := filepath.Join(t.TempDir(), "old")
	r.copyTree(r.data, old)
	r.start()
	for n := range 20 {
		r.query(fmt.Sprintf("INSERT INTO staging.kills (n) VALUES (%d)", n))
	}
	r.stop()
	present := filepath.Join(t.TempDir(), "present")
	r.copyTree(r.data, present)
	elsewhere := filepath.Join(present, "head", "checkpoint")

	for name, parts := range map[string][]string{
		"the log": {"log"}, "the journal": {"journal"}, "log and journal": {"log", "journal"}, "the checkpoints": {"head", "log/checkpoint"},
		"all but head": {"log", "journal", "blobs", "index"},
	} {
		r.copyTree(present, r.data)
		for _, part := range parts {
			r.copyTree(filepath.Join(old, part), filepath.Join(r.data, part))
		}
		verified, said := r.code("verify")
		started, refused := 0, ""
		// Older checkpoints of the same tree take nothing away: the journal and the tree are
		// whole, and the next checkpoint covers them.
		if name != "the checkpoints" {
			started, refused = r.code("serve")
			if started != 3 || verified != 3 {
				t.Errorf("%s restored: serve ends with %d (%s), verify with %d (%s); want 3", name, started, refused, verified, said)
			}
		}
		if verified, said := r.code("verify", "--head", elsewhere); name != "the checkpoints" && verified != 3 {
			t.Errorf("%s restored, against a checkpoint kept elsewhere: verify ends with %d: %s", name, verified, said)
		}
	}
	r.copyTree(old, r.data)
	if code, said := r.code("verify"); code != 0 {
		t.Errorf("a whole snapshot: verify ends with %d: %s", code, said)
	}
	if code, said := r.code("verify", "--head", elsewhere); code != 3 || !strings.Contains(said, "entr") {
		t.Errorf("a whole snapshot, against a checkpoint kept elsewhere: verify ends with %d: %s", code, said)
	}
}

// TestOutOfDescriptors: connections use up all descriptors that the gateway may
// have. It answers again once they are gone, or starts again, and nothing that
// was acknowledged is lost.
func TestOutOfDescriptors(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the gateway several times")
	}
	r := newRigWith(t, options{config: killsConfig, command: func(args ...string) *exec.Cmd {
		if args[0] != "serve" {
			return exec.Command(binary, args...)
		}
		return exec.Command("sh", append([]string{"-c", `ulimit -n 64; exec "$0" "$@"`, binary}, args...)...)
	}})
	r.start()
	r.query("CREATE TABLE staging.kills (n INT64)")
	load := func(n int) {
		for i := range n {
			r.tryQuery(fmt.Sprintf("INSERT INTO staging.kills (n) VALUES (%d)", i))
		}
	}
	var conns []net.Conn
	for range 100 {
		c, err := net.DialTimeout("tcp", r.addr, 10*time.Second)
		if err != nil {
			break // the queue of those that wait to be accepted is full
		}
		conns = append(conns, c)
	}
	r.waitFor("it runs out", func() bool { return waits(r.cmd) || r.descriptors() >= 63 })
	done := make(chan struct{})
	go func() { defer close(done); load(20) }() // they wait, or fail
	for _, c := range conns {
		time.Sleep(5 * time.Millisecond) // so that it is at the limit for a while, in both directions
		c.Close()
	}
	<-done
	if waits(r.cmd) {
		_ = r.cmd.Wait()
		t.Logf("it ended, as Tessera does where it cannot open its lock file:\n%.500s", r.output)
		r.start()
	}
	r.waitFor("it answers again", func() bool { return r.tryQuery("SELECT 1") })
	r.kill()
	if code, said := r.code("verify"); code != 0 {
		t.Errorf("verify ends with %d: %s", code, said)
	}
	intents, outcomes := r.entries()
	for _, job := range r.box.Jobs() {
		if id := job.Labels["trailgate_entry"]; job.Executed && intents[id] == nil {
			t.Errorf("%s ran without an intent", job.Statement)
		}
	}
	t.Logf("%d connections for 64 descriptors; %d intents, %d outcomes", len(conns), len(intents), len(outcomes))
}
