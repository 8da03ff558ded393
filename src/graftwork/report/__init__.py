"""What models and results look like: `measure` finds the numbers, `render` shows them."""
