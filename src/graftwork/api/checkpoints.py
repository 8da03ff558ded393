"""Checkpoints: united, averaged, assigned from others, renamed, cut down.

Sources are paths in any format of the stores, checkpoints of TensorFlow 1 and 2 above all, and stay as they are. What every function takes
beside its own options is `graftwork.api.steps.Wanted`.
"""
