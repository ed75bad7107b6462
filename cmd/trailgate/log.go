package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/trail"
)

func newLogCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Look after the log: its key, its place, its end",
		Long: `The log's key changes, the log moves and ends by these commands. Each is an entry
in the log itself, so that whoever verifies it later can follow. The gateway has
to be stopped for all but "show". docs/log.md describes when to do what.`,
		Example: `  trailgate log show
  trailgate log rotate-key --reason "yearly"
  trailgate log move /srv/new/data --reason "new machine"
  trailgate log freeze --reason "project ended"
  trailgate init --dir /srv/next --successor-of /srv/trailgate/data`,
		Args: cobra.ArbitraryArgs,
		RunE: parentOnly,
	}
	cmd.AddCommand(newLogShow(c), newLogRotateKey(c), newLogFreeze(c), newLogMove(c))
	return cmd
}

// trailOptions are how a command opens the trail alone. Witnesses are asked as the
// gateway asks them; one that is away keeps nothing from going on.
func (c *cli) trailOptions(cfg *config.Config) (trail.Options, error) {
	log := slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	trail.RedirectTesseraLogs(log)
	minFree := int64(cfg.Trail.MinFreeBytes)
	if minFree == 0 {
		minFree = -1 // the trail takes 0 for "the default"
	}
	o := trail.Options{
		Log: log, Gateway: trailgate.Gateway{ID: cfg.ID, Version: thisBuild().Version, ConfigDigest: cfg.Digest},
		SegmentBytes: int64(cfg.Trail.SegmentBytes), MinFreeBytes: minFree,
		MaxJournalBytes: int64(cfg.Trail.MaxJournalBytes), CheckpointInterval: cfg.Trail.CheckpointInterval,
	}
	client, policy, err := newWitnessClient(cfg)
	if client != nil {
		o.Witnesses = trail.Witnessing{Cosigner: cosigner{client}, Policy: policy}
	}
	return o, err
}

// logEntry is an entry of whoever runs this command about the log itself.
func logEntry(gateway trailgate.Gateway, action, target, reason string) *trailgate.Entry {
	e := &trailgate.Entry{
		ID:      strings.ToLower(ulid.MustNew(ulid.Timestamp(time.Now()), rand.Reader).String()),
		Kind:    trailgate.KindAdmin,
		Gateway: gateway,
		Event:   &trailgate.Event{Action: action, Target: target, Actor: "uid:" + strconv.Itoa(os.Getuid()), Via: "cli"},
	}
	if reason != "" {
		e.Event.Detail = map[string]string{"reason": strings.ToValidUTF8(reason, "\uFFFD")}
	}
	return e
}

// withTrail opens the trail alone, which no gateway may have open, and closes it
// once all that was added is under a checkpoint.
func withTrail(ctx context.Context, dir string, o trail.Options, do func(*trail.Trail) error) error {
	t, err := trail.Open(ctx, dir, o)
	if err != nil {
		return err
	}
	err = do(t)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(err, t.Close(ctx))
}

// explainLog adds what to do where the log could not be changed.
func explainLog(err error, cfg *config.Config) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, trail.ErrLocked):
		return hinted(err, "stop the gateway first: SIGTERM drains it")
	case errors.Is(err, trail.ErrFrozen):
		return hinted(err, "a frozen log takes nothing more; trailgate init --successor-of %s begins another one", cfg.DataDir)
	}
	return trailError(err, cfg)
}

func newLogRotateKey(c *cli) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "rotate-key",
		Short: "Give the log another key",
		Long: `The old key's last act is to sign a checkpoint over the entry that names the new
one; the proof of that is published as "rotations" beside the log's checkpoint.
Whoever holds the old public key goes on verifying, and follows to the new one.

The old secret key is gone afterwards, but for backups: destroy it there too. A
key that was stolen signs whatever the thief wants up to the end of time, so
hand the new public key to those who verify, by a way of its own.

Interrupted anywhere, the command completes the change when it is run again;
until then the gateway does not start.`,
		Example: `  trailgate log rotate-key --reason "yearly"`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			o, err := c.trailOptions(cfg)
			if err != nil {
				return err
			}
			vkey, err := trail.RotateKey(cmd.Context(), cfg.DataDir.String(), o, logEntry(o.Gateway, trailgate.ActionRotateKey, "", reason))
			if err != nil {
				return explainLog(err, cfg)
			}
			_, err = fmt.Fprintf(c.out, "the log's public key is now, for those who verify it:\n  %s\n", vkey)
			return err
		},
	}
	reasonFlag(cmd, &reason)
	return cmd
}

func reasonFlag(cmd *cobra.Command, reason *string) {
	cmd.Flags().StringVar(reason, "reason", "", "`WHY`, for the entry")
	must(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
}

func newLogFreeze(c *cli) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "freeze",
		Short: "End the log: nothing comes after",
		Long: `Freeze writes an entry that says that none comes after it, and the checkpoint
over it. The gateway does not start on a frozen log, and no command adds to it;
"verify" finds entries that were added all the same. There is no way back: to go
on, begin a successor with "trailgate init --successor-of".`,
		Example: `  trailgate log freeze --reason "project ended"`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			o, err := c.trailOptions(cfg)
			if err != nil {
				return err
			}
			var last *trailgate.Checkpoint
			err = withTrail(cmd.Context(), cfg.DataDir.String(), o, func(t *trail.Trail) error {
				e := logEntry(o.Gateway, trailgate.ActionFreeze, "", reason)
				if err := t.Freeze(cmd.Context(), e); err != nil {
					return err
				}
				p, err := t.Prove(cmd.Context(), e.Seq) // waits for the checkpoint
				if err != nil {
					return err
				}
				last, err = t.Checkpoint()
				if err == nil && p.Index+1 != last.Size {
					err = fmt.Errorf("the log has %d entries, the one that ends it is %d", last.Size, p.Index)
				}
				return err
			})
			if err != nil {
				return explainLog(err, cfg)
			}
			_, err = fmt.Fprintf(c.out, "frozen after %d entries. Its last checkpoint, to be kept elsewhere too:\n%s", last.Size, last.Raw)
			return err
		},
	}
	reasonFlag(cmd, &reason)
	return cmd
}
