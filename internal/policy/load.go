package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
)

// Set is a policy: rules in order. It never changes; any number of goroutines
// may use it at once. Make one with [Load].
type Set struct {
	rules  []rule
	digest string
}

// rule is a Rule with what it is evaluated by.
type rule struct {
	Rule
	// small evaluates without counting the cost; nil where that may be more than
	// maxSmallCost. counted counts it.
	small, counted cel.Program
	ast            *celast.AST // checked
	message        message
}

// The file format, docs/spec/policy.md.
type (
	fileNode struct {
		Version lined[int64]      `yaml:"version"`
		Rules   []lined[ruleNode] `yaml:"rules"`
	}
	ruleNode struct {
		Name            lined[string]       `yaml:"name"`
		When            lined[string]       `yaml:"when"`
		Allow           lined[limitsNode]   `yaml:"allow"`
		Deny            lined[string]       `yaml:"deny"`
		RequireApproval lined[approvalNode] `yaml:"require_approval"`
	}
	limitsNode struct {
		MaximumBytesBilled lined[size]          `yaml:"maximum_bytes_billed"`
		JobTimeout         lined[time.Duration] `yaml:"job_timeout"`
		MaxRows            lined[int64]         `yaml:"max_rows"`
		MaxBytes           lined[size]          `yaml:"max_bytes"`
		Recording          lined[string]        `yaml:"recording"`
		RequireLabels      []lined[string]      `yaml:"require_labels"`
		ReadOnly           lined[bool]          `yaml:"read_only"`
	}
	approvalNode struct {
		From      []lined[string]      `yaml:"from"`
		Approvals lined[int64]         `yaml:"approvals"`
		Expires   lined[time.Duration] `yaml:"expires"`
		Reason    lined[string]        `yaml:"reason"`
		Limits    lined[limitsNode]    `yaml:"limits"`
	}
)

var (
	namePattern  = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	labelPattern = regexp.MustCompile(`^[\p{Ll}\p{Lo}][\p{Ll}\p{Lo}\p{N}_-]{0,62}$`) // BigQuery's label keys
	rolePattern  = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	humanPattern = regexp.MustCompile(`^[^\s\x00-\x1f\x7f]{1,320}$`)
)

// Load makes a set of the rules of all files, in order. The error is an [Errors]:
// all mistakes, each with file and line. A set is made whole or not at all.
func Load(files []File) (*Set, error) {
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("policy: make the CEL environment: %w", err)
	}
	if len(files) == 0 || len(files) > MaxFiles {
		return nil, Errors{{File: "policy", Message: fmt.Sprintf("%d files; want 1 to %d", len(files), MaxFiles)}}
	}
	l := &loader{env: env, names: map[string]string{}}
	hash := sha256.New()
	for _, f := range files {
		// Each file with its length before it, so that moving a line from one file to
		// the next is a change.
		hash.Write(binary.BigEndian.AppendUint64(nil, uint64(len(f.Data))))
		hash.Write(f.Data)
		if len(l.errs) < maxErrors {
			l.file(f)
		}
	}
	if len(l.errs) > 0 {
		return nil, l.errs
	}
	return &Set{rules: l.rules, digest: hex.EncodeToString(hash.Sum(nil))}, nil
}

type loader struct {
	decoder
	env   *cel.Env
	names map[string]string // of rules, to where they stand
	rules []rule
}

func (l *loader) file(f File) {
	l.decoder.file = f.Name
	var node fileNode
	before := len(l.errs)
	l.decode(f, &node)
	if len(l.errs) > before && len(node.Rules) == 0 {
		return // what else it lacks would be guesses
	}
	switch {
	case !node.Version.Given:
		l.errorf(1, "version", "missing; the file begins with \"version: 1\"")
	case node.Version.Value != 1:
		l.errorf(node.Version.Line, "version", "%d is not known; this is version 1", node.Version.Value)
	}
	if len(node.Rules) == 0 {
		l.errorf(0, "rules", "missing or empty; without a rule nothing is allowed")
	}
	for i := range node.Rules {
		if len(l.rules) >= MaxRules {
			l.errorf(node.Rules[i].Line, "rules", "more than %d rules", MaxRules)
			return
		}
		if len(l.errs) >= maxErrors {
			return
		}
		l.rule(&node.Rules[i], fmt.Sprintf("rules[%d]", i))
	}
}

func (l *loader) rule(n *lined[ruleNode], key string) {
	v := &n.Value
	r := rule{Rule: Rule{Name: v.Name.Value, File: l.decoder.file, Line: n.Line, When: v.When.Value}}
	switch {
	case !v.Name.Given:
		l.errorf(n.Line, key+".name", "missing; every rule has a name, which stands in the entries that it decides")
	case !namePattern.MatchString(r.Name):
		l.errorf(v.Name.Line, key+".name", "%q: want lower-case letters, digits and '-', a letter first, at most 63", clip(r.Name, 100))
	case l.names[r.Name] != "":
		l.errorf(v.Name.Line, key+".name", "%q is taken by the rule at %s", r.Name, l.names[r.Name])
	default:
		l.names[r.Name] = fmt.Sprintf("%s:%d", l.decoder.file, n.Line)
	}
	l.effect(n, key, &r)
	if !v.When.Given {
		l.errorf(n.Line, key+".when", "missing; a rule for every call says so: when: 'true'")
		return
	}
	l.when(&v.When, key+".when", &r)
	l.rules = append(l.rules, r)
}

func (l *loader) effect(n *lined[ruleNode], key string, r *rule) {
	v := &n.Value
	given := 0
	if v.Allow.Given {
		given++
		r.Effect = Allow
		r.Limits = l.limits(&v.Allow, key+".allow")
	}
	if v.Deny.Given {
		given++
		r.Effect = Deny
		if strings.TrimSpace(v.Deny.Value) == "" {
			l.errorf(v.Deny.Line, key+".deny", "want the message that the agent gets")
		}
		r.Message = v.Deny.Value
		r.message = l.text(&v.Deny, key+".deny")
	}
	if v.RequireApproval.Given {
		given++
		r.Effect = RequireApproval
		l.approval(&v.RequireApproval, key+".require_approval", r)
	}
	if given != 1 {
		l.errorf(n.Line, key, "want exactly one of allow, deny and require_approval; it has %d", given)
	}
}

func (l *loader) limits(n *lined[limitsNode], key string) Limits {
	v := &n.Value
	out := Limits{
		MaximumBytesBilled: int64(v.MaximumBytesBilled.Value), JobTimeout: v.JobTimeout.Value, MaxRows: v.MaxRows.Value,
		MaxBytes: int64(v.MaxBytes.Value), Recording: v.Recording.Value, ReadOnly: v.ReadOnly.Value,
	}
	positive := func(given bool, line int, name string, ok bool, want string) {
		if given && !ok {
			l.errorf(line, key+"."+name, "%s", want)
		}
	}
	positive(v.MaximumBytesBilled.Given, v.MaximumBytesBilled.Line, "maximum_bytes_billed", out.MaximumBytesBilled >= 1, "want at least 1 byte; to allow nothing, deny")
	positive(v.JobTimeout.Given, v.JobTimeout.Line, "job_timeout", out.JobTimeout >= time.Second && out.JobTimeout <= 24*time.Hour && out.JobTimeout%time.Millisecond == 0, "want 1s to 24h")
	positive(v.MaxRows.Given, v.MaxRows.Line, "max_rows", out.MaxRows >= 1, "want at least 1; to allow nothing, deny")
	positive(v.MaxBytes.Given, v.MaxBytes.Line, "max_bytes", out.MaxBytes >= 1, "want at least 1 byte; to allow nothing, deny")
	switch out.Recording {
	case RecordMetadata, RecordRequest, RecordResults:
	default:
		positive(v.Recording.Given, v.Recording.Line, "recording", false, "want metadata, request or results")
	}
	for i, label := range v.RequireLabels {
		k := fmt.Sprintf("%s.require_labels[%d]", key, i)
		switch {
		case !labelPattern.MatchString(label.Value):
			l.errorf(label.Line, k, "%q is no key of a BigQuery label", clip(label.Value, 100))
		case strings.HasPrefix(label.Value, "trailgate_"):
			l.errorf(label.Line, k, "labels under trailgate_ are the gateway's own")
		case contains(out.RequireLabels, label.Value):
			l.errorf(label.Line, k, "%q is given twice", label.Value)
		case len(out.RequireLabels) >= 16:
			l.errorf(label.Line, k, "more than 16 labels")
		default:
			out.RequireLabels = append(out.RequireLabels, label.Value)
		}
	}
	return out
}

func (l *loader) approval(n *lined[approvalNode], key string, r *rule) {
	v := &n.Value
	r.Approval = Approval{Approvals: int(v.Approvals.Value), Expires: v.Expires.Value}
	if !v.Approvals.Given {
		r.Approval.Approvals = 1
	}
	if v.Approvals.Given && (v.Approvals.Value < 1 || v.Approvals.Value > MaxApprovals) {
		l.errorf(v.Approvals.Line, key+".approvals", "want 1 to %d", MaxApprovals)
	}
	if !v.Expires.Given {
		r.Approval.Expires = DefaultExpiry
	}
	if v.Expires.Given && (v.Expires.Value < time.Minute || v.Expires.Value > MaxExpiry) {
		l.errorf(v.Expires.Line, key+".expires", "want 1m to %dh", MaxExpiry/time.Hour)
	}
	if len(v.From) == 0 || len(v.From) > MaxApprovers {
		l.errorf(n.Line, key+".from", "want 1 to %d who may approve, such as \"role:approver\" or \"human:ada@example.com\"", MaxApprovers)
	}
	for i, from := range v.From {
		kind, name, _ := strings.Cut(from.Value, ":")
		ok := kind == "human" && humanPattern.MatchString(name) || kind == "role" && rolePattern.MatchString(name)
		k := fmt.Sprintf("%s.from[%d]", key, i)
		switch {
		case !ok:
			l.errorf(from.Line, k, "%q: want \"human:NAME\" or \"role:NAME\"", clip(from.Value, 100))
		case contains(r.Approval.From, from.Value):
			l.errorf(from.Line, k, "%q is given twice", clip(from.Value, 100))
		default:
			r.Approval.From = append(r.Approval.From, from.Value)
		}
	}
	r.Message = v.Reason.Value
	r.message = l.text(&v.Reason, key+".reason")
	if v.Limits.Given {
		r.Limits = l.limits(&v.Limits, key+".limits")
	}
}
