package federation_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/federation"
)

func TestDiagnose(t *testing.T) {
	g := newGoogle(t)
	sts(g)
	g.on(pathOAuth, okToken)
	g.on(pathUserInfo, user(human, true))
	const hop = "hop-one@mid.iam.gserviceaccount.com"
	through := impersonation(t, g, func(c *federation.ImpersonationConfig) { c.Delegates = []string{hop} })
	o := oauth(t, g, openConsents(t))
	names := func(cs []federation.Check) (names []string, last federation.Check) {
		for _, c := range cs {
			names = append(names, fmt.Sprint(c.Name, " ", c.OK))
			last = c
			if raw, err := json.Marshal(c); err != nil || strings.Contains(string(raw), "token-of") || strings.Contains(string(raw), "base-token") || strings.Contains(string(raw), "federated-") || strings.Contains(string(raw), "eyJ") {
				t.Errorf("a secret is in %s", raw)
			}
		}
		return names, last
	}
	const sa = "agent-etl@demo-project.iam.gserviceaccount.com"
	check := func(src federation.Source, r federation.Request, fix string, want ...string) {
		t.Helper()
		got, last := names(federation.Diagnose(t.Context(), src, r))
		if diff := cmp.Diff(want, got); diff != "" || !strings.Contains(last.Fix, fix) || last.OK && fix != "" {
			t.Errorf("%s\nlast: %+v", diff, last)
		}
	}
	check(federation.None(), request("etl"), "", "credential true")
	check(through, request("etl"), "", "the agent's service account true", "the gateway's own credential true", "become "+hop+" true", "become "+sa+" true")
	check(through, request("e_t_l"), "service_accounts", "the agent's service account false")
	check(workload(t, g, nil), request("etl"), "", "the JWT to exchange true", "exchange at the Security Token Service true")
	check(workload(t, g, func(c *federation.WorkloadConfig) { c.Template = template }), request("etl"), "",
		"the JWT to exchange true", "exchange at the Security Token Service true", "become "+sa+" true")
	check(workload(t, g, func(c *federation.WorkloadConfig) { c.Prefer = "agent" }), request("etl"), "prefer_agent", "the JWT to exchange false")
	check(o, request("etl"), "--human", "consent false")
	check(o, forHuman(human), "/consent/main", "consent false")
	if _, err := o.Complete(t.Context(), human, redirect, "c", verifier); err != nil {
		t.Fatal(err)
	}
	check(o, forHuman(human), "", "consent true", "refresh the access token true")

	// Past the cache, and hop by hop.
	if _, err := through.Credential(t.Context(), request("etl")); err != nil {
		t.Fatal(err)
	}
	g.on(pathMint, func(c call) (int, string) {
		if c.Account == hop {
			return 200, `{"accessToken":"x","expireTime":"` + time.Now().Add(time.Hour).Format(time.RFC3339) + `"}`
		}
		return 403, `{"error":{"status":"PERMISSION_DENIED","message":"no"}}`
	})
	check(through, request("etl"), "gcloud iam service-accounts add-iam-policy-binding "+sa+" --member=serviceAccount:"+hop+" --role=roles/iam.serviceAccountTokenCreator",
		"the agent's service account true", "the gateway's own credential true", "become "+hop+" true", "become "+sa+" false")
}
