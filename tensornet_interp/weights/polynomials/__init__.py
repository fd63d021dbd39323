"""A forward pass that is a polynomial of its input, read as bilinear layers.

`export` reads the forward pass as a graph, and `operations` (with `calls` and `products`) makes `values` of its steps:
each is affine in others, or the product of two. `cuts` says which layer computes which product, `factors` reads the
weights of the layers, and `units` makes as few hidden units of them as it can. `trials` compares the network with the
module.
"""
