package export

import "crypto/sha256"

// Groups finds out which entries belong to one call: those that name an entry before them,
// with that one. It keeps some 40 bytes of each. The zero value is ready.
type Groups struct {
	of    map[[16]byte]int32 // the call of an entry, by its id
	calls [][]int32
	n     int32
}

// Add takes the next entry's id and the id that it names, if any.
func (g *Groups) Add(id, names string) {
	if g.of == nil {
		g.of = map[[16]byte]int32{}
	}
	call, known := g.of[idKey(names)]
	if names == "" || !known {
		call = int32(len(g.calls))
		g.calls = append(g.calls, nil)
	}
	g.of[idKey(id)] = call
	g.calls[call] = append(g.calls[call], g.n)
	g.n++
}

// Calls are the places of the entries of each call, counted from 0, in the order of their
// first ones.
func (g *Groups) Calls() [][]int32 {
	g.of = nil
	return g.calls
}

func idKey(id string) (k [16]byte) {
	sum := sha256.Sum256([]byte(id))
	copy(k[:], sum[:])
	return k
}
