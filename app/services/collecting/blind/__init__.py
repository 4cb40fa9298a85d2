"""Pairs of evaluations on the desk: asked between ordinary ones, and told from them by nothing that an evaluator gets."""
