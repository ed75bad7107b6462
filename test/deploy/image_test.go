package deploy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func newBuffered(text string) *bufio.Reader { return bufio.NewReader(strings.NewReader(text)) }

// dockerfile is deploy/Dockerfile: its instructions, in order.
func dockerfile() ([][2]string, error) {
	raw, err := os.ReadFile(filepath.Join(root, "deploy", "Dockerfile"))
	if err != nil {
		return nil, err
	}
	var all [][2]string
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		verb, rest, ok := strings.Cut(line, " ")
		if !ok {
			return nil, fmt.Errorf("Dockerfile: %q", line)
		}
		all = append(all, [2]string{verb, rest})
	}
	return all, nil
}

// buildAsImage runs the Dockerfile's own build command, with another output.
func buildAsImage(out string) error {
	instructions, err := dockerfile()
	if err != nil {
		return err
	}
	for _, in := range instructions {
		if in[0] != "RUN" || !strings.Contains(in[1], "go build") {
			continue
		}
		command := strings.Replace(in[1], "-o /out/trailgate", "-o "+out, 1)
		if command == in[1] {
			return fmt.Errorf("Dockerfile: the build's output is elsewhere: %s", in[1])
		}
		cmd := exec.Command("sh", "-ec", command)
		cmd.Dir = root
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", command, err, text)
		}
		return nil
	}
	return fmt.Errorf("Dockerfile: nothing is built")
}

// TestDockerfile: what the image runs, as whom, and what it is made from.
func TestDockerfile(t *testing.T) {
	instructions, err := dockerfile()
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]string{}
	for _, in := range instructions {
		if in[0] == "FROM" {
			clear(last) // a stage begins
		}
		last[in[0]] = in[1]
	}
	for verb, want := range map[string]string{
		"FROM":       `^\$\{BASE_IMAGE\}$`,
		"USER":       `^65532:65532$`,
		"ENTRYPOINT": `^\["/trailgate"\]$`,
		"CMD":        `^\["serve", "--config", "/var/lib/trailgate/trailgate.yaml"\]$`,
	} {
		if !regexp.MustCompile(want).MatchString(last[verb]) {
			t.Errorf("the image's %s is %q, want %s", verb, last[verb], want)
		}
	}
	if last["RUN"] != "" {
		t.Errorf("RUN %s: the last stage has no shell", last["RUN"])
	}
	raw, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(raw)
	text := fmt.Sprint(instructions)
	if version == nil || !strings.Contains(text, "GO_IMAGE=golang:"+string(version[1])+"-") {
		t.Errorf("the image is not built with the Go of go.mod, %s", version)
	}
	if !strings.Contains(text, "BASE_IMAGE=gcr.io/distroless/static-debian12:nonroot]") {
		t.Error("the base is not distroless static")
	}
}

// TestAloneAsNobody runs the program as the image does: nothing in its file
// system but itself, an empty directory that is its own, and /tmp, as distroless has it;
// no capability, not root.
func TestAloneAsNobody(t *testing.T) {
	if os.Getuid() != 0 {
		const why = "this test needs root: it changes the root directory, and the user, of a process"
		if os.Getenv("CI") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	dir, err := os.MkdirTemp("", "trailgate-image") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const nobody = 65532
	state := filepath.Join(dir, "var/lib/trailgate")
	for _, err := range []error{
		os.Chmod(dir, 0o755), os.MkdirAll(filepath.Dir(state), 0o755), os.Mkdir(state, 0o700), os.Chown(state, nobody, nobody), os.Mkdir(filepath.Join(dir, "tmp"), 0o700), os.Chmod(filepath.Join(dir, "tmp"), os.ModeSticky|0o777), copyFile(binary, filepath.Join(dir, "trailgate")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command("/trailgate", args...)
		cmd.Dir, cmd.Env = "/var/lib/trailgate", []string{"HOME=/nonexistent"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir, Credential: &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: false}}
		return cmd
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := command(args...).CombinedOutput()
		if err != nil {
			t.Fatalf("trailgate %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("init", "--dir", "/var/lib/trailgate", "--id", "image")
	agents, humans := freeAddr(t), freeAddr(t)
	config := fmt.Sprintf("id: image\ngateway: {listen: %q}\nadmin: {listen: %q}\nconnections: [{name: c, projects: [p], credential: {mode: none}}]\n", agents, humans)
	const path = "/var/lib/trailgate/trailgate.yaml"
	if err := os.WriteFile(filepath.Join(dir, path), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := command("health", "--config", path).CombinedOutput(); err == nil {
		t.Fatalf("healthy, though nothing runs: %s", out)
	}
	serve := command("serve", "--config", path)
	var log bytes.Buffer
	serve.Stdout, serve.Stderr = &log, &log
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serve.Wait() }()
	t.Cleanup(func() { _ = serve.Process.Kill() })
	deadline := time.Now().Add(2 * time.Minute)
	for command("health", "--config", path).Run() != nil {
		select {
		case err := <-ended:
			t.Fatalf("serve: %v\n%s", err, &log)
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("not healthy within two minutes")
		}
	}
	if got := run("health", "--live", "--config", path); got != "ok\n" {
		t.Errorf("health --live printed %q", got)
	}
	resp, err := http.Get("http://" + agents + "/bigquery/v2/projects")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a call without a token: %s", resp.Status)
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(serve.Process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`(?m)^Uid:\s+65532\s+65532\s+65532\s+65532$`, `(?m)^CapEff:\s+0+$`} {
		if !regexp.MustCompile(want).Match(status) {
			t.Errorf("the process is not as %s has it:\n%s", want, status)
		}
	}
	if err := serve.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("serve ended with %v\n%s", err, &log)
	}
	if out := run("verify", "--config", path); !strings.HasPrefix(out, "good: ") {
		t.Errorf("verify: %s", out)
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
