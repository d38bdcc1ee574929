"""The model repository: the versions in service, reconciled with the models folder.

Its interface is `registry.Repository`, which looks versions up.
"""
