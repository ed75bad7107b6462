package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/recording"
	"github.com/trailgate/trailgate/internal/trail"
)

// faultyConfig has all stores written to.
const faultyConfig = `id: chaos
data_dir: data
gateway: {listen: %q}
admin: {listen: "off"}
policy: {record_only: true}
connections:
  - name: main
    projects: ["*"]
    upstream: %s
    credential: {mode: static, token_file: upstream.token}
    recording: {level: results}
trail:
  segment_bytes: 1MiB
  checkpoint_interval: 100ms
`

// fault is something that the kernel does to the gateway.
type fault struct {
	calls string
	what  string // of strace's --inject
}

func (f fault) String() string { return f.calls + " " + f.what }

func (f fault) kills() bool { return strings.Contains(f.what, "KILL") }

// faults are the durable steps, as the kernel sees them, by what may become of
// each. A call that fails is not done; that of fdatasync and fsync leaves what
// was written to be read, and perhaps kept, all the same. Counts are of each
// thread on its own, as strace counts.
func faults() (all []fault) {
	for _, calls := range []string{"fdatasync", "fsync", "pwrite64", "renameat", "mkdirat", "unlinkat", "openat"} {
		for _, what := range []string{"error=EIO:when=1", "error=ENOSPC:when=2", "delay_enter=150000:when=1..3", "signal=SIGKILL:when=1", "signal=SIGKILL:when=4"} {
			all = append(all, fault{calls, what})
		}
	}
	return append(
		all,
		fault{"fdatasync", "error=EIO:when=1..30"},
		fault{"fdatasync,fsync,pwrite64,renameat,mkdirat,openat", "error=EROFS:when=1..20"}, // remounted read-only for a while
		fault{"openat", "error=EMFILE:when=1..20"},                                          // out of descriptors for a while
		fault{"pwrite64", "error=ENOSPC:when=1..40"},
		fault{"write", "signal=SIGKILL:when=9"},
		fault{"fdatasync", "signal=SIGKILL:when=9"},
	)
}

// TestSystemCallFaults has the kernel fail, delay and kill the built gateway at
// every kind of durable step while agents call and an administrator lets agents
// in, by strace's fault injection; each time the gateway recovers or is started
// again, and the whole trail is verified.
//
// TRAILGATE_FAULTS is how often the whole list is gone through; default once,
// and every fifth of it with -short.
func TestSystemCallFaults(t *testing.T) {
	needStrace(t)
	list := faults()
	if testing.Short() {
		t.Skip("takes a minute")
	}
	var plan []fault
	for range envInt(t, "TRAILGATE_FAULTS", 1) {
		plan = append(plan, list...)
	}
	r := newRigWith(t, options{config: faultyConfig})
	r.mixed = true
	r.start()
	r.query("CREATE TABLE staging.kills (n INT64)")
	var number int64
	var numbers sync.Mutex
	injected, died := 0, 0
	var admitted []string
	up := true
	for i, f := range plan {
		if !up {
			r.start()
			up = true
		}
		ctx, cancel := context.WithCancel(t.Context())
		wg := r.load(ctx, 4, &number, &numbers)
		admin := make(chan []string, 1)
		go func() { admin <- r.admit(ctx, i) }()
		n := r.inject(f)
		injected += n
		if f.kills() {
			must(t, ignoreExit(r.cmd.Wait()))
			up = false
		} else {
			up = r.recovers(f)
		}
		if !up {
			died++
		}
		cancel()
		wg.Wait()
		admitted = append(admitted, <-admin...)
		if up && i%3 == 0 {
			r.kill()
			up = false
		}
		if !up {
			r.verify(fmt.Sprintf("%d, %s", i, f), admitted)
		}
	}
	if up {
		r.kill()
	}
	r.verify("the last", admitted)
	sum := r.settleAndCheck("staging.kills")
	t.Logf("%d rounds, each of one kind of fault, %d faults injected into system calls, the process ended %d times; %d agents admitted; %s", len(plan), injected, died, len(admitted), sum)
}

// ignoreExit is for a process that was killed.
func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// admit lets agents in, and returns those that it was told are in.
func (r *rig) admit(ctx context.Context, round int) (names []string) {
	for n := 0; ctx.Err() == nil && n < 20; n++ {
		name := fmt.Sprintf("agent-%d-%d", round, n)
		cmd := exec.CommandContext(ctx, binary, "agent", "add", name, "--config", filepath.Join(r.dir, "trailgate.yaml"))
		if cmd.Run() == nil {
			names = append(names, name)
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return names
}

// inject attaches strace to the running gateway until the fault happened, or the
// process ended of it, and returns how often it did.
func (r *rig) inject(f fault) int {
	r.t.Helper()
	out := filepath.Join(r.t.TempDir(), "injected")
	inject := exec.Command(needStrace(r.t), "-f", "-q", "-o", out, "-p", fmt.Sprint(r.cmd.Process.Pid),
		"-e", "trace="+f.calls, "-e", "signal=none", "--inject="+f.calls+":"+f.what)
	var said output
	inject.Stderr = &said
	must(r.t, inject.Start())
	ended := make(chan error, 1)
	go func() { ended <- inject.Wait() }()
	count := func() int {
		raw, _ := os.ReadFile(out) // there once it is attached
		return strings.Count(string(raw), "(INJECTED)") + strings.Count(string(raw), "(DELAYED)")
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-ended: // with the gateway, which nobody else kills
			if f.kills() && err == nil && waits(r.cmd) {
				return 1
			}
			if n := count(); n > 0 {
				return n
			}
			r.t.Fatalf("%s: strace: %v: %s\n%s", f, err, said.String(), r.output)
		default:
		}
		if !f.kills() && count() > 0 {
			break
		}
		if time.Now().After(deadline) {
			_ = inject.Process.Kill()
			r.t.Fatalf("%s: it did not happen within a minute: %s\n%s", f, said.String(), r.output)
		}
	}
	// A little longer, for those that are to happen several times; then it is over.
	for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if count() > 25 {
			break
		}
	}
	_ = inject.Process.Signal(os.Interrupt)
	<-ended
	return count()
}

// recovers waits until the gateway answers again by itself. Tessera may end the
// process where it cannot open a file (see internal/trail/tessera.go); then the
// next start has to do.
func (r *rig) recovers(f fault) bool {
	r.t.Helper()
	before := r.answeredSoFar()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if r.answeredSoFar() >= before+5 {
			return true
		}
		if waits(r.cmd) {
			_ = r.cmd.Wait()
			if !strings.HasPrefix(f.calls, "openat") && !strings.Contains(f.calls, ",openat") {
				r.t.Fatalf("%s: the gateway ended:\n%s", f, r.output)
			}
			return false
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: the gateway does not recover:\n%s", f, r.output)
		}
	}
}

// waits reports whether a process waits to be waited for.
func waits(cmd *exec.Cmd) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(raw), ") ")
	return strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}

func (r *rig) answeredSoFar() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.answers)
}

// verify checks all that the killed gateway left.
func (r *rig) verify(what string, admitted []string) {
	r.t.Helper()
	rows := recording.Existing(recording.Options{Dir: filepath.Join(r.data, "recordings"), KeyDir: filepath.Join(r.data, "recording-keys")})
	if _, err := trail.Verify(r.t.Context(), trail.VerifyOptions{Dir: r.data, Recording: rows.Check}); err != nil {
		r.t.Fatalf("after %s: verify: %v", what, err)
	}
	agents, err := identity.Open(filepath.Join(r.data, "agents.json"))
	if err != nil {
		r.t.Fatalf("after %s: %v", what, err)
	}
	for _, name := range admitted {
		if _, err := agents.Agent(name); err != nil {
			r.t.Fatalf("after %s: %s was let in: %v", what, name, err)
		}
	}
}
