"""Images as `.lkc` files: the container and its codec."""
