//! Pictures: colormaps, overlays, contact sheets, PNG metadata.
