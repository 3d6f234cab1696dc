"""`vkd advise PICTURES`: ranks teachers, their layers and normalisations for a set of pictures."""
