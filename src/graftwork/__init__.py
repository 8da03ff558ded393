"""Make one model of several trained Keras or TensorFlow models."""

__version__ = "0.1.0"
