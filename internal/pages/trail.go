package pages

func (p *Pages) trailRoutes() {}
