//! The loop against ports made of maps.
