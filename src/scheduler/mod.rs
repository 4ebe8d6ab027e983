//! Samplers as pure step functions, read from `scheduler_config.json`, and the torch-compatible noise source.
