package pages

func (p *Pages) entryRoutes() {}
