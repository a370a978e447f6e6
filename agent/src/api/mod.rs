//! The local API: gRPC on `agent.sock`.
