package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin/client"
)

func newBundle(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Evidence for an auditor, checkable offline",
		Long: `A bundle is one file with calls of the trail, all their stages, and proofs that
they stand in the log as they are. Whoever gets it checks it without a gateway and
without a network, with nothing else but the log's public key.`,
		Example: `  trailgate bundle create --agent etl-bot --since 30d --statements --out etl.tar
  trailgate bundle verify etl.tar --key log.pub
  trailgate bundle show etl.tar --key log.pub | less`,
		Args: cobra.ArbitraryArgs,
		RunE: parentOnly,
	}
	cmd.AddCommand(newBundleCreate(c), newBundleVerify(c), newBundleShow(c))
	return cmd
}

// bundleFlags are what a bundle is to hold.
type bundleFlags struct {
	filter           filterFlags
	out, between     string
	checkpoint, form string
	statements, rows bool
	force            bool
}

func newBundleCreate(c *cli) *cobra.Command {
	var f bundleFlags
	cmd := &cobra.Command{
		Use:   "create [FILTER]",
		Short: "Make a bundle of what a filter finds",
		Long: `Create writes the calls and events that a filter finds, each with all of its
stages, and with both sides of an approval, to one file. The filter and the flags are
those of search; without any, the bundle holds the whole trail.

A bundle proves that its entries are in the log. It does not prove that no other entry
matches the filter: ask for a --range where that matters, which holds every entry from
the one place in the log to the other, and is complete relative to that.

Statements that are too long for an entry are put in with --statements. Recorded rows
come with --rows, IN THE CLEAR: whoever has the file can read them.

That the bundle was made, by whom, and the hash of all that is in it, are an entry in
the trail; it comes with the bundle. The file is verified before the command ends.`,
		Example: `  trailgate bundle create --agent etl-bot --since 30d --statements --out etl-november.tar
  trailgate bundle create 'class = "write" AND table : "finance.*"' --rows --out writes.tar

  # Everything between two places in the log, tied to a checkpoint that the auditor kept
  trailgate bundle create --range 120000-180000 --checkpoint october.checkpoint --out november.tar`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.out == "" {
				return usagef("name the file with --out")
			}
			q, filter, err := f.request(args)
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(r *remote) error { return c.createBundle(cmd, r, &f, q, filter) })
		},
	}
	f.filter.register(cmd)
	cmd.Flags().StringVar(&f.out, "out", "", "`FILE` to write; it must not exist")
	cmd.Flags().BoolVar(&f.force, "force", false, "write over a file that exists")
	cmd.Flags().StringVar(&f.between, "range", "", "every entry from `A-B`, places in the log, in place of a filter")
	cmd.Flags().StringVar(&f.checkpoint, "checkpoint", "", "`FILE` with an earlier checkpoint, which the log is shown to extend")
	cmd.Flags().BoolVar(&f.statements, "statements", false, "with statements and parameters that are stored aside")
	cmd.Flags().BoolVar(&f.rows, "rows", false, "with recorded rows, in the clear")
	f.filter.complete(cmd, c)
	must(cmd.RegisterFlagCompletionFunc("range", cobra.NoFileCompletions))
	outputFlag(cmd, &f.form, "table", "json")
	return cmd
}

// request puts the flags together.
func (f *bundleFlags) request(args []string) (client.BundleRequest, query, error) {
	q := client.BundleRequest{Statements: f.statements, Rows: f.rows}
	filter, err := f.filter.query(args, time.Now())
	if err != nil {
		return q, filter, err
	}
	q.Filter = filter.text
	if f.between != "" {
		if filter.text != "" {
			return q, filter, usagef("a bundle is of a filter or of a --range, not of both")
		}
		a, b, ok := strings.Cut(f.between, "-")
		first, err1 := strconv.ParseUint(a, 10, 63)
		last, err2 := strconv.ParseUint(b, 10, 63)
		if !ok || err1 != nil || err2 != nil || first > last {
			return q, filter, usagef("--range %q: want two places in the log, such as 1000-1999", f.between)
		}
		q.First, q.Last = &first, &last
	}
	if f.checkpoint != "" {
		raw, err := os.ReadFile(f.checkpoint)
		if err != nil {
			return q, filter, fmt.Errorf("read the checkpoint: %w", err)
		}
		q.FromCheckpoint = string(raw)
	}
	return q, filter, nil
}

// createBundle writes beside the file and moves it there once it was verified, so that
// what breaks off never looks like a bundle.
func (c *cli) createBundle(cmd *cobra.Command, r *remote, f *bundleFlags, q client.BundleRequest, filter query) (err error) {
	if _, err := os.Lstat(f.out); err == nil && !f.force {
		return hinted(fmt.Errorf("bundle: %s exists", f.out), "name another file, or write over it with --force")
	}
	info, err := r.Gateway(cmd.Context())
	if err != nil {
		return explainAPI(err)
	}
	trusted := &proven{PublicKey: info.PublicKey}
	if err := r.trustKey(cmd.Context(), trusted, ""); err != nil { // this machine's log.pub, where there is one
		return err
	}
	rotations, err := r.Rotations(cmd.Context())
	if err != nil {
		return fmt.Errorf("the log's earlier keys: %w", err)
	}
	keys, err := trailgate.NewKeychain(trusted.PublicKey, rotations)
	if err != nil {
		return fmt.Errorf("the log's public key: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(f.out), ".bundle-*")
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	defer func() {
		if tmp != nil {
			err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
		}
	}()
	entry, err := r.Bundle(cmd.Context(), q, tmp)
	if err != nil {
		return explainFilter(filter, err)
	}
	report, err := verifyBundle(tmp, trailgate.BundleOptions{Keys: keys})
	if err != nil {
		return hinted(fmt.Errorf("bundle: what the gateway sent does not verify: %w", err), "the gateway's log tells if it broke off; if not, run trailgate verify")
	}
	if report.Creation.ID != entry {
		return fmt.Errorf("bundle: the gateway sent another bundle than the one it recorded as %s", entry)
	}
	if err := errors.Join(tmp.Sync(), tmp.Chmod(0o600), os.Rename(tmp.Name(), f.out), tmp.Close()); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	tmp = nil
	if f.form == "json" {
		return c.bundleJSON(report, nil)
	}
	_, err = fmt.Fprintf(c.out, "%s: %s\n", visible(f.out), bundleSummary(report))
	return err
}

// verifyBundle checks an open file.
func verifyBundle(f *os.File, o trailgate.BundleOptions) (*trailgate.BundleReport, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	b, err := trailgate.OpenBundle(f, info.Size())
	if err != nil {
		return nil, err
	}
	return b.Verify(o)
}

func newBundleVerify(c *cli) *cobra.Command {
	var f bundleCheck
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check a bundle, offline",
		Long: `Verify checks a bundle with nothing else but the log's public key: that each of its
entries stands in the log as it is, that the log only grew, and that the bundle is whole:
nothing was added, taken out or changed since the gateway recorded what it put in. It
asks no gateway and no network.

It ends with 0, or with 3 and the first thing that is not as it must be. Take the key from
a source other than the bundle's. With a witness policy (c2sp.org/tlog-policy) the log's
checkpoint must be cosigned by a quorum too, so that the log's owner alone cannot show
you another history than everybody else.

Where the log's key was changed, --rotations names its file "rotations": from whichever
of its keys you have, the others follow, each up to its last act.`,
		Example: `  trailgate bundle verify writes.tar --key log.pub
  trailgate bundle verify writes.tar --key log.pub --witness-policy policy.txt
  trailgate bundle verify november.tar --key log.pub --checkpoint october.checkpoint -o json
  trailgate bundle verify november.tar --key october.pub --rotations rotations`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if f.key == "" {
				return usagef("bundle verify: name the log's public key with --key; a bundle's own word on it would prove nothing")
			}
			report, err := c.checkBundle(args[0], &f)
			return c.bundleVerified(report, err, f.form)
		},
	}
	f.register(cmd)
	outputFlag(cmd, &f.form, "table", "json")
	return cmd
}

// bundleCheck is what a bundle is held against.
type bundleCheck struct {
	key, rotations, policy, checkpoint, form string
}

func (f *bundleCheck) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.key, "key", "", "`FILE` with the log's public key")
	cmd.Flags().StringVar(&f.rotations, "rotations", "", "`FILE` with the changes of the log's key (log/rotations)")
	cmd.Flags().StringVar(&f.policy, "witness-policy", "", "`FILE` that says whose cosignatures the checkpoint needs")
	cmd.Flags().StringVar(&f.checkpoint, "checkpoint", "", "`FILE` with a checkpoint that you have kept, which the bundle's must extend")
}

// checkBundle reads the files and verifies.
func (c *cli) checkBundle(path string, f *bundleCheck) (*trailgate.BundleReport, error) {
	var o trailgate.BundleOptions
	raw, err := os.ReadFile(f.key)
	if err != nil {
		return nil, fmt.Errorf("read the log's key: %w", err)
	}
	vkey := strings.TrimSpace(string(raw))
	if o.Key, err = note.NewVerifier(vkey); err != nil {
		return nil, usagef("%s: not a log's public key: %v", f.key, err)
	}
	if f.rotations != "" {
		if o.Keys, err = readKeys(vkey, f.rotations); err != nil {
			return nil, err
		}
	}
	if f.policy != "" {
		if raw, err = os.ReadFile(f.policy); err != nil {
			return nil, fmt.Errorf("read the witness policy: %w", err)
		}
		if o.Policy, err = trailgate.ParseWitnessPolicy(raw); err != nil {
			return nil, usagef("%s: %v", f.policy, err)
		}
	}
	if f.checkpoint != "" {
		if o.Remembered, err = os.ReadFile(f.checkpoint); err != nil {
			return nil, fmt.Errorf("read the checkpoint: %w", err)
		}
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	defer file.Close() //nolint:errcheck // it was only read
	progress := newProgress(c.err, "bundle verify")
	o.Progress = progress.update
	report, err := verifyBundle(file, o)
	progress.end()
	return report, err
}

// readKeys follows a log's changes of its key from one that is trusted. Such as do not
// follow from each other are evidence, as in verify.
func readKeys(vkey, path string) (*trailgate.Keychain, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the changes of the log's key: %w", err)
	}
	defer file.Close() //nolint:errcheck // it was only read
	raw, err := io.ReadAll(io.LimitReader(file, trailgate.MaxRotationsBytes))
	if err != nil {
		return nil, fmt.Errorf("read the changes of the log's key: %w", err)
	}
	rotations, err := trailgate.ParseRotations(raw)
	if err != nil {
		return nil, usagef("%s: %v", path, err)
	}
	keys, err := trailgate.NewKeychain(vkey, rotations)
	if err != nil {
		return nil, &exitError{code: exitEvidence, err: fmt.Errorf("%s: the changes of the log's key do not follow from the one that you trust: %w", path, err)}
	}
	return keys, nil
}

// bundleVerified prints what was found.
func (c *cli) bundleVerified(r *trailgate.BundleReport, err error, form string) error {
	bad, isBad := errors.AsType[*trailgate.BundleError](err)
	if err != nil && !isBad {
		return err
	}
	switch {
	case form == "json":
		if err := c.bundleJSON(r, bad); err != nil {
			return err
		}
	case !isBad:
		if _, err := fmt.Fprint(c.out, bundleText(r)); err != nil {
			return err
		}
	}
	if isBad {
		return &exitError{
			code: exitEvidence, err: fmt.Errorf("bundle: NOT what the log holds\n  %w", bad),
			hint: "keep the file as it is, and ask its source for another one",
		}
	}
	return nil
}

func bundleSummary(r *trailgate.BundleReport) string {
	out := fmt.Sprintf("%d entries of %s", r.Entries, visible(r.Origin))
	for _, part := range []struct {
		n    int
		what string
	}{{r.Blobs, "stored statements"}, {r.Bodies, "recorded bodies"}, {r.AbsentRows, "recorded bodies that are gone"}, {r.Identities, "pieces of identity evidence"}} {
		if part.n > 0 {
			out += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	return out
}

func bundleText(r *trailgate.BundleReport) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("good: %s", bundleSummary(r))
	line("  all of them are in the log of %d entries, root %s", r.Size, base64.StdEncoding.EncodeToString(r.Root[:]))
	line("  which extends the log as it was at %d entries", r.FirstSize)
	for _, w := range r.Witnesses {
		line("  cosigned by %s at %s", visible(w.Witness), w.Time.UTC().Format(time.RFC3339))
	}
	if len(r.Witnesses) == 0 {
		line("  no witness was asked about: --witness-policy")
	}
	e := r.Creation
	line("  made by %s (%s) at %s, entry %d", visible(e.Event.Actor), visible(e.Event.Via), e.Time.UTC().Format(time.RFC3339), e.Seq)
	if r.Range != nil {
		line("  complete: it holds every entry from %d to %d", r.Range[0], r.Range[1])
	} else {
		filter := "none, which finds everything"
		if r.Filter != "" {
			filter = visible(r.Filter)
		}
		line("  filter: %s", filter)
		line("  whole: nothing was taken out since it was made; that nothing else matches the filter is the gateway's word")
	}
	if r.First != nil {
		line("  from %s to %s", r.First.Time.UTC().Format(time.RFC3339), r.Last.Time.UTC().Format(time.RFC3339))
	}
	return b.String()
}

func (c *cli) bundleJSON(r *trailgate.BundleReport, bad *trailgate.BundleError) error {
	type place struct {
		Member string `json:"member"`
		Line   uint64 `json:"line,omitempty"`
		Reason string `json:"reason"`
	}
	type witness struct {
		Name string    `json:"name"`
		Time time.Time `json:"time"`
	}
	out := struct {
		Good       bool       `json:"good"`
		Origin     string     `json:"origin,omitempty"`
		Size       uint64     `json:"size,omitempty"`
		Root       string     `json:"root,omitempty"`
		FirstSize  uint64     `json:"first_size,omitempty"`
		Witnesses  []witness  `json:"witnesses,omitempty"`
		Entry      string     `json:"entry,omitempty"` // of the bundle's creation
		Created    *time.Time `json:"created,omitempty"`
		Actor      string     `json:"actor,omitempty"`
		Filter     string     `json:"filter,omitempty"`
		Range      *[2]uint64 `json:"range,omitempty"`
		Complete   bool       `json:"complete"` // relative to Range
		Entries    uint64     `json:"entries"`
		Blobs      int        `json:"blobs"`
		Bodies     int        `json:"bodies"`
		AbsentRows int        `json:"absent_rows"`
		Identities int        `json:"identities"`
		FirstBad   *place     `json:"first_bad,omitempty"`
	}{Good: bad == nil}
	if r != nil {
		created := r.Created()
		out.Origin, out.Size, out.Root, out.FirstSize = r.Origin, r.Size, base64.StdEncoding.EncodeToString(r.Root[:]), r.FirstSize
		out.Entry, out.Created, out.Actor, out.Filter, out.Range, out.Complete = r.Creation.ID, &created, r.Creation.Event.Actor, r.Filter, r.Range, r.Range != nil
		out.Entries, out.Blobs, out.Bodies, out.AbsentRows, out.Identities = r.Entries, r.Blobs, r.Bodies, r.AbsentRows, r.Identities
		for _, w := range r.Witnesses {
			out.Witnesses = append(out.Witnesses, witness{w.Witness, w.Time})
		}
	}
	if bad != nil {
		out.FirstBad = &place{bad.Member, bad.Line, bad.Reason}
	}
	return printJSON(c.out, out, "json")
}
