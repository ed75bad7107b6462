package sandbox

import (
	"slices"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// policyOf finds where the IAM policy of a call's table or dataset is kept.
func (s *Sandbox) policyOf(c *call) (*object, *apiError) {
	n := nameOf(c)
	if n.Table == "" {
		d, err := s.catalog.datasetLocked(n.Project, n.Dataset)
		if err != nil {
			return nil, err
		}
		return &d.policy, nil
	}
	t, err := s.catalog.tableLocked(n)
	if err != nil {
		return nil, err
	}
	return &t.policy, nil
}

func policyObject(p object) object {
	o := object{"version": 1}
	if p != nil {
		o = clone(p)
	}
	delete(o, "etag")
	o["etag"] = etagOf(o)
	return o
}

func (s *Sandbox) getIamPolicy(c *call) (answer, error) {
	s.catalog.mu.RLock()
	defer s.catalog.mu.RUnlock()
	p, err := s.policyOf(c)
	if err != nil {
		return nil, err
	}
	return reply(policyObject(*p))
}

func (s *Sandbox) setIamPolicy(c *call) (answer, error) {
	policy := sub(c.body, "policy")
	if policy == nil {
		return nil, fail("required", "Required parameter is missing: policy")
	}
	if m := str(c.body, "updateMask"); m != "" && m != "policy" {
		return nil, unsupported("updateMask %q", m)
	}
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	p, err := s.policyOf(c)
	if err != nil {
		return nil, err
	}
	if sent := str(policy, "etag"); sent != "" && sent != str(policyObject(*p), "etag") {
		return nil, &apiError{status: 409, reason: "aborted", message: "There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff."}
	}
	next := clone(policy)
	delete(next, "etag")
	if next["version"] == nil {
		next["version"] = 1
	}
	*p = next
	return reply(policyObject(next))
}

func (s *Sandbox) testIamPermissions(c *call) (answer, error) {
	s.catalog.mu.RLock()
	defer s.catalog.mu.RUnlock()
	if _, err := s.policyOf(c); err != nil {
		return nil, err
	}
	// Policies are not enforced: whoever asks has what is asked for.
	o := object{}
	if p := list(c.body, "permissions"); len(p) > 0 {
		o["permissions"] = p
	}
	return reply(o)
}

// grant adds or takes members of roles, for GRANT and REVOKE; the caller holds
// the engine.
func (s *Sandbox) grant(p *googlesql.Plan) error {
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	policy, err := s.policyOf(&call{params: map[string]string{"projectId": p.Target.Project, "datasetId": p.Target.Dataset, "tableId": p.Target.Table}})
	if err != nil {
		return err
	}
	next := policyObject(*policy)
	delete(next, "etag")
	bindings := list(next, "bindings")
	for _, role := range p.Roles {
		i := slices.IndexFunc(bindings, func(b any) bool { o, _ := b.(object); return str(o, "role") == role && o["condition"] == nil })
		if i < 0 {
			bindings, i = append(bindings, object{"role": role, "members": []any{}}), len(bindings)
		}
		b := bindings[i].(object)
		members := list(b, "members")
		for _, g := range p.Grantees {
			members = slices.DeleteFunc(members, func(m any) bool { return m == g })
			if p.Type == "GRANT" {
				members = append(members, g)
			}
		}
		b["members"] = members
	}
	next["bindings"] = slices.DeleteFunc(bindings, func(b any) bool { o, _ := b.(object); return len(list(o, "members")) == 0 })
	*policy = next
	return nil
}
