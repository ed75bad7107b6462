package trailgate

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// WitnessPolicy says whose cosignatures a checkpoint needs
// (https://c2sp.org/tlog-policy): named witnesses with their keys, and groups
// of which so many members are needed, one in another. It is immutable.
type WitnessPolicy struct {
	// Logs are the logs that the policy knows. Optional: where there are none, the
	// log's key comes from elsewhere.
	Logs []PolicyLog
	// Witnesses are in the order of the text.
	Witnesses []PolicyWitness

	groups map[string]policyGroup
	quorum string
}

// PolicyLog is a "log" line of a policy.
type PolicyLog struct {
	Key note.Verifier // its name is the log's origin
	URL string        // optional
}

// PolicyWitness is a "witness" line of a policy.
type PolicyWitness struct {
	// Name is the witness's name within the policy.
	Name string
	// Key's name is the one on signature lines.
	Key *CosignatureVerifier
	// URL is the witness's submission prefix (C2SP tlog-witness). Optional: who only
	// verifies needs none.
	URL string
}

type policyGroup struct {
	needed  int
	members []string
}

// Bounds of a policy. C2SP asks for 32 of each at least; a note may carry 100
// signatures.
const (
	maxPolicyBytes = 256 << 10
	maxPolicyNames = 64 // of logs, of witnesses, and of groups
)

// noQuorum is the name of the quorum that is always there.
const noQuorum = "none"

// ParseWitnessPolicy reads a policy: lines "log VKEY [URL]", "witness NAME VKEY
// [URL]", "group NAME any|all|N MEMBER...", and one "quorum NAME" (or "quorum
// none"); "#" begins a line of comment. Names are defined before they are
// used, and stand in one group at most, so that no witness counts twice.
func ParseWitnessPolicy(text []byte) (*WitnessPolicy, error) {
	if len(text) > maxPolicyBytes {
		return nil, fmt.Errorf("witness policy: larger than %d KiB", maxPolicyBytes>>10)
	}
	p := &policyParser{
		policy: WitnessPolicy{groups: map[string]policyGroup{}},
		member: map[string]string{noQuorum: "nothing"},
		keys:   map[string]string{},
	}
	n := 0
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		n++
		if err := p.line(string(line)); err != nil {
			return nil, fmt.Errorf("witness policy: line %d: %w", n, err)
		}
	}
	if p.policy.quorum == "" {
		return nil, errors.New(`witness policy: it has no "quorum" line`)
	}
	return &p.policy, nil
}

// policyParser is a policy of which the first lines have been read.
type policyParser struct {
	policy WitnessPolicy
	member map[string]string // every name: the group that it is in, or ""
	keys   map[string]string // every public key, and every (key name, hash): who has it
}

func (p *policyParser) line(line string) error {
	for i := range len(line) {
		if c := line[i]; c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("control character 0x%02x; lines end with a newline alone", c)
		}
	}
	fields := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(fields) == 0 || fields[0][0] == '#' {
		return nil
	}
	args := fields[1:]
	switch fields[0] {
	case "log":
		return p.log(args)
	case "witness":
		return p.witness(args)
	case "group":
		return p.group(args)
	case "quorum":
		return p.setQuorum(args)
	default:
		return fmt.Errorf("unknown keyword %q; log, witness, group and quorum are known", fields[0])
	}
}

func (p *policyParser) log(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return errors.New("it should be: log VKEY [URL]")
	}
	key, err := note.NewVerifier(args[0])
	if err != nil {
		return fmt.Errorf("the log's key: %w", err)
	}
	if len(p.policy.Logs) == maxPolicyNames {
		return fmt.Errorf("more than %d logs", maxPolicyNames)
	}
	// The same key under another name is the same key. (NewVerifier has seen that there are three parts.)
	public, err := base64.StdEncoding.DecodeString(strings.SplitN(args[0], "+", 3)[2])
	if err != nil {
		return fmt.Errorf("the log's key: %w", err)
	}
	if err := p.claim("log", key.Name(), key, public); err != nil {
		return err
	}
	p.policy.Logs = append(p.policy.Logs, PolicyLog{Key: key, URL: optional(args, 1)})
	return nil
}

func (p *policyParser) witness(args []string) error {
	if len(args) < 2 || len(args) > 3 {
		return errors.New("it should be: witness NAME VKEY [URL]")
	}
	key, err := NewCosignatureVerifier(args[1])
	if err != nil {
		return err
	}
	if len(p.policy.Witnesses) == maxPolicyNames {
		return fmt.Errorf("more than %d witnesses", maxPolicyNames)
	}
	if err := p.define(args[0]); err != nil {
		return err
	}
	if err := p.claim("witness", args[0], key, key.key); err != nil {
		return err
	}
	p.policy.Witnesses = append(p.policy.Witnesses, PolicyWitness{Name: args[0], Key: key, URL: optional(args, 2)})
	return nil
}

func (p *policyParser) group(args []string) error {
	if len(args) < 3 {
		return errors.New("it should be: group NAME any|all|N MEMBER, and more members")
	}
	name, members := args[0], args[2:]
	needed := 0
	switch args[1] {
	case "any":
		needed = 1
	case "all":
		needed = len(members)
	default:
		n, err := strconv.ParseUint(args[1], 10, 16)
		if err != nil || strconv.FormatUint(n, 10) != args[1] {
			return fmt.Errorf("%q members are needed? any, all or a number", args[1])
		}
		needed = int(n)
	}
	if needed < 1 || needed > len(members) {
		return fmt.Errorf("%d of %d members are needed; it must be at least one, and no more than there are", needed, len(members))
	}
	if len(p.policy.groups) == maxPolicyNames {
		return fmt.Errorf("more than %d groups", maxPolicyNames)
	}
	for _, m := range members {
		in, defined := p.member[m]
		switch {
		case !defined:
			return fmt.Errorf("%q is not defined on a line before", m)
		case in != "":
			return fmt.Errorf("%q is a member of %s already; who is in two groups would count twice", m, in)
		}
		p.member[m] = "group " + name
	}
	// After its members, so that it cannot be one of them.
	if err := p.define(name); err != nil {
		return err
	}
	p.policy.groups[name] = policyGroup{needed: needed, members: slices.Clone(members)}
	return nil
}

func (p *policyParser) setQuorum(args []string) error {
	if len(args) != 1 {
		return errors.New("it should be: quorum NAME")
	}
	if p.policy.quorum != "" {
		return errors.New("a second quorum")
	}
	if _, defined := p.member[args[0]]; !defined {
		return fmt.Errorf("%q is not defined on a line before", args[0])
	}
	p.policy.quorum = args[0]
	return nil
}

// define makes a name known.
func (p *policyParser) define(name string) error {
	if name == noQuorum {
		return fmt.Errorf("nothing can be named %q", name)
	}
	if _, defined := p.member[name]; defined {
		return fmt.Errorf("%q is defined twice", name)
	}
	p.member[name] = ""
	return nil
}

// claim sees to it that no key stands in the policy twice: neither the key
// itself, under whatever name, nor two that signatures do not tell apart.
func (p *policyParser) claim(kind, name string, key note.Verifier, public []byte) error {
	who := kind + " " + name
	for _, id := range []string{
		kind + " key " + string(public),
		fmt.Sprintf("name %s+%08x", key.Name(), key.KeyHash()),
	} {
		if other, taken := p.keys[id]; taken {
			return fmt.Errorf("%s and %s have the same key", other, who)
		}
		p.keys[id] = who
	}
	return nil
}

func optional(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

// Satisfied reports whether those witnesses, by their names in the policy, are
// a quorum.
func (p *WitnessPolicy) Satisfied(cosigned func(witness string) bool) bool {
	return p.satisfied(p.quorum, cosigned)
}

func (p *WitnessPolicy) satisfied(name string, cosigned func(string) bool) bool {
	if name == noQuorum {
		return true
	}
	g, ok := p.groups[name]
	if !ok {
		return cosigned(name)
	}
	n := 0
	for _, m := range g.members {
		if p.satisfied(m, cosigned) {
			n++
		}
	}
	return n >= g.needed
}

// Quorum says in words what the policy asks for, such as "2 of (a, b, 1 of (c, d))".
func (p *WitnessPolicy) Quorum() string { return p.describe(p.quorum) }

func (p *WitnessPolicy) describe(name string) string {
	g, ok := p.groups[name]
	if !ok {
		return name
	}
	members := make([]string, len(g.members))
	for i, m := range g.members {
		members[i] = p.describe(m)
	}
	return fmt.Sprintf("%d of (%s)", g.needed, strings.Join(members, ", "))
}

// LogKeys are the policy's keys for the log of that origin.
func (p *WitnessPolicy) LogKeys(origin string) []note.Verifier {
	var keys []note.Verifier
	for _, l := range p.Logs {
		if l.Key.Name() == origin {
			keys = append(keys, l.Key)
		}
	}
	return keys
}

// Cosignature is a witness's word that it saw a checkpoint, and that the tree
// under it extends all it saw of that log before.
type Cosignature struct {
	Witness string    `json:"witness"` // the witness's name in the policy
	Key     string    `json:"key"`     // the name of the witness's key
	Time    time.Time `json:"time"`    // when it cosigned, by its own clock
}

// CosignedCheckpoint is a checkpoint and who of a policy cosigned it.
type CosignedCheckpoint struct {
	*Checkpoint
	Cosignatures []Cosignature // in the policy's order
}

// ErrNoQuorum means that a checkpoint is the log's, but that too few of the
// policy's witnesses cosigned it.
var ErrNoQuorum = errors.New("too few witnesses cosigned the checkpoint")

// OpenCosigned checks the log's signature on a checkpoint and the cosignatures
// of a policy's witnesses, and that these are a quorum. Signatures of others are
// ignored; one that is a known witness's and does not verify is an error.
//
// With an error that is [ErrNoQuorum], and with no other, the checkpoint is
// returned too: it is the log's, and says who did cosign.
//
// The times are what the witnesses say; how old or how far ahead of one's own
// clock they may be is for the caller to judge.
func OpenCosigned(raw []byte, key note.Verifier, policy *WitnessPolicy) (*CosignedCheckpoint, error) {
	cp, err := OpenCheckpoint(raw, key)
	if err != nil {
		return nil, err
	}
	return readCosignatures(cp, policy)
}

// OpenCosigned is the function of that name with a log's keys, of which any may
// have signed the checkpoint.
func (k *Keychain) OpenCosigned(raw []byte, policy *WitnessPolicy) (*CosignedCheckpoint, error) {
	cp, err := k.Open(raw)
	if err != nil {
		return nil, err
	}
	return readCosignatures(cp, policy)
}

// readCosignatures looks for a policy's cosignatures on a checkpoint of which the
// log's own signature was checked.
func readCosignatures(cp *Checkpoint, policy *WitnessPolicy) (*CosignedCheckpoint, error) {
	verifiers := make([]note.Verifier, 0, len(policy.Witnesses))
	for _, w := range policy.Witnesses {
		verifiers = append(verifiers, w.Key)
	}
	n, err := note.Open(cp.Raw, note.VerifierList(verifiers...))
	var nobody *note.UnverifiedNoteError
	switch {
	case errors.As(err, &nobody):
		n = &note.Note{} // none of the witnesses is on it
	case err != nil:
		return nil, fmt.Errorf("checkpoint: cosignature: %w", err)
	}
	c := &CosignedCheckpoint{Checkpoint: cp}
	for _, w := range policy.Witnesses {
		for _, s := range n.Sigs {
			if s.Name != w.Key.Name() || s.Hash != w.Key.KeyHash() {
				continue
			}
			at, err := CosignatureTime(s)
			if err != nil {
				return nil, fmt.Errorf("checkpoint: cosignature of %s: %w", w.Name, err)
			}
			c.Cosignatures = append(c.Cosignatures, Cosignature{Witness: w.Name, Key: s.Name, Time: at})
			break // note.Open drops a second one of the same key
		}
	}
	cosigned := func(name string) bool {
		return slices.ContainsFunc(c.Cosignatures, func(s Cosignature) bool { return s.Witness == name })
	}
	if !policy.Satisfied(cosigned) {
		return c, fmt.Errorf("%w: %d did, %s are needed", ErrNoQuorum, len(c.Cosignatures), policy.Quorum())
	}
	return c, nil
}
