package pages

func (p *Pages) logRoutes() {}
