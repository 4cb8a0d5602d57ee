"""Triton kernels for CUDA: the same functions as in the rest of `ops`, each in as few passes over memory as it needs.

The PyTorch compositions beside them are the definition; tests marked `gpu` compare the two. Activations are
channels-last. Nothing here is imported before a CUDA tensor asks for it.
"""
