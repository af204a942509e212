"""Resources of processes, from applications to suppliers."""
