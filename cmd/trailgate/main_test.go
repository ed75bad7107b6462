package main

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/sandbox"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"trailgate": main,
		"call":      callMain,
		"code":      codeMain,
	})
}

// TestScripts runs testdata/script: one file a theme.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: false,
		UpdateScripts:       *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("NO_COLOR", "1")
			// Under the race detector each of the many processes would wait a second before it ends.
			env.Setenv("GORACE", "atexit_sleep_ms=10")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"sandbox":    cmdSandbox,
			"newgateway": cmdNewGateway,
			"await":      cmdAwait,
			"searchable": cmdSearchable,
			"appears":    cmdAppears,
			"refused":    cmdRefused,
			"sig":        cmdSig,
			"capture":    cmdCapture,
			"flip":       cmdFlip,
			"forge":      cmdForge,
			"swap":       cmdSwap,
			"clean":      cmdClean,
			"restore":    cmdRestore,
			"replace":    cmdReplace,
			"mkcert":     cmdMkcert,
			"peer":       cmdPeer,
			"append":     cmdAppend,
			"exchange":   cmdExchange,
		},
	})
}

// callMain is "call [-t TOKENFILE] VERB URL [BODY]": a small HTTP client. It
// prints the status and the body, and fails only where there is no answer.
func callMain() {
	fs := flag.NewFlagSet("call", flag.ExitOnError)
	token := fs.String("t", "", "file with a bearer token")
	if err := fs.Parse(os.Args[1:]); err != nil || fs.NArg() < 2 {
		fmt.Fprintln(os.Stderr, "usage: call [-t TOKENFILE] VERB URL [BODY]")
		os.Exit(2)
	}
	if err := call(*token, fs.Arg(0), fs.Arg(1), fs.Arg(2)); err != nil {
		fmt.Fprintln(os.Stderr, "call:", err)
		os.Exit(1)
	}
}

func call(tokenFile, verb, url, body string) error {
	req, err := http.NewRequest(verb, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if tokenFile != "" {
		raw, err := os.ReadFile(tokenFile)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(raw)))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

// codeMain is "code N COMMAND…": it succeeds if the command's exit code is N.
func codeMain() {
	want, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "usage: code N COMMAND [ARGUMENT...]")
		os.Exit(2)
	}
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != want {
		fmt.Fprintf(os.Stderr, "code: want exit code %d: %v\n", want, err)
		os.Exit(1)
	}
}

// sandboxToken is what the sandbox of a script asks for.
const sandboxToken = "upstream-token"

// cmdSandbox is "sandbox": it starts a sandbox with sample data in front of which
// gateways of this script may stand. $SANDBOX is its URL.
func cmdSandbox(ts *testscript.TestScript, _ bool, _ []string) {
	box, err := sandbox.New(sandbox.Config{Principals: map[string]string{sandboxToken: "gateway@demo-project.iam.gserviceaccount.com"}})
	ts.Check(err)
	ts.Check(box.Seed(context.Background()))
	server := httptest.NewServer(box)
	ts.Defer(func() {
		server.Close()
		ts.Check(box.Close())
	})
	ts.Setenv("SANDBOX", server.URL)
	ts.Check(os.WriteFile(ts.MkAbs("upstream.token"), []byte(sandboxToken+"\n"), 0o600))
}

// scriptConfig is a gateway's configuration in scripts: the sandbox as
// upstream, and ports that are free.
const scriptConfig = `id: test
gateway:
  listen: 127.0.0.1:0
admin:
  listen: 127.0.0.1:0
policy: {record_only: true}
connections:
  - name: sandbox
    projects: [demo-project]
    upstream: %s
    credential:
      mode: static
      token_file: %s
trail:
  segment_bytes: 1MiB
  min_free_bytes: 0
`

// cmdNewGateway is "newgateway DIR [URL]": init, and a configuration with the
// sandbox as upstream. With a URL it listens for agents there.
func cmdNewGateway(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: newgateway DIR [URL], after sandbox")
	}
	text := fmt.Sprintf(scriptConfig, ts.Getenv("SANDBOX"), filepath.Join(ts.Getenv("WORK"), "upstream.token"))
	if len(args) == 2 {
		text = strings.Replace(text, "127.0.0.1:0", strings.TrimPrefix(args[1], "http://"), 1)
	}
	_, err := initialise(context.Background(), ts.MkAbs(args[0]), text, "test-"+randomHex(3), nil, nil)
	ts.Check(err)
}

// patience bounds how long scripts wait for something that must come. It is no
// expectation: a demo that tells its week under the race detector, with other packages'
// tests on the same two cores, has needed 40 seconds.
const patience = 5 * time.Minute

// poll calls ok until it is true.
func poll(ts *testscript.TestScript, what string, ok func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := ok(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("%s: %v", what, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func scriptRemote(ts *testscript.TestScript, dir string) *remote {
	cfg, err := config.Load(filepath.Join(ts.MkAbs(dir), config.DefaultName))
	ts.Check(err)
	r, err := overSocket(cfg, filepath.Join(cfg.DataDir.String(), socketName))
	ts.Check(err)
	return r
}

// cmdAwait is "await DIR": it waits until the gateway on DIR answers, and sets
// $GATEWAY and $ADMIN to its URLs.
func cmdAwait(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: await DIR")
	}
	poll(ts, "await "+args[0], func(context.Context) error {
		_, err := os.Stat(filepath.Join(ts.MkAbs(args[0]), config.DefaultName))
		return err // a demo makes it
	})
	r := scriptRemote(ts, args[0])
	poll(ts, "await "+args[0], func(ctx context.Context) error {
		info, err := r.Gateway(ctx)
		if err == nil {
			ts.Setenv("GATEWAY", info.PublicURL)
			ts.Setenv("ADMIN", info.AdminURL)
		}
		return err
	})
}

// cmdSearchable is "searchable FILTER [DIR]": it waits until the gateway on DIR
// (or here) finds something.
func cmdSearchable(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) == 1 {
		args = append(args, ".")
	}
	r := scriptRemote(ts, args[1])
	poll(ts, "searchable "+args[0], func(ctx context.Context) error {
		rows, _, err := r.Page(ctx, client.Query{Filter: args[0], PageSize: 1})
		if err == nil && len(rows) == 0 {
			err = errors.New("nothing is found")
		}
		return err
	})
}

// cmdAppears is "appears FILE [REGEXP]": it waits for a file, and for what it
// should hold.
func cmdAppears(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile("")
	if len(args) > 1 {
		var err error
		pattern, err = regexp.Compile(args[1])
		ts.Check(err)
	}
	poll(ts, "appears "+args[0], func(context.Context) error {
		raw, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && !pattern.Match(raw) {
			err = fmt.Errorf("no %s", pattern)
		}
		return err
	})
}

// cmdRefused is "refused URL": it waits until nobody listens there.
func cmdRefused(ts *testscript.TestScript, _ bool, args []string) {
	u, err := url.Parse(args[0])
	ts.Check(err)
	poll(ts, "refused "+args[0], func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", u.Host)
		if err != nil {
			return nil
		}
		return errors.Join(errors.New("somebody listens"), conn.Close())
	})
}

// cmdSig is "sig TERM|HUP|USR1 [N]": it signals the Nth background command, the
// last where no N is given.
func cmdSig(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL}
	commands := ts.BackgroundCmds()
	s, ok := signals[args[0]]
	if !ok || len(commands) == 0 {
		ts.Fatalf("usage: sig TERM|HUP|INT|KILL [N], with a background command")
	}
	n := len(commands)
	if len(args) > 1 {
		var err error
		n, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	err := commands[n-1].Process.Signal(s)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		ts.Check(err)
	}
}

// cmdCapture is "capture NAME REGEXP FILE": $NAME becomes the first group that
// matches in FILE (or stdout).
func cmdCapture(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: capture NAME REGEXP FILE")
	}
	pattern, err := regexp.Compile(args[1])
	ts.Check(err)
	m := pattern.FindStringSubmatch(ts.ReadFile(args[2]))
	if len(m) < 2 {
		ts.Fatalf("%s does not match in %s", args[1], args[2])
	}
	ts.Setenv(args[0], m[1])
}

// cmdFlip is "flip GLOB N": it changes one bit of byte N of the first file that
// matches.
func cmdFlip(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: flip GLOB N")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	found, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(found) == 0 {
		ts.Fatalf("nothing matches %s", args[0])
	}
	raw, err := os.ReadFile(found[0])
	ts.Check(err)
	raw[n] ^= 1
	ts.Check(os.Chmod(found[0], 0o600))
	ts.Check(os.WriteFile(found[0], raw, 0o600))
}

// cmdClean is "clean FILE": nothing in it would act on a terminal.
func cmdClean(ts *testscript.TestScript, _ bool, args []string) {
	for _, r := range ts.ReadFile(args[0]) {
		if r != '\n' && r != '\t' && hostile(r) {
			ts.Fatalf("%s holds %q", args[0], r)
		}
	}
}

// cmdForge is "forge DATA SQL": it changes the newest file of a search index, as
// somebody would who has the disk.
func cmdForge(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: forge DATA SQL")
	}
	files, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "index", "gen-*", "part-*.db"))
	ts.Check(err)
	if len(files) == 0 {
		ts.Fatalf("%s has no index", args[0])
	}
	db, err := sql.Open("sqlite", "file:"+files[len(files)-1])
	ts.Check(err)
	_, err = db.Exec(args[1])
	ts.Check(errors.Join(err, db.Close()))
}

// cmdSwap is "swap GLOB": the first two entries of a bundle change places.
func cmdSwap(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: swap GLOB")
	}
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	for _, name := range names {
		raw, err := os.ReadFile(name)
		ts.Check(err)
		a := 2 + int(binary.BigEndian.Uint16(raw))
		if len(raw) < a+2 {
			continue // a partial bundle of one entry
		}
		b := a + 2 + int(binary.BigEndian.Uint16(raw[a:]))
		swapped := slices.Concat(raw[a:b], raw[:a], raw[b:])
		ts.Check(os.WriteFile(name, swapped, 0o600))
	}
}

// cmdRestore is "restore FROM TO": TO becomes a copy of the directory FROM.
func cmdRestore(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: restore FROM TO")
	}
	ts.Check(os.RemoveAll(ts.MkAbs(args[1])))
	ts.Check(os.CopyFS(ts.MkAbs(args[1]), os.DirFS(ts.MkAbs(args[0]))))
	// CopyFS makes modes of its own; secrets keep theirs.
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(ts.MkAbs(args[0]), path)
		if err != nil {
			return err
		}
		return os.Chmod(filepath.Join(ts.MkAbs(args[1]), rel), info.Mode().Perm())
	}))
}

// cmdReplace is "replace OLD NEW FILE"; \n in NEW is a line break.
func cmdReplace(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: replace OLD NEW FILE")
	}
	text := ts.ReadFile(args[2])
	if !strings.Contains(text, args[0]) {
		ts.Fatalf("%s does not hold %q", args[2], args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(strings.ReplaceAll(text, args[0], strings.ReplaceAll(args[1], `\n`, "\n"))), 0o644))
}

// cmdAppend is "append FILE FROM": what FROM holds is added to FILE.
func cmdAppend(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: append FILE FROM")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(ts.ReadFile(args[0])+ts.ReadFile(args[1])), 0o644))
}
