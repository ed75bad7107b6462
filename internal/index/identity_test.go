package index_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
)

// TestWho: a call is found by each link of its chain, and by no other; the same
// text in another field, or in a field whose letter folds into this one's, is
// not mistaken for it.
func TestWho(t *testing.T) {
	l := newTrail(t)
	jwt := l.add(trailgate.Entry{
		Kind: trailgate.KindIntent, Method: "m", Project: "p",
		Principal: &trailgate.Principal{Agent: "etl-bot", Issuer: "https://idp.example", Subject: "sa:etl", Human: "ada@example.com", AuthMode: trailgate.AuthJWT},
		Claims:    &trailgate.Claims{Human: "mallory@example.com"},
	})
	l.add(trailgate.Entry{
		Kind: trailgate.KindOutcome, IntentID: jwt, Outcome: &trailgate.Outcome{Status: 200},
		Upstream: &trailgate.Upstream{Mode: "impersonation", Principal: "agent-etl-bot@p.iam.gserviceaccount.com"},
	})
	token := l.add(trailgate.Entry{
		Kind: trailgate.KindIntent, Method: "m", Project: "p",
		Principal: &trailgate.Principal{Agent: "sa:etl", Issuer: "trailgate", Subject: "ada@example.com", AuthMode: trailgate.AuthGatewayToken},
		Claims:    &trailgate.Claims{UserAgent: "agent-etl-bot@p.iam.gserviceaccount.com"},
	})
	x := l.open(t.TempDir(), index.Options{})
	catchUp(t, x)
	for filter, want := range map[string][]string{
		`issuer = "https://idp.example"`:        {jwt},
		`issuer = "trailgate"`:                  {token},
		`subject = "sa:etl"`:                    {jwt},
		`agent = "sa:etl"`:                      {token},
		`subject = "ada@example.com"`:           {token},
		`human = "ada@example.com"`:             {jwt},
		`human = "mallory@example.com"`:         nil,
		`claimed_human : "mallory"`:             {jwt},
		`claimed_human : "ada"`:                 nil,
		`auth_mode = "oidc_jwt"`:                {jwt},
		`auth_mode : "*"`:                       {token, jwt},
		`upstream : "agent-etl-bot@*"`:          {jwt},
		`user_agent : "agent-etl-bot"`:          {token},
		`NOT issuer = "trailgate"`:              {jwt},
		`upstream : "agent-*" subject = sa:etl`: {jwt},
	} {
		if diff := cmp.Diff(want, find(t, x, index.Query{Filter: filter})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", filter, diff)
		}
	}
}
