"""Users: the people of the organisation. All other domains may import it."""
