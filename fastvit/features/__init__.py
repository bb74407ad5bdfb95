"""Features of frozen networks: written for many images, and what they are worth.

embedder    from a trained network to embeddings
images      where images come from, in parts that each become one file
files       those files
writing     all parts, by several processes, and again after an interruption
probe       how well neighbours and a linear classifier do with them
zero_shot   classes by their names, with a text tower
"""
