//! Where weights and configs come from: embedded, a diffusers folder, or the hub.
