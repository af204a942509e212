"""Users: the people of the organisation. Every other domain may use them."""
