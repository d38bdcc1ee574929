"""The soak: an hour of mixed load on a real server, with new versions, hostile models and careless calls all the time."""
