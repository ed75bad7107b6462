package trail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

// Cosigner has checkpoints cosigned by witnesses. It is called from one goroutine
// at a time, and must return within a time of its own.
type Cosigner interface {
	// Cosign asks the witnesses about a checkpoint. Known is how many entries the
	// trail has, durably, which may be more. Urgent: those too that failed a moment ago. Prove
	// makes a consistency proof from a smaller size; it is safe for concurrent use, also
	// after Cosign has returned.
	Cosign(ctx context.Context, cp *trailgate.Checkpoint, known uint64, urgent bool, prove func(old uint64) (tlog.TreeProof, error)) *Cosigned
}

// Cosigned is what came of asking witnesses.
type Cosigned struct {
	Raw          []byte // the checkpoint with their cosignatures
	Cosignatures []trailgate.Cosignature
	// Quorum says whether these satisfy the policy.
	Quorum bool
	// Failed says why the others did not, by name.
	Failed map[string]string
	// Against are witnesses that have cosigned a larger or another tree of this log.
	Against []Contradiction
	// Believed says that what they have is reason enough to stop: one of them has a
	// checkpoint with the log's own signature, or they are as many as a quorum.
	Believed bool
}

// Contradiction is what a witness has that the trail has not.
type Contradiction struct {
	Witness string
	Size    uint64
	Proof   []byte // that checkpoint, with the log's own signature; empty where it was not shown
}

// Witnessing configures [Options.Witnesses].
type Witnessing struct {
	// Cosigner asks the witnesses. nil: there are none.
	Cosigner Cosigner
	// Policy is what it asks for; it reads checkpoints of earlier runs.
	Policy *trailgate.WitnessPolicy
	// MaxAge is how old the last quorum may be for calls to be taken: beyond it entries
	// that begin a call (intent, held) are refused. 0: calls go on in any case.
	MaxAge time.Duration
	// Refresh is how often the witnesses are asked about a log that does not grow.
	// Default 10 minutes, or a quarter of MaxAge where that is less.
	Refresh time.Duration
}

const (
	defaultRefresh = 10 * time.Minute
	// retryQuorum is how soon a checkpoint without a quorum is shown to the witnesses
	// again; each time later, since those who cosigned it do so again.
	retryQuorum     = time.Second
	lastRetryQuorum = 30 * time.Second
)

// ErrRolledBack is the [ErrTruncated] of a trail whose witnesses have seen more of
// it, or another one: an old copy was put in its place, or a second gateway signs with its key.
var ErrRolledBack = fmt.Errorf("%w: witnesses have seen another log under this log's key", ErrTruncated)

// WitnessState is how witnessing stands.
type WitnessState struct {
	// On says whether there are witnesses at all.
	On bool
	// Size is that of the last checkpoint for which a quorum was reached; At is when, zero
	// if it is not known to have been.
	Size uint64
	At   time.Time
	// Quorum says whether the last answer was one.
	Quorum bool
	// Cosignatures are those on the published checkpoint.
	Cosignatures []trailgate.Cosignature
	// Failed says what was wrong with whom the last time, by name.
	Failed map[string]string
	// Asked and Lost count checkpoints that were shown to the witnesses since the start,
	// and those of them that found no quorum.
	Asked, Lost uint64
}

// Witnessed is how witnessing stands.
func (t *Trail) Witnessed() WitnessState {
	if s := t.witnessed.Load(); s != nil {
		return *s
	}
	return WitnessState{}
}

// RolledBack returns when witnesses were found to contradict the trail, with an
// [ErrRolledBack], or with ctx's error. The trail refuses all entries from then on.
func (t *Trail) RolledBack(ctx context.Context) error {
	select {
	case <-t.rolledBack:
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.fatal
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unwitnessed refuses entries that begin a call, where calls need witnesses and
// these have not been heard of for too long.
func (t *Trail) unwitnessed(kind trailgate.Kind) error {
	limit := t.o.Witnesses.MaxAge
	if limit <= 0 || t.o.Witnesses.Cosigner == nil || kind != trailgate.KindIntent && kind != trailgate.KindHeld {
		return nil
	}
	s := t.Witnessed()
	if !s.At.IsZero() && t.o.Now().Sub(s.At) <= limit {
		return nil
	}
	last := "no quorum of witnesses has cosigned the log yet"
	if !s.At.IsZero() {
		last = "the last quorum of witnesses was at " + s.At.UTC().Format(time.RFC3339)
	}
	return fmt.Errorf("%w: %s, and calls need one every %v (trail.witnesses.require)", ErrUnavailable, last, limit)
}

// refresh is how often witnesses are asked about a log that does not grow.
func (w *Witnessing) refresh() time.Duration {
	d := w.Refresh
	if d <= 0 {
		d = defaultRefresh
	}
	if w.MaxAge > 0 {
		d = min(d, w.MaxAge/4)
	}
	return d
}

// proveFrom makes consistency proofs to a checkpoint.
func (t *Trail) proveFrom(cp *trailgate.Checkpoint) func(old uint64) (tlog.TreeProof, error) {
	return func(old uint64) (tlog.TreeProof, error) {
		if old == 0 || old >= cp.Size {
			return nil, nil
		}
		reader := tlog.TileHashReader(tlog.Tree{N: int64(cp.Size), Hash: cp.Root}, t.tiles)
		return tlog.ProveTree(int64(cp.Size), int64(old), reader)
	}
}

// askBeforeStart shows the witnesses the checkpoint that was found on disk, before
// any entry is accepted: a copy of the data directory from last week agrees with
// itself in everything, and only they know better. A witness that does not
// answer holds up the start for as long as the Cosigner lets it.
func (t *Trail) askBeforeStart(ctx context.Context) error {
	w := &t.o.Witnesses
	if w.Cosigner == nil {
		return nil
	}
	cp := t.published.Load()
	state := &WitnessState{On: true}
	if c, err := trailgate.OpenCosigned(cp.Raw, t.verifier, w.Policy); err == nil {
		// The witnesses' own times: an hour spent switched off counts.
		state.Quorum, state.Size, state.Cosignatures = true, cp.Size, c.Cosignatures
		state.At = oldest(c.Cosignatures)
	} else if errors.Is(err, trailgate.ErrNoQuorum) {
		state.Cosignatures = c.Cosignatures
	}
	t.witnessed.Store(state)
	c := w.Cosigner.Cosign(ctx, cp, t.size.Load(), true, t.proveFrom(cp))
	if c.Believed {
		return t.stopRolledBack(ctx, c)
	}
	t.answered = c
	return nil
}

func oldest(cs []trailgate.Cosignature) time.Time {
	if len(cs) == 0 {
		return time.Time{}
	}
	return slices.MinFunc(cs, func(a, b trailgate.Cosignature) int { return a.Time.Compare(b.Time) }).Time
}

// stopRolledBack records that witnesses contradict the trail, and stops it. No
// checkpoint is signed any more: the next one would be a second history under one key.
func (t *Trail) stopRolledBack(ctx context.Context, c *Cosigned) error {
	detail := contradictions(c.Against)
	text := make([]string, 0, len(c.Against))
	for _, a := range c.Against {
		text = append(text, fmt.Sprintf("%s cosigned %d entries", a.Witness, a.Size))
	}
	err := fmt.Errorf("%w: this one has %d entries, %s; do not start it again, keep the directory as evidence, and put back the newest copy of it (docs/witnesses.md)",
		ErrRolledBack, t.size.Load(), strings.Join(text, ", "))
	t.o.Log.LogAttrs(ctx, slog.LevelError, "the log was rolled back or forked; stopping", slog.Any("err", err))
	// The entry goes to the journal of the copy that must not be continued: whoever
	// finds that copy sees why it ends. Many starts in a row add one.
	if !t.lastIs(ctx, actionRolledBack) {
		t.noteAndWait(ctx, trailgate.KindGap, actionRolledBack, detail)
	}
	t.mu.Lock()
	t.fatal, t.sequencerErr = fmt.Errorf("%w: %w", ErrUnavailable, err), err
	t.mu.Unlock()
	close(t.rolledBack)
	return err
}

// The trail's own entries about witnesses.
const (
	actionRolledBack     = "witness.rollback"
	actionDisagrees      = "witness.disagrees"
	actionQuorumLost     = "witness.quorum_lost"
	actionQuorumRegained = "witness.quorum_regained"
)

func contradictions(against []Contradiction) map[string]string {
	detail := map[string]string{}
	for _, a := range against {
		detail["witness."+a.Witness] = strconv.FormatUint(a.Size, 10)
		if len(a.Proof) > 0 {
			detail["proof."+a.Witness] = string(a.Proof)
		}
	}
	return detail
}

// lastIs reports whether the newest entry is the trail's own of that action.
func (t *Trail) lastIs(ctx context.Context, action string) bool {
	size := t.size.Load()
	if size == 0 {
		return false
	}
	raw, err := t.Get(ctx, size-1)
	if err != nil {
		return false
	}
	e, err := trailgate.Decode(raw)
	return err == nil && e.Event != nil && e.Event.Action == action
}

// startAsking shows a signed checkpoint to the witnesses. The sequencer goes on
// meanwhile: nothing but the checkpoint's publication waits for them.
func (s *sequencer) startAsking(cp *trailgate.Checkpoint) {
	t, asked := s.t, make(chan *Cosigned, 1)
	if t.published.Load().Size == cp.Size {
		s.retries++
	} else {
		s.retries = 0
	}
	s.pending, s.asked, s.lastAsk = cp, asked, time.Now()
	known := t.size.Load()
	go func() { asked <- t.o.Witnesses.Cosigner.Cosign(s.asking, cp, known, false, t.proveFrom(cp)) }()
}

// abandonAsking ends what startAsking began, and waits for it.
func (s *sequencer) abandonAsking() {
	s.stopAsking()
	if s.pending != nil && s.answer == nil {
		<-s.asked
	}
}

// heard publishes a checkpoint that is back from the witnesses, with as many
// cosignatures as it got.
//
// On disk before: the tree under it, for good, and the entries in the journal. A
// crash between a witness's cosignature and this publication leaves a witness
// that has seen more than was published, and no more than is there: the next
// start publishes a larger checkpoint, which extends both.
func (s *sequencer) heard() error {
	t, c := s.t, s.answer
	if c.Believed {
		return fmt.Errorf("%w: %w", errFatal, t.stopRolledBack(context.Background(), c))
	}
	raw := c.Raw
	if published := t.published.Load(); published.Size == s.pending.Size {
		raw = mergeSignatures(published.Raw, raw)
	}
	if !bytes.Equal(raw, t.published.Load().Raw) {
		if err := s.put(s.pending, raw); err != nil {
			return err // and again, with the same answer
		}
	}
	t.noteWitnesses(s.pending, c)
	s.pending, s.answer = nil, nil
	return nil
}

// mergeSignatures adds to a note the lines of an older copy of it whose keys
// have none in the newer: a cosignature does not lapse because its witness is away today.
func mergeSignatures(older, newer []byte) []byte {
	textOld, linesOld, ok := bytes.Cut(older, []byte("\n\n"))
	textNew, linesNew, ok2 := bytes.Cut(newer, []byte("\n\n"))
	if !ok || !ok2 || !bytes.Equal(textOld, textNew) {
		return newer
	}
	merged := slices.Clone(newer)
	for line := range bytes.Lines(linesOld) {
		// "— name base64": the name and the first four bytes, the key's hash, which are
		// five characters and a bit; names are unique in a policy but for that bit.
		name := line[:max(bytes.LastIndexByte(line, ' '), 0)]
		if len(name) > 0 && !bytes.Contains(linesNew, append(slices.Clone(name), ' ')) {
			merged = append(merged, line...)
		}
	}
	return merged
}

// noteWitnesses keeps what the last answer says of the witnesses, and records when
// the quorum is lost or regained.
func (t *Trail) noteWitnesses(cp *trailgate.Checkpoint, c *Cosigned) {
	before := t.Witnessed()
	state := before
	state.Quorum, state.Failed = c.Quorum, c.Failed
	state.Asked++
	if opened, err := trailgate.OpenCosigned(t.published.Load().Raw, t.verifier, t.o.Witnesses.Policy); opened != nil && (err == nil || errors.Is(err, trailgate.ErrNoQuorum)) {
		state.Cosignatures = opened.Cosignatures
	}
	if c.Quorum {
		state.Size, state.At = cp.Size, t.o.Now()
	} else {
		state.Lost++
	}
	t.witnessed.Store(&state)
	detail := map[string]string{"size": strconv.FormatUint(cp.Size, 10), "cosigned": strconv.Itoa(len(c.Cosignatures)), "quorum": t.o.Witnesses.Policy.Quorum()}
	for name, why := range c.Failed {
		detail["witness."+name] = why
	}
	ctx := context.Background()
	switch {
	case before.Quorum && !c.Quorum:
		t.o.Log.LogAttrs(ctx, slog.LevelError, "too few witnesses cosign; checkpoints are published without a quorum",
			slog.Int("cosigned", len(c.Cosignatures)), slog.String("quorum", detail["quorum"]), slog.Any("failed", c.Failed))
		t.note(actionQuorumLost, detail)
	case !before.Quorum && c.Quorum:
		t.o.Log.LogAttrs(ctx, slog.LevelInfo, "a quorum of witnesses cosigns", slog.Int("cosigned", len(c.Cosignatures)), slog.String("quorum", detail["quorum"]))
		t.note(actionQuorumRegained, detail)
	}
	for _, a := range c.Against {
		key := fmt.Sprintf("%s %d", a.Witness, a.Size)
		if t.disagreed[key] || len(t.disagreed) > 100 {
			continue
		}
		t.disagreed[key] = true
		t.o.Log.LogAttrs(ctx, slog.LevelError, "a witness says that it cosigned another tree of this log; it shows no proof, and is alone",
			slog.String("witness", a.Witness), slog.Uint64("size", a.Size))
		t.noteKind(trailgate.KindGap, actionDisagrees, contradictions([]Contradiction{a}))
	}
}

// endRolledBack gives back what a start took that witnesses put an end to.
func (t *Trail) endRolledBack(ctx context.Context) error {
	t.mu.Lock()
	t.closedErr = ErrClosed
	t.mu.Unlock()
	close(t.closing)
	select {
	case <-t.committed:
	case <-ctx.Done():
		return fmt.Errorf("the journal's disk does not answer: %w", ctx.Err())
	}
	t.helpers.Wait()
	return errors.Join(t.journal.Close(), t.lock.Close())
}
