"""Live Keras models. With `graftwork.training` the only rooms that import Keras or TensorFlow, inside the functions that need them."""

quiet = False
"""Whether TensorFlow keeps to itself what it prints about itself while it is imported; the command line says so for its own process."""
