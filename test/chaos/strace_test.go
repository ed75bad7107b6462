package chaos

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// traced are the system calls that can change what is on disk, or be what
// somebody outside is told with. One that changes files and is not among those
// that [disk.take] models fails the test that meets it.
const traced = "openat,open,creat,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,sync_file_range,sync,syncfs,ftruncate,truncate," +
	"fallocate,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,symlink,symlinkat,copy_file_range,sendfile,splice"

// needStrace is where Debian's strace is. CI installs it; without it these tests
// fail rather than pass unseen.
func needStrace(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("these tests drive the gateway under strace: apt-get install strace")
	}
	return path
}

// syscall is one system call of a traced process.
type syscall struct {
	name        string
	args        []string
	ret         int64
	failed      bool
	enter, exit int // positions in the trace, by which calls of several threads overlap or not
}

// readTrace reads what strace -f -xx -yy -o wrote, in the order of the calls'
// beginnings. Calls that never returned, as the process was killed, have no exit.
func readTrace(r io.Reader, at int) (calls []*syscall, next int, err error) {
	lines := bufio.NewReaderSize(r, 1<<20)
	open := map[string]*syscall{}
	rest := map[string]string{}
	for ; ; at++ {
		line, err := lines.ReadString('\n')
		if err == io.EOF && line == "" {
			return calls, at, nil
		}
		if err != nil && err != io.EOF {
			return nil, at, err
		}
		line = strings.TrimSuffix(line, "\n")
		pid, text, ok := strings.Cut(line, " ")
		if !ok {
			return nil, at, fmt.Errorf("line %d: %.80q", at, line)
		}
		text = strings.TrimLeft(text, " ")
		switch {
		case strings.HasPrefix(text, "+++"), strings.HasPrefix(text, "---"):
			continue
		case strings.HasPrefix(text, "<... "):
			c := open[pid]
			_, tail, ok := strings.Cut(text, " resumed>")
			if c == nil || !ok {
				return nil, at, fmt.Errorf("line %d: %.80q resumes nothing", at, line)
			}
			delete(open, pid)
			c.exit = at
			if err := c.parse(rest[pid] + tail); err != nil {
				return nil, at, fmt.Errorf("line %d: %w", at, err)
			}
		default:
			name, tail, ok := strings.Cut(text, "(")
			if !ok {
				return nil, at, fmt.Errorf("line %d: %.80q", at, line)
			}
			c := &syscall{name: name, enter: at, exit: never}
			calls = append(calls, c)
			if head, cut := strings.CutSuffix(tail, "<unfinished ...>"); cut {
				open[pid], rest[pid] = c, head
				c.failed = true // until it returns: nothing is known of it
				c.args = splitArgs(strings.TrimSuffix(head, " "))
				continue
			}
			c.exit = at
			if err := c.parse(tail); err != nil {
				return nil, at, fmt.Errorf("line %d: %w", at, err)
			}
		}
	}
}

// String is the call with its strings readable.
func (c *syscall) String() string {
	args := make([]string, len(c.args))
	for i, a := range c.args {
		args[i] = a
		if b, err := text(a); err == nil && len(b) > 0 {
			args[i] = fmt.Sprintf("%.60q", b)
		} else if fd, name := descriptor(a); name != "" {
			args[i] = fmt.Sprintf("%d<%s>", fd, name)
		}
	}
	return c.name + "(" + strings.Join(args, ", ") + ")"
}

const never = int(^uint(0) >> 1)

// parse reads "arg, arg) = result".
func (c *syscall) parse(s string) error {
	i := strings.LastIndex(s, ") ")
	eq := strings.LastIndex(s, "= ")
	if i < 0 || eq < i {
		return fmt.Errorf("%s: no result in %.80q", c.name, s)
	}
	c.args = splitArgs(s[:i])
	result := s[eq+2:]
	if strings.HasPrefix(result, "?") {
		c.failed, c.exit = true, never // the process ended within it
		return nil
	}
	number, _, _ := strings.Cut(result, " ")
	number, _, _ = strings.Cut(number, "<")
	var err error
	if c.ret, err = strconv.ParseInt(number, 0, 64); err != nil {
		return fmt.Errorf("%s: result %.80q", c.name, result)
	}
	c.failed = c.ret < 0
	return nil
}

// splitArgs splits at commas that are in no string, list or structure. Strings
// are all in hex, so that nothing in them has to be escaped.
func splitArgs(s string) []string {
	var args []string
	depth, quoted, from := 0, false, 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			quoted = !quoted
		case '[', '{', '<':
			if !quoted {
				depth++
			}
		case ']', '}':
			if !quoted {
				depth--
			}
		case '>':
			if !quoted && (i == 0 || s[i-1] != '-') { // not the arrow between two addresses
				depth--
			}
		case ',':
			if !quoted && depth == 0 {
				args = append(args, strings.TrimSpace(s[from:i]))
				from = i + 1
			}
		}
	}
	return append(args, strings.TrimSpace(s[from:]))
}

// text is the strings in an argument, one after the other.
func text(arg string) ([]byte, error) {
	var out []byte
	for {
		_, tail, ok := strings.Cut(arg, `"`)
		if !ok {
			return out, nil
		}
		body, after, ok := strings.Cut(tail, `"`)
		if !ok || strings.HasPrefix(after, "...") {
			return nil, fmt.Errorf("a string was cut short: %.80q", tail)
		}
		b, err := unhex(body)
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
		arg = after
	}
}

// unhex reads \x61\x62.
func unhex(s string) ([]byte, error) {
	out := make([]byte, 0, len(s)/4)
	for len(s) > 0 {
		if len(s) < 4 || s[:2] != `\x` {
			return nil, fmt.Errorf("want only hex: %.80q", s)
		}
		b, err := strconv.ParseUint(s[2:4], 16, 8)
		if err != nil {
			return nil, err
		}
		out = append(out, byte(b))
		s = s[4:]
	}
	return out, nil
}

// descriptor reads "7</path>" or "AT_FDCWD</path>".
func descriptor(arg string) (fd int, names string) {
	number, name, _ := strings.Cut(arg, "<")
	name = strings.TrimSuffix(name, ">")
	if strings.HasPrefix(name, `\x`) {
		if b, err := unhex(name); err == nil {
			name = string(b)
		}
	}
	fd, err := strconv.Atoi(number)
	if err != nil {
		fd = -1
	}
	return fd, name
}

func integer(arg string) (int64, error) { return strconv.ParseInt(arg, 0, 64) }

// trace runs a command under strace, which writes to file.
func trace(t *testing.T, file string, options []string, args ...string) *exec.Cmd {
	t.Helper()
	all := append([]string{"-f", "-q", "-o", file}, options...)
	cmd := exec.Command(needStrace(t), append(append(all, binary), args...)...)
	cmd.Env = os.Environ()
	return cmd
}

// recordingOptions are strace's options for a trace that [readTrace] reads.
var recordingOptions = []string{"--seccomp-bpf", "-xx", "-yy", "-s", "16777216", "-e", "trace=" + traced, "-e", "signal=none"}
