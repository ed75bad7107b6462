package pages

import (
	"fmt"
	"time"
)

// Bar is one bucket of a chart over time.
type Bar struct {
	From, To time.Time
	Value    int64 // height
	Bad      int64 // the part of it that failed
	Label    string
	Link     string // where a click on it leads
}

// Chart is a bar chart, laid out for part_chart.html, which draws it as SVG.
type Chart struct {
	Title         string // for readers that see no picture
	Unit          string
	Width, Height int
	Max           string // the highest bar's value as text
	Bars          []drawn
	From, To      time.Time
	Linked        bool // bars lead somewhere: to readers, a group of links and no picture
}

type drawn struct {
	Bar
	X, W, Y, H, BadY, BadH string
}

// newChart lays bars out side by side; show writes their values.
func newChart(title string, bars []Bar, show func(int64) string) Chart {
	const width, height = 720, 96
	c := Chart{Title: title, Width: width, Height: height}
	if len(bars) == 0 {
		return c
	}
	var most int64
	for _, b := range bars {
		most = max(most, b.Value)
	}
	c.Max = show(most)
	most = max(most, 1) // nothing is as high as nothing
	c.From, c.To = bars[0].From, bars[len(bars)-1].To
	step := float64(width) / float64(len(bars))
	number := func(f float64) string { return fmt.Sprintf("%.2f", f) }
	for i, b := range bars {
		c.Linked = c.Linked || b.Link != ""
		tall := float64(b.Value) / float64(most) * (height - 2)
		if b.Value > 0 {
			tall = max(tall, 1)
		}
		bad := float64(b.Bad) / float64(most) * (height - 2)
		if b.Bad > 0 {
			bad = max(bad, 1)
		}
		if b.Label == "" {
			b.Label = when(b.From) + ": " + show(b.Value)
		}
		c.Bars = append(c.Bars, drawn{
			Bar: b, X: number(float64(i) * step), W: number(max(step-1, 0.5)), Y: number(height - tall), H: number(tall), BadY: number(height - bad), BadH: number(bad),
		})
	}
	return c
}
