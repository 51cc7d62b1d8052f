package plan

import "slices"

// Program is a program that carries out steps of a plan.
type Program struct {
	Name string
	Step int // the first one that runs it, from 1
}

// Programs lists the programs that the steps run, in their order.
func (p *Plan) Programs() []Program {
	var out []Program
	for i, s := range p.Steps {
		for _, c := range Commands(s) {
			n := c[0]
			if !slices.ContainsFunc(out, func(x Program) bool { return x.Name == n }) {
				out = append(out, Program{n, i + 1})
			}
		}
	}
	return out
}
