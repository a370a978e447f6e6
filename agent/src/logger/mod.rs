//! The log sink: a small process per container that outlives the agent.
