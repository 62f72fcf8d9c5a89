"""New versions of a model that are smaller or faster: the methods, and how what each of them did is measured.

`chain` runs methods one after the other, `measure` holds the result against the original, `verdict` decides. Needs the
extra `optimize` (the package onnx); `distil` needs `torch` too.
"""
