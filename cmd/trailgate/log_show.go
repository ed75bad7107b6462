package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail"
)

// shownLog is what "log show" prints as JSON.
type shownLog struct {
	Origin      string           `json:"origin"`
	Key         string           `json:"key"`
	EarlierKeys []string         `json:"earlier_keys,omitempty"`
	Size        uint64           `json:"size"`
	Root        string           `json:"root"`
	Journal     uint64           `json:"in_journal"`
	Heads       []shownHead      `json:"heads"`
	First       string           `json:"first,omitempty"` // times
	Last        string           `json:"last,omitempty"`
	Day         uint64           `json:"entries_last_day"`  // before Last
	Week        uint64           `json:"entries_last_week"` // before Last
	Bytes       map[string]int64 `json:"bytes"`
	Frozen      bool             `json:"frozen"`
	Predecessor *shownBefore     `json:"predecessor,omitempty"`
}

type shownHead struct {
	Place string `json:"place"`
	Size  uint64 `json:"size"`
	Root  string `json:"root"`
}

type shownBefore struct {
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   string `json:"root"`
	Frozen bool   `json:"frozen"`
}

func newLogShow(c *cli) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the log's key, size, growth and what is remembered of it",
		Long: `Show reads files alone, and may run beside the gateway. It checks signatures and
nothing else: that is what "trailgate verify" is for.`,
		Example: `  trailgate log show
  trailgate log show -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			s, err := showLog(cmd.Context(), cfg.DataDir.String())
			if err != nil {
				return explainLog(err, cfg)
			}
			if form == "json" {
				return printJSON(c.out, s, form)
			}
			return c.printLog(s)
		},
	}
	outputFlag(cmd, &form, "table", "json")
	return cmd
}

func showLog(ctx context.Context, dir string) (*shownLog, error) {
	r, err := trail.OpenReader(ctx, dir, "")
	if err != nil {
		return nil, err
	}
	keys := r.Keys()
	cp := r.Checkpoint()
	s := &shownLog{
		Origin: cp.Origin, Key: keys[len(keys)-1], EarlierKeys: keys[:len(keys)-1],
		Size: cp.Size, Root: rootText(cp), Journal: r.Size() - cp.Size, Bytes: map[string]int64{},
	}
	s.Heads = append(s.Heads, shownHead{filepath.Join(dir, "log", "checkpoint"), cp.Size, rootText(cp)})
	if head := r.Head(); head != nil {
		s.Heads = append(s.Heads, shownHead{filepath.Join(dir, "head", "checkpoint"), head.Size, rootText(head)})
	}
	for _, part := range []string{"log", "journal", "blobs", "index", recordingsName} {
		if s.Bytes[part], err = sizeOf(filepath.Join(dir, part)); err != nil {
			return nil, err
		}
	}
	return s, s.growth(ctx, r)
}

func rootText(cp *trailgate.Checkpoint) string { return base64.StdEncoding.EncodeToString(cp.Root[:]) }

// growth finds out how fast the log grew, by the times of its entries, which never go back.
func (s *shownLog) growth(ctx context.Context, r *trail.Reader) error {
	n := r.Size()
	if n == 0 {
		return nil
	}
	at := func(seq uint64) (*trailgate.Entry, error) {
		raw, err := r.Get(ctx, seq)
		if err != nil {
			return nil, err
		}
		return trailgate.Decode(raw)
	}
	first, err := at(0)
	if err != nil {
		return err
	}
	last, err := at(n - 1)
	if err != nil {
		return err
	}
	s.First, s.Last = first.Time.Format(time.RFC3339), last.Time.Format(time.RFC3339)
	s.Frozen = last.Kind == trailgate.KindAdmin && last.Event != nil && last.Event.Action == trailgate.ActionFreeze
	if before, err := trailgate.ReadPredecessor(first); err == nil && before != nil {
		s.Predecessor = &shownBefore{before.Origin, before.Size, base64.StdEncoding.EncodeToString(before.Root[:]), before.Frozen}
	}
	since := func(span time.Duration) uint64 {
		from := last.Time.Add(-span)
		return n - uint64(sort.Search(int(n), func(i int) bool {
			e, gerr := at(uint64(i))
			if gerr != nil {
				err = gerr
				return true
			}
			return e.Time.After(from)
		}))
	}
	s.Day, s.Week = since(24*time.Hour), since(7*24*time.Hour)
	return err
}

func (c *cli) printLog(s *shownLog) error {
	var b strings.Builder
	add := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-13s %s\n", name, visible(fmt.Sprintf(format, args...)))
	}
	add("origin", "%s", s.Origin)
	add("key", "%s", s.Key)
	for _, key := range s.EarlierKeys {
		add("earlier key", "%s", key)
	}
	add("entries", "%d under the checkpoint, %d in the journal behind it", s.Size, s.Journal)
	add("root", "%s", s.Root)
	for _, h := range s.Heads[1:] {
		add("remembered", "%d entries, root %s, in %s", h.Size, h.Root, h.Place)
	}
	if s.First != "" {
		add("from", "%s", s.First)
		add("to", "%s", s.Last)
		add("growth", "%d entries in the last day, %d in the last week of these", s.Day, s.Week)
	}
	add("on disk", "log %s, journal %s, bodies %s, index %s, recorded rows %s", bytesText(s.Bytes["log"]), bytesText(s.Bytes["journal"]),
		bytesText(s.Bytes["blobs"]), bytesText(s.Bytes["index"]), bytesText(s.Bytes[recordingsName]))
	if s.Frozen {
		add("state", "frozen: nothing comes after the last entry")
	}
	if p := s.Predecessor; p != nil {
		add("goes on from", "%s, which ended after %d entries, root %s", p.Origin, p.Size, p.Root)
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}

// sizeOf is how many bytes the files below dir have.
func sizeOf(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // or a running gateway removed it meanwhile
		}
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n, err
}
