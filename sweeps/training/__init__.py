"""How a run learns and is scored: learner, loop, schedule, checkpoint, evaluation, metrics."""
