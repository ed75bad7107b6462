package approval

// Bounds, for tests.
const (
	MaxPerAgent     = maxPerAgent
	MaxDone         = maxDone
	MaxDonePerAgent = maxDonePerAgent
	Retention       = retention
)

// ErrDamaged is what a file is that this program would not have written.
var ErrDamaged = errDamaged

// WriteSteps are the steps of a write, in order.
var WriteSteps = []string{"create", "write", "sync", "rename", "sync directory"}

// SetFault has fault called before each step of a write or removal; its error
// becomes the step's.
func (s *Store) SetFault(fault func(step, path string) error) {
	if fault == nil {
		s.fault.Store(nil)
		return
	}
	s.fault.Store(&fault)
}

// Decode reads a request's file, and Encode writes it.
func Decode(raw []byte) (uint64, *Request, error)      { return decode(raw) }
func Encode(number uint64, r *Request) ([]byte, error) { return encode(number, r) }
