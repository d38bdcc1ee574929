"""One model version, loaded and verified; `loader.Loader` makes a `loaded_model.Served` of a folder."""
