package webhook

// Render is the body of a notice.
func Render(format string, n *Notice) ([]byte, error) { return render(format, n) }
