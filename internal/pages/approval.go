package pages

func (p *Pages) approvalRoutes() {}
