"""Resources: what processes use, from applications to suppliers."""
