//! The control plane: MQTT 5.
