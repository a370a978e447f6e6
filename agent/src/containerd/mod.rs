//! The container runtime, through the API of containerd.
