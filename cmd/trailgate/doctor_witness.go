package main

import (
	"fmt"
	"strings"
)

// witnesses tells how those do who cosign the log, as the gateway saw them last.
func (d *doctor) witnesses() {
	const name = "witnesses"
	if d.cfg != nil && d.cfg.Trail.Witnesses.On() {
		if _, _, err := newWitnessClient(d.cfg); err != nil {
			d.bad(name, err, "correct the policy: witness NAME KEY URL, group NAME N MEMBERS, quorum NAME (docs/witnesses.md)")
			return
		}
	}
	if d.info == nil || d.info.Witnesses == nil {
		if d.cfg == nil || !d.cfg.Trail.Witnesses.On() {
			d.advise(name, "there are none: whoever holds log.key can show a log that was shortened or rewritten, and only a checkpoint kept elsewhere tells",
				"have others run trailgate witness, and set trail.witnesses.policy_file (docs/witnesses.md)")
		}
		return
	}
	w := d.info.Witnesses
	var away, well []string
	for _, x := range w.Witnesses {
		switch {
		case x.Disputes:
			d.bad(name, fmt.Errorf("%s has cosigned another log under this log's key, of %d entries", x.Name, x.Size),
				"this is evidence of a rollback or of a second gateway with this key, unless the witness is broken: ask who runs it (docs/witnesses.md)")
		case x.Error != "":
			away = append(away, x.Name+": "+x.Error)
		default:
			well = append(well, x.Name)
		}
	}
	switch fix := "reach them from this machine, or ask who runs them; the policy is in trail.witnesses.policy_file"; {
	case !w.Quorum:
		d.bad(name, fmt.Errorf("too few witnesses cosign: %s are needed (%s)", w.Needed, strings.Join(away, "; ")), fix)
	case len(away) > 0:
		d.advise(name, fmt.Sprintf("%s cosign, which is enough; not so %s", strings.Join(well, ", "), strings.Join(away, "; ")), fix)
	default:
		d.good(name, "%s cosign; %s are needed", strings.Join(well, ", "), w.Needed)
	}
}
