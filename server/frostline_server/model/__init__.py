"""One model version, loaded and verified; `loader.Loader` makes a `loaded_model.LoadedModel` of a folder."""
