"""The model repository: keeps what is served in line with the models folder; `registry.Repository` answers lookups."""
