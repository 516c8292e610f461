//! Checkpoint files: reading, key maps, what a file holds, what it lacks.
