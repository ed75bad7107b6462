package chaos

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// disk is what a directory tree holds on a disk that may lose, when the power is
// cut, whatever POSIX lets it lose: written bytes, sector by sector, until their
// file is synced, and names until their directory is. Nothing is taken for
// granted that file systems happen to do (such as keeping a new file's name when
// the file is synced, or the order of writes).
type disk struct {
	root string
	top  *node
	fds  map[int]*descriptorOf
	// syncs are the syncs under way, by where they end.
	ending map[int][]func()
	steps  map[string]int // how often each kind of step was met
}

// descriptorOf is an open file: where write(2) writes next, and how.
type descriptorOf struct {
	*node
	at             int64
	appends, synch bool // O_APPEND; O_SYNC or O_DSYNC
}

// node is a file or a directory.
type node struct {
	// Of a file: what is on the disk for certain, and changes since.
	durable []byte
	pending []change
	// Of a directory: the names that a process sees, those on the disk for certain, and changes since.
	dir     bool
	live    map[string]*node
	synced  map[string]*node
	renamed []naming
}

// change is a write, or, without data, a new size.
type change struct {
	off  int64
	data []byte
	size int64
	exit int
}

// naming sets or, where to is nil, deletes names, all at once.
type naming struct {
	set  map[string]*node
	exit int
}

func newDir() *node { return &node{dir: true, live: map[string]*node{}, synced: map[string]*node{}} }

// newDisk follows what happens below root, which may not exist yet; its parent's
// names count as synced.
func newDisk(root string) *disk {
	return &disk{root: root, top: newDir(), fds: map[int]*descriptorOf{}, ending: map[int][]func(){}, steps: map[string]int{}}
}

// inside is a path relative to the root, if it is below it.
func (d *disk) inside(path string) (string, bool) {
	if path == d.root {
		return "", true
	}
	return strings.CutPrefix(path, d.root+"/")
}

// find is the node of a name, and the directory that has it.
func (d *disk) find(rel string) (parent *node, name string, n *node) {
	if rel == "" {
		return nil, "", d.top
	}
	at := d.top
	parts := strings.Split(filepath.Clean(rel), "/")
	for _, p := range parts[:len(parts)-1] {
		if at = at.live[p]; at == nil || !at.dir {
			return nil, "", nil
		}
	}
	name = parts[len(parts)-1]
	return at, name, at.live[name]
}

func (n *node) rename(set map[string]*node, exit int) {
	for name, to := range set {
		if to == nil {
			delete(n.live, name)
		} else {
			n.live[name] = to
		}
	}
	n.renamed = append(n.renamed, naming{set, exit})
}

// path is the name that a call is about: args[i] is a directory's descriptor,
// args[i+1] a name, or, where i is -1, args[0] is the name.
func pathOf(c *syscall, i int) (string, error) {
	if len(c.args) <= i+1 {
		return "", fmt.Errorf("%s: %d arguments", c.name, len(c.args))
	}
	b, err := text(c.args[i+1])
	if err != nil {
		return "", err
	}
	p := string(b)
	if !filepath.IsAbs(p) {
		if i < 0 {
			return "", fmt.Errorf("%s %s: a relative name", c.name, p)
		}
		_, dir := descriptor(c.args[i])
		p = filepath.Join(dir, p)
	}
	return filepath.Clean(p), nil
}

// advance ends the syncs that end before position at.
func (d *disk) advance(at int) {
	for _, end := range slices.Sorted(maps.Keys(d.ending)) {
		if end < at {
			for _, f := range d.ending[end] {
				f()
			}
			delete(d.ending, end)
		}
	}
}

// take has a call begin. Its effect may be on the disk from here on, and is for
// certain once a sync that began after its end has ended.
func (d *disk) take(c *syscall) error {
	if c.failed {
		// It did nothing, or never returned, and nothing follows that could depend on it.
		return nil
	}
	switch c.name {
	case "openat":
		return d.open(c, 0)
	case "open":
		return d.open(c, -1)
	case "write", "pwrite64", "writev":
		return d.write(c)
	case "ftruncate":
		fd, name := descriptor(c.args[0])
		n := d.fds[fd]
		if _, ok := d.inside(name); !ok || n == nil {
			return nil
		}
		size, err := integer(c.args[1])
		n.pending = append(n.pending, change{size: size, exit: c.exit})
		d.steps["truncate"]++
		return err
	case "fallocate":
		fd, name := descriptor(c.args[0])
		n := d.fds[fd]
		if _, ok := d.inside(name); !ok || n == nil {
			return nil
		}
		off, err := integer(c.args[2])
		if err != nil {
			return err
		}
		size, err := integer(c.args[3])
		if c.args[1] != "0" {
			return fmt.Errorf("fallocate of mode %s", c.args[1])
		}
		if n.size() < off+size {
			n.pending = append(n.pending, change{size: off + size, exit: c.exit})
		}
		d.steps["fallocate"]++
		return err
	case "fsync", "fdatasync":
		fd, name := descriptor(c.args[0])
		n := d.fds[fd]
		if _, ok := d.inside(name); !ok || n == nil {
			return nil
		}
		d.steps[c.name]++
		if n.dir {
			d.steps["fsync of a directory"]++
		}
		d.ending[c.exit] = append(d.ending[c.exit], func() { n.node.sync(c.enter) })
		return nil
	case "mkdirat", "mkdir":
		i := 0
		if c.name == "mkdir" {
			i = -1
		}
		path, err := pathOf(c, i)
		rel, ok := d.inside(path)
		if err != nil || !ok || rel == "" {
			return err
		}
		parent, name, _ := d.find(rel)
		if parent == nil {
			return fmt.Errorf("mkdir %s: its parent is not known", path)
		}
		parent.rename(map[string]*node{name: newDir()}, c.exit)
		d.steps["mkdir"]++
		return nil
	case "unlinkat", "unlink", "rmdir":
		i := 0
		if c.name != "unlinkat" {
			i = -1
		}
		path, err := pathOf(c, i)
		rel, ok := d.inside(path)
		if err != nil || !ok {
			return err
		}
		parent, name, n := d.find(rel)
		if n == nil {
			return nil // a socket, which bind made
		}
		parent.rename(map[string]*node{name: nil}, c.exit)
		d.steps["unlink"]++
		return nil
	case "rename", "renameat", "renameat2", "linkat":
		return d.move(c)
	}
	return d.unknown(c)
}

// unknown: calls that are not modelled must not touch the tree.
func (d *disk) unknown(c *syscall) error {
	for i, a := range c.args {
		_, name := descriptor(a)
		if _, ok := d.inside(name); ok {
			return fmt.Errorf("%s on %s is not modelled", c.name, name)
		}
		if b, err := text(a); err == nil && i < 4 {
			if _, ok := d.inside(string(b)); ok {
				return fmt.Errorf("%s on %s is not modelled", c.name, b)
			}
		}
	}
	switch c.name {
	case "sync", "syncfs":
		return fmt.Errorf("%s is not modelled", c.name)
	}
	return nil
}

func (d *disk) open(c *syscall, i int) error {
	path, err := pathOf(c, i)
	if err != nil {
		return err
	}
	fd := int(c.ret)
	delete(d.fds, fd)
	rel, ok := d.inside(path)
	if !ok {
		return nil
	}
	flags := c.args[i+2]
	parent, name, n := d.find(rel)
	if n == nil {
		if strings.Contains(flags, "O_RDONLY") && !strings.Contains(flags, "O_CREAT") {
			return nil // what the test itself wrote
		}
		if !strings.Contains(flags, "O_CREAT") || parent == nil {
			return fmt.Errorf("open %s (%s): not known", path, flags)
		}
		n = &node{}
		parent.rename(map[string]*node{name: n}, c.exit)
		d.steps["create"]++
	}
	if strings.Contains(flags, "O_TRUNC") && !n.dir && n.size() > 0 {
		n.pending = append(n.pending, change{exit: c.exit})
	}
	d.fds[fd] = &descriptorOf{node: n, appends: strings.Contains(flags, "O_APPEND"), synch: strings.Contains(flags, "SYNC")}
	return nil
}

func (d *disk) write(c *syscall) error {
	fd, name := descriptor(c.args[0])
	n := d.fds[fd]
	if _, ok := d.inside(name); !ok || n == nil || n.dir {
		return nil
	}
	data, err := text(c.args[1])
	if err != nil {
		return fmt.Errorf("%s to %s: %w", c.name, name, err)
	}
	if int64(len(data)) < c.ret {
		return fmt.Errorf("%s to %s: %d bytes of %d are in the trace", c.name, name, len(data), c.ret)
	}
	data = data[:c.ret]
	off := n.at
	switch {
	case c.name == "pwrite64":
		if off, err = integer(c.args[3]); err != nil {
			return err
		}
	case n.appends:
		off = n.size()
		fallthrough
	default:
		n.at = off + int64(len(data))
	}
	d.steps[c.name]++
	n.pending = append(n.pending, change{off: off, data: data, exit: c.exit})
	if n.synch {
		d.steps["write to a file opened with O_SYNC"]++
		d.ending[c.exit] = append(d.ending[c.exit], func() { n.sync(c.exit + 1) })
	}
	return nil
}

func (d *disk) move(c *syscall) error {
	i, j := 0, 2
	if c.name == "rename" {
		i, j = -1, 0
	}
	from, err := pathOf(c, i)
	if err != nil {
		return err
	}
	to, err := pathOf(c, j)
	if err != nil {
		return err
	}
	relFrom, inFrom := d.inside(from)
	relTo, inTo := d.inside(to)
	if !inFrom && !inTo {
		return nil
	}
	if inFrom != inTo {
		return fmt.Errorf("%s from %s to %s crosses the tree's border", c.name, from, to)
	}
	p1, name1, n := d.find(relFrom)
	p2, name2, _ := d.find(relTo)
	if n == nil || p2 == nil {
		return fmt.Errorf("%s from %s to %s: not known", c.name, from, to)
	}
	d.steps[strings.TrimSuffix(strings.TrimSuffix(c.name, "2"), "at")]++
	switch {
	case c.name == "linkat":
		p2.rename(map[string]*node{name2: n}, c.exit)
	case p1 == p2:
		p1.rename(map[string]*node{name1: nil, name2: n}, c.exit)
	default:
		p2.rename(map[string]*node{name2: n}, c.exit)
		p1.rename(map[string]*node{name1: nil}, c.exit)
	}
	return nil
}

func (n *node) size() int64 {
	size := int64(len(n.durable))
	for _, c := range n.pending {
		if c.data == nil {
			size = c.size
		} else {
			size = max(size, c.off+int64(len(c.data)))
		}
	}
	return size
}

// sync makes durable what ended before position at.
func (n *node) sync(at int) {
	var left []change
	for _, c := range n.pending {
		if c.exit >= at {
			left = append(left, c)
			continue
		}
		n.durable = c.apply(n.durable, nil)
	}
	n.pending = left
	var names []naming
	for _, c := range n.renamed {
		if c.exit >= at {
			names = append(names, c)
			continue
		}
		c.apply(n.synced)
	}
	n.renamed = names
}

func (c naming) apply(names map[string]*node) {
	for name, to := range c.set {
		if to == nil {
			delete(names, name)
		} else {
			names[name] = to
		}
	}
}

const sector = 512

// apply does a change, or those sectors of it that keep chooses.
func (c change) apply(content []byte, keep func() bool) []byte {
	if c.data == nil {
		if keep != nil && !keep() {
			return content
		}
		return resize(content, c.size)
	}
	for at := 0; at < len(c.data); {
		n := min(len(c.data)-at, sector-int((c.off+int64(at))%sector))
		if keep == nil || keep() {
			off := c.off + int64(at)
			if end := off + int64(n); end > int64(len(content)) {
				content = resize(content, end)
			}
			copy(content[off:], c.data[at:at+n])
		}
		at += n
	}
	return content
}

func resize(content []byte, size int64) []byte {
	if size <= int64(len(content)) {
		return content[:size]
	}
	return append(content, make([]byte, size-int64(len(content)))...)
}

// loss is a way in which a disk loses what was not synced.
type loss struct {
	name string
	// data and names say whether to keep a sector, or a change of names.
	data, names func(*rand.Rand) bool
	// ordered: changes of a directory's names are kept up to some point, as
	// journaling file systems do, not one by one.
	ordered bool
}

func lost(*rand.Rand) bool   { return false }
func always(*rand.Rand) bool { return true }
func half(r *rand.Rand) bool { return r.IntN(2) == 0 }
func most(r *rand.Rand) bool { return r.IntN(16) != 0 }

var losses = []loss{
	{name: "all", data: lost, names: lost},
	{name: "data", data: lost, names: always},
	{name: "names", data: always, names: lost},
	{name: "some", data: half, names: half},
	{name: "some, names in order", data: half, names: half, ordered: true},
	{name: "a little", data: most, names: most},
}

// cut writes to a new directory what the disk holds after the power was cut now.
// Below skip, relative to the root, nothing is written.
func (d *disk) cut(to string, l loss, r *rand.Rand, skip func(rel string) bool) error {
	return d.top.cut(to, "", l, r, skip)
}

func (n *node) cut(to, rel string, l loss, r *rand.Rand, skip func(string) bool) error {
	path := filepath.Join(to, rel)
	if !n.dir {
		content := slices.Clone(n.durable)
		for _, c := range n.pending {
			content = c.apply(content, func() bool { return l.data(r) })
		}
		return os.WriteFile(path, content, 0o600)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	names := maps.Clone(n.synced)
	stop := false
	for _, c := range n.renamed {
		if stop || !l.names(r) {
			stop = l.ordered
			continue
		}
		c.apply(names)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		below := filepath.Join(rel, name)
		if skip(below) {
			continue
		}
		if err := names[name].cut(to, below, l, r, skip); err != nil {
			return err
		}
	}
	return nil
}
