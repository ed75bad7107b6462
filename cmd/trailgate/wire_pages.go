package main

import (
	"net/http"

	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/pages"
)

// pages puts the trail in the browser onto the admin API.
func (p *parts) pages(cfg *admin.Config) error {
	shown, err := pages.New(pages.Options{Gateway: p.self.ID, Version: p.self.Version, Demo: p.cfg.Demo, Log: p.log})
	if err != nil {
		return err
	}
	cfg.Assets = shown.Assets()
	cfg.Pages = func(w http.ResponseWriter, r *http.Request, v admin.Viewer, api http.Handler) {
		shown.Serve(w, r, pages.Viewer(v), api)
	}
	return nil
}
