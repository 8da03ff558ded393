"""SavedModels: bridged into Keras models, lifted, chained, combined.

Sources are directories of SavedModels, and stay as they are. What every function takes beside its own options is
`graftwork.api.steps.Wanted`.
"""
