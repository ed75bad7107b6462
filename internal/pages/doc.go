// Package pages is the trail in the browser: html/template, embedded, with
// hand-written style sheets and little script, and no build step.
//
// A page is a client of the admin API, in this process, as whoever looks at it
// ([Pages.Serve] is handed that API for each request). It has no other way to any
// data, so that what a human may see and do, and that it is recorded, is decided in one
// place for pages, commands and other clients.
//
// # How a page is made
//
// A file of its own registers its routes (trail.go: trailRoutes, called in routes) and
// has handlers of the form func(v *view) error. A handler asks v.api, then calls
// v.render with a template of templates/, whose blocks "title" and "main" fill
// layout.html. An error that it returns becomes a page that says what to do; errors of
// the API keep their status.
//
// Without script every page shows what it has to show, and every form works; script
// adds brushing, completion, live rows, proofs. Script and style are files of assets/,
// served under a path with their hash. The policy ([csp]) lets nothing else run: no
// inline script, no inline style, no event attributes. Charts are SVG that the server
// draws (charts.go), with presentation attributes and classes in place of styles.
//
// # What comes from agents
//
// SQL, names, labels, errors and results are an attacker's text. Templates escape them;
// nothing of theirs is ever template.HTML, a URL's scheme, or script. Characters that
// steer a reader's eye (bidi controls, other format and control characters) are shown
// as marks (func visible), so that a statement reads as it runs.
package pages
