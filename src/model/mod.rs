//! The networks, shaped like their weight paths: text encoder, UNet, VAE.
