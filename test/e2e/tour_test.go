package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// step is a command of the tour and what the README says it prints.
type step struct {
	command string
	want    []string
}

// tour reads the steps out of the README: between its marks, in console blocks,
// a line with "$ " is a command, what follows is what it prints.
func tour(t *testing.T) []step {
	t.Helper()
	raw, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok1 := strings.Cut(string(raw), "<!-- tour:begin -->")
	text, _, ok2 := strings.Cut(text, "<!-- tour:end -->")
	if !ok1 || !ok2 {
		t.Fatal("the README has no tour")
	}
	var steps []step
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case !inside:
		case strings.HasPrefix(line, "$ "):
			steps = append(steps, step{command: line[2:]})
		case len(steps) > 0 && strings.TrimSpace(line) != "":
			last := &steps[len(steps)-1]
			last.want = append(last.want, line)
		}
	}
	return steps
}

// shortID is an entry's id as tables show it.
var shortID = regexp.MustCompile(`\b01[0-9a-hjkmnp-tv-z]{14}\b`)

// vary is what of the README's output is another each time.
var vary = []*regexp.Regexp{
	regexp.MustCompile(`\b20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+Z)?`),
	regexp.MustCompile(`\b(tok_)?01[0-9a-hjkmnp-tv-z]{14}([0-9a-hjkmnp-tv-z]{10})?\b`),
	regexp.MustCompile(`bqjob_r[0-9a-f]+_[0-9a-f]+_\d+`),
	regexp.MustCompile(`\b127\.0\.0\.1:\d+`),
	regexp.MustCompile(`[A-Za-z0-9+/]{43}=`),
	regexp.MustCompile(`\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+`),
	regexp.MustCompile(`\b\d+(\.\d+)?(ms|µs|s)\b`),
	regexp.MustCompile(`\b(log of|good:|took|behind it|the journal) \d+|\b\d+ (entries|in the journal|under the)`),
	regexp.MustCompile(`\bentry \d+`),
	regexp.MustCompile(`\(.*log\.pub\)`),
	regexp.MustCompile(`demo \S+$`), // the version
	regexp.MustCompile(`\s+`),
}

func fixed(s string) string {
	for _, re := range vary {
		s = re.ReplaceAllString(s, " ")
	}
	return strings.TrimSpace(s)
}

// anything tells whether a line stands for any number of lines.
func anything(line string) bool { return strings.Trim(line, " .…") == "" }

// pattern is what a line of output must match: the README's line, save for what
// varies; in it, and in place of whole lines, "…" or "..." stands for anything.
func pattern(line string) *regexp.Regexp {
	parts := strings.Split(strings.ReplaceAll(fixed(line), "...", "…"), "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
}

// TestTour does what the README tells a newcomer, and sees what it says.
func TestTour(t *testing.T) {
	needBQ(t)
	steps := tour(t)
	if len(steps) < 6 {
		t.Fatalf("the tour has %d steps", len(steps))
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(binary, filepath.Join(dir, "bin", "trailgate")); err != nil {
		t.Fatal(err)
	}
	listen := freeAddr(t)
	demo := exec.Command("bin/trailgate", "demo", "--listen", listen, "--admin-listen", freeAddr(t))
	demo.Dir = dir
	out := &output{}
	demo.Stdout, demo.Stderr = out, out
	start := time.Now()
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		demo.Process.Signal(syscall.SIGINT)
		if err := demo.Wait(); err != nil {
			t.Errorf("the demo ended with %v:\n%s", err, out)
		}
	})
	for !strings.Contains(out.String(), "^C ends it") {
		if time.Since(start) > 60*time.Second {
			t.Fatalf("the demo does not come up:\n%s", out)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Logf("the demo was up after %s", time.Since(start).Round(time.Millisecond))

	sh := newShell(t, dir)
	lastID := ""
	for _, s := range steps {
		command := strings.ReplaceAll(s.command, "127.0.0.1:8470", listen)
		command = shortID.ReplaceAllString(command, lastID)
		got := sh.do(command)
		if id := shortID.FindString(got); id != "" {
			lastID = id
		}
		var lines []string
		for line := range strings.Lines(got) {
			lines = append(lines, fixed(line))
		}
		at := 0
		for _, w := range s.want {
			if anything(w) {
				continue
			}
			re := pattern(w)
			for at < len(lines) && !re.MatchString(lines[at]) {
				at++
			}
			if at == len(lines) {
				t.Errorf("$ %s\ndoes not print, or not there:\n  %s\nbut\n%s", command, w, got)
				break
			}
			at++
		}
	}
}

// shell is a bash that lives through the tour, as the reader's terminal does.
type shell struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

const mark = "--- end of the step, exit "

func newShell(t *testing.T, dir string) *shell {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "bash", "--noprofile", "--norc")
	cmd.Dir = dir
	home := t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LANG=C.UTF-8", "CLOUDSDK_CONFIG=" + home + "/gcloud"}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	return &shell{t, in, bufio.NewReader(out)}
}

// do runs one command, which must succeed, and returns what it printed.
func (s *shell) do(command string) string {
	s.t.Helper()
	fmt.Fprintf(s.in, "%s </dev/null\necho \"%s$?\"\n", command, mark)
	var b strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			s.t.Fatalf("$ %s\n%s: %v", command, b.String(), err)
		}
		if code, ok := strings.CutPrefix(line, mark); ok {
			if strings.TrimSpace(code) != "0" {
				s.t.Errorf("$ %s\nended with %s:\n%s", command, strings.TrimSpace(code), b.String())
			}
			return b.String()
		}
		b.WriteString(line)
	}
}
