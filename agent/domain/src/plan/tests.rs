//! Tables and a seeded world.
