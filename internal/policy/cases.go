package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
)

// MaxCases bounds a file of test cases.
const MaxCases = 10_000

// Classify completes a case's input from its statement, method and project, as the
// gateway's reading would: what the case itself says stays.
type Classify func(in *Input) error

// Result is how a test case went.
type Result struct {
	Name, File string
	Line       int
	Want       string // the effect that was wanted
	WantRule   string // "" for any
	Got        Decision
	Problem    string // why the case failed; "" where it passed
}

// Passed says that the decision was the wanted one.
func (r Result) Passed() bool { return r.Problem == "" }

type (
	casesNode struct {
		Version lined[int64]      `yaml:"version"`
		Cases   []lined[caseNode] `yaml:"cases"`
	}
	caseNode struct {
		Name lined[string]   `yaml:"name"`
		Call lined[callNode] `yaml:"call"`
		Want lined[string]   `yaml:"want"`
		Rule lined[string]   `yaml:"rule"`
	}
	// callNode has the variables of a condition as its keys; agent and human are short
	// for principal.agent and principal.human.
	callNode struct {
		Agent     lined[string] `yaml:"agent"`
		Human     lined[string] `yaml:"human"`
		Principal struct {
			Agent    string   `yaml:"agent"`
			Issuer   string   `yaml:"issuer"`
			Subject  string   `yaml:"subject"`
			Human    string   `yaml:"human"`
			HumanBy  string   `yaml:"human_by"`
			Actors   []string `yaml:"actors"`
			AuthMode string   `yaml:"auth_mode"`
			TokenID  string   `yaml:"token_id"`
		} `yaml:"principal"`
		Claims struct {
			Human     string            `yaml:"human"`
			UserAgent string            `yaml:"user_agent"`
			Reason    string            `yaml:"reason"`
			Labels    map[string]string `yaml:"labels"`
			Title     string            `yaml:"title"`
			Purpose   string            `yaml:"purpose"`
		} `yaml:"claims"`
		Connection    string          `yaml:"connection"`
		Project       string          `yaml:"project"`
		Location      string          `yaml:"location"`
		Method        string          `yaml:"method"`
		Class         lined[string]   `yaml:"class"`
		Classes       []lined[string] `yaml:"classes"`
		StatementType string          `yaml:"statement_type"`
		Statement     string          `yaml:"statement"`
		Tables        struct {
			Read    []string `yaml:"read"`
			Written []string `yaml:"written"`
		} `yaml:"tables"`
		Destinations []string `yaml:"destinations"`
		Flags        []string `yaml:"flags"`
		Job          struct {
			ID         string `yaml:"id"`
			Project    string `yaml:"project"`
			Type       string `yaml:"type"`
			OwnerAgent string `yaml:"owner_agent"`
		} `yaml:"job"`
		Request struct {
			DryRun             bool   `yaml:"dry_run"`
			Bytes              size   `yaml:"bytes"`
			MaximumBytesBilled size   `yaml:"maximum_bytes_billed"`
			Priority           string `yaml:"priority"`
		} `yaml:"request"`
		DryRun lined[struct {
			Ran           lined[bool] `yaml:"ran"`
			Error         string      `yaml:"error"`
			StatementType string      `yaml:"statement_type"`
			Read          []string    `yaml:"read"`
			Written       []string    `yaml:"written"`
			Bytes         size        `yaml:"bytes"`
		}] `yaml:"dry_run"`
		Session struct {
			ID          string    `yaml:"id"`
			Calls       int64     `yaml:"calls"`
			Rows        int64     `yaml:"rows"`
			Bytes       size      `yaml:"bytes"`
			BytesBilled size      `yaml:"bytes_billed"`
			Started     time.Time `yaml:"started"`
		} `yaml:"session"`
		Budget lined[struct {
			Name     string `yaml:"name"`
			Limit    size   `yaml:"limit"`
			Used     size   `yaml:"used"`
			Reserved size   `yaml:"reserved"`
			Warning  bool   `yaml:"warning"`
		}] `yaml:"budget"`
		Now time.Time `yaml:"now"`
	}
)

// RunCases tries a set on the calls of a file of cases (docs/spec/policy.md).
// classify may be nil: then a case says itself what class and tables its call has.
// The error is an [Errors] where the file is not understood; cases that fail are
// no error.
func RunCases(ctx context.Context, s *Set, f File, classify Classify) ([]Result, error) {
	d := &decoder{file: f.Name}
	var node casesNode
	d.decode(f, &node)
	if len(d.errs) == 0 {
		d.cases(&node)
	}
	inputs := make([]*Input, len(node.Cases))
	for i := range node.Cases {
		if len(d.errs) > 0 {
			break
		}
		c := &node.Cases[i].Value
		inputs[i] = c.Call.Value.input()
		if classify != nil && c.Call.Value.Statement != "" {
			if err := classify(inputs[i]); err != nil {
				d.errorf(c.Call.Line, fmt.Sprintf("cases[%d].call", i), "%v", err)
				break
			}
		}
		if inputs[i].Class == "" {
			d.errorf(c.Call.Line, fmt.Sprintf("cases[%d].call.class", i), "missing")
		}
	}
	if len(d.errs) > 0 {
		return nil, d.errs
	}
	out := make([]Result, len(node.Cases))
	for i := range node.Cases {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("run cases of %s: %w", f.Name, err)
		}
		out[i] = s.try(ctx, f.Name, &node.Cases[i], inputs[i])
	}
	return out, nil
}

func (d *decoder) cases(node *casesNode) {
	if !node.Version.Given || node.Version.Value != 1 {
		d.errorf(node.Version.Line, "version", "want \"version: 1\"")
	}
	if len(node.Cases) == 0 || len(node.Cases) > MaxCases {
		d.errorf(0, "cases", "want 1 to %d", MaxCases)
		return
	}
	effects := []string{Allow, Deny, RequireApproval}
	for i := range node.Cases {
		n, key := &node.Cases[i], fmt.Sprintf("cases[%d]", i)
		c := &n.Value
		if c.Name.Value == "" {
			d.errorf(n.Line, key+".name", "missing")
		}
		if !c.Call.Given {
			d.errorf(n.Line, key+".call", "missing")
		}
		if !contains(effects, c.Want.Value) {
			d.errorf(max(n.Line, c.Want.Line), key+".want", "want %s", strings.Join(effects, ", "))
		}
		call := &c.Call.Value
		for _, class := range append(slices.Clone(call.Classes), call.Class) {
			if class.Given && !contains(classWords, class.Value) {
				d.errorf(class.Line, key+".call.class", "%q is no class%s", class.Value, hint(class.Value, classWords))
			}
		}
		if call.Agent.Given && call.Principal.Agent != "" || call.Human.Given && call.Principal.Human != "" {
			d.errorf(c.Call.Line, key+".call", "agent and human are short for principal.agent and principal.human: give one of the two")
		}
	}
}

func (c *callNode) input() *Input {
	in := &Input{
		Principal: trailgate.Principal{
			Agent: c.Principal.Agent, Issuer: c.Principal.Issuer, Subject: c.Principal.Subject, Human: c.Principal.Human,
			HumanBy: c.Principal.HumanBy, Actors: c.Principal.Actors, AuthMode: c.Principal.AuthMode, TokenID: c.Principal.TokenID,
		},
		Claims: trailgate.Claims{
			Human: c.Claims.Human, UserAgent: c.Claims.UserAgent, Reason: c.Claims.Reason, Labels: c.Claims.Labels,
			Title: c.Claims.Title, Purpose: c.Claims.Purpose,
		},
		Connection: c.Connection, Project: c.Project, Location: c.Location, Method: c.Method, Class: trailgate.Class(c.Class.Value),
		StatementType: c.StatementType, Statement: c.Statement, Tables: trailgate.Tables{Read: c.Tables.Read, Written: c.Tables.Written},
		Destinations: c.Destinations, Flags: c.Flags,
		Job: trailgate.Job{ID: c.Job.ID, Project: c.Job.Project, Type: c.Job.Type, OwnerAgent: c.Job.OwnerAgent},
		Request: Request{
			DryRun: c.Request.DryRun, Bytes: int64(c.Request.Bytes), MaximumBytesBilled: int64(c.Request.MaximumBytesBilled),
			Priority: c.Request.Priority,
		},
		Session: Session{
			ID: c.Session.ID, Calls: c.Session.Calls, Rows: c.Session.Rows, Bytes: int64(c.Session.Bytes),
			BytesBilled: int64(c.Session.BytesBilled), Started: c.Session.Started,
		},
		Now: c.Now,
	}
	if c.Agent.Given {
		in.Principal.Agent = c.Agent.Value
	}
	if c.Human.Given {
		in.Principal.Human = c.Human.Value
	}
	for _, class := range c.Classes {
		in.Classes = append(in.Classes, trailgate.Class(class.Value))
	}
	if in.Class == "" {
		for _, class := range in.Classes {
			if in.Class == "" || class.Gravity() > in.Class.Gravity() {
				in.Class = class
			}
		}
	}
	if c.DryRun.Given {
		v := &c.DryRun.Value
		in.DryRun = &DryRun{
			Ran: v.Error == "" && (v.Ran.Value || !v.Ran.Given), Error: v.Error, StatementType: v.StatementType,
			Read: v.Read, Written: v.Written, Bytes: int64(v.Bytes),
		}
	}
	if c.Budget.Given {
		v := &c.Budget.Value
		in.Budget = Budget{Limited: true, Name: v.Name, Limit: int64(v.Limit), Used: int64(v.Used), Reserved: int64(v.Reserved), Warning: v.Warning}
	}
	return in
}

func (s *Set) try(ctx context.Context, file string, n *lined[caseNode], in *Input) Result {
	c := &n.Value
	r := Result{Name: c.Name.Value, File: file, Line: n.Line, Want: c.Want.Value, WantRule: c.Rule.Value}
	d, needDryRun := s.Evaluate(ctx, in)
	r.Got = d
	switch {
	case needDryRun:
		r.Problem = fmt.Sprintf("rule %q asks for a dry run: give the case a dry_run", d.Rule)
	case d.Failed && (r.Want != Deny || r.WantRule == ""):
		// A case that only wants a denial is not content with a rule that broke.
		r.Problem = fmt.Sprintf("rule %q: %s", d.Rule, d.Reason)
	case d.Effect != r.Want:
		r.Problem = fmt.Sprintf("want %s, got %s by rule %q", r.Want, d.Effect, d.Rule)
		if d.Reason != "" {
			r.Problem += ": " + d.Reason
		}
	case r.WantRule != "" && d.Rule != r.WantRule:
		r.Problem = fmt.Sprintf("want %s by rule %q, got it by %q", r.Want, r.WantRule, d.Rule)
	}
	return r
}
