"""Live Keras models. With `graftwork.training` the only rooms that import Keras or TensorFlow, inside the functions that need them."""
