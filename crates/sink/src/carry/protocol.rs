//! The protocol between sink, committed offsets and store, as a model.
