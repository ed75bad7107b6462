package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/export"
)

func newBundleShow(c *cli) *cobra.Command {
	var f bundleCheck
	var page string
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Read a bundle",
		Long: `Show makes a report of a bundle's entries, for reading. It is made here, of the entries,
whatever report the bundle came with. With --key the bundle is verified first; without it
what is shown is only what the file says, and that is said.`,
		Example: `  trailgate bundle show writes.tar --key log.pub | less
  trailgate bundle show writes.tar --key log.pub --html writes.html`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if f.key == "" && (f.policy != "" || f.checkpoint != "" || f.rotations != "") {
				return usagef("bundle show: --key names the log's public key, without which nothing is verified")
			}
			if f.key != "" {
				if report, err := c.checkBundle(args[0], &f); err != nil {
					return c.bundleVerified(report, err, "table")
				}
			} else {
				fmt.Fprintln(c.err, "NOT verified: name the log's public key with --key")
			}
			return c.showBundle(args[0], page)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&page, "html", "", "write the report to this `FILE`, as a page")
	return cmd
}

func (c *cli) showBundle(path, page string) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	defer file.Close() //nolint:errcheck // it was only read
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	b, err := trailgate.OpenBundle(file, info.Size())
	if err != nil {
		return c.bundleVerified(nil, err, "table")
	}
	report, err := bundleReport(b)
	if err != nil {
		return c.bundleVerified(nil, err, "table")
	}
	if page == "" {
		out := bufio.NewWriter(c.out)
		return errors.Join(report.Plain(out), out.Flush())
	}
	out, err := os.OpenFile(page, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("bundle show: %w", err)
	}
	w := bufio.NewWriter(out)
	return errors.Join(report.HTML(w), w.Flush(), out.Close())
}

// bundleReport goes through the entries twice: to find which belong together, and call by
// call. They need not fit into memory.
func bundleReport(b *trailgate.Bundle) (*export.Report, error) {
	var groups export.Groups
	var places []place
	r := &export.Report{Title: "an evidence bundle", Text: func(sha string) (string, error) {
		m := b.Member(trailgate.BundleBlobs + sha)
		if m == nil {
			return "", errors.New("not in the bundle")
		}
		raw, err := io.ReadAll(m)
		return string(raw), err
	}}
	if raw, err := io.ReadAll(io.LimitReader(b.Member(trailgate.BundleCreation), trailgate.MaxEntryBytes)); err == nil {
		if e, err := trailgate.Decode(raw); err == nil && e.Event != nil {
			r.Title = bundleTitle(e)
		}
	}
	at := int64(0)
	for e, err := range b.Entries() {
		if err != nil {
			return nil, err
		}
		raw, err := e.Encode()
		if err != nil {
			return nil, err
		}
		groups.Add(e.ID, e.IntentID)
		places = append(places, place{at, int64(len(raw))})
		at += int64(len(raw)) + 1
	}
	entries := b.Member(trailgate.BundleEntries)
	for _, call := range groups.Calls() {
		var stages []*trailgate.Entry
		for _, i := range call {
			raw := make([]byte, places[i].length)
			if _, err := entries.ReadAt(raw, places[i].offset); err != nil {
				return nil, err
			}
			e, err := trailgate.Decode(raw)
			if err != nil {
				return nil, err
			}
			stages = append(stages, e)
		}
		r.Add(export.NewCall(stages))
	}
	return r, nil
}

// place is where an entry stands in a member.
type place struct{ offset, length int64 }

func bundleTitle(e *trailgate.Entry) string {
	d := e.Event.Detail
	switch {
	case d["range"] != "":
		return "every entry of the range " + d["range"]
	case d["filter"] != "":
		return "the calls and events that match: " + d["filter"]
	}
	return "all calls and events"
}
