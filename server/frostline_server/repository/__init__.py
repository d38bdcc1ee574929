"""The model repository: the versions in service, reconciled with the models folder; `registry.Repository` looks them up."""
