"""What a Keras configuration says about a model, read without Keras.

A configuration is enough to know which layers there are, how they are connected, which variables each one has, where they lie
in a weights file and whether two models compute the same function. Only JSON comes in; no class of Keras is imported and
nothing in a configuration is executed.
"""
