"""Video-XL-2 (BAAI, arXiv 2506.19225): stills to visual tokens to keys and values to answers."""
