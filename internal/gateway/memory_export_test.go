package gateway

import (
	"fmt"
	"strings"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/identity"
)

// Shrink has a gateway that has done nothing yet remember little, so that it is soon full.
func (g *Gateway) Shrink(most int) {
	g.owners.all.most, g.running.all.most, g.reads.all.most = most, most, most
	g.tallies.sum.most, g.tallies.billed.most = most, most
	g.places.all.most, g.schemas.all.most, g.failed.most = most, most, most
}

// Fill puts n things of a kind into a memory of its own that has this much room, each
// as large as agents can make it or as small, and returns what it says that it takes,
// and itself.
func Fill(kind string, n, room int, large bool) (says int, it any) {
	long := func(i int, s string) string {
		if large {
			return fmt.Sprintf("%s-%d-%s", s, i, strings.Repeat("x", 1000))
		}
		return fmt.Sprintf("%s-%d", s, i)
	}
	tables := func(i int) []string {
		if large {
			return []string{long(i, "p.d.a"), long(i, "p.d.b"), long(i, "p.d.c")}
		}
		return []string{long(i, "demo-project.shop.orders")}
	}
	switch kind {
	case "owners":
		o := newOwners()
		o.all.room = room
		for i := range n {
			o.claim(jobKey("demo-project", long(i, "job")), owner{
				agent: fmt.Sprintf("agent-%d", i), entry: fmt.Sprintf("01jd%022d", i),
				limits: map[string]string{"max_rows": fmt.Sprint(i), "maximum_bytes_billed": fmt.Sprint(i)}, read: tables(i),
			})
		}
		return o.all.bytes, o
	case "running":
		r := newRunning()
		r.all.room = room
		for i := range n {
			intent := &trailgate.Entry{
				ID: fmt.Sprintf("01jd%022d", i), Kind: trailgate.KindIntent, Project: "demo-project", Principal: &trailgate.Principal{Agent: "etl-bot"},
				Statements: []trailgate.Statement{{Text: strings.Repeat("x", 8<<10)}}, Tables: &trailgate.Tables{Read: tables(i)},
			}
			result := &trailgate.Entry{Job: &trailgate.Job{Project: "demo-project", ID: long(i, "job")}, Outcome: &trailgate.Outcome{Status: 200, JobState: "RUNNING"}}
			r.saw(intent, result, identity.Identity{Assertion: long(i, "jwt")}, true)
		}
		return r.all.bytes, r
	case "schemas":
		s := newSchemas()
		s.all.room = room
		for i := range n {
			raw := make([]byte, 4<<10)
			if large {
				raw = make([]byte, 512<<10)
			}
			s.all.put(long(i, "main/etl-bot/p.d.t"), knownSchema{raw: raw})
		}
		return s.all.bytes, s
	}
	panic(kind)
}
