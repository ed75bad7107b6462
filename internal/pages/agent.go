package pages

func (p *Pages) agentRoutes() {}
