package pages

// change is a run of words that both statements have, or one of them.
type change struct {
	Op   string // "", "ins", "del"
	Text string
}

// maxWords bounds what is compared word by word: the table for it has that many squared.
const maxWords = 1_500

// words cuts a statement into its tokens, white space among them; together they are it.
func words(s string) []string {
	var out []string
	for len(s) > 0 {
		n, _ := token(s)
		out = append(out, s[:n])
		s = s[n:]
	}
	return out
}

func blank(word string) bool {
	for i := range len(word) {
		switch word[i] {
		case ' ', '\t', '\n', '\r':
		default:
			return false
		}
	}
	return true
}

// likeness is how much two statements have in common, from 0 to 1: words of both, over
// words of either, in whatever order (Jaccard).
func likeness(a, b []string) float64 {
	count := map[string]int{}
	n := 0
	for _, w := range a {
		if !blank(w) {
			count[w]++
			n++
		}
	}
	both, all := 0, n
	for _, w := range b {
		if blank(w) {
			continue
		}
		if count[w] > 0 {
			count[w]--
			both++
		} else {
			all++
		}
	}
	if all == 0 {
		return 0
	}
	return float64(both) / float64(all)
}

// diff is how b came to be from a, by their longest common subsequence.
func diff(a, b []string) []change {
	if len(a) > maxWords || len(b) > maxWords {
		return nil
	}
	// length[i][j] is of the longest common subsequence of a[i:] and b[j:].
	length := make([][]uint16, len(a)+1)
	for i := range length {
		length[i] = make([]uint16, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	var out []change
	add := func(op, text string) {
		if n := len(out); n > 0 && out[n-1].Op == op {
			out[n-1].Text += text
			return
		}
		out = append(out, change{op, text})
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			add("", a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && length[i+1][j] >= length[i][j+1]:
			add("del", a[i])
			i++
		default:
			add("ins", b[j])
			j++
		}
	}
	return out
}
