package recording

import "github.com/trailgate/trailgate/internal/trail/durable"

// Fault has the disk fail as the hook says.
func (s *Store) Fault(hook func(durable.Op) durable.Fault) { s.fs.Hook = hook }
