"""One network's training: recipe, schedule, loop, checkpoints."""
