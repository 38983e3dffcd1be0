"""ParaRL: rollouts, rewards, advantages and the objective."""
