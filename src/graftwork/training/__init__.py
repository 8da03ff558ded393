"""Training and judging models with data; Keras's `fit`, optimizers and losses do the work, this room makes it right and restartable."""
