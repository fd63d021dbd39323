"""A forward pass that is a polynomial of its input, read as bilinear layers.

`export` reads the forward pass as a graph. `operations` (with `calls` and `products`) turns the steps of the graph into
`values`; each value is affine in other values, or the product of two. `cuts` decides which layer computes which
product. `factors` reads the weights of the layers, and `units` turns the weights into as few hidden units as it can.
`trials` compares the network with the module.
"""
