"""Checkpoints made of checkpoints: what each verb will do, decided from headers alone.

Every verb's plan is a `MergePlan`, whose steps read the sources and whose `like` is a view of them (`graftwork.ckpt.view`), so that
writing, verification and reports are those of every merge. A verb is a class in `graftwork.recipe.checkpoints`, which declares its options,
and one row of `graftwork.ckpt.plans.PLANS`.
"""
