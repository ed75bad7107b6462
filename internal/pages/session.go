package pages

func (p *Pages) sessionRoutes() {}
