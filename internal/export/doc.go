// Package export renders entries of a trail for other eyes: as events of the Open
// Cybersecurity Schema Framework for a SIEM, and as a report for people, in HTML and
// Markdown.
//
// A rendering is derived. It is a function of the entries (and of stored texts) alone,
// byte for byte, so that it can be made again and compared. What agents wrote is text in
// it: nothing of it becomes markup, a link, a script or a control of the terminal.
package export
