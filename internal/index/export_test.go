package index

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"
)

// Hooks for the black-box tests.

// BeforeCursor makes f be called between the commits of older files and that of
// the newest file, with the cursor. Its error fails the latter.
func (o *Options) BeforeCursor(f func() error) { o.beforeCursor = f }

// Glance sets what a look around may cost.
func (o *Options) Glance(rows int64, budget time.Duration) {
	o.glanceRows, o.glanceBudget = rows, budget
}

// TextBytes sets what a writer may remember of texts.
func (o *Options) TextBytes(n int) { o.maxIDs = n }

// Remembered is what the writers remember of texts, bytes; what they say that they do.
func (x *Index) Remembered() (bytes int) {
	st, release, err := x.acquire()
	if err != nil {
		return 0
	}
	defer release()
	for _, w := range st.writers {
		bytes += w.idsBytes
	}
	return bytes
}

// Files returns the paths of the files in use.
func (x *Index) Files() []string {
	st, release, err := x.acquire()
	if err != nil {
		return nil
	}
	defer release()
	var list []string
	for _, p := range st.oldestFirst() {
		list = append(list, p.path)
	}
	return list
}

// Generation names the generation in use.
func (x *Index) Generation() string {
	st, release, err := x.acquire()
	if err != nil {
		return ""
	}
	defer release()
	return filepath.Base(st.dir)
}

// ParseFilter parses a filter and throws the result away.
func ParseFilter(filter string, now time.Time) error {
	_, err := parseFilter(filter, now)
	return err
}

// Planned is the SQL that a filter becomes for each file, newest first.
func (x *Index) Planned(ctx context.Context, filter string) ([]string, error) {
	n, err := parseFilter(filter, x.opt.Now())
	if err != nil {
		return nil, err
	}
	st, release, err := x.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	if err := x.resolveIDs(ctx, st, n); err != nil {
		return nil, err
	}
	var list []string
	for _, p := range st.newestFirst() {
		pl, err := st.planner(p)
		if err != nil {
			return nil, err
		}
		c, err := pl.plan(ctx, n)
		if err != nil {
			return nil, err
		}
		if c.never {
			list = append(list, "")
			continue
		}
		from, _, _ := c.from()
		list = append(list, from)
	}
	return list, nil
}

// RollupUsed reports whether a rollup answers a sum.
func (x *Index) RollupUsed(ctx context.Context, by []string, filter string) (bool, error) {
	keys, err := parseKeys(by)
	if err != nil {
		return false, err
	}
	n, err := parseFilter(filter, x.opt.Now())
	if err != nil {
		return false, err
	}
	st, release, err := x.acquire()
	if err != nil {
		return false, err
	}
	defer release()
	pl, err := st.planner(st.newestFirst()[0])
	if err != nil {
		return false, err
	}
	_, _, ok, err := pl.rollupQuery(ctx, n, keys)
	return ok, err
}

// Glob matches a pattern.
func Glob(pattern, s string) bool { return glob(pattern, s) }

// Words are the words of a text.
func Words(text string) []string {
	var list []string
	eachWord(text, func(w string) bool { list = append(list, w); return true })
	return list
}

// Columns and QuoteBare show what quoteBare makes of a filter.
func QuoteBare(filter string) string {
	q, _ := quoteBare(filter)
	return q
}

// Digest is over all that a file of the index holds, in the order of its keys.
func Digest(ctx context.Context, path string) (string, error) {
	f := openFile(ctx, path)
	defer f.close()
	if f.err != nil {
		return "", f.err
	}
	h := sha256.New()
	for i := range checkedTables {
		r, err := checkedTables[i].read(ctx, f)
		if err != nil {
			return "", err
		}
		for r.cur != nil {
			for _, v := range r.cur {
				fmt.Fprintf(h, "%s\x00", showValue(v))
			}
			if err := r.step(); err != nil {
				return "", errors.Join(err, r.rows.Close())
			}
		}
		if err := r.rows.Close(); err != nil {
			return "", err
		}
	}
	if _, err := f.conn.ExecContext(ctx, vocab); err != nil {
		return "", err
	}
	text, err := pairText(ctx, f, "", "")
	io.WriteString(h, text)
	return "format " + format + ", " + hex.EncodeToString(h.Sum(nil)[:8]), err
}
